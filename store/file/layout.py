"""Where the file backend's records and objects lie, and nothing of how they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from store.record import Record
from store.refs import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

REFS = "refs"
OBJECTS = ("objects", "sha256")
QUARANTINE = "quarantine"


class Found(NamedTuple):
    """A record as it was read: `content` is the file's beginning, its body starts at `body_at`.

    `size` is the whole file's, `links` how many names it has. Most often `content` is all of it
    (`store.record.FIRST_BYTES`).
    """

    record: Record
    content: bytes
    body_at: int
    path: str
    inode: int
    size: int
    links: int


class Place(NamedTuple):
    """Where a ref's records lie: in one directory, names starting with `leaf`."""

    ref: str
    way: tuple[str, ...]
    """The directories from the root down."""
    leaf: str
    path: str
    """The current record's path, below the root."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories under ROOT/refs."""
        return self.way[1:]

    def version(self, record: Record) -> str:
        """Return the name of one version's record."""
        return f"{self.leaf}{record.data_digest}.{record.manifest_digest}"


def place_of(ref: str) -> Place:
    """Return where the records of a legal ref lie."""
    # The encoding never emits '@': the record of `a` cannot meet the directory of `a/b`.
    path = f"{REFS}/{'/'.join(encode(ref))}@"
    *way, leaf = path.split("/")
    return Place(ref, tuple(way), leaf, path)


def by_directory(refs: Iterable[str]) -> dict[tuple[str, ...], list[Place]]:
    """Return where the records of refs lie, each once, by the way to their directory."""
    found: dict[tuple[str, ...], list[Place]] = {}
    for ref in dict.fromkeys(refs):
        place = place_of(ref)
        found.setdefault(place.way, []).append(place)
    return found


def object_of(data_digest: str) -> tuple[str, ...]:
    """Return the directories from the root down to where large data lies under its digest."""
    return (*OBJECTS, data_digest[:2])

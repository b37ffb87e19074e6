"""Which record holds a version of a ref: the current one, or the version's own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from store.contract import Listed
from store.errors import Corrupt
from store.file import records
from store.file.layout import Found, Place, by_directory, place_of
from store.record import HEADER_MAX_BYTES, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from store.contract import Version
    from store.file.tree import Tree
    from store.record import Record


def select(
    tree: Tree, directory_fd: int, place: Place, data_digest: str | None,
    manifest_digest: str | None, first_bytes: int,
) -> Found | None:  # fmt: skip
    """Return the beginning of the version's record; without digests of the current one.

    Raises `Corrupt` or `PermissionError` when what is damaged may be what was asked for.
    """
    damage: Corrupt | PermissionError | None = None
    try:
        current = records.read(tree, directory_fd, place, place.leaf, first_bytes)
        if current.record.is_version(data_digest, manifest_digest):
            return current
    except FileNotFoundError:
        pass
    except (Corrupt, PermissionError) as error:
        damage = error
    if data_digest is not None:
        version = _newest(tree, directory_fd, place, data_digest, manifest_digest, first_bytes)
        if version is not None:
            return version
    if damage is not None:
        raise damage
    return None


def _newest(
    tree: Tree, directory_fd: int, place: Place, data_digest: str, manifest_digest: str | None,
    first_bytes: int,
) -> Found | None:  # fmt: skip
    names = [f"{place.leaf}{data_digest}.{manifest_digest}"]
    if manifest_digest is None:
        names = records.names(directory_fd, f"{place.leaf}{data_digest}.")
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # never there, or just collected
            found.append(records.read(tree, directory_fd, place, name, first_bytes))
    return max(found, key=lambda each: each.record.order, default=None)


def own_record(tree: Tree, found: Found) -> Found | None:
    """Return the version's own record, unless that is the file that was found, or damaged."""
    place = place_of(found.record.ref)
    with tree.directory(place.way) as directory_fd:
        if directory_fd is None:
            return None
        own = records.intact(tree, directory_fd, place, place.version(found.record))
    return None if own is None or own.inode == found.inode else own


def versions(
    tree: Tree, directory_fd: int, place: Place, names: Iterable[str]
) -> tuple[Version, ...]:
    """Return every version that these names of a ref's records lead to, the newest first.

    The current record counts even if its version's name is lost. Raises `Corrupt`.
    """
    found: dict[tuple[str, str], tuple[Record, bool]] = {}
    twin = ""
    for name in sorted(names):  # the current record's first
        if name == twin:
            continue
        with contextlib.suppress(FileNotFoundError):  # just collected
            read = records.read(tree, directory_fd, place, name, HEADER_MAX_BYTES)
            record, current = read.record, name == place.leaf
            if current and read.links == 2:  # noqa: PLR2004 -- its own name, and its version's
                twin = place.version(record)
            found.setdefault((record.data_digest, record.manifest_digest), (record, current))
    newest_first = sorted(found.values(), key=lambda each: each[0].order, reverse=True)
    return tuple(version_of(record, current=current) for record, current in newest_first)


def versions_of(tree: Tree, refs: Iterable[str]) -> Iterator[Listed]:
    """Yield the versions of each ref that is there; each directory is read once."""
    for way, places in by_directory(refs).items():
        with tree.directory(way) as directory_fd:
            if directory_fd is None:
                tree.check_root()  # it takes the storage itself to say that something is absent
                continue
            names = records.names_by_leaf(directory_fd, (place.leaf for place in places))
            for place in places:
                listed = _listed(tree, directory_fd, place, names.pop(place.leaf))
                if listed.versions or listed.error:
                    yield listed


def _listed(tree: Tree, directory_fd: int, place: Place, names: Iterable[str]) -> Listed:
    try:
        return Listed(place.ref, versions(tree, directory_fd, place, names))
    except Corrupt as error:
        return Listed(place.ref, (), error)

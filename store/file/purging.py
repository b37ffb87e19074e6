"""Removing refs with all that is left of them: records, large data, and what was moved aside.

Each directory of records is read once, whatever the number of refs in it: a Put that comes later
is beside the purge, and stays whole. Each step leaves a store that is sound, and purging the same
refs again does the rest. What was moved aside goes first: the note in a record's place tells whose
it was. Then the records go. Large data goes last: whatever no record names any more, whosever it
was, for nothing tells. It needs no grace, for a Put holds its object's lock until its record is
there.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from store.contract import Collected
from store.errors import Corrupt
from store.file import deleting, records, upkeep
from store.file.layout import QUARANTINE, Place, by_directory, object_of
from store.record import FIRST_BYTES, Newer, Quarantined, header_left, parse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from store.file.tree import Tree

_ASIDE = re.compile(r"(?:([0-9a-f]{64})|(?:([0-9a-f]{32})\.)?[0-9a-f]{16})\..*")
"""An object's digest, or perhaps the mark of a record's path; then what no other file has."""


class _Aside(NamedTuple):
    """A file in quarantine."""

    name: str
    size: int
    ref: str | None
    """Whose record it was; None for an object."""


def purge(
    tree: Tree, refs: Iterable[str], only: Mapping[str, Collection[str]], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove what is left of `refs`; see `VersionedStore.purge`.

    Raises `Newer` where an unreadable record may name any data, and `Unavailable`.
    """
    tree.check_root()
    places = _listed(tree, refs)
    objects: list[_Aside] = []
    for aside in _aside(tree, places):
        if aside.ref is None:
            objects.append(aside)
        else:
            yield _let_go(tree, aside, dry_run=dry_run)
    gone: set[upkeep.Leaf] = set()
    for place, names in places.items():
        for piece, name in _stored(tree, place, names, only.get(place.ref), dry_run=dry_run):
            gone.add((place.directories, name))
            yield piece
    yield from _data(tree, objects, gone if dry_run else set(), dry_run=dry_run)
    for name, size in tree.leftovers(remove=not dry_run):
        yield Collected("leftover", tree.path("tmp", name), None, size)


def _listed(tree: Tree, refs: Iterable[str]) -> dict[Place, list[str]]:
    """Return where the refs' records lie, and their names there."""
    found: dict[Place, list[str]] = {}
    for way, places in by_directory(refs).items():
        with tree.directory(way) as directory_fd:
            leaves = [place.leaf for place in places]
            names = {} if directory_fd is None else records.names_by_leaf(directory_fd, leaves)
            found |= {place: names.get(place.leaf, []) for place in places}
    return found


def _stored(
    tree: Tree, place: Place, names: list[str], only: Collection[str] | None, *, dry_run: bool
) -> list[tuple[Collected, str]]:
    """Remove these records of a ref; return them, each with its name."""
    found = deleting.listed(tree, place, names, only)
    # Also when nothing is there: it may not be gone for good yet.
    removed = found if dry_run else deleting.remove(tree, place, found)
    pieces, current = [], None
    for name, file in found.items():
        current = current or file.st_ino
        if name not in removed:
            continue
        size = file.st_size if name == place.leaf or file.st_ino != current else 0
        pieces.append((Collected("record", tree.path(*place.way, name), place.ref, size), name))
    return pieces


def _data(
    tree: Tree, aside: list[_Aside], gone: set[upkeep.Leaf], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove the data that no record names, also what was moved aside of it."""
    objects = {file.name: file for file in upkeep.objects_in(tree)}
    for lock in {upkeep.lock_of_object(digest) for digest in objects}:
        with tree.locked(lock):  # a Put that relied on one of these has named it since
            pass
    named = set(upkeep.digests_named(tree, gone)) if objects or aside else set()
    if objects.keys() - named and not dry_run:
        upkeep.wait_for_deletions(tree)
    for digest, file in objects.items():
        if digest not in named and (dry_run or upkeep.remove_object(tree, file)):
            where = tree.path(*object_of(digest), digest)
            yield Collected("object", where, None, file.size)
    if not dry_run:
        _flush(tree, objects.keys() - named)
    for each in aside:
        if each.name[:64] not in named:
            yield _let_go(tree, each, dry_run=dry_run)


def _flush(tree: Tree, digests: Iterable[str]) -> None:
    for shelf in {object_of(digest) for digest in digests}:
        with tree.directory(shelf) as directory_fd:
            if directory_fd is not None:
                os.fsync(directory_fd)


# What was moved aside.


def _aside(tree: Tree, places: Mapping[Place, list[str]]) -> Iterator[_Aside]:
    """Yield the objects in quarantine, and the records there that were of one of these places."""
    marked = {upkeep.mark_of(place.path): place for place in places}
    noted = {
        kept: place.ref for place, names in places.items() for kept in _kept(tree, place, names)
    }
    refs = {place.ref for place in places}
    for entry in tree.scan((QUARANTINE,)):
        found = _ASIDE.fullmatch(entry.name)
        with contextlib.suppress(FileNotFoundError):
            size = entry.stat(follow_symlinks=False).st_size
            if not found or found[1]:
                if found:
                    yield _Aside(entry.name, size, None)
                continue
            if found[2] in marked:
                ref: str | None = marked[found[2]].ref
            else:
                ref = noted.get(tree.path(QUARANTINE, entry.name)) or _ref_in(tree, entry.name)
            if ref in refs:
                yield _Aside(entry.name, size, ref)


def _kept(tree: Tree, place: Place, names: list[str]) -> Iterator[str]:
    """Yield where the notes in the place of a ref's records say that the records are."""
    with tree.directory(place.way) as directory_fd:
        for name in [] if directory_fd is None else names:
            path = tree.path(*place.way, name)
            try:
                parse(tree.read_file(directory_fd or 0, name, path, FIRST_BYTES)[0], path)
            except Quarantined as damage:
                yield damage.kept
            except (Corrupt, Newer, FileNotFoundError):
                pass


def _ref_in(tree: Tree, name: str) -> str | None:
    """Return the ref that a record in quarantine names, if it can be read."""
    path = tree.path(QUARANTINE, name)
    with (
        contextlib.suppress(Corrupt, Newer, FileNotFoundError),
        tree.directory((QUARANTINE,)) as directory_fd,
    ):
        if directory_fd is not None:
            record = header_left(tree.read_file(directory_fd, name, path, FIRST_BYTES)[0])
            return record and record.ref
    return None


def _let_go(tree: Tree, aside: _Aside, *, dry_run: bool) -> Collected:
    with tree.directory((QUARANTINE,)) as directory_fd:
        if directory_fd is not None and not dry_run:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside.name, dir_fd=directory_fd)
            os.fsync(directory_fd)
    return Collected("damaged", tree.path(QUARANTINE, aside.name), aside.ref, aside.size)

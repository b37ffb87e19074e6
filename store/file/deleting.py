"""Removing a ref, or versions of it: the names of its records, under the lock of its Puts.

The current record's name goes first, so that from one moment on the ref is absent to every reader;
each version's own name is one more such moment. A power cut may keep any of the names: each leads
to a whole version or to none, and deleting again removes the rest. Large data stays: other records
may name it, and collection finds out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from store.errors import Corrupt
from store.file import records, upkeep
from store.file.layout import Place, by_directory, place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from store.file.tree import Tree

_TOGETHER = 32
"""So many refs are removed under their locks at once: Puts of these wait meanwhile."""


def delete(tree: Tree, ref: str, checksum: str | None, unused_s: float) -> bool:
    """Remove what is at `ref`, or only the versions with that data; see `VersionedStore.delete`.

    Raises `Corrupt` when nothing tells whether a damaged current record is such a version.
    """
    if checksum is None:
        return any(delete_all(tree, [ref], unused_s))
    place, since = place_of(ref), _since(tree, unused_s)
    with (
        tree.locked(upkeep.lock_of_records(place.path)),
        tree.directory(place.way) as directory_fd,
    ):
        if directory_fd is None:
            tree.check_root()
            return False
        names = _names(tree, directory_fd, place, checksum.removeprefix("sha256:"))
        gone = _unlinked(directory_fd, names, since)
        # Also when nothing was there: one that died before it came to this may have removed it.
        os.fsync(directory_fd)
    return gone


def delete_all(tree: Tree, refs: Iterable[str], unused_s: float) -> Iterator[str]:
    """Remove what is at `refs`; yield what anything was removed of, once it is gone for good.

    So many of a directory at a time: it is read, and flushed, once for these.
    """
    since = _since(tree, unused_s)
    for way, places in by_directory(refs).items():
        for begin in range(0, len(places), _TOGETHER):
            yield from _delete_some(tree, way, places[begin : begin + _TOGETHER], since)


def _delete_some(
    tree: Tree, way: tuple[str, ...], places: Sequence[Place], since: float | None
) -> list[str]:
    """Remove these refs of a directory, under the locks of all of them."""
    with contextlib.ExitStack() as held:
        # In the order of their names: others who take several wait for no lock behind ours.
        for lock in sorted({upkeep.lock_of_records(place.path) for place in places}):
            held.enter_context(tree.locked(lock))
        directory_fd = held.enter_context(tree.directory(way))
        if directory_fd is None:
            tree.check_root()
            return []
        names = records.names_by_leaf(directory_fd, (place.leaf for place in places))
        gone = [
            place.ref for place in places
            if _unlinked(directory_fd, sorted(names[place.leaf]), since)
        ]  # fmt: skip
        # Also when nothing was there: one that died before it came to this may have removed it.
        os.fsync(directory_fd)
    return gone


def _since(tree: Tree, unused_s: float) -> float | None:
    """Return the time by the storage's clock since when nothing may have been used."""
    return tree.now() - unused_s if unused_s else None


def _unlinked(directory_fd: int, names: Sequence[str], since: float | None) -> bool:
    """Remove the names, the current record's first, unless one was used since."""
    if since is not None and any(_used_at(directory_fd, name) > since for name in names):
        return False
    for name in names:
        os.unlink(name, dir_fd=directory_fd)
    return bool(names)


def listed(
    tree: Tree, place: Place, names: Iterable[str], only: Collection[str] | None
) -> dict[str, os.stat_result]:
    """Return what these records of a ref are, with `only` those with data of these digests."""
    found: dict[str, os.stat_result] = {}
    with tree.directory(place.way) as directory_fd:
        if directory_fd is None:
            return found
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):
                if only is None or _data_of(tree, directory_fd, place, name) in only:
                    found[name] = _stat(directory_fd, name)
    return found


def remove(tree: Tree, place: Place, found: Mapping[str, os.stat_result]) -> list[str]:
    """Remove what `listed` found of a ref, but for what was put again since; return the names."""
    with (
        tree.locked(upkeep.lock_of_records(place.path)),
        tree.directory(place.way) as directory_fd,
    ):
        if directory_fd is None:
            tree.check_root()
            return []
        names = [name for name in found if _is_same(directory_fd, name, found[name])]
        for name in names:
            os.unlink(name, dir_fd=directory_fd)
        os.fsync(directory_fd)
    return names


def _data_of(tree: Tree, directory_fd: int, place: Place, name: str) -> str:
    """Return the digest of a record's data; that of a damaged current one nothing tells."""
    if name != place.leaf:
        return name.removeprefix(place.leaf).partition(".")[0]
    with contextlib.suppress(Corrupt, PermissionError):
        return records.header(tree, directory_fd, place, name).data_digest
    return ""


def _is_same(directory_fd: int, name: str, found: os.stat_result) -> bool:
    with contextlib.suppress(FileNotFoundError):
        now = _stat(directory_fd, name)
        return (now.st_ino, now.st_ctime_ns) == (found.st_ino, found.st_ctime_ns)
    return False


def _names(tree: Tree, directory_fd: int, place: Place, data_digest: str) -> list[str]:
    """Return the names to remove, the current record's first."""
    names = records.names(directory_fd, f"{place.leaf}{data_digest}.")
    if _is_current(tree, directory_fd, place, data_digest, names):
        names.insert(0, place.leaf)
    return names


def _is_current(
    tree: Tree, directory_fd: int, place: Place, data_digest: str, names: list[str]
) -> bool:
    try:
        return records.header(tree, directory_fd, place, place.leaf).data_digest == data_digest
    except FileNotFoundError:
        return False
    except Corrupt:
        if _is_one_of(directory_fd, place.leaf, names):
            return True
        if _is_one_of(directory_fd, place.leaf, records.names(directory_fd, f"{place.leaf}")):
            return False
        raise


def _is_one_of(directory_fd: int, name: str, others: list[str]) -> bool:
    """Tell whether another of these names is one of the same file."""
    inode = _stat(directory_fd, name).st_ino
    return any(_stat(directory_fd, other).st_ino == inode for other in others if other != name)


def _used_at(directory_fd: int, name: str) -> float:
    """Return when it was last stored, put again, or lost the name of the current record."""
    found = _stat(directory_fd, name)
    return max(found.st_mtime, found.st_ctime)


def _stat(directory_fd: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)

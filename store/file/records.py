"""Reading the file backend's records and objects out of its tree."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from store.errors import Corrupt
from store.file.layout import REFS, Found, Place, object_of, place_of
from store.foreign import is_segment, record_name
from store.healing import Aim, Left, aim, aim_blind, heir_of
from store.posix import misplaced, read_all
from store.record import (
    FIRST_BYTES,
    HEADER_MAX_BYTES,
    Record,
    body_bytes,
    fault_of,
    header_left,
    parse,
)
from store.refs import decode_name
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from store.file.tree import Tree
    from store.healing import Pair

_HEALED_MAX_BYTES = 64 << 20
"""A record that is read without anybody having asked for it is no larger."""
_LEVELS_MAX = 512
"""A ref has no more segments."""

_PAIR = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})")


def current(tree: Tree, place: Place, first_bytes: int) -> Found | None:
    """Read the beginning of the ref's current record; None when only the walk down can tell.

    Raises `Corrupt` for a wrong header.
    """
    path = tree.path(place.path)
    read = tree.read_directly(path, first_bytes)
    return None if read is None else _found(place, path, *read)


def read(
    tree: Tree, directory_fd: int, place: Place, name: str, first_bytes: int = FIRST_BYTES
) -> Found:
    """Read a record's beginning. Raises FileNotFoundError, and `Corrupt` for a wrong header."""
    path = tree.path(*place.way, name)
    return _found(place, path, *tree.read_file(directory_fd, name, path, first_bytes))


def whole(tree: Tree, found: Found) -> Found:
    """Return a record with all of its content, and a byte of what follows, if anything does.

    Raises FileNotFoundError when it was replaced meanwhile.
    """
    end = min(found.body_at + body_bytes(found.record) + 1, found.size)
    if len(found.content) >= end:
        return found
    with _opened(tree, found) as fd:
        return found._replace(content=read_all(fd, end))


@contextlib.contextmanager
def _opened(tree: Tree, found: Found) -> Iterator[int]:
    """Open the file that was found. Raises FileNotFoundError when it was replaced meanwhile."""
    way, name = place_of(found.record.ref).way, found.path.rpartition("/")[2]
    with tree.directory(way) as directory_fd:
        if directory_fd is None:
            raise FileNotFoundError(found.path)
        fd, now = tree.open_plain(name, directory_fd, found.path)
    try:
        if now.st_ino != found.inode:
            raise FileNotFoundError(found.path)
        yield fd
    finally:
        os.close(fd)


def fault(tree: Tree, found: Found) -> str | None:
    """Read a record's body in constant memory; return what is wrong with it, if anything is.

    Raises as `whole`.
    """
    size = found.body_at + body_bytes(found.record)
    if found.size != size:
        return f"it has {found.size} bytes, and its header says {size}"
    if len(found.content) == size:
        return fault_of(found.record, (found.content[found.body_at :],))
    with _opened(tree, found) as fd:
        os.lseek(fd, found.body_at, os.SEEK_SET)
        return fault_of(found.record, iter(lambda: os.read(fd, CHUNK_BYTES), b""))


def _found(place: Place, path: str, content: bytes, file: os.stat_result) -> Found:
    record, body_at = parse(content, path)
    if record.ref != place.ref:
        raise Corrupt(f"{path} holds the record of another ref, {record.ref!r}: put both again")
    check_version(place, record, path)
    return Found(record, content, body_at, path, file.st_ino, file.st_size, file.st_nlink)


def check_version(place: Place, record: Record, path: str) -> None:
    """Raise `Corrupt` when the file's name is that of another version of the ref."""
    if path.rpartition("/")[2] not in (place.leaf, place.version(record)):
        raise Corrupt(f"{path} holds the record of another version: put both again")


def header(tree: Tree, directory_fd: int, place: Place, name: str) -> Record:
    """Read a record's header. Raises as `read`."""
    return read(tree, directory_fd, place, name, HEADER_MAX_BYTES).record


def intact(tree: Tree, directory_fd: int, place: Place, name: str) -> Found | None:
    """Return a record that is whole, its inline data too; None when it is damaged, or absent.

    Or so large that it is not read for this: a forged header claims any size.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError, Corrupt):
        found = read(tree, directory_fd, place, name)
        if found.size <= _HEALED_MAX_BYTES:
            found = whole(tree, found)
            checked_body(tree, found)
            return found
    return None


class Aimed(NamedTuple):
    """Where a Put leaves a ref, and what was found there."""

    aim: Aim
    current: Record | None
    """What the ref's current record is; None when nothing tells."""
    links: int | None = None
    """How many names the current record's file has, 0 for none; None when that is not known."""
    newest: int = 0
    """The highest number that the ref's versions are known to have; see `Record.order`."""

    def settled(self, put: Record) -> Record:
        """Return the record as it is to be written: what holds the ref, and what it comes after."""
        settled = put.after(self.newest, moves=self.aim.moves)
        if self.aim.moves and self.aim.position != settled.position:
            return settled._replace(position=self.aim.position)
        return settled


def aim_at(tree: Tree, directory_fd: int, place: Place, put: Record) -> Aimed:
    """Say where `put` leaves the ref. Only under the lock of its records does that stay true."""
    try:
        current = read(tree, directory_fd, place, place.leaf, HEADER_MAX_BYTES)
        record = current.record
        return Aimed(aim(put, record), record, current.links, record.order[0])
    except FileNotFoundError:
        return Aimed(aim(put, None), None, links=0)
    except (PermissionError, Corrupt):
        pass
    left, twin = _left(tree, directory_fd, place)
    said = _header_left(tree, directory_fd, place, place.leaf)
    heir = Left((said.data_digest, said.manifest_digest), said) if said else heir_of(left, twin)
    known = (each.record.order[0] for each in (*left, heir) if each and each.record)
    newest = max(known, default=0)
    return Aimed(aim_blind(put, left, heir), heir and heir.record, newest=newest)


def _left(tree: Tree, directory_fd: int, place: Place) -> tuple[list[Left], Pair | None]:
    """Return what is left of the versions, and which one the current record is a link of."""
    left, twin = [], None
    current = os.stat(place.leaf, dir_fd=directory_fd, follow_symlinks=False).st_ino
    for name in names(directory_fd, place.leaf):
        found = _PAIR.fullmatch(name.removeprefix(place.leaf))
        if found:
            pair = (found[1], found[2])
            left.append(Left(pair, _header_left(tree, directory_fd, place, name)))
            if os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_ino == current:
                twin = pair
    return left, twin


def _header_left(tree: Tree, directory_fd: int, place: Place, name: str) -> Record | None:
    with contextlib.suppress(PermissionError, Corrupt):
        path = tree.path(*place.way, name)
        content, _ = tree.read_file(directory_fd, name, path, FIRST_BYTES)
        record = header_left(content)
        if record and record.ref == place.ref:
            check_version(place, record, path)
            return record
    return None


def body_of(found: Found) -> tuple[bytes, bytes]:
    """Return the manifest, and the data if it is inline; both unverified."""
    middle = found.body_at + found.record.manifest_size
    return found.content[found.body_at : middle], found.content[middle:]


def check_manifest(found: Found, manifest: bytes) -> None:
    """Raise `Corrupt` when it is not the record's."""
    if hashlib.sha256(manifest).hexdigest() != found.record.manifest_digest:
        raise Corrupt(f"{found.path} is damaged: its manifest fails its checksum")


def check_data(tree: Tree, found: Found, data: bytes) -> None:
    """Raise `Corrupt` when it is not the record's."""
    if hashlib.sha256(data).hexdigest() != found.record.data_digest:
        raise Corrupt(f"{data_path(tree, found)} is damaged: the data fails its checksum")


def checked_body(tree: Tree, found: Found) -> tuple[bytes, bytes]:
    """Return what `body_of` does. Raises `Corrupt` when it is not the record's."""
    manifest, data = body_of(found)
    check_manifest(found, manifest)
    if found.record.inline:
        check_data(tree, found, data)
    return manifest, data


def data_path(tree: Tree, found: Found) -> str:
    """Return the path of the file that holds the version's data."""
    digest = found.record.data_digest
    return found.path if found.record.inline else tree.path(*object_of(digest), digest)


def open_object(tree: Tree, directory_fd: int, found: Found) -> int:
    """Open the object that a record names.

    Raises FileNotFoundError, and `Corrupt` when it has another size: that is not read.
    """
    path, size = data_path(tree, found), found.record.data_size
    fd, file = tree.open_plain(found.record.data_digest, directory_fd, path)
    if file.st_size == size:
        return fd
    os.close(fd)
    raise Corrupt(f"{path} is damaged: it has {file.st_size} bytes, and its record says {size}")


def digest_of(
    tree: Tree, directory_fd: int, name: str, path: str, size: int | None = None
) -> str | None:
    """Return a file's SHA-256 in hex, in constant memory; None when it has not this `size`.

    Raises FileNotFoundError, and `Corrupt` for what is no plain file.
    """
    fd, found = tree.open_plain(name, directory_fd, path)
    with open(fd, "rb", buffering=0) as file:
        if size not in (None, found.st_size):
            return None
        return hashlib.file_digest(file, "sha256").hexdigest()


def names(directory_fd: int, prefix: str) -> list[str]:
    """Return the names of records in a directory that begin with `prefix`."""
    with os.scandir(directory_fd) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name.startswith(prefix) and record_name(entry.name)
        ]


def names_by_leaf(directory_fd: int, leaves: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the records of each leaf, by one reading of the directory."""
    found: dict[str, list[str]] = {leaf: [] for leaf in leaves}
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            of_leaf = found.get(f"{entry.name.partition('@')[0]}@")
            if of_leaf is not None and record_name(entry.name):
                of_leaf.append(entry.name)
    return found


def walk(
    tree: Tree, start: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Yield every record's file under refs/`start`, with the directories that it lies in.

    Raises `Corrupt` for a link in a directory's place: what lies behind it would be missing.
    """
    for directories, entry in everything(tree, start):
        if record_name(entry.name):
            yield directories, entry
        elif not is_foreign(directories, entry):
            raise misplaced(tree.path(REFS, *directories, entry.name))


def is_foreign(directories: tuple[str, ...], entry: os.DirEntry[str]) -> bool:
    """Tell whether this is none of the store's; a link where a directory may have been is."""
    if record_name(entry.name):
        return False
    return not may_lead_on(directories, entry.name) or entry.is_file(follow_symlinks=False)


def may_lead_on(directories: tuple[str, ...], name: str) -> bool:
    """Tell whether refs may lie under a directory of that name."""
    return is_segment(name) and len(directories) < _LEVELS_MAX


def everything(
    tree: Tree, start: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Yield what lies under refs/`start` but the directories of refs, with the way there.

    Memory is constant; one descriptor a level of directories is open.
    """
    levels = [(start, tree.scan((REFS, *start)))]
    try:
        while levels:
            directories, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
            elif may_lead_on(directories, entry.name) and entry.is_dir(follow_symlinks=False):
                below = (*directories, entry.name)
                levels.append((below, tree.scan((REFS, *below))))
            else:
                yield directories, entry
    finally:
        for _, entries in levels:
            entries.close()


def is_current(name: str) -> bool:
    """Tell whether this is the name of a ref's current record, not of one of its versions."""
    return name.endswith("@")


def ref_at(tree: Tree, directories: tuple[str, ...], name: str, written: str | None = None) -> str:
    """Return the ref whose record this is. Only a hashed segment needs the header.

    Raises `Corrupt` for what this store cannot have written, or when the record's own ref, if it
    is given as `written`, belongs elsewhere.
    """
    path = tree.path(REFS, *directories, name)
    leaf = name.partition("@")[0]
    try:
        segments = [decode_name(each) for each in (*directories, leaf)]
    except ValueError as error:
        raise Corrupt(f"{path} is no file of this store: {error}; move it away") from None
    plain = [segment for segment in segments if segment is not None]
    if len(plain) == len(segments) and written is None:
        return "/".join(plain)
    ref = written or _ref_inside(tree, directories, name, path)
    place = place_of(ref)
    if (place.directories, place.leaf) != (directories, f"{leaf}@"):
        raise Corrupt(f"{path} holds the record of another ref, {ref!r}: put both again")
    return ref


def _ref_inside(tree: Tree, directories: tuple[str, ...], name: str, path: str) -> str:
    directory_fd = tree.enter((REFS, *directories))
    try:
        content, _ = tree.read_file(directory_fd, name, path, HEADER_MAX_BYTES)
    finally:
        os.close(directory_fd)
    return parse(content, path)[0].ref

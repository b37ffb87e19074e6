"""Care of a file store: finding damage, and removing what nobody needs any more.

Safe while others read and put. Two rules carry garbage collection:

- A version is removed under the lock under which Puts publish, and only if it is the very file
  that was found superseded before the pins were read: a Put of the same content replaces it.
- A Put holds its object's lock from naming or freshening the object until its record is there.
  After the candidates were listed, collection waits for those locks once: a Put that relied on an
  object before has named it by then, one that does so later has changed its inode's times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from store.contract import Checked, Collected, Pin
from store.errors import Corrupt, InvalidRef, Unavailable
from store.file import aside, records
from store.file.layout import OBJECTS, QUARANTINE, REFS, Found, object_of, place_of
from store.foreign import foreign
from store.posix import CallerFailed, is_hollow
from store.record import (
    FIRST_BYTES,
    HEADER_MAX_BYTES,
    Newer,
    Quarantined,
    header_left,
    note_of_damage,
    parse,
)
from store.refs import check_ref, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.contract import Position, Retention
    from store.file.tree import Tree
    from store.record import Record

_LOCKS = 64
_SHELF = re.compile(r"[0-9a-f]{2}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"(.+@)([0-9a-f]{64})\.([0-9a-f]{64})")

Leaf = tuple[tuple[str, ...], str]
"""Directories, and a record's name there."""


def lock_of_records(path: str) -> str:
    """Return the lock that a ref's records change under, by its current record's path."""
    return f"{zlib.crc32(path.encode()) % _LOCKS:02x}"


def lock_of_object(digest: str) -> str:
    """Return the lock that an object's names change under."""
    return f"object-{digest[:2]}"


def mark_of(path: str) -> str:
    """Return what tells in quarantine whose a record was, by its current record's path."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def _is_mine(path: str, part: tuple[int, int]) -> bool:
    return zlib.crc32(os.fsencode(path)) % part[1] == part[0]


# Verification.


def verify(
    tree: Tree, prefix: str, part: tuple[int, int], *, quarantine: bool
) -> Iterator[Checked]:
    """Check every record at and under `prefix`; without a prefix, every object as well.

    With a prefix each record's object is read with it: shared ones as often as they are named.
    """
    tree.check_root()
    for directories, name, is_foreign in _names(tree, prefix):
        path = tree.path(REFS, *directories, name)
        if not _is_mine(tree.path(*directories, name.partition("@")[0]), part):
            continue
        if is_foreign:
            yield foreign(path)
            continue
        try:
            checked = _check_record(tree, directories, name, path, with_object=bool(prefix))
            if quarantine and checked and checked.error and not checked.quarantined:
                checked = _quarantine_record(tree, directories, name, checked)
        except Newer as newer:
            checked = Checked(path, None, 0, str(newer))
        if checked:
            yield checked
    if not prefix:
        yield from _verify_objects(tree, part, quarantine=quarantine)


def _names(tree: Tree, prefix: str) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Yield what lies at and under `prefix`, and whether it is foreign."""
    start: tuple[str, ...] = ()
    if prefix:
        place = place_of(prefix)
        with tree.directory(place.way) as directory_fd:
            found = [] if directory_fd is None else records.names(directory_fd, place.leaf)
        yield from ((place.directories, name, False) for name in found)
        start = tuple(encode(prefix))
    for directories, entry in records.everything(tree, start):
        yield directories, entry.name, records.is_foreign(directories, entry)


def _check_record(
    tree: Tree, directories: tuple[str, ...], name: str, path: str, *, with_object: bool
) -> Checked | None:
    """Check one record; None when it is the current one by its other name, or just went."""
    with tree.directory((REFS, *directories)) as directory_fd:
        if directory_fd is None or _is_twin_of_current(directory_fd, name):
            return None
        try:
            while True:
                before = _stat(directory_fd, name)
                checked = _checked(
                    tree, directories, directory_fd, name, path, with_object=with_object
                )
                # One that was collected meanwhile, with its object, or put again, is not damaged.
                if checked.error is None or _stat(directory_fd, name) == before:
                    return checked
        except FileNotFoundError:
            return None


def _checked(
    tree: Tree, directories: tuple[str, ...], directory_fd: int, name: str, path: str, *,
    with_object: bool,
) -> Checked:  # fmt: skip
    ref, size = None, 0
    try:
        content, file = tree.read_file(directory_fd, name, path, FIRST_BYTES)
        record, body_at = parse(content, path)
        ref, size = record.ref, file.st_size
        records.ref_at(tree, directories, name, ref)
        records.check_version(place_of(ref), record, path)
        found = Found(record, content, body_at, path, file.st_ino, file.st_size, file.st_nlink)
        _check_body(tree, found, with_object=with_object)
        size += record.data_size if with_object and not record.inline else 0
    except Quarantined as error:
        return Checked(path, ref, size, str(error), error.kept)
    except Corrupt as error:
        return Checked(path, ref, size, str(error))
    return Checked(path, ref, size, None)


def _is_twin_of_current(directory_fd: int, name: str) -> bool:
    current = f"{name.partition('@')[0]}@"
    with contextlib.suppress(FileNotFoundError):
        return name != current and _stat(directory_fd, name) == _stat(directory_fd, current)
    return False


def _check_body(tree: Tree, found: Found, *, with_object: bool) -> None:
    if fault := records.fault(tree, found):
        raise Corrupt(f"{found.path} is damaged: {fault}")
    digest = found.record.data_digest
    path = records.data_path(tree, found)
    if found.record.inline:
        return
    try:
        directory_fd = tree.enter(object_of(digest))
        try:
            os.close(records.open_object(tree, directory_fd, found))
            if with_object and records.digest_of(tree, directory_fd, digest, path) != digest:
                raise Corrupt(f"{path} is damaged: the data fails its checksum: put it again")
        finally:
            os.close(directory_fd)
    except FileNotFoundError:
        raise Corrupt(f"{path} is missing, and {found.path} needs it: put it again") from None


def _quarantine_record(
    tree: Tree, directories: tuple[str, ...], name: str, checked: Checked
) -> Checked:
    """Move a damaged record aside, under all its names, and leave notes that it was damaged."""
    current = f"{name.partition('@')[0]}@"
    where = "/".join((REFS, *directories, current))
    kept = f"{mark_of(where)}.{tree.unique()}.record"
    path = tree.path(QUARANTINE, kept)
    with (
        tree.locked(lock_of_records(where)),
        tree.directory((REFS, *directories)) as directory_fd,
        tree.directory((QUARANTINE,)) as quarantine_fd,
    ):
        if directory_fd is None or quarantine_fd is None:
            return checked
        # Look again, now that nobody else writes: a Put may have healed it meanwhile.
        again = _check_record(tree, directories, name, checked.where, with_object=False)
        if again is None or again.error is None or again.quarantined or "@" not in name:
            return checked
        damaged = _stat(directory_fd, name)
        try:
            aside.keep(tree, directory_fd, name, kept, quarantine_fd)
        except Corrupt:
            return checked  # it can have no second name, and there would be a gap without any
        os.fsync(quarantine_fd)
        note = tree.write(note_of_damage(path, _header_left(tree, directory_fd, name)))
        for each in records.names(directory_fd, current):
            if _stat(directory_fd, each) == damaged:
                tree.rename(tree.twin(note), directory_fd, each)
        tree.discard(note)
        os.fsync(directory_fd)
    return checked._replace(quarantined=path)


def _header_left(tree: Tree, directory_fd: int, name: str) -> Record | None:
    with contextlib.suppress(Corrupt):
        return header_left(tree.read_file(directory_fd, name, name, FIRST_BYTES)[0])
    return None


def _verify_objects(tree: Tree, part: tuple[int, int], *, quarantine: bool) -> Iterator[Checked]:
    hollow: dict[str, int] = {}
    for directories, entry in _shelved(tree):
        if not _is_mine(entry.name, part):
            continue
        if not _is_object(directories, entry):
            yield foreign(tree.path(*directories, entry.name))
            continue
        with contextlib.suppress(FileNotFoundError):  # collected meanwhile
            found = entry.stat(follow_symlinks=False)
            if is_hollow(found):
                hollow[entry.name] = found.st_size
            else:
                yield from _check_object(tree, entry.name, quarantine=quarantine)
    named = _named(tree, hollow)
    for name, size in hollow.items():
        if (name, size) in named:
            yield from _check_object(tree, name, quarantine=quarantine)
        else:
            yield _not_read(tree.path(*object_of(name), name), size)


def _named(tree: Tree, hollow: dict[str, int]) -> set[tuple[str, int]]:
    """Return which of these objects have a record that names them with a size, and that size."""
    named: set[tuple[str, int]] = set()
    for directories, entry in records.everything(tree) if hollow else ():
        version = _VERSION.fullmatch(entry.name)
        if not records.is_foreign(directories, entry) and (not version or version[2] in hollow):
            with (
                contextlib.suppress(Corrupt, Newer, FileNotFoundError),
                tree.directory((REFS, *directories)) as directory_fd,
            ):
                if directory_fd is not None:
                    record = _header(tree, directories, directory_fd, entry.name)
                    named.add((record.data_digest, record.data_size))
    return named


def _not_read(path: str, size: int) -> Checked:
    return Checked(
        path, None, 0,
        f"{path} claims {size} bytes, has next to nothing on disk, and no record names it with that"
        " size: it was not read, and stays; collection removes it (sidecar store gc)",
    )  # fmt: skip


def _check_object(tree: Tree, name: str, *, quarantine: bool) -> Iterator[Checked]:
    """Read an object and yield what was found; nothing when it was collected meanwhile."""
    directories = object_of(name)
    with (
        tree.directory(directories) as directory_fd,
        contextlib.suppress(FileNotFoundError),
    ):
        if directory_fd is not None:
            path = tree.path(*directories, name)
            yield _object_read(tree, directory_fd, name, path, quarantine=quarantine)


def _object_read(
    tree: Tree, directory_fd: int, name: str, path: str, *, quarantine: bool
) -> Checked:
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    try:
        intact = records.digest_of(tree, directory_fd, name, path) == name
        error = None if intact else f"{path} is damaged: it fails its checksum: put it again"
    except Corrupt as misplaced:
        error = str(misplaced)
    kept = None
    if error and quarantine:
        kept = _quarantine_object(tree, directory_fd, name, _identity(found))
    return Checked(path, None, found.st_size, error, kept)


def _quarantine_object(
    tree: Tree, directory_fd: int, name: str, damaged: tuple[int, int]
) -> str | None:
    """Move an object aside, unless a Put healed it meanwhile; return where it is then."""
    kept = f"{name[:64]}.{tree.unique()}"
    with (
        tree.directory((QUARANTINE,)) as quarantine_fd,
        tree.locked(lock_of_object(name)),
    ):
        if quarantine_fd is None or _stat(directory_fd, name) != damaged:
            return None
        os.rename(name, kept, src_dir_fd=directory_fd, dst_dir_fd=quarantine_fd)
        os.fsync(quarantine_fd)
        os.fsync(directory_fd)
    return tree.path(QUARANTINE, kept)


def _shelved(tree: Tree) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Yield what lies on the shelves of objects, and beside them."""
    for shelf in tree.scan(OBJECTS):
        if not (_SHELF.fullmatch(shelf.name) and shelf.is_dir(follow_symlinks=False)):
            yield OBJECTS, shelf
            continue
        for entry in tree.scan((*OBJECTS, shelf.name)):
            yield (*OBJECTS, shelf.name), entry


def _is_object(directories: tuple[str, ...], entry: os.DirEntry[str]) -> bool:
    return bool(_DIGEST.fullmatch(entry.name)) and directories == object_of(entry.name)


# Garbage collection.


class File(NamedTuple):
    """What may go, as it was found. Its times change when anyone puts the same again."""

    name: str
    inode: int
    changed_ns: int
    stored_s: float
    size: int


class _Ref(NamedTuple):
    ref: str
    versions: list[File]


def collect(
    tree: Tree, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool
) -> Iterator[Collected]:
    """Remove versions first, then the objects that no record names any more."""
    tree.check_root()
    refs = _superseded(tree, retention)
    objects = _old_objects(tree, retention)
    _spare_pinned(refs, _told(pins))
    _wait_for_puts(tree, objects)
    gone: set[Leaf] = set()
    for (directories, current), (ref, versions) in refs.items():
        for version in _remove_versions(tree, directories, current, versions, dry_run=dry_run):
            gone.add((directories, version.name))
            where = tree.path(REFS, *directories, version.name)
            yield Collected("version", where, ref, version.size)
    _spare_named(tree, objects, gone, retention)
    if objects and not dry_run:
        wait_for_deletions(tree)
    for each in objects.values():
        if dry_run or _could_remove(tree, each):
            yield Collected("object", tree.path(*object_of(each.name), each.name), None, each.size)
    for name, size in tree.leftovers(remove=not dry_run):
        yield Collected("leftover", tree.path("tmp", name), None, size)


def _superseded(tree: Tree, retention: Retention) -> dict[Leaf, _Ref]:
    """Return the versions that the retention does not keep, by their ref's current record."""
    found: dict[Leaf, list[File]] = defaultdict(list)
    for directories, entry in records.walk(tree):
        retention.breathe()
        version = _VERSION.fullmatch(entry.name)
        with contextlib.suppress(FileNotFoundError):
            if version and not _is_current(tree, directories, version):
                stat = entry.stat(follow_symlinks=False)
                found[directories, version[1]].append(_file(entry.name, stat))
    now = time.time()
    refs = {}
    for (directories, current), files in found.items():
        kept = max(retention.keep_last - 1, 0)
        if kept:
            files.sort(key=lambda each: _order(tree, directories, each), reverse=True)
        old = [each for each in files[kept:] if _is_old(each, retention, now)]
        with contextlib.suppress(Corrupt, Newer, FileNotFoundError):
            if old:
                ref = records.ref_at(tree, directories, old[0].name)
                refs[directories, current] = _Ref(ref, old)
    return refs


def _order(tree: Tree, directories: tuple[str, ...], file: File) -> tuple[int, Position]:
    """Return what versions compare by: the record knows it better than the kernel's clock."""
    with (
        contextlib.suppress(Corrupt, Newer, FileNotFoundError),
        tree.directory((REFS, *directories)) as directory_fd,
    ):
        if directory_fd is not None:
            return _header(tree, directories, directory_fd, file.name).order
    return round(file.stored_s * 1e6), (0, 0)


def _is_current(tree: Tree, directories: tuple[str, ...], version: re.Match[str]) -> bool:
    """Tell whether the ref points at this version. An unreadable record may point anywhere."""
    with tree.directory((REFS, *directories)) as directory_fd:
        if directory_fd is None:
            raise FileNotFoundError
        if _is_twin_of_current(directory_fd, version[0]):
            return True
        try:
            record = _header(tree, directories, directory_fd, version[1])
            return record.is_version(version[2], version[3])
        except FileNotFoundError:
            return False
        except (Corrupt, Newer):
            return True


def _header(tree: Tree, directories: tuple[str, ...], directory_fd: int, name: str) -> Record:
    """Read a record's header. Raises FileNotFoundError, `Corrupt`, `Newer`."""
    path = tree.path(REFS, *directories, name)
    return parse(tree.read_file(directory_fd, name, path, HEADER_MAX_BYTES)[0], path)[0]


def _is_old(file: File, retention: Retention, now: float) -> bool:
    """Tell whether it was stored, and was out of use, long enough ago.

    The kernel notes in an inode's change time when it lost the name of the current record.
    """
    return now - file.stored_s >= retention.keep_newer_s and (
        now - max(file.stored_s, file.changed_ns / 1e9) >= retention.grace_s
    )


def _old_objects(tree: Tree, retention: Retention) -> dict[str, File]:
    now, found = time.time(), {}
    for file in objects_in(tree):
        retention.breathe()
        in_use_s = max(file.stored_s, file.changed_ns / 1e9)
        if now - in_use_s >= retention.grace_s:
            found[file.name] = file
    return found


def objects_in(tree: Tree) -> Iterator[File]:
    """Yield every object."""
    for directories, entry in _shelved(tree):
        with contextlib.suppress(FileNotFoundError):
            if _is_object(directories, entry):
                yield _file(entry.name, entry.stat(follow_symlinks=False))


def _told(pins: Callable[[], Iterable[Pin]]) -> Iterator[Pin]:
    try:
        yield from pins()
    except OSError as error:
        raise CallerFailed(error) from error


def _spare_pinned(refs: dict[Leaf, _Ref], pins: Iterable[Pin]) -> None:
    for pin in pins:
        try:
            check_ref(pin.ref)
        except InvalidRef:
            continue  # it names nothing that could be here
        place = place_of(pin.ref)
        candidates = refs.get((place.directories, place.leaf))
        if candidates is None:
            continue
        named = f"{place.leaf}{pin.checksum.removeprefix('sha256:')}."
        if pin.manifest_checksum:
            named += pin.manifest_checksum.removeprefix("sha256:")
        candidates.versions[:] = [
            each for each in candidates.versions if not each.name.startswith(named)
        ]


def _wait_for_puts(tree: Tree, objects: dict[str, File]) -> None:
    """Pass through the lock of every candidate; spare those whose Puts last too long."""
    for lock in {lock_of_object(digest) for digest in objects}:
        try:
            with tree.locked(lock):
                pass
        except Unavailable:
            for digest in [each for each in objects if lock_of_object(each) == lock]:
                del objects[digest]


def wait_for_deletions(tree: Tree) -> None:
    """Pass through the locks of all records: a record that went before is gone for good then.

    Else a power cut could bring it back without the data that it names.
    """
    for number in range(_LOCKS):
        with tree.locked(f"{number:02x}"):
            pass


def _remove_versions(
    tree: Tree, directories: tuple[str, ...], current: str, versions: Iterable[File], *,
    dry_run: bool,
) -> list[File]:  # fmt: skip
    """Remove those that are still superseded; return them, durably gone."""
    if dry_run:
        return list(versions)
    removed = []
    with (
        tree.locked(lock_of_records("/".join((REFS, *directories, current)))),
        tree.directory((REFS, *directories)) as directory_fd,
    ):
        if directory_fd is None:
            return []
        for each in versions:
            with contextlib.suppress(FileNotFoundError):
                match = _VERSION.fullmatch(each.name)
                if (
                    match
                    and _is_same(directory_fd, each)
                    and not _is_current(tree, directories, match)
                ):
                    os.unlink(each.name, dir_fd=directory_fd)
                    removed.append(each)
        # Before an object goes: a record that came back would miss it.
        os.fsync(directory_fd)
    return removed


def _spare_named(
    tree: Tree, objects: dict[str, File], gone: set[Leaf], retention: Retention
) -> None:
    """Drop the objects that a record names, but for the records that are `gone`."""
    try:
        for digest in digests_named(tree, gone) if objects else ():
            retention.breathe()
            objects.pop(digest, None)
    except Newer:
        objects.clear()  # any of them may be what it names


def digests_named(tree: Tree, gone: set[Leaf]) -> Iterator[str]:
    """Yield the digests that records name, but for the records that are `gone`. Raises `Newer`."""
    for directories, entry in records.walk(tree):
        if (directories, entry.name) in gone:
            continue
        version = _VERSION.fullmatch(entry.name)
        if version:
            yield version[2]
            continue
        # A record that cannot be read, or that went meanwhile, is healed or superseded by a Put
        # that names or freshens its object itself.
        record = None
        with (
            contextlib.suppress(Corrupt, FileNotFoundError),
            tree.directory((REFS, *directories)) as directory_fd,
        ):
            if directory_fd is not None:
                record = _header(tree, directories, directory_fd, entry.name)
        if record:
            yield record.data_digest


def _could_remove(tree: Tree, file: File) -> bool:
    with contextlib.suppress(Unavailable):
        return remove_object(tree, file)
    return False


def remove_object(tree: Tree, file: File) -> bool:
    """Remove an object, unless a Put has used it since it was found. Raises `Unavailable`."""
    with (
        contextlib.suppress(FileNotFoundError),
        tree.directory(object_of(file.name)) as directory_fd,
        tree.locked(lock_of_object(file.name)),
    ):
        if directory_fd is not None and _is_same(directory_fd, file):
            os.unlink(file.name, dir_fd=directory_fd)
            return True
    return False


def _file(name: str, found: os.stat_result) -> File:
    return File(name, found.st_ino, found.st_ctime_ns, found.st_mtime, found.st_size)


def _is_same(directory_fd: int, file: File) -> bool:
    return _file(file.name, os.stat(file.name, dir_fd=directory_fd, follow_symlinks=False)) == file


def _stat(directory_fd: int, name: str) -> tuple[int, int]:
    return _identity(os.stat(name, dir_fd=directory_fd, follow_symlinks=False))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino

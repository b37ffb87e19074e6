"""The file backend: a directory that `ls`, `cat` and `sha256sum` can read.

    ROOT/STORE                      format and hash, two lines of text
    ROOT/refs/stacks/t_1/web/42@    the ref's current record
    ROOT/refs/stacks/t_1/web/42@D.M every version's record, by the SHA-256 of data and manifest;
                                    the newest is a hard link to the current one
    ROOT/objects/sha256/ab/abcd…    data over 64 KiB, read-only, shared by all refs
    ROOT/locks/…                    serialise what must be one step to others
    ROOT/quarantine/                what was found corrupt
    ROOT/tmp/                       writes under way; leftovers of crashes go after a day

Files are immutable: written under tmp/, flushed, and only then given a name. One rename
publishes the pair. `store.record` has the format, `store.file.tree` the way through directories,
`store.file.upkeep` verification and garbage collection.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from typing import TYPE_CHECKING, TypeVar

from store.contract import (
    Artifact,
    Blob,
    Capability,
    Position,
    StoreConfig,
    Version,
    as_bytes,
    check_pin,
    check_position,
)
from store.errors import ChecksumMismatch, Corrupt, NotFound
from store.file import records, upkeep
from store.file.layout import QUARANTINE, REFS, Found, Place, object_of, place_of
from store.file.pouring import pour_blob, pour_reader, read_up_to, source_of
from store.file.root import open_root
from store.file.tree import Tree
from store.posix import explained, misplaced
from store.record import HEADER_MAX_BYTES, INLINE_MAX_BYTES, Record, describe, header_of, version_of
from store.refs import check_ref, encode
from store.streams import ArtifactReader
from store.urls import root_of

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator

    from store.contract import Checked, Collected, Pin, Retention
    from store.file.pouring import Poured
    from store.streams import Readable

_T = TypeVar("_T")


def open_file(config: StoreConfig) -> FileStore:
    """Open, or create, the store in `config.file_dir`, else in the directory of `config.url`.

    Raises `ConfigError` when neither is given, and as `FileStore`.
    """
    return FileStore(root_of(config, "file"), timeout_s=config.timeout_s)


class FileStore:
    """Artifacts under one directory, for any number of threads and processes at once.

    Raises `ConfigError` when `root` holds something else or a newer format, `Unavailable` when
    it cannot be reached. With a store in it already, a read-only root can be opened and read.
    """

    name = "file"
    capabilities = frozenset(Capability)

    def __init__(self, root: str, *, timeout_s: float = 30.0) -> None:
        self._root = root
        with self._explained("open the store"):
            self._tree = Tree(root, open_root(root), timeout_s=timeout_s)
        self.identity = "file:{}:{}".format(*self._tree.identity)
        with contextlib.suppress(OSError):  # a reader who may not, or a race, is no trouble
            for name, _ in self._tree.leftovers():
                self._tree.discard(name)

    # Put: hash, write aside, flush, name, flush the names.

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`. Raises `Unavailable` when it cannot be made durable."""
        check_ref(ref)
        check_position(position)
        blob, manifest_blob = as_bytes(data), as_bytes(manifest)
        with self._explained(f"put {ref!r}"):
            if len(blob) > INLINE_MAX_BYTES:
                self._put_large(ref, lambda fd: pour_blob(fd, blob), manifest_blob, None, position)
            else:
                self._put_small(ref, blob, manifest_blob, None, position)

    def put_from(
        self,
        ref: str,
        reader: Readable,
        manifest: Blob,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """See `VersionedStore.put_from`.

        A regular file, or an artifact of another file store, is copied by the kernel, which may
        share its blocks.
        """
        check_ref(ref)
        check_position(position)
        check_pin(checksum, None)
        manifest_blob = as_bytes(manifest)
        with self._explained(f"put {ref!r}"):
            source = source_of(reader)
            head = read_up_to(reader, INLINE_MAX_BYTES + 1)
            if len(head) <= INLINE_MAX_BYTES:
                return self._put_small(ref, head, manifest_blob, checksum, position)
            return self._put_large(
                ref,
                lambda fd: pour_reader(fd, head, reader, source),
                manifest_blob,
                checksum,
                position,
            )

    def _put_small(
        self,
        ref: str,
        data: bytes,
        manifest: bytes,
        checksum: str | None,
        position: Position | None,
    ) -> str:
        digest = hashlib.sha256(data).hexdigest()
        found = _accepted(ref, digest, checksum)
        self._put_record(describe(ref, digest, len(data), manifest, position), manifest + data)
        return found

    def _put_large(
        self,
        ref: str,
        pour: Callable[[int], Poured],
        manifest: bytes,
        checksum: str | None,
        position: Position | None,
    ) -> str:
        with self._tree.temporary(mode=0o444) as (temporary, fd):
            digest, size = pour(fd)
            found = _accepted(ref, digest, checksum)
            # Garbage collection waits here: the object has to stay until its record is there.
            with self._tree.locked(upkeep.lock_of_object(digest), shared=True):
                self._name_object(temporary, digest)  # first the object, last its record
                self._put_record(describe(ref, digest, size, manifest, position), manifest)
        return found

    def _name_object(self, temporary: str, digest: str) -> None:
        directory_fd = self._tree.enter_durable(object_of(digest))
        try:
            if self._freshened(directory_fd, digest):
                self._tree.discard(temporary)
            else:
                self._tree.rename(temporary, directory_fd, digest)
            # Also when it was there: another writer's rename may not be durable yet.
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _freshened(self, directory_fd: int, digest: str) -> bool:
        """Tell whether the object is there and intact, and is now marked as in use.

        A corrupt one is kept in quarantine: a link, not a rename, so that readers of its name
        see the old content or the new, and no gap.
        """
        try:
            path = self._tree.path(*object_of(digest), digest)
            if records.digest_of(self._tree, directory_fd, digest, path) == digest:
                os.utime(digest, dir_fd=directory_fd, follow_symlinks=False)
                return True
        except (FileNotFoundError, PermissionError, Corrupt):
            return False  # nothing there, not ours, or a link: the rename replaces it
        with self._tree.directory((QUARANTINE,)) as quarantine_fd:
            if quarantine_fd is not None:
                kept = f"{digest}.{self._tree.unique()}"
                os.link(digest, kept, src_dir_fd=directory_fd, dst_dir_fd=quarantine_fd)
        return False

    def _put_record(self, record: Record, body: bytes) -> None:
        place = place_of(record.ref)
        directory_fd = self._tree.enter_durable(place.way)
        try:
            if not self._holds(directory_fd, place, record, body):
                temporary = self._tree.write(header_of(record), body)
                self._publish(directory_fd, place, record, temporary)
            # Also when nothing was written: another writer's names may not be durable yet.
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _holds(self, directory_fd: int, place: Place, record: Record, body: bytes) -> bool:
        """Tell whether the ref is intact and already where this Put would move it."""
        try:
            version = os.stat(place.version(record), dir_fd=directory_fd, follow_symlinks=False)
            current = records.read(self._tree, directory_fd, place, place.leaf)
            return (
                current.inode == version.st_ino
                and current.record.is_version(record.data_digest, record.manifest_digest)
                and not _is_later(record.position, current.record.position)
                and current.content[current.body_at :] == body
            )
        except (FileNotFoundError, Corrupt):
            return False  # written anew, and so healed

    def _publish(self, directory_fd: int, place: Place, record: Record, temporary: str) -> None:
        with (
            self._tree.discarding(temporary),
            self._tree.locked(upkeep.lock_of_records(place.path)),
        ):
            if record.position and self._is_overtaken(directory_fd, place, record.position):
                self._tree.rename(temporary, directory_fd, place.version(record))
            else:
                self._point(directory_fd, place, record, temporary)

    def _point(self, directory_fd: int, place: Place, record: Record, temporary: str) -> None:
        """Give the file its version's name, then make it the ref's current record."""
        tree, version = self._tree, place.version(record)
        try:
            os.link(temporary, version, src_dir_fd=tree.tmp_fd, dst_dir_fd=directory_fd)
        except FileExistsError:
            # The same content, intact or not: replacing it heals it and makes it the newest.
            twin = tree.twin(temporary)
            with tree.discarding(twin):
                tree.rename(twin, directory_fd, version)
        self._keep_current(directory_fd, place)
        tree.rename(temporary, directory_fd, place.leaf)

    def _keep_current(self, directory_fd: int, place: Place) -> None:
        """Give the current record its version's name, if a power cut kept only the other one.

        Its Put never returned, but the version could be read since: it stays readable.
        """
        leaf = place.leaf
        with contextlib.suppress(FileNotFoundError, FileExistsError, Corrupt):
            if os.stat(leaf, dir_fd=directory_fd, follow_symlinks=False).st_nlink == 1:
                version = place.version(records.header(self._tree, directory_fd, place, leaf))
                os.link(leaf, version, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)

    def _is_overtaken(self, directory_fd: int, place: Place, position: Position) -> bool:
        """Tell whether a later position moved the ref. Under the lock of its records."""
        try:
            current = records.header(self._tree, directory_fd, place, place.leaf)
        except (FileNotFoundError, Corrupt):
            return False  # a record that cannot be read must not bar the ref for ever
        return _is_later(current.position, position)

    # Get: one record, perhaps one object, both digests.

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """See `VersionedStore.get`. Raises `Corrupt` with the path of what is damaged.

        An earlier version pinned by `checksum` alone costs a scan of the ref's directory.
        """
        with self._explained(f"get {ref!r}"):
            return self._read(ref, checksum, manifest_checksum, self._artifact)

    def open(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> ArtifactReader:
        """See `VersionedStore.open`."""
        with self._explained(f"open {ref!r}"):
            return self._read(ref, checksum, manifest_checksum, self._reader)

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`. Only `get` verifies data and manifest.

        Raises `Corrupt` when the record cannot be read at all.
        """
        with self._explained(f"look for {ref!r}"):
            return self._find(ref, checksum, manifest_checksum, HEADER_MAX_BYTES) is not None

    def _read(
        self,
        ref: str,
        checksum: str | None,
        manifest_checksum: str | None,
        body: Callable[[Found], _T],
    ) -> _T:
        """Find the version and read its body; look again if it was collected in between."""
        before = None
        while True:
            found = self._find(ref, checksum, manifest_checksum)
            if found is None:
                version = f" version {checksum} {manifest_checksum or ''}".rstrip()
                raise NotFound(
                    f"{self._root} has no{version if checksum else 'thing'} at ref {ref!r}"
                )
            try:
                return body(found)
            except FileNotFoundError:
                self._tree.check_root()
                if found.inode == before:
                    raise Corrupt(
                        f"{records.data_path(self._tree, found)} is missing, and {found.path}"
                        " needs it: put it again"
                    ) from None
                before = found.inode

    def _artifact(self, found: Found) -> Artifact:
        manifest, data = records.body_of(found)
        if not found.record.inline:
            with self._opened_object(found) as file:
                data = file.readall()
        records.check_manifest(found, manifest)
        records.check_data(self._tree, found, data)
        return Artifact(data, manifest)

    def _reader(self, found: Found) -> ArtifactReader:
        record = found.record
        manifest, data = records.body_of(found)
        records.check_manifest(found, manifest)
        raw = io.BytesIO(data) if record.inline else self._opened_object(found)
        return ArtifactReader(
            raw,
            checksum=f"sha256:{record.data_digest}",
            size_bytes=record.data_size,
            manifest=manifest,
            where=records.data_path(self._tree, found),
            close=raw.close,
        )

    def _opened_object(self, found: Found) -> io.FileIO:
        """Open the object that the record names. Raises FileNotFoundError."""
        digest = found.record.data_digest
        directory_fd = self._tree.enter(object_of(digest))
        try:
            path = records.data_path(self._tree, found)
            return io.FileIO(self._tree.open_plain(digest, directory_fd, path)[0])
        finally:
            os.close(directory_fd)

    def _find(
        self,
        ref: str,
        checksum: str | None,
        manifest_checksum: str | None,
        limit: int | None = None,
    ) -> Found | None:
        """Return the version's record, at most `limit` bytes of it."""
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        place, pin = place_of(ref), (_hex_of(checksum), _hex_of(manifest_checksum))
        with contextlib.suppress(Corrupt):  # the longer way finds the version, or says it again
            found = records.current(self._tree, place, limit)
            if found is not None and found.record.is_version(*pin):
                return found
        with self._tree.directory(place.way) as directory_fd:
            if directory_fd is not None:
                found = self._select(directory_fd, place, *pin, limit)
                if found is not None:
                    return found
        self._tree.check_root()  # it takes the storage itself to say that something is absent
        return None

    def _select(
        self,
        directory_fd: int,
        place: Place,
        data_digest: str | None,
        manifest_digest: str | None,
        limit: int | None,
    ) -> Found | None:
        damage: Corrupt | None = None
        try:
            current = records.read(self._tree, directory_fd, place, place.leaf, limit)
            if current.record.is_version(data_digest, manifest_digest):
                return current
        except FileNotFoundError:
            pass
        except Corrupt as error:
            damage = error
        if data_digest is not None:
            version = self._newest(directory_fd, place, data_digest, manifest_digest, limit)
            if version is not None:
                return version
        if damage is not None:
            raise damage  # it may be what was asked for
        return None

    def _newest(
        self,
        directory_fd: int,
        place: Place,
        data_digest: str,
        manifest_digest: str | None,
        limit: int | None,
    ) -> Found | None:
        names = [f"{place.leaf}{data_digest}.{manifest_digest}"]
        if manifest_digest is None:
            names = records.names(directory_fd, f"{place.leaf}{data_digest}.")
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # never there, or just collected
                found.append(records.read(self._tree, directory_fd, place, name, limit))
        return max(found, key=lambda each: each.record.stored, default=None)

    # What there is.

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`. Memory is constant; one descriptor a level of directories."""
        with self._explained(f"list {prefix!r}"):
            self._tree.check_root()
            start: tuple[str, ...] = ()
            if prefix:
                if self._find(prefix, None, None, HEADER_MAX_BYTES):
                    yield prefix
                start = tuple(encode(prefix))
            for directories, entry in records.walk(self._tree, start):
                if records.is_current(entry.name):
                    yield records.ref_at(self._tree, directories, entry.name)
                elif "@" not in entry.name:
                    raise misplaced(self._tree.path(REFS, *directories, entry.name))

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`. It scans the ref's directory and reads every header."""
        check_ref(ref)
        place = place_of(ref)
        with (
            self._explained(f"list the versions of {ref!r}"),
            self._tree.directory(place.way) as directory_fd,
        ):
            listed = [] if directory_fd is None else self._versions(directory_fd, place)
            if not listed:
                self._tree.check_root()
                raise NotFound(f"{self._root} has nothing at ref {ref!r}")
        return iter(listed)

    def _versions(self, directory_fd: int, place: Place) -> builtins.list[Version]:
        """Return every version; the current record counts even if its version's name is lost."""
        found = {}
        for name in records.names(directory_fd, place.leaf):
            with contextlib.suppress(FileNotFoundError):  # just collected
                record = records.header(self._tree, directory_fd, place, name)
                current = name == place.leaf
                digests = (record.data_digest, record.manifest_digest)
                if current or digests not in found:
                    found[digests] = (record, current)
        newest_first = sorted(found.values(), key=lambda each: each[0].stored, reverse=True)
        return [version_of(record, current=current) for record, current in newest_first]

    # Upkeep.

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """See `VersionedStore.verify`. Raises `Unavailable` when something cannot be read."""
        if prefix:
            check_ref(prefix)
        with self._explained("verify the store"):
            yield from upkeep.verify(self._tree, prefix, part, quarantine=quarantine)

    def collect(
        self,
        retention: Retention,
        pins: Callable[[], Iterable[Pin]],
        *,
        dry_run: bool = False,
    ) -> Iterator[Collected]:
        """See `VersionedStore.collect`."""
        with self._explained("collect garbage"):
            yield from upkeep.collect(self._tree, retention, pins, dry_run=dry_run)

    def _explained(self, doing: str) -> explained:
        return explained(self._root, doing)


def _accepted(ref: str, digest: str, checksum: str | None) -> str:
    """Return the checksum of data with `digest`. Raises `ChecksumMismatch` if another was said."""
    found = f"sha256:{digest}"
    if checksum not in (None, found):
        raise ChecksumMismatch(
            f"the data to put at {ref!r} is {found}, not {checksum}; nothing was put"
        )
    return found


def _is_later(position: Position | None, other: Position | None) -> bool:
    """Compare positions; none is before all others."""
    return position is not None and (other is None or position > other)


def _hex_of(checksum: str | None) -> str | None:
    return checksum and checksum.removeprefix("sha256:")

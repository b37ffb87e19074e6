"""The file backend: a directory that `ls`, `cat` and `sha256sum` can read.

    ROOT/STORE                      format and hash, two lines of text
    ROOT/refs/stacks/t_1/web/42@    the ref's current record
    ROOT/refs/stacks/t_1/web/42@D.M every version's record, by the SHA-256 of data and manifest;
                                    the newest is a hard link to the current one
    ROOT/objects/sha256/ab/abcd…    data over 64 KiB, read-only, shared by all refs
    ROOT/locks/NN                   serialise Puts that carry a position
    ROOT/quarantine/                objects that were found corrupt
    ROOT/tmp/                       writes under way; leftovers of crashes go after a day

Files are immutable: written under tmp/, flushed, and only then given a name. One rename
publishes the pair. `store.layout` has the records, `store.root` the root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
import time
import weakref
import zlib
from typing import TYPE_CHECKING

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
from store.errors import ConfigError, Corrupt, NotFound, Unavailable
from store.layout import (
    HEADER_MAX_BYTES,
    Found,
    Place,
    Record,
    describe,
    header_of,
    parse,
    place_of,
    version_of,
)
from store.refs import check_ref, decode_name, encode_segment
from store.root import open_root
from store.urls import directory_of

if TYPE_CHECKING:
    import builtins
    from collections.abc import Generator, Iterator, Sequence

_LOCKS = 64
_LOCK_POLL_S = 0.002
_LEFTOVER_AGE_S = 24 * 3600.0
_DURABLE_MAX = 1 << 14

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted FIFO must not hang the reader; it means nothing for a regular file.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_Identity = tuple[int, int]  # device and inode

_MISPLACED = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
_MENDS = {
    errno.ENOENT: "part of the store is gone: mount or restore it, then open the store again",
    errno.ENOSPC: "free space or inodes on it",
    errno.EDQUOT: "free space or raise the quota",
    errno.EIO: "the disk reports an error: look at the kernel's log",
    errno.EROFS: "it is mounted read-only: remount it for writing",
    errno.EACCES: "let this process's user read and write there",
    errno.EPERM: "let this process's user write there, on a file system that has hard links",
    errno.ESTALE: "the network mount went away: mount it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EXDEV: "everything under the root must be one file system",
}


def open_file(config: StoreConfig) -> FileStore:
    """Open, or create, the store in `config.file_dir`, else in the directory of `config.url`.

    Raises `ConfigError` when neither is given, and as `FileStore`.
    """
    root = config.file_dir
    if root is None and config.url:
        root = directory_of(config.url)
    if root is None:
        raise ConfigError("the file backend needs a directory: StoreConfig(file_dir=…)")
    return FileStore(os.path.abspath(root), timeout_s=config.timeout_s)


class FileStore:
    """Artifacts under one directory, for any number of threads and processes at once.

    Raises `ConfigError` when `root` holds something else or a newer format, `Unavailable` when
    it cannot be reached. With a store in it already, a read-only root can be opened and read.
    """

    name = "file"
    capabilities = frozenset({Capability.PINNED_GET, Capability.POSITION, Capability.LIST})

    def __init__(self, root: str, *, timeout_s: float = 30.0) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._timeout_s = timeout_s
        # Directories that are known to survive a power cut: no Put flushes them again.
        self._durable: dict[str, _Identity] = {}
        self._writer = os.urandom(8).hex()
        self._writes = itertools.count()
        with self._explained("open the store"), contextlib.ExitStack() as opened:
            self._root_fd = open_root(root)
            opened.callback(os.close, self._root_fd)
            self._tmp_fd = self._open("tmp", _DIRECTORY, self._root_fd, self._path("tmp"))
            opened.callback(os.close, self._tmp_fd)
            self._locks_fd = self._open("locks", _DIRECTORY, self._root_fd, self._path("locks"))
            opened.callback(os.close, self._locks_fd)
            self._root_identity = _identity_of(os.fstat(self._root_fd))
            weakref.finalize(self, opened.pop_all().close)
        self.identity = "file:{}:{}".format(*self._root_identity)
        _sweep(self._tmp_fd)

    # Put: hash, write aside, flush, name, flush the names.

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`. Raises `Unavailable` when it cannot be made durable."""
        check_ref(ref)
        check_position(position)
        data, manifest = as_bytes(data), as_bytes(manifest)
        record = describe(ref, data, manifest, position)
        with self._explained(f"put {ref!r}"):
            self._put(record, data, manifest)

    def _put(self, record: Record, data: bytes, manifest: bytes) -> None:
        place = place_of(record.ref)
        directory_fd = self._enter_durable("refs", place.directories)
        try:
            if not self._holds(directory_fd, place, record, data, manifest):
                if not record.inline:  # first the object, last the record that names it
                    self._put_object(record.data_digest, data)
                body = (manifest, data) if record.inline else (manifest,)
                temporary = self._write(header_of(record), *body)
                self._publish(directory_fd, place, record, temporary)
            # Also when nothing was written: another writer's names may not be durable yet.
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _holds(
        self, directory_fd: int, place: Place, record: Record, data: bytes, manifest: bytes
    ) -> bool:
        """Tell whether the ref is intact and already where this Put would move it."""
        try:
            version = os.stat(place.version(record), dir_fd=directory_fd, follow_symlinks=False)
            current = self._read(directory_fd, place, place.leaf)
            return (
                current.inode == version.st_ino
                and current.record.is_version(record.data_digest, record.manifest_digest)
                and not _is_later(record.position, current.record.position)
                and self._body(current) == (data, manifest)
            )
        except (FileNotFoundError, Corrupt):
            return False  # written anew, and so healed

    def _put_object(self, digest: str, data: bytes) -> None:
        directory_fd = self._enter_durable("objects", ("sha256", digest[:2]))
        try:
            if not self._has_object(directory_fd, digest, data):
                temporary = self._write(data, mode=0o444)
                with self._discarding(temporary):
                    self._rename(temporary, directory_fd, digest)
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _has_object(self, directory_fd: int, digest: str, data: bytes) -> bool:
        """Tell whether the object is there and intact; a corrupt one is kept in quarantine."""
        try:
            content, _ = self._read_file(directory_fd, digest, self._object_path(digest))
        except (FileNotFoundError, Corrupt):
            return False  # nothing there, or a link: the rename replaces it
        if content == data:
            return True
        quarantine_fd = self._enter("quarantine", ())
        try:
            # A link, not a rename: readers of the name see the old content or the new, no gap.
            kept = f"{digest}.{self._unique()}"
            os.link(digest, kept, src_dir_fd=directory_fd, dst_dir_fd=quarantine_fd)
        finally:
            os.close(quarantine_fd)
        return False

    def _write(self, *parts: bytes, mode: int = 0o666) -> str:
        """Write `parts` to a new file under tmp/, durably, and return its name."""
        temporary = self._unique()
        fd = os.open(temporary, _CREATE, mode, dir_fd=self._tmp_fd)
        with self._discarding(temporary):
            try:
                _write_all(fd, parts)
                # When it fails, never again on this file: the kernel reports lost pages once
                # and then calls them clean. The next Put writes another one.
                os.fsync(fd)
            finally:
                os.close(fd)
        return temporary

    def _publish(self, directory_fd: int, place: Place, record: Record, temporary: str) -> None:
        with self._discarding(temporary):
            if record.position is None:
                self._point(directory_fd, place, record, temporary)
                return
            with self._locked(record.ref):
                if self._is_overtaken(directory_fd, place, record.position):
                    self._rename(temporary, directory_fd, place.version(record))
                else:
                    self._point(directory_fd, place, record, temporary)

    def _point(self, directory_fd: int, place: Place, record: Record, temporary: str) -> None:
        """Give the file its version's name, then make it the ref's current record."""
        version = place.version(record)
        try:
            os.link(temporary, version, src_dir_fd=self._tmp_fd, dst_dir_fd=directory_fd)
        except FileExistsError:
            # The same content, intact or not: replacing it heals it and makes it the newest.
            twin = f"{temporary}.v"
            os.link(temporary, twin, src_dir_fd=self._tmp_fd, dst_dir_fd=self._tmp_fd)
            with self._discarding(twin):
                self._rename(twin, directory_fd, version)
        self._rename(temporary, directory_fd, place.leaf)

    def _rename(self, temporary: str, directory_fd: int, name: str) -> None:
        os.rename(temporary, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory_fd)

    def _is_overtaken(self, directory_fd: int, place: Place, position: Position) -> bool:
        """Tell whether a later position moved the ref. Under the ref's lock."""
        try:
            path = self._record_path(place, place.leaf)
            current = self._read_header(directory_fd, place.leaf, path)
        except (FileNotFoundError, Corrupt):
            return False  # a record that cannot be read must not bar the ref for ever
        return _is_later(current.position, position)

    @contextlib.contextmanager
    def _locked(self, ref: str) -> Iterator[None]:
        """Hold the ref's lock: reading the position and renaming must be one step to others."""
        name = f"{zlib.crc32(ref.encode()) % _LOCKS:02x}"
        fd = os.open(name, _LOCK, 0o666, dir_fd=self._locks_fd)
        try:
            self._wait_for_lock(fd, self._path("locks", name))
            yield
        finally:
            os.close(fd)  # lets go of the lock, too

    def _wait_for_lock(self, fd: int, path: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held {path} for {self._timeout_s:g} s: is it stopped?"
                    ) from None
                time.sleep(_LOCK_POLL_S)

    @contextlib.contextmanager
    def _discarding(self, temporary: str) -> Iterator[None]:
        """Remove the file from tmp/ when the block fails."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong first is what counts
                os.unlink(temporary, dir_fd=self._tmp_fd)
            raise

    # Get: one record, perhaps one object, both digests.

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """See `VersionedStore.get`. Raises `Corrupt` with the path of what is damaged.

        An earlier version pinned by `checksum` alone costs a scan of the ref's directory.
        """
        with self._explained(f"get {ref!r}"):
            found = self._find(ref, checksum, manifest_checksum)
            if found is None:
                version = f" version {checksum} {manifest_checksum or ''}".rstrip()
                raise NotFound(
                    f"{self._root} has no{version if checksum else 'thing'} at ref {ref!r}"
                )
            data, manifest = self._body(found)
            self._verify(found, data, manifest)
        return Artifact(data, manifest)

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`. Only `get` verifies data and manifest.

        Raises `Corrupt` when the record cannot be read at all.
        """
        with self._explained(f"look for {ref!r}"):
            return self._find(ref, checksum, manifest_checksum) is not None

    def _find(self, ref: str, checksum: str | None, manifest_checksum: str | None) -> Found | None:
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        place = place_of(ref)
        with self._directory(place.directories) as directory_fd:
            if directory_fd is not None:
                found = self._select(
                    directory_fd, place, _hex_of(checksum), _hex_of(manifest_checksum)
                )
                if found is not None:
                    return found
        self._check_root()  # it takes the storage itself to say that something is absent
        return None

    def _select(
        self, directory_fd: int, place: Place, data_digest: str | None, manifest_digest: str | None
    ) -> Found | None:
        damage: Corrupt | None = None
        try:
            current = self._read(directory_fd, place, place.leaf)
            if current.record.is_version(data_digest, manifest_digest):
                return current
        except FileNotFoundError:
            pass
        except Corrupt as error:
            damage = error
        if data_digest is not None:
            version = self._newest(directory_fd, place, data_digest, manifest_digest)
            if version is not None:
                return version
        if damage is not None:
            raise damage  # it may be what was asked for
        return None

    def _newest(
        self, directory_fd: int, place: Place, data_digest: str, manifest_digest: str | None
    ) -> Found | None:
        if manifest_digest is not None:
            try:
                return self._read(
                    directory_fd, place, f"{place.leaf}{data_digest}.{manifest_digest}"
                )
            except FileNotFoundError:
                return None
        names = _names(directory_fd, f"{place.leaf}{data_digest}.")
        found = [self._read(directory_fd, place, name) for name in names]
        return max(found, key=lambda each: each.record.stored, default=None)

    def _body(self, found: Found) -> tuple[bytes, bytes]:
        """Return data and manifest, unverified."""
        middle = found.body_at + found.record.manifest_size
        manifest = found.content[found.body_at : middle]
        if found.record.inline:
            return found.content[middle:], manifest
        return self._read_object(found), manifest

    def _read_object(self, found: Found) -> bytes:
        digest = found.record.data_digest
        path = self._object_path(digest)
        try:
            directory_fd = self._enter("objects", ("sha256", digest[:2]))
            try:
                return self._read_file(directory_fd, digest, path)[0]
            finally:
                os.close(directory_fd)
        except FileNotFoundError:
            self._check_root()
            raise Corrupt(f"{path} is missing, and {found.path} needs it: put it again") from None

    def _verify(self, found: Found, data: bytes, manifest: bytes) -> None:
        record = found.record
        if hashlib.sha256(manifest).hexdigest() != record.manifest_digest:
            raise Corrupt(f"{found.path} is damaged: its manifest fails its checksum")
        if hashlib.sha256(data).hexdigest() != record.data_digest:
            path = found.path if record.inline else self._object_path(record.data_digest)
            raise Corrupt(f"{path} is damaged: the data fails its checksum")

    # What there is.

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`. Memory is constant; one descriptor a level of directories."""
        with self._explained(f"list {prefix!r}"):
            self._check_root()
            if not prefix:
                yield from self._walk(())
                return
            if self._find(prefix, None, None):
                yield prefix
            yield from self._walk(tuple(map(encode_segment, prefix.split("/"))))

    def _walk(self, start: tuple[str, ...]) -> Iterator[str]:
        levels = [(start, self._scan(start))]
        try:
            while levels:
                directories, names = levels[-1]
                name = next(names, None)
                if name is None:
                    levels.pop()
                elif name.endswith("@"):
                    yield self._ref_at(directories, name)
                elif "@" not in name and not name.startswith("."):
                    below = (*directories, name)
                    levels.append((below, self._scan(below)))
        finally:
            for _, names in levels:
                names.close()

    def _scan(self, directories: tuple[str, ...]) -> Generator[str, None, None]:
        with self._directory(directories) as directory_fd:
            if directory_fd is None:
                self._check_root()
                return
            entries = os.scandir(directory_fd)
        with entries:
            for entry in entries:
                yield entry.name

    def _ref_at(self, directories: tuple[str, ...], name: str) -> str:
        """Return the ref whose current record this is. Only a hashed segment needs the header."""
        path = self._path("refs", *directories, name)
        try:
            segments = [decode_name(each) for each in (*directories, name.removesuffix("@"))]
        except ValueError as error:
            raise Corrupt(f"{path} is no file of this store: {error}; move it away") from None
        plain = [segment for segment in segments if segment is not None]
        if len(plain) == len(segments):
            return "/".join(plain)
        with self._directory(directories) as directory_fd:
            if directory_fd is None:
                raise FileNotFoundError(errno.ENOENT, "vanished while it was listed", path)
            ref = self._read_header(directory_fd, name, path).ref
        if place_of(ref)[1:] != (directories, name):
            raise Corrupt(f"{path} holds the record of another ref, {ref!r}: put both again")
        return ref

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`. It scans the ref's directory and reads every header."""
        check_ref(ref)
        place = place_of(ref)
        with (
            self._explained(f"list the versions of {ref!r}"),
            self._directory(place.directories) as directory_fd,
        ):
            listed = [] if directory_fd is None else self._versions(directory_fd, place)
            if not listed:
                self._check_root()
                raise NotFound(f"{self._root} has nothing at ref {ref!r}")
        return iter(listed)

    def _versions(self, directory_fd: int, place: Place) -> builtins.list[Version]:
        """Return every version; the current record counts even if its version's name is lost."""
        found = {}
        for name in _names(directory_fd, place.leaf):
            record = self._read_header(directory_fd, name, self._record_path(place, name))
            current = name == place.leaf
            digests = (record.data_digest, record.manifest_digest)
            if current or digests not in found:
                found[digests] = (record, current)
        newest_first = sorted(found.values(), key=lambda each: each[0].stored, reverse=True)
        return [version_of(record, current=current) for record, current in newest_first]

    # Files and directories.

    @contextlib.contextmanager
    def _directory(self, names: tuple[str, ...]) -> Iterator[int | None]:
        """Open a directory under refs/ for the block, None when it is absent."""
        with contextlib.ExitStack() as opened:
            directory_fd = None
            with contextlib.suppress(FileNotFoundError):
                directory_fd = self._enter("refs", names)
                opened.callback(os.close, directory_fd)
            yield directory_fd

    def _enter(self, top: str, names: Sequence[str]) -> int:
        """Return a descriptor of ROOT/top/names; no link below the root is followed.

        Raises FileNotFoundError when it is absent.
        """
        fd = self._leap("/".join((top, *names)))
        return self._walk_down(top, names, create=False) if fd is None else fd

    def _leap(self, path: str) -> int | None:
        """Reach ROOT/path in one step, if the kernel says that this is where it led."""
        try:
            fd = os.open(f"{self._root}/{path}", _DIRECTORY)
        except OSError:
            return None  # the walk tells what is wrong, and where
        with contextlib.suppress(OSError):  # no /proc, or a path too long for it
            if os.readlink(f"/proc/self/fd/{fd}") == f"{self._real_root}/{path}":
                return fd
        os.close(fd)
        return None

    def _enter_durable(self, top: str, names: Sequence[str]) -> int:
        """As `_enter`, but make what is absent; on return, the way there survives a power cut."""
        with contextlib.suppress(FileNotFoundError):
            fd = self._enter(top, names)
            # Flushed before, and still the same directory: neither was any above it replaced.
            if self._durable.get(self._path(top, *names)) == _identity_of(os.fstat(fd)):
                return fd
            os.close(fd)
        return self._walk_down(top, names, create=True)

    def _walk_down(self, top: str, names: Sequence[str], *, create: bool) -> int:
        self._check_root()
        path = self._path(top)
        try:
            fd = self._open(top, _DIRECTORY, self._root_fd, path)
        except FileNotFoundError:
            raise Unavailable(f"{path} is missing from the store: restore it") from None
        for name in names:
            path = f"{path}/{name}"
            try:
                below = self._step(fd, name, path, create=create)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _step(self, parent_fd: int, name: str, path: str, *, create: bool) -> int:
        try:
            fd = self._open(name, _DIRECTORY, parent_fd, path)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent_fd)
            fd = self._open(name, _DIRECTORY, parent_fd, path)
        if create:
            self._settle(parent_fd, fd, path)
        return fd

    def _settle(self, parent_fd: int, fd: int, path: str) -> None:
        """Flush the name of a directory, unless it is known to be durable.

        Also of one that was there: whoever made it may not have come so far.
        """
        try:
            identity = _identity_of(os.fstat(fd))
            if self._durable.get(path) == identity:
                return
            os.fsync(parent_fd)
        except BaseException:
            os.close(fd)
            raise
        if len(self._durable) >= _DURABLE_MAX:
            self._durable.clear()
        self._durable[path] = identity

    def _read(self, directory_fd: int, place: Place, name: str) -> Found:
        """Read a whole record. Raises FileNotFoundError, or `Corrupt` for a wrong header."""
        path = self._record_path(place, name)
        content, inode = self._read_file(directory_fd, name, path)
        record, body_at = parse(content, path)
        if record.ref != place.ref:
            raise Corrupt(f"{path} holds the record of another ref, {record.ref!r}: put both again")
        return Found(record, content, body_at, path, inode)

    def _read_header(self, directory_fd: int, name: str, path: str) -> Record:
        return parse(self._read_file(directory_fd, name, path, HEADER_MAX_BYTES)[0], path)[0]

    def _read_file(
        self, directory_fd: int, name: str, path: str, limit: int | None = None
    ) -> tuple[bytes, int]:
        """Return a regular file's content, at most `limit` bytes of it, and its inode."""
        fd = self._open(name, _READ, directory_fd, path)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _misplaced(path)
            return _read_all(fd, limit or found.st_size), found.st_ino
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int, directory_fd: int, path: str) -> int:
        try:
            return os.open(name, flags, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in _MISPLACED:
                raise _misplaced(path) from error
            raise

    def _unique(self) -> str:
        """Return a name that no other write has: not in a forked child, nor on another host."""
        return f"{self._writer}.{os.getpid()}.{next(self._writes)}"

    def _path(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _object_path(self, digest: str) -> str:
        return self._path("objects", "sha256", digest[:2], digest)

    def _record_path(self, place: Place, name: str) -> str:
        return self._path("refs", *place.directories, name)

    # What goes wrong.

    def _check_root(self) -> None:
        """Raise `Unavailable` unless the root is still the directory that was opened.

        Descriptors outlive a deletion or an unmount: they would show an empty store.
        """
        if _identity_of(os.stat(self._root)) != self._root_identity:
            raise Unavailable(
                f"{self._root} is another directory than the one opened: a mount came or went;"
                " restore it, or open the store again"
            )

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn the errors of the operating system into the contract's, in this one place."""
        try:
            yield
        except OSError as error:
            if error.errno in _MISPLACED:
                raise _misplaced(f"{self._root}: {error.filename2 or error.filename}") from error
            mend = _MENDS.get(error.errno or 0, "try again; if it stays, look at that directory")
            raise Unavailable(
                f"cannot {doing} under {self._root}: {error.strerror or error}: {mend}"
            ) from error


def _misplaced(path: str) -> Corrupt:
    return Corrupt(f"{path} is a link, or of the wrong kind; links are not followed: remove it")


def _is_later(position: Position | None, other: Position | None) -> bool:
    """Compare positions; none is before all others."""
    return position is not None and (other is None or position > other)


def _hex_of(checksum: str | None) -> str | None:
    return checksum and checksum.removeprefix("sha256:")


def _identity_of(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _read_all(fd: int, size: int) -> bytes:
    content = os.read(fd, size)
    if len(content) in (0, size):
        return content
    chunks = [content]
    while chunk := os.read(fd, size):  # one read ends at 2 GiB
        chunks.append(chunk)
    return b"".join(chunks)


def _write_all(fd: int, parts: Sequence[bytes]) -> None:
    rest = [memoryview(part) for part in parts]
    while rest:
        written = os.writev(fd, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]


def _names(directory_fd: int, prefix: str) -> list[str]:
    with os.scandir(directory_fd) as entries:
        return [entry.name for entry in entries if entry.name.startswith(prefix)]


def _sweep(tmp_fd: int) -> None:
    """Remove what crashed writers left. A reader who may not, or a race, is no trouble."""
    oldest = time.time() - _LEFTOVER_AGE_S
    with contextlib.suppress(OSError), os.scandir(tmp_fd) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < oldest:
                os.unlink(entry.name, dir_fd=tmp_fd)

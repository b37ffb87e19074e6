"""Files below one root, reached through descriptors: no link below the root is followed.

What the backends that keep directories share: the way down, writing aside and flushing, locks,
and words for what the operating system says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import time
import weakref
from typing import TYPE_CHECKING

from store.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

_LOCK_POLL_S = 0.002
_LEFTOVER_AGE_S = 24 * 3600.0
_DURABLE_MAX = 1 << 14

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted FIFO must not hang the reader; it means nothing for a regular file.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""Of a file or a directory: its device and inode."""

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


class Tree:
    """The directories and files of a root that is open as `root_fd`, with `tmp` and `locks` in it.

    Any number of threads and processes may use it at once. Its methods raise OSError, which
    `explained` turns into the contract's errors, and `Corrupt` for what is no plain file.
    """

    def __init__(self, root: str, root_fd: int, *, timeout_s: float) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._root_fd = root_fd
        self._timeout_s = timeout_s
        # Directories that are known to survive a power cut: no Put flushes them again.
        self._durable: dict[str, Identity] = {}
        self._root_is_durable = False
        self._writer = os.urandom(8).hex()
        self._writes = itertools.count()
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, root_fd)
            self.tmp_fd = self.open("tmp", _DIRECTORY, root_fd, self.path("tmp"))
            opened.callback(os.close, self.tmp_fd)
            self._locks_fd = self.open("locks", _DIRECTORY, root_fd, self.path("locks"))
            opened.callback(os.close, self._locks_fd)
            self.identity = identity_of(os.fstat(root_fd))
            weakref.finalize(self, opened.pop_all().close)

    def path(self, *names: str) -> str:
        """Return the path of ROOT/names, for messages."""
        return "/".join((self.root, *names))

    # The way down.

    @contextlib.contextmanager
    def directory(self, names: Sequence[str]) -> Iterator[int | None]:
        """Open ROOT/names for the block, None when it is absent."""
        with contextlib.ExitStack() as opened:
            directory_fd = None
            with contextlib.suppress(FileNotFoundError):
                directory_fd = self.enter(names)
                opened.callback(os.close, directory_fd)
            yield directory_fd

    def enter(self, names: Sequence[str]) -> int:
        """Return a descriptor of ROOT/names. Raises FileNotFoundError when it is absent."""
        fd = self._leap("/".join(names), _DIRECTORY)
        return self._walk_down(names, create=False) if fd is None else fd

    def enter_durable(self, names: Sequence[str]) -> int:
        """As `enter`, but make what is absent; on return, the way there survives a power cut."""
        with contextlib.suppress(FileNotFoundError):
            fd = self.enter(names)
            # Flushed before, and still the same directory: neither was any above it replaced.
            if self._durable.get(self.path(*names)) == identity_of(os.fstat(fd)):
                return fd
            os.close(fd)
        self._settle_root()
        return self._walk_down(names, create=True)

    def _leap(self, path: str, flags: int) -> int | None:
        """Reach ROOT/path in one step, if the kernel says that this is where it led."""
        try:
            fd = os.open(f"{self.root}/{path}", flags)
        except OSError:
            return None  # the walk tells what is wrong, and where
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == f"{self._real_root}/{path}":
                return fd
        except OSError:  # no /proc, or a path too long for it
            pass
        os.close(fd)
        return None

    def _walk_down(self, names: Sequence[str], *, create: bool) -> int:
        self.check_root()
        top, *rest = names
        path = self.path(top)
        try:
            fd = self.open(top, _DIRECTORY, self._root_fd, path)
        except FileNotFoundError:
            raise Unavailable(f"{path} is missing from the store: restore it") from None
        for name in rest:
            path = f"{path}/{name}"
            try:
                below = self._step(fd, name, path, create=create)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _step(self, parent_fd: int, name: str, path: str, *, create: bool) -> int:
        try:
            fd = self.open(name, _DIRECTORY, parent_fd, path)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent_fd)
            self._durable.pop(path, None)  # a new directory may get a removed one's inode
            fd = self.open(name, _DIRECTORY, parent_fd, path)
        if create:
            self._settle(parent_fd, fd, path)
        return fd

    def _settle_root(self) -> None:
        """Flush the names in the root, and those of the root and of what it lies in.

        Once, before the first Put: whoever made them may not have come so far.
        """
        if self._root_is_durable:
            return
        os.fsync(self._root_fd)
        device, above = self.identity[0], self._real_root
        while above != "/":
            above = os.path.dirname(above)
            try:
                fd = os.open(above, _DIRECTORY)
            except PermissionError:
                continue  # who may not read it cannot flush it
            try:
                if os.fstat(fd).st_dev != device:
                    break  # the root's file system ends here
                os.fsync(fd)
            finally:
                os.close(fd)
        self._root_is_durable = True

    def _settle(self, parent_fd: int, fd: int, path: str) -> None:
        """Flush the name of a directory, unless it is known to be durable.

        Also of one that was there: whoever made it may not have come so far.
        """
        try:
            identity = identity_of(os.fstat(fd))
            if self._durable.get(path) == identity:
                return
            os.fsync(parent_fd)
        except BaseException:
            os.close(fd)
            raise
        if len(self._durable) >= _DURABLE_MAX:
            self._durable.clear()
        self._durable[path] = identity

    def scan(self, names: Sequence[str]) -> Generator[os.DirEntry[str], None, None]:
        """Yield the entries of ROOT/names, none when it is absent."""
        with self.directory(names) as directory_fd:
            if directory_fd is None:
                self.check_root()
                return
            entries = os.scandir(directory_fd)
            with entries:
                yield from entries

    def check_root(self) -> None:
        """Raise `Unavailable` unless the root is still the directory that was opened.

        Descriptors outlive a deletion or an unmount: they would show an empty store.
        """
        if identity_of(os.stat(self.root)) != self.identity:
            raise Unavailable(
                f"{self.root} is another directory than the one opened: a mount came or went;"
                " restore it, or open the store again"
            )

    # Reading.

    def open(self, name: str, flags: int, directory_fd: int, path: str) -> int:
        """Return a descriptor of `name`. Raises `Corrupt` when it is a link or misplaced."""
        try:
            return os.open(name, flags, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in _MISPLACED:
                raise misplaced(path) from error
            raise

    def open_plain(self, name: str, directory_fd: int, path: str) -> tuple[int, os.stat_result]:
        """Open a regular file for reading. Raises `Corrupt` when it is something else."""
        fd = self.open(name, _READ, directory_fd, path)
        try:
            return fd, _plain(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def read_file(
        self, directory_fd: int, name: str, path: str, limit: int | None = None
    ) -> tuple[bytes, int]:
        """Return a regular file's content, at most `limit` bytes of it, and its inode."""
        fd, found = self.open_plain(name, directory_fd, path)
        try:
            return read_all(fd, limit or found.st_size), found.st_ino
        finally:
            os.close(fd)

    def read_directly(self, path: str, limit: int | None = None) -> tuple[bytes, int] | None:
        """As `read_file`, of ROOT/path in one step; None when only the walk can tell."""
        fd = self._leap(path, _READ)
        if fd is None:
            return None
        try:
            found = _plain(fd, path)
            return read_all(fd, limit or found.st_size), found.st_ino
        finally:
            os.close(fd)

    # Writing aside.

    def write(self, *parts: bytes) -> str:
        """Write `parts` to a new file under tmp/, durably, and return its name."""
        with self.temporary() as (temporary, fd):
            write_all(fd, parts)
            # When it fails, never again on this file: the kernel reports lost pages once
            # and then calls them clean. The next Put writes another one.
            os.fsync(fd)
        return temporary

    @contextlib.contextmanager
    def temporary(self, mode: int = 0o666) -> Iterator[tuple[str, int]]:
        """Open a new file under tmp/ for the block; it stays, unless the block fails."""
        temporary = self.unique()
        fd = os.open(temporary, _CREATE, mode, dir_fd=self.tmp_fd)
        try:
            yield temporary, fd
        except BaseException:
            self.discard(temporary)
            raise
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def discarding(self, temporary: str) -> Iterator[None]:
        """Remove the file from tmp/ when the block fails."""
        try:
            yield
        except BaseException:
            self.discard(temporary)
            raise

    def discard(self, temporary: str) -> None:
        """Remove a file from tmp/; if that fails, the sweep does it later."""
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=self.tmp_fd)

    def rename(self, temporary: str, directory_fd: int, name: str) -> None:
        """Give a file under tmp/ its name, in place of what has it."""
        os.rename(temporary, name, src_dir_fd=self.tmp_fd, dst_dir_fd=directory_fd)

    def twin(self, temporary: str) -> str:
        """Give a file under tmp/ a second name there, and return it."""
        twin = self.unique()
        os.link(temporary, twin, src_dir_fd=self.tmp_fd, dst_dir_fd=self.tmp_fd)
        return twin

    def unique(self) -> str:
        """Return a name that no other write has: not in a forked child, nor on another host."""
        return f"{self._writer}.{os.getpid()}.{next(self._writes)}"

    def leftovers(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of what crashed writers left under tmp/ more than a day ago."""
        oldest = time.time() - _LEFTOVER_AGE_S
        with os.scandir(self.tmp_fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if found.st_mtime < oldest:
                        yield entry.name, found.st_size

    # Locks.

    @contextlib.contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock among all processes. Raises `Unavailable` after `timeout_s`."""
        fd = os.open(name, _LOCK, 0o666, dir_fd=self._locks_fd)
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            self._wait_for_lock(fd, kind, self.path("locks", name))
            yield
        finally:
            os.close(fd)  # lets go of the lock, too

    def _wait_for_lock(self, fd: int, kind: int, path: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held {path} for {self._timeout_s:g} s: is it stopped?"
                    ) from None
                time.sleep(_LOCK_POLL_S)


class CallerFailed(Exception):
    """What the caller gave raised `error`, an OSError that is none of the store's own."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class explained:  # noqa: N801 - it is used as a function; as a generator it would cost thrice
    """Turn the errors of the operating system into the contract's, in this one place."""

    __slots__ = ("_doing", "_root")

    def __init__(self, root: str, doing: str) -> None:
        self._root = root
        self._doing = doing

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Raise `Corrupt` or `Unavailable` in place of an OSError."""
        if isinstance(error, CallerFailed):
            raise error.error from None
        if not isinstance(error, OSError):
            return
        if error.errno in _MISPLACED:
            raise misplaced(f"{self._root}: {error.filename2 or error.filename}") from error
        mend = _MENDS.get(error.errno or 0, "try again; if it stays, look at that directory")
        raise Unavailable(
            f"cannot {self._doing} under {self._root}: {error.strerror or error}: {mend}"
        ) from error


def misplaced(path: str) -> Corrupt:
    """Return the error for what is no plain file or directory."""
    return Corrupt(f"{path} is a link, or of the wrong kind; links are not followed: remove it")


def identity_of(found: os.stat_result) -> Identity:
    """Return which file this is."""
    return found.st_dev, found.st_ino


def read_all(fd: int, size: int) -> bytes:
    """Return up to `size` bytes; more, if the file has grown beyond one read."""
    content = os.read(fd, size)
    if len(content) in (0, size):
        return content
    chunks = [content]
    while chunk := os.read(fd, size):  # one read ends at 2 GiB
        chunks.append(chunk)
    return b"".join(chunks)


def write_all(fd: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write `parts`, one after the other."""
    rest = [memoryview(part) for part in parts]
    while rest:
        written = os.writev(fd, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]


def _plain(fd: int, path: str) -> os.stat_result:
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return found
    raise misplaced(path)

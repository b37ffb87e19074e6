"""Files below one root, reached through descriptors: no link below the root is followed.

What the backends that keep directories share: the way down, locks, and words for what the
operating system says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from store.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted FIFO must not hang the reader; it means nothing for a regular file.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""Of a file or a directory: its device and inode."""

_LOCK_POLL_S = 0.002
_DURABLE_MAX = 1 << 14
_MISPLACED = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
_MENDS = {
    errno.ENOENT: "part of the store is gone: mount or restore it, then open the store again",
    errno.ENOSPC: "free space or inodes on it",
    errno.EDQUOT: "free space or raise the quota",
    errno.EIO: "the disk reports an error: look at the kernel's log",
    errno.EROFS: "it is mounted read-only: remount it for writing",
    errno.EACCES: "let this process's user read and write there",
    errno.EPERM: "let this process's user write there",
    errno.ESTALE: "the network mount went away: mount it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOLCK: "mount the network file system with locks",
    errno.EXDEV: "everything under the root must be one file system",
}


class Root:
    """A directory that is open as `fd`. Its methods raise OSError, for `explained`."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.identity = identity_of(os.fstat(fd))
        self._fd = fd
        # Directories that are known to survive a power cut: no Put flushes them again.
        self._durable: dict[str, Identity] = {}

    def check(self) -> None:
        """Raise `Unavailable` unless the root is still the directory that was opened.

        Descriptors outlive a deletion or an unmount: they would show an empty store.
        """
        if identity_of(os.stat(self.path)) != self.identity:
            raise Unavailable(
                f"{self.path} is another directory than the one opened: a mount came or went;"
                " restore it, or open the store again"
            )

    def enter(self, names: Sequence[str], *, create: bool = False) -> int:
        """Return a descriptor of ROOT/names.

        With `create` it makes what is absent, and the way there survives a power cut. Raises
        FileNotFoundError when it is absent, NotADirectoryError when a file bars the way, and
        `Corrupt` when something else does.
        """
        self.check()
        fd = os.dup(self._fd)
        path = self.path
        for name in names:
            path = f"{path}/{name}"
            try:
                below = self._step(fd, name, path, create=create)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _step(self, parent_fd: int, name: str, path: str, *, create: bool) -> int:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent_fd)
        fd = open_at(name, DIRECTORY, parent_fd, path)
        if create:
            self._settle(parent_fd, fd, path)
        return fd

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


def open_at(name: str, flags: int, directory_fd: int, path: str, mode: int = 0o666) -> int:
    """Return a descriptor of `name`. Raises `Corrupt` for a link or what has the wrong kind.

    A file in a directory's place is NotADirectoryError: a ref may lie there.
    """
    try:
        return os.open(name, flags, mode, dir_fd=directory_fd)
    except OSError as error:
        if error.errno == errno.ENOTDIR and _is_file(name, directory_fd):
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", path) from None
        if error.errno in _MISPLACED:
            raise misplaced(path) from error
        raise


def _is_file(name: str, directory_fd: int) -> bool:
    return stat.S_ISREG(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode)


def wait_for_lock(fd: int, kind: int, path: str, timeout_s: float) -> None:
    """Take the lock LOCK_SH or LOCK_EX; closing lets it go. Raises `Unavailable` in the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"another process has held {path} for {timeout_s:g} s: is it stopped?"
                ) from None
            time.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def explained(root: str, doing: str) -> Iterator[None]:
    """Turn the errors of the operating system into the contract's, in this one place."""
    try:
        yield
    except OSError as error:
        if error.errno in _MISPLACED:
            raise misplaced(f"{root}: {error.filename2 or error.filename}") from error
        mend = _MENDS.get(error.errno or 0, "try again; if it stays, look at that directory")
        raise Unavailable(
            f"cannot {doing} under {root}: {error.strerror or error}: {mend}"
        ) from error


def misplaced(path: str) -> Corrupt:
    """Return the error for what is no plain file or directory."""
    return Corrupt(f"{path} is a link, or of the wrong kind; links are not followed: remove it")


def identity_of(found: os.stat_result) -> Identity:
    """Return which file this is."""
    return found.st_dev, found.st_ino


def read_all(fd: int, size_bytes: int) -> bytes:
    """Return what is left of a file of that size; more, if it has grown beyond one read."""
    chunks = []
    while chunk := os.read(fd, size_bytes or 1):  # one read ends at 2 GiB
        chunks.append(chunk)
    return b"".join(chunks)


def write_all(fd: int, chunk: bytes) -> None:
    """Write all of `chunk`."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]

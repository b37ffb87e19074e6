"""The way down a directory that is not ours alone: no link below its root is followed.

As `store.tree`, without directories of its own that must be there, and where a file may lie in a
directory's place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from store.errors import Unavailable
from store.tree import identity_of, misplaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.tree import Identity

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted FIFO must not hang the reader; it means nothing for a regular file.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_LOCK_POLL_S = 0.002
_DURABLE_MAX = 1 << 14
_MISPLACED = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}


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

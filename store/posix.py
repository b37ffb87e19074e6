"""Directories reached through descriptors: no link below their root is followed.

What the backends that keep directories share: the way down, flushing it, locks, and words for
what the operating system says.
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
    from collections.abc import Iterator, Sequence

_LOCK_POLL_S = 0.002
_LEFTOVER_AGE_S = 24 * 3600.0
_HELD = ".held"
_DURABLE_MAX = 1 << 14
_BLOCK_BYTES = 512
_SOLID_BYTES = 64 << 20
_HOLLOW = 1024

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted FIFO must not hang the reader; it means nothing for a regular file.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""Of a file or a directory: its device and inode."""

MISPLACED = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
_FIXES = {
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
    errno.EMLINK: "a directory or file there has as many links as it can: spread refs under more"
    " prefixes, or use a file system that allows more (XFS, btrfs)",
    errno.EOPNOTSUPP: "its file system lacks hard links, locks or flushing: put the store on one"
    " that has them (ext4, XFS, btrfs)",
    errno.EINVAL: "its file system cannot flush, lock or link this: put the store on one that can"
    " (ext4, XFS, btrfs)",
    errno.ENOLCK: "its file system grants no locks: mount NFS with a lock service (NFSv4)",
    errno.ENOTCONN: "what served this mount has died: mount it again",
    errno.ETIMEDOUT: "the network mount does not answer: look at its server",
    errno.EUCLEAN: "the file system is damaged: check it (fsck)",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or use another file system",
    errno.ENAMETOOLONG: "its file system has names of fewer than 255 bytes, or the root's path is"
    " too long: put the store elsewhere",
}


class Root:
    """A directory that is open as `fd`. Its methods raise OSError, for `explained`.

    Any number of threads and processes may use it at once, forked ones too.
    """

    held_in: tuple[str, ...] = ()
    """Where files below the root lie that are locked as long as they are open."""

    def __init__(self, root: str, fd: int) -> None:
        self.root = root
        self.identity = identity_of(os.fstat(fd))
        self._real_root = os.path.realpath(root)
        self._root_fd = fd
        # Directories that are known to survive a power cut: no Put flushes them again.
        self._durable: dict[str, Identity] = {}
        self._root_is_durable = False
        _roots.add(self)

    def held(self) -> Iterator[str]:
        """Yield what the paths of files begin with that are locked as long as they are open."""
        return (f"{self._real_root}/{name}/" for name in self.held_in)

    def path(self, *names: str) -> str:
        """Return the path of ROOT/names, for messages."""
        return "/".join((self.root, *names))

    def check_root(self) -> None:
        """Raise `Unavailable` unless the root is still the directory that was opened.

        Descriptors outlive a deletion or an unmount: they would show an empty store.
        """
        if identity_of(os.stat(self.root)) != self.identity:
            raise Unavailable(
                f"{self.root} is another directory than the one opened: a mount came or went;"
                " restore it, or open the store again"
            )

    def enter(self, names: Sequence[str]) -> int:
        """Return a descriptor of ROOT/names. Raises FileNotFoundError when it is absent."""
        return self._walk_down(names, create=False)

    def enter_durable(self, names: Sequence[str]) -> int:
        """As `enter`, but make what is absent; on return, the way there survives a power cut."""
        self._settle_root()
        return self._walk_down(names, create=True)

    def _walk_down(self, names: Sequence[str], *, create: bool) -> int:
        self.check_root()
        fd, path = os.dup(self._root_fd), self.root
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
            fd = self.open(name, DIRECTORY, parent_fd, path)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent_fd)
            self._durable.pop(path, None)  # a new directory may get a removed one's inode
            fd = self.open(name, DIRECTORY, parent_fd, path)
        if create:
            self._settle(parent_fd, fd, path)
        return fd

    def _settle_root(self) -> None:
        """Flush the names of the root and of what it lies in.

        Once, before the first Put: who made them may not have come so far.
        """
        if self._root_is_durable:
            return
        device, above = self.identity[0], self._real_root
        while above != "/":
            above = os.path.dirname(above)
            try:
                fd = os.open(above, DIRECTORY)
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

        Also of one that was there: its maker may not have come so far.
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

    def open(self, name: str, flags: int, directory_fd: int, path: str) -> int:
        """Return a descriptor of `name`. Raises `Corrupt` when it is a link or misplaced."""
        try:
            return os.open(name, flags, 0o666, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in MISPLACED:
                raise misplaced(path) from error
            raise


_roots: weakref.WeakSet[Root] = weakref.WeakSet()


def _let_go_of_inherited() -> None:
    """Replace, in a forked child, what its parent had locked at that moment.

    The descriptors are shared: each lock would last as long as the child. Their numbers stay taken,
    by a directory, that nobody can write: the thread that forked may yet close some of them.
    """
    held = tuple(path for root in _roots for path in root.held())
    with contextlib.suppress(OSError):  # no /proc
        listing = os.open("/proc/self/fd", DIRECTORY)
        try:
            for fd in os.listdir(listing):
                with contextlib.suppress(FileNotFoundError):  # that of listdir
                    if os.readlink(fd, dir_fd=listing).startswith(held):
                        os.dup2(listing, int(fd), inheritable=False)
        finally:
            os.close(listing)


os.register_at_fork(after_in_child=_let_go_of_inherited)


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


def create_held(tmp_fd: int, name: str, mode: int = 0o666) -> tuple[str, int]:
    """Create a temporary file that is locked for as long as it is open; return its name, too.

    So the living are told from the dead: see `leftovers`.
    """
    name += _HELD
    while True:
        fd = os.open(name, CREATE, mode, dir_fd=tmp_fd)
        with _discarding(tmp_fd, name, fd):
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return name, fd
        os.close(fd)  # a sweep came between the two calls


@contextlib.contextmanager
def _discarding(tmp_fd: int, name: str, fd: int) -> Iterator[None]:
    """Close and remove a file when the block fails."""
    try:
        yield
    except BaseException:
        os.close(fd)
        os.unlink(name, dir_fd=tmp_fd)
        raise


def leftovers(tmp_fd: int, *, remove: bool, most: int | None = None) -> Iterator[tuple[str, int]]:
    """Yield name and size of what dead writers left in a directory of temporary files.

    A file that tells by its lock is left when nobody holds that; others after a day. At `most` so
    many are looked at. Directories are of no writer, and stay.
    """
    with os.scandir(tmp_fd) as entries:
        for entry in itertools.islice(entries, most):
            with contextlib.suppress(OSError):  # it went, or its writer lives
                found = entry.stat(follow_symlinks=False)
                with _left(entry.name, tmp_fd, found):
                    if remove:
                        os.unlink(entry.name, dir_fd=tmp_fd)
                yield entry.name, found.st_size


@contextlib.contextmanager
def _left(name: str, tmp_fd: int, found: os.stat_result) -> Iterator[None]:
    """Hold the lock that its writer would have, for the block. Raises OSError while he lives."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError
    if found.st_mtime < time.time() - _LEFTOVER_AGE_S:  # whatever its lock
        yield
    elif name.endswith(_HELD):
        with _held(name, tmp_fd):
            yield
    else:
        raise BlockingIOError


@contextlib.contextmanager
def _held(name: str, tmp_fd: int) -> Iterator[None]:
    fd = os.open(name, READ, dir_fd=tmp_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # NFS lets no reader have LOCK_EX
        yield
    finally:
        os.close(fd)


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
        if error.errno in MISPLACED:
            raise misplaced(f"{self._root}: {error.filename2 or error.filename}") from error
        fix = _FIXES.get(error.errno or 0, "try again; if it stays, look at that directory")
        raise Unavailable(
            f"cannot {self._doing} under {self._root}: {error.strerror or error}: {fix}"
        ) from error


def missing(path: str) -> Unavailable:
    """Return the error for a directory of a store that is not there; to make it is no one's but
    an operator's, since it would be empty.
    """
    return Unavailable(
        f"{path} is missing from the store: restore it; or, if it was empty and the copy left empty"
        " directories out, make it (mkdir)"
    )


def misplaced(path: str) -> Corrupt:
    """Return the error for what is no plain file or directory."""
    return Corrupt(f"{path} is a link, or of the wrong kind; links are not followed: remove it")


def is_hollow(found: os.stat_result) -> bool:
    """Tell whether a file claims far more bytes than it takes on disk.

    Reading it would cost the reader without end what cost its writer nothing. It need not be
    damaged: zeros may have no blocks, and some file systems tell of none at all.
    """
    return found.st_size > _SOLID_BYTES + _HOLLOW * found.st_blocks * _BLOCK_BYTES


def identity_of(found: os.stat_result) -> Identity:
    """Return which file this is."""
    return found.st_dev, found.st_ino


def read_all(fd: int, size: int) -> bytes:
    """Return the next `size` bytes, fewer at the end of the file."""
    content = os.read(fd, size)
    if len(content) in (0, size):
        return content
    chunks, left = [content], size - len(content)
    while chunk := os.read(fd, left):  # one read ends at 2 GiB
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def write_all(fd: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write `parts`, one after the other."""
    rest = list(parts)
    while rest:
        written = os.writev(fd, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = memoryview(rest[0])[written:]

"""The file backend's directories: the short way down, reading, writing aside, locks by name."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
import weakref
from typing import TYPE_CHECKING

from store.file import root as roots
from store.posix import (
    CREATE,
    DIRECTORY,
    LOCK,
    READ,
    Root,
    create_held,
    identity_of,
    leftovers,
    misplaced,
    missing,
    read_all,
    wait_for_lock,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence


class Tree(Root):
    """The directories and files of a root, with `tmp` and `locks` in it.

    Its methods raise OSError, for `explained`, and `Corrupt` for what is no plain file.
    """

    held_in = ("locks", "tmp")

    def __init__(self, root: str, root_fd: int, *, timeout_s: float) -> None:
        super().__init__(root, root_fd)
        self._timeout_s = timeout_s
        self._writer = os.urandom(8).hex()
        self._writes = itertools.count()
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, root_fd)
            self.tmp_fd = self._part("tmp")
            opened.callback(os.close, self.tmp_fd)
            self._locks_fd = self._part("locks")
            opened.callback(os.close, self._locks_fd)
            weakref.finalize(self, opened.pop_all().close)

    def _part(self, name: str) -> int:
        try:
            return self.open(name, DIRECTORY, self._root_fd, self.path(name))
        except FileNotFoundError:
            raise missing(self.path(name)) from None

    def store_identity(self) -> str | None:
        """See `store.file.root.identity`; what it returns survives a power cut."""
        self.check_root()
        found = roots.identity(self._root_fd, self.root)
        self._settle_root()
        return found

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
        fd = self._open_path(self.path(*names), DIRECTORY)
        return self._walk_down(names, create=False) if fd is None else fd

    def enter_durable(self, names: Sequence[str]) -> int:
        """As `enter`, but make what is absent; on return, the way there survives a power cut."""
        path = self.path(*names)
        fd = self._open_path(path, DIRECTORY)
        if fd is not None:
            # Flushed before, and still the same directory: neither was any above it replaced.
            if self._durable.get(path) == identity_of(os.fstat(fd)):
                return fd
            os.close(fd)
        return super().enter_durable(names)

    def _open_path(self, path: str, flags: int) -> int | None:
        """Reach a path under the root in one step, if the kernel says that this is where it led."""
        try:
            fd = os.open(path, flags)
        except OSError:
            return None  # the walk tells what is wrong, and where
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == self._real_root + path[len(self.root) :]:
                return fd
        except OSError:  # no /proc, or a path too long for it
            pass
        os.close(fd)
        return None

    def _walk_down(self, names: Sequence[str], *, create: bool) -> int:
        self.check_root()
        try:
            os.stat(names[0], dir_fd=self._root_fd, follow_symlinks=False)
        except FileNotFoundError:  # never made anew: it would be empty
            path = self.path(names[0])
            raise missing(path) from None
        return super()._walk_down(names, create=create)

    def scan(self, names: Sequence[str]) -> Generator[os.DirEntry[str], None, None]:
        """Yield the entries of ROOT/names, none when it is absent."""
        with self.directory(names) as directory_fd:
            if directory_fd is None:
                self.check_root()
                return
            entries = os.scandir(directory_fd)
            with entries:
                yield from entries

    # Reading.

    def open_plain(self, name: str, directory_fd: int, path: str) -> tuple[int, os.stat_result]:
        """Open a regular file for reading. Raises `Corrupt` when it is something else."""
        fd = self.open(name, READ, directory_fd, path)
        try:
            return fd, _plain(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def read_file(
        self, directory_fd: int, name: str, path: str, limit: int
    ) -> tuple[bytes, os.stat_result]:
        """Return a regular file's first `limit` bytes, and what is known of it.

        No more than its size is asked for: one read then shows that there is no more.
        """
        fd, found = self.open_plain(name, directory_fd, path)
        try:
            return read_all(fd, min(limit, found.st_size)), found
        finally:
            os.close(fd)

    def read_directly(self, path: str, limit: int) -> tuple[bytes, os.stat_result] | None:
        """As `read_file`, in one step; None when only the walk can tell."""
        fd = self._open_path(path, READ)
        if fd is None:
            return None
        try:
            found = _plain(fd, path)
            return read_all(fd, min(limit, found.st_size)), found
        finally:
            os.close(fd)

    # Writing aside.

    def write(self, *parts: bytes) -> str:
        """Write `parts` to a new file under tmp/, durably, and return its name."""
        temporary = self.unique()
        fd = os.open(temporary, CREATE, 0o666, dir_fd=self.tmp_fd)
        try:  # not `temporary`: a context manager would cost every small Put
            write_all(fd, parts)
            # When it fails, never again on this file: the kernel reports lost pages once
            # and then calls them clean. The next Put writes another one.
            os.fsync(fd)
        except BaseException:
            self.discard(temporary)
            raise
        finally:
            os.close(fd)
        return temporary

    @contextlib.contextmanager
    def temporary(self, mode: int = 0o666) -> Iterator[tuple[str, int]]:
        """Open a new file under tmp/ for the block; it stays, unless the block fails.

        What is large is written so: who dies meanwhile leaves nothing for long.
        """
        temporary, fd = create_held(self.tmp_fd, self.unique(), mode)
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

    def discard(self, temporary: str) -> bool:
        """Remove a file from tmp/, and tell whether that was done; else the sweep does it later."""
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=self.tmp_fd)
            return True
        return False

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

    def now(self) -> float:
        """Return the time by the clock that gives files their times."""
        temporary = self.unique()
        fd = os.open(temporary, CREATE, 0o666, dir_fd=self.tmp_fd)
        try:
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)
            self.discard(temporary)

    def leftovers(self, *, remove: bool, most: int | None = None) -> Iterator[tuple[str, int]]:
        """See `store.posix.leftovers`."""
        return leftovers(self.tmp_fd, remove=remove, most=most)

    # Locks.

    @contextlib.contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock among all processes for the block. Raises as `lock`."""
        fd = self.lock(name, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(fd)

    def lock(self, name: str, kind: int = fcntl.LOCK_EX) -> int:
        """Return a descriptor that holds a lock among all processes until it is closed.

        Raises `Unavailable` after `timeout_s`.
        """
        path = self.path("locks", name)
        fd = self.open(name, LOCK, self._locks_fd, path)
        try:
            wait_for_lock(fd, kind, path, self._timeout_s)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _plain(fd: int, path: str) -> os.stat_result:
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return found
    raise misplaced(path)

"""Follows what the file backend does to the disk, by standing in for functions of `os`."""

from __future__ import annotations

import copy
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from tests.store.crash.disk import Change, Disk, Flush, Operation, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

SCRATCH = {"tmp", "locks"}
"""Directories of a store whose names mean nothing to who opens it next."""


class Recorder:
    """Records what changes under `top`, where the store lies at `root`; flushes are not done.

    What it takes no notice of would make its tree differ from the real one: `check` compares.
    `before` is called before every operation, `note` with it. Of the flushes, the one with the
    number `failing_flush` fails; as the kernel reports lost pages but once, later ones of the same
    file succeed, and do nothing.
    """

    def __init__(self, top: str, root: str, note: Callable[[Operation], None]) -> None:
        self.before: Callable[[], None] = lambda: None
        self.failing_flush = 0
        self.flushes = 0
        self._poisoned: set[int] = set()
        self._root = root
        self._note = note
        self._nodes: dict[int, int] = {}  # by inode, which a new file may take over
        self._count = 0
        self._known: dict[int, bytes] = {}
        self._top = top
        self.disk = Disk(0, {}, {}, set())
        self._take_in(top)

    def _take_in(self, path: str) -> int:
        """Take what is there for durable."""
        found = os.lstat(path)
        if found.st_ino in self._nodes:
            return self._nodes[found.st_ino]
        node = self._new(found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            self.disk.add_directory(node, scratch=self._is_scratch(path))
            self.disk.directories[node] = {
                name: self._take_in(f"{path}/{name}") for name in sorted(os.listdir(path))
            }
        else:
            with open(path, "rb") as file:
                self.disk.files[node] = self._known[node] = file.read()
        return node

    def _is_scratch(self, path: str) -> bool:
        parent, name = os.path.split(path)
        return name in SCRATCH and parent == self._root

    def _new(self, inode: int) -> int:
        self._nodes[inode] = self._count
        self._count += 1
        return self._nodes[inode]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand in for the functions of `os` until `patch` is undone."""
        for name in (
            "open", "writev", "copy_file_range", "fsync", "link", "rename", "mkdir", "unlink",
        ):  # fmt: skip
            patch.setattr(os, name, self._around(getattr(self, f"_{name}"), getattr(os, name)))

    def _around(self, recorded: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if recorded.__name__ != "_open" or args[1] & os.O_CREAT:
                self.before()
                return recorded(real, *args, **kwargs)
            return real(*args, **kwargs)

        return call

    def _open(
        self, real: Any, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            fd: int = real(path, flags, mode, dir_fd=dir_fd)
            self._enter(path, dir_fd, self._new(os.fstat(fd).st_ino))
            return fd
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[no-any-return]

    def _mkdir(self, real: Any, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        node = self._new(os.stat(path, dir_fd=dir_fd).st_ino)
        below = path if dir_fd is None else f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{path}"
        self.disk.add_directory(node, scratch=self._is_scratch(below))
        self._enter(path, dir_fd, node)

    def _link(
        self,
        real: Any,
        source: str,
        target: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        **how: bool,
    ) -> None:
        node = self._content_of(source, src_dir_fd)
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **how)
        self._enter(target, dst_dir_fd, node)

    def _rename(
        self,
        real: Any,
        source: str,
        target: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        node = self._content_of(source, src_dir_fd)
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        (old, old_name), (new, new_name) = (
            self._place(source, src_dir_fd),
            self._place(target, dst_dir_fd),
        )
        if old == new:
            self._note(Change(old, ((new_name, node), (old_name, None))))
        else:
            self._note(Change(new, ((new_name, node),)))
            self._note(Change(old, ((old_name, None),)))

    def _unlink(self, real: Any, path: str, *, dir_fd: int | None = None) -> None:
        real(path, dir_fd=dir_fd)
        self._enter(path, dir_fd, None)

    def _writev(self, real: Any, fd: int, parts: Any) -> int:
        written: int = real(fd, parts)
        self._content(fd)
        return written

    def _copy_file_range(self, real: Any, source: int, fd: int, *args: int) -> int:
        copied: int = real(source, fd, *args)
        self._content(fd)
        return copied

    def _fsync(self, _real: Any, fd: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            self._content(fd)
        self.flushes += 1
        if self.flushes == self.failing_flush:
            if stat.S_ISREG(found.st_mode):
                self._poisoned.add(self._nodes[found.st_ino])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        node = self._nodes.get(found.st_ino)
        if node is not None and node not in self._poisoned:  # and not above the top
            self._note(Flush(node))

    def _place(self, path: str, dir_fd: int | None) -> tuple[int, str]:
        parent, name = os.path.split(path)
        return self._nodes[os.stat(parent or ".", dir_fd=dir_fd).st_ino], name

    def _enter(self, path: str, dir_fd: int | None, node: int | None) -> None:
        directory, name = self._place(path, dir_fd)
        self._note(Change(directory, ((name, node),)))

    def _content_of(self, path: str, dir_fd: int | None) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            return self._content(fd)
        finally:
            os.close(fd)

    def _content(self, fd: int) -> int:
        """Note what a file holds by now, however it was written; return its node."""
        node = self._nodes[os.fstat(fd).st_ino]
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            content = file.read()
        if content != self._known.get(node, b""):
            self._known[node] = content
            self._note(Write(node, content))
        return node

    def check(self, log: Iterable[object]) -> None:
        """Fail when what was noted, all of it, does not lead to what really lies there."""
        disk = copy.deepcopy(self.disk)
        for each in log:
            if isinstance(each, Operation):
                disk.apply(each)
        real = Recorder(self._top, self._root, lambda _operation: None).disk.now()
        assert real.key() == disk.now().key(), "the recorder missed an operation"

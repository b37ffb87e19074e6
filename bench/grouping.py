"""Writers that flush for many Puts at once: do they pay? They live in the benchmark only.

They leave what the file store leaves for a 4 KiB pair: one file of header, manifest and data,
linked to its version's name and renamed to its ref's.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


@dataclass
class _Put:
    """One Put on its way: staged when made, done when its group was flushed."""

    temporary: str
    descriptor: int
    directory: Path
    leaf: str
    version: str
    done: bool = False
    error: BaseException | None = None


class GroupWriter:
    """The first to come while nobody flushes leads: it flushes for all that have staged by then.

    While a group is being flushed the next one forms.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tmp = root / "tmp"
        self._tmp.mkdir(exist_ok=True)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._names = itertools.count()
        self._staged: list[_Put] = []
        self._lock = threading.Lock()
        self._lead = threading.Lock()

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Store the pair; durable on return."""
        put = self._stage(ref, data, manifest)
        with self._lock:
            self._staged.append(put)
        with self._lead:
            if not put.done:
                self._flush_all()
        if put.error:
            raise put.error

    def _stage(self, ref: str, data: bytes, manifest: bytes) -> _Put:
        digests = [hashlib.sha256(blob).hexdigest() for blob in (data, manifest)]
        header = f"ref {ref}\ndata {digests[0]} {len(data)}\nmanifest {digests[1]}\n".encode()
        header += hashlib.sha256(header).hexdigest().encode() + b"\n\n"
        temporary = str(self._tmp / f"{next(self._names)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        os.writev(descriptor, (header, manifest, data))
        self._begin_writeback(descriptor)
        directory, _, leaf = ref.rpartition("/")
        version = f"{leaf}@{digests[0]}.{digests[1]}"
        return _Put(temporary, descriptor, self._root / directory, f"{leaf}@", version)

    def _begin_writeback(self, descriptor: int) -> None:
        _libc.sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def _flush_all(self) -> None:
        with self._lock:
            group, self._staged = self._staged, []
        error: BaseException | None = None
        try:
            self._flush_files(group)
            for put in group:
                os.link(put.temporary, put.directory / put.version)
                os.rename(put.temporary, put.directory / put.leaf)
            self._flush_directories({put.directory for put in group})
        except OSError as caught:
            error = caught
        for put in group:
            os.close(put.descriptor)
            put.error, put.done = error, True

    def _flush_files(self, group: list[_Put]) -> None:
        for put in group:
            os.fsync(put.descriptor)

    def _flush_directories(self, directories: Iterable[Path]) -> None:
        for directory in directories:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _sync_file_system(self) -> None:
        if _libc.syncfs(self._root_fd):
            raise OSError(ctypes.get_errno(), "syncfs failed")


class GroupSyncfs(GroupWriter):
    """All files of a group with one syncfs, each directory by itself.

    syncfs also writes what is not ours, and reports a failed write of any file.
    """

    def _begin_writeback(self, descriptor: int) -> None:
        """Leave it to syncfs."""

    def _flush_files(self, group: list[_Put]) -> None:  # noqa: ARG002 - it flushes all there is
        self._sync_file_system()


class GroupSyncfsTwice(GroupSyncfs):
    """One syncfs for the files of a group, one for their names."""

    def _flush_directories(self, directories: Iterable[Path]) -> None:  # noqa: ARG002
        self._sync_file_system()

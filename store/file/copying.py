"""Data into a file: written, flushed and hashed at the same time, in constant memory."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from store.posix import CallerFailed, write_all
from store.streams import CHUNK_BYTES, ArtifactReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.streams import Readable

_AHEAD = 4
_FLUSH_BYTES = 8 * CHUNK_BYTES
_COPY_BYTES = 16 * CHUNK_BYTES
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


class Copied(NamedTuple):
    """What has been written: its SHA-256 in hex, and its size in bytes."""

    digest: str
    size: int


def copy(fd: int, written: Iterator[bytes | memoryview], ahead: int = _AHEAD) -> Copied:
    """Hash what `written` says it wrote to `fd`, and flush; both while the other continues.

    Writing is at most `ahead` chunks before hashing.
    """
    digest, size = hashlib.sha256(), 0
    hashing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
        for chunk in written:
            size += len(chunk)
            hashing.append(pool.submit(digest.update, chunk))
            if len(hashing) > ahead:
                hashing.popleft().result()
        os.fsync(fd)
    for each in hashing:
        each.result()
    return Copied(digest.hexdigest(), size)


def copy_blob(fd: int, blob: bytes) -> Copied:
    """Write, hash and flush a blob that is in memory: nothing has to wait for its hash."""
    return copy(fd, _written(fd, _slices(blob)), ahead=len(blob))


def copy_reader(fd: int, head: bytes, reader: Readable, source: Source | None) -> Copied:
    """Write, hash and flush `head` and what `reader` has left; by the kernel from `source`."""
    if source is not None and source.copy(fd, 0):
        copied = copy(fd, source.copied(fd))
        if isinstance(reader, ArtifactReader):
            reader.check(copied.size, copied.digest)
        return copied
    return copy(fd, _written(fd, _chunks(head, reader)))


class Source:
    """A regular file behind a reader: the kernel copies it, or shares its blocks."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset

    def copy(self, fd: int, at: int) -> int:
        """Copy the next piece to `fd` at `at`; return its size, 0 at the end or if impossible."""
        try:
            return os.copy_file_range(self._fd, fd, _COPY_BYTES, self._offset + at, at)
        except OSError as error:
            if at == 0 and error.errno in _NO_COPY:
                return 0
            raise

    def copied(self, fd: int) -> Iterator[bytes]:
        """Copy all; yield what stands in `fd` then, since the source may change meanwhile."""
        start = end = 0
        while count := self.copy(fd, end):
            end += count
            while start < end:
                chunk = os.pread(fd, min(CHUNK_BYTES, end - start), start)
                start += len(chunk)
                yield chunk


def source_of(reader: Readable) -> Source | None:
    """Return the regular file that `reader` reads as it is, if there is one to copy from."""
    if not hasattr(os, "copy_file_range"):
        return None
    # Exactly these: a class that inherits from them may read something else than the file.
    raw = reader.unread() if type(reader) is ArtifactReader else reader
    # A pipe cannot be sought in, and has no place to copy from.
    if type(raw) is io.BufferedReader and type(raw.raw) is io.FileIO and raw.seekable():
        offset, raw = raw.tell(), raw.raw
    elif type(raw) is io.FileIO and raw.seekable():
        offset = raw.tell()
    else:
        return None
    regular = stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    return Source(raw.fileno(), offset) if regular else None


def read_up_to(reader: Readable, size: int) -> bytes:
    """Return `size` bytes of `reader`, fewer only at its end."""
    head = b""
    while len(head) < size and (chunk := _read(reader, size - len(head))):
        head += chunk
    return head


def _chunks(head: bytes, reader: Readable) -> Iterator[bytes]:
    yield head
    while chunk := _read(reader, CHUNK_BYTES):
        yield chunk


def _read(reader: Readable, size: int) -> bytes:
    try:
        return reader.read(size)
    except OSError as error:
        raise CallerFailed(error) from error


def _slices(blob: bytes) -> Iterator[memoryview]:
    view = memoryview(blob)
    return (view[at : at + CHUNK_BYTES] for at in range(0, len(blob), CHUNK_BYTES))


def _written(
    fd: int, chunks: Iterator[bytes] | Iterator[memoryview]
) -> Iterator[bytes | memoryview]:
    end = flushing = 0
    for chunk in chunks:
        write_all(fd, (chunk,))
        end += len(chunk)
        if end - flushing >= _FLUSH_BYTES:
            _begin_flush(fd, flushing, end)
            flushing = end
        yield chunk


def _begin_flush(fd: int, start: int, end: int) -> None:
    """Have the kernel write out what is dirty, without waiting: less is left for the end.

    The advice says that the pages will not be needed; Linux starts with writing those back.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)

"""Reading from the object backend's bucket in constant memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from store.errors import Corrupt, Unavailable
from store.object.errors import Absent, BrokenOff, Conflict
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from obstore import BytesStream, GetOptions

    from store.object.client import Bucket

_READ_BYTES = 256 * 1024


def open_stream(bucket: Bucket, key: str, offset: int = 0) -> DataStream | None:
    """Open what lies at `key`, from `offset` on, or return None."""
    stream = DataStream(bucket, key, offset)
    return stream if stream.start() else None


class DataStream:
    """What lies at a key, read to its end; a connection that breaks is no end."""

    def __init__(self, bucket: Bucket, key: str, offset: int) -> None:
        self._bucket = bucket
        self._key = key
        self._offset = offset
        self._e_tag: str | None = None
        self.size_bytes = 0
        self._rest = memoryview(b"")
        self._chunks: BytesStream | None = None

    def start(self) -> bool:
        """Ask for what is left; tell whether it is there. Raises `Conflict`: it was replaced."""
        self._progressed = False
        options: GetOptions | None = None
        if self._offset:
            options = {"range": {"offset": self._offset}}
            if self._e_tag:
                options["if_match"] = self._e_tag
        try:
            result = self._bucket.start(self._key, options)
        except Absent:
            return False
        self._e_tag, self.size_bytes = result.meta["e_tag"], result.meta["size"]
        self._chunks = result.stream(min_chunk_size=_READ_BYTES)
        return True

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end. Raises `Unavailable` and `Corrupt`."""
        if not self._rest:
            self._rest = memoryview(self._next())
        chunk = self._rest[:size].tobytes()
        self._rest = self._rest[size:]
        return chunk

    def _next(self) -> bytes:
        while self._chunks is not None and self._offset < self.size_bytes:
            try:
                chunk = self._bucket.next_chunk(self._chunks, self._key)
            except BrokenOff:
                if not self._progressed:
                    raise
                self._resume()
            else:
                self._offset += len(chunk)
                self._progressed = True
                return chunk
        return b""

    def close(self) -> None:
        """Let go of the connection."""
        self._chunks = None
        self.size_bytes = 0

    def _resume(self) -> None:
        where = self._bucket.where(self._key)
        try:
            if not self.start():
                raise Unavailable(f"{where} was removed while it was read: get it again")
        except Conflict:
            raise Corrupt(f"{where} was replaced while it was read: get it again") from None


def digest_of(stream: DataStream) -> str:
    """Read to the end; return the SHA-256 in hex."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()

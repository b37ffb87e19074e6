"""Reading an artifact in constant memory, verified as it goes."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Protocol

from store.errors import Corrupt, StoreError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CHUNK_BYTES = 1 << 20
"""What is read, hashed and written at a time."""


class Readable(Protocol):
    """What data is put from: any binary file, or an `ArtifactReader`."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


class ArtifactReader(io.RawIOBase):
    """An open artifact: a binary file to read once from start to end, and its manifest.

    Reading is hashing: the read that would have met the end raises `Corrupt` when the data was
    not what `checksum` says, so trust what was read only once the end was met. Close it, or use
    it as a context manager; wrap it in `io.BufferedReader` for small reads.

    Attributes:
        checksum: of the data; None when the backend keeps no checksums, and then nothing is
            verified.
        size_bytes: of the data.
        manifest: the manifest, verified.
        found: the checksum of what was read, once the end was met.
        error: what reading raised, when it raised a `StoreError`: so that who hands the reader
            to another store can tell the two stores' errors apart.

    """

    def __init__(
        self, raw: Readable, *, checksum: str | None, size_bytes: int, manifest: bytes, where: str,
        close: Callable[[], None] | None = None, verified: bool = False,
    ) -> None:  # fmt: skip
        """Read from `raw`; `where` is named when it is damaged, `close` called at the end.

        What is `verified` against `checksum` already, and in memory, is not hashed again.
        """
        super().__init__()
        self.checksum = checksum
        self.size_bytes = size_bytes
        self.manifest = manifest
        self.found: str | None = None
        self.error: StoreError | None = None
        self._raw = raw
        self._where = where
        self._close = close
        self._left = size_bytes
        self._hash = None if verified else hashlib.sha256()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer`, or a part of it; return how many bytes, 0 at the end."""
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, none at the end. Raises `Corrupt` and `Unavailable`."""
        if self.closed:
            raise ValueError("read of a closed artifact: open it again")
        if size < 0:
            return self.readall()
        return self._next(min(size, CHUNK_BYTES)) if size else b""

    def _next(self, size: int) -> bytes:
        """Read on, and check what was read when that is all."""
        try:
            chunk = self._raw.read(size)
            self._left -= len(chunk)
            if self._hash:
                self._hash.update(chunk)
            if not chunk or self._left < 0:
                self.check(self.size_bytes - self._left, self._digest())
        except StoreError as error:
            self.error = error
            raise
        except OSError as error:
            self.error = Unavailable(f"cannot read {self._where}: {error.strerror or error}")
            raise self.error from error
        return chunk

    def _digest(self) -> str:
        return self._hash.hexdigest() if self._hash else (self.checksum or "")[len("sha256:") :]

    def readall(self) -> bytes:
        """Return all that is left."""
        return b"".join(iter(lambda: self.read(CHUNK_BYTES), b""))

    def unread(self) -> Readable | None:
        """Return what it reads from, if nothing was read yet: a file can be copied at once."""
        return self._raw if self._left == self.size_bytes else None

    def check(self, size_bytes: int, digest: str) -> None:
        """Raise `Corrupt` unless this is the data's size and its SHA-256 in hex."""
        fault = None
        self.found = f"sha256:{digest}"
        if size_bytes != self.size_bytes:
            fault = f"{size_bytes} of {self.size_bytes} bytes"
        elif self.checksum not in (None, self.found):
            fault = "the data fails its checksum"
        if fault:
            self.error = Corrupt(f"{self._where} is damaged: {fault}")
            raise self.error

    def close(self) -> None:
        """Let go of what was opened."""
        if not self.closed and self._close:
            self._close()
        super().close()

    def __enter__(self) -> ArtifactReader:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

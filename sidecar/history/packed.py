"""Rows that lie packed in a store, read in constant memory.

They come as they are read: what is made of them counts once all have come, and they are what was
written. Whoever must not see a row before that reads them as a whole (`history.segments`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Final

from sidecar.history.segments import Damaged
from store import ArtifactReader

CHUNK_BYTES: Final = 1 << 20
MAX_ROW_BYTES: Final = 16 << 20
_PACKED_BYTES: Final = 1 << 18
_GZIP: Final = 31


def rows_of(packed: ArtifactReader, where: str, rows: int, sha256: str) -> Iterator[list[bytes]]:
    """Yield so many rows, some at a time; `sha256` is that of all of them, with their line feeds.

    Raises `Damaged`, at the end at the latest, unless they are just these, and as `packed`.
    """
    digest, count, rest = hashlib.sha256(), 0, b""
    for chunk in _unpacked(packed, where):
        digest.update(chunk)
        found = (rest + chunk).split(b"\n")
        rest = found.pop()
        count += len(found)
        if len(rest) > MAX_ROW_BYTES or count > rows:
            break  # nothing that was written is such, and the digest shows it
        yield found
    if rest or (count, digest.hexdigest()) != (rows, sha256):
        raise Damaged(f"{where} is damaged: it is not what was written")


def _unpacked(packed: ArtifactReader, where: str) -> Iterator[bytes]:
    unpacking = zlib.decompressobj(wbits=_GZIP)
    try:
        for some in _pieces(packed, unpacking):
            if chunk := unpacking.decompress(some, CHUNK_BYTES):
                yield chunk
            elif not some:
                raise Damaged(f"{where} is damaged: it is cut short")
        if unpacking.unused_data or packed.read(1):
            raise Damaged(f"{where} is damaged: something follows it")
    except zlib.error as error:
        raise Damaged(f"{where} is damaged: {error}") from error


def _pieces(packed: ArtifactReader, unpacking: zlib._Decompress) -> Iterator[bytes]:
    while not unpacking.eof:
        yield unpacking.unconsumed_tail or packed.read(_PACKED_BYTES)

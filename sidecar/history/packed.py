"""Rows that lie packed in a store, read in constant memory.

They come as they are read: what is made of them counts once all have come, and they are what was
written. Whoever must not see a row before that reads them as a whole (`history.segments`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from sidecar.history.segments import Damaged
from store import ArtifactReader

CHUNK_BYTES: Final = 1 << 20
MAX_ROW_BYTES: Final = 4 << 20
"""No row that counts is so long: a notification has 8 KiB."""
_HEAD_BYTES: Final = 80
"""Of a row that is longer: its ID."""
_PACKED_BYTES: Final = 1 << 18
_GZIP: Final = 31


def rows_of(packed: ArtifactReader, where: str, rows: int, sha256: str) -> Iterator[list[bytes]]:
    """Yield so many rows, some at a time; `sha256` is that of all of them, with their line feeds.

    A row of over `MAX_ROW_BYTES`, which anybody may have put into a stream, comes cut, as its ID.
    Raises `Damaged`, at the end at the latest, unless they are just these, and as `packed`.
    """
    digest, count, rest = hashlib.sha256(), 0, b""
    for some in _split(_unpacked(packed, where), digest.update):
        *found, rest = some
        count += len(found)
        if count > rows:
            break  # nothing that was written is such, and the digest shows it
        yield found
    if rest or (count, digest.hexdigest()) != (rows, sha256):
        raise Damaged(f"{where} is damaged: it is not what was written")


def _split(chunks: Iterator[bytes], update: Callable[[bytes], object]) -> Iterator[list[bytes]]:
    """Yield rows, and last in each list what comes of the next one yet; `update` hashes all."""
    rest, is_cut = b"", False
    for chunk in chunks:
        update(chunk)
        head, *more = chunk.split(b"\n")
        *found, rest = [rest if is_cut else rest + head, *more]
        is_cut &= not more
        if len(rest) > MAX_ROW_BYTES:
            rest, is_cut = rest[:_HEAD_BYTES], True
        yield [*found, rest]


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

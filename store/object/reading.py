"""Reading records out of the bucket: their beginning first, and the rest once its size is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.object.layout import stored_of
from store.object.stream import open_stream
from store.record import FIRST_BYTES, body_bytes, fault_of
from store.streams import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.object.client import Bucket, Got
    from store.object.layout import Stored


def begun(bucket: Bucket, key: str, first_bytes: int = FIRST_BYTES) -> tuple[Got, Stored] | None:
    """Return the beginning of a record, or None when there is none. Raises `Corrupt`."""
    got = bucket.get(key, first_bytes=first_bytes)
    return got and (got, stored_of(got.content, key, bucket.where(key), got.meta["size"]))


def whole(bucket: Bucket, stored: Stored) -> Stored:
    """Return a record with all of its body, and a byte of what follows, if anything does.

    Of one that was replaced meanwhile, that is other bytes: its checksums tell.
    """
    end = min(body_bytes(stored.record) + 1, stored.body_size)
    if len(stored.body) >= end:
        return stored
    chunks, body = _body_of(bucket, stored), bytearray()
    while len(body) < end and (chunk := next(chunks, b"")):
        body += chunk
    return stored._replace(body=bytes(body[:end]))


def fault(bucket: Bucket, stored: Stored) -> str | None:
    """Read a record's body in constant memory; return what is wrong with it, if anything is."""
    size = body_bytes(stored.record)
    if stored.body_size != size:
        return f"its body has {stored.body_size} bytes, and its header says {size}"
    is_whole = len(stored.body) == size
    chunks = iter((stored.body,)) if is_whole else _body_of(bucket, stored)
    return fault_of(stored.record, chunks)


def _body_of(bucket: Bucket, stored: Stored) -> Iterator[bytes]:
    """Yield the body of a record, in pieces."""
    stream = open_stream(bucket, stored.key, stored.body_at)
    try:
        while stream and (chunk := stream.read(CHUNK_BYTES)):
            yield chunk
    finally:
        if stream:
            stream.close()

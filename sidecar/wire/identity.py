"""What the deduplication index knows an entry by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from sidecar.wire.event import Rejected, content_digest, decode


class Known(NamedTuple):
    """What an entry is known by; empty of what is no event."""

    identity: bytes = b""
    """The digest of its event_id."""
    content: bytes = b""
    """The digest of its content."""
    tenant_id: str = ""


def known_by(fields: Mapping[bytes, bytes]) -> Known:
    """Return what an entry is known by, whichever release judged it."""
    try:
        event, body = decode(fields, recorded=True)
    except Rejected:
        return Known()
    return Known(identity_digest(event.event_id), content_digest(body), event.tenant_id)


def identity_of(fields: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the digests of event_id and content, as the index has them; empty for no event."""
    known = known_by(fields)
    return known.identity, known.content


def identity_digest(text: str) -> bytes:
    """Return 16 bytes for an event_id (or an origin): the first two choose the shard.

    So the index has 65,536 shards: each stays a packed hash, which is what makes a remembered
    event cheap, up to six million events in the window at Redis's default of 128 fields.
    """
    return hashlib.sha256(text.encode()).digest()[:16]

"""Which control streams changed hands, on record in the stream `{N}:takeovers`.

Each record has `stream`, `by` (who stood by and serves it now), `before` (who did until then, as
far as that is known).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scan import text
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339

MAX_RECORDS: Final = 1000
"""So many records are kept, or a few more."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """One record. Workers are host:pid, or an id where that is all that is known."""

    stream: str
    at: str
    """RFC 3339."""
    by: str
    before: str
    """Empty when nobody knows."""


def put_on_record(client: Client, keys: Keys, *, by: str, before: str) -> None:
    """Put on record who serves the control stream now. May raise `RedisError`."""
    record: dict[Any, Any] = {"stream": keys.control, "by": by, "before": before}
    client.xadd(keys.takeovers, record, maxlen=MAX_RECORDS, approximate=True)


def newest_takeovers(client: Client, keys: Collection[Keys], count: int) -> list[Takeover]:
    """Return the newest of these control streams, newest first. May raise `RedisError`."""
    streams = {one.control for one in keys}
    raw: Any = client.xrevrange(next(iter(keys)).takeovers, count=MAX_RECORDS)
    found = [
        Takeover(
            text(fields, "stream"), rfc3339(EntryId(entry_id.decode()).control_version),
            text(fields, "by"), text(fields, "before"),
        )
        for entry_id, fields in raw
    ]  # fmt: skip
    return [one for one in found if one.stream in streams][:count]

"""Who owned a control stream, with which settings and release: records in `{N}:tenures`.

Beside what Redis forgot: `what` (tenure), `stream`, `by` (host:pid), `version`, `settings` (JSON,
without secrets).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.errors import Refused
from sidecar.redis.forgotten import MAX_RECORDS
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us, text

TENURE: Final = "tenure"
MOST_AN_HOUR: Final = 12
"""Of a control stream. One that passes from hand to hand must not push out what Redis forgot."""
_LOOKED_AT: Final = 200
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Owner:
    """A worker, as the record of its tenures has it."""

    name: str
    """host:pid."""
    version: str
    settings: str
    """JSON, without secrets."""


def put_on_record(client: Client, keys: Keys, owner: Owner) -> None:
    """Put on record that a tenure begins, as far as Redis takes it.

    A server without memory for it, a key of another kind or a right that lacks keep no worker from
    serving. Raises `RedisError` for an outage.
    """
    record: dict[Any, Any] = {
        "what": TENURE, "stream": keys.control, "by": owner.name, "version": owner.version,
        "settings": owner.settings,
    }  # fmt: skip
    try:
        if _lately(client, keys) < MOST_AN_HOUR:
            client.xadd(keys.tenures, record, maxlen=MAX_RECORDS)
    except Refused:
        return


def _lately(client: Client, keys: Keys) -> int:
    """Return how many tenures of the stream began within the hour."""
    since_ms = max(0, server_time_us(client) // 1000 - _HOUR_MS)
    found: Any = client.xrevrange(keys.tenures, "+", f"{since_ms}-0", count=_LOOKED_AT)
    stream = keys.control
    return sum(
        text(fields, "what") == TENURE and text(fields, "stream") == stream for _, fields in found
    )

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
MOST_OF_ALL: Final = 200
"""Of all streams together: a worker may take thousands at once."""
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
        if _has_room(client, keys):
            client.xadd(keys.tenures, record, maxlen=MAX_RECORDS)
    except Refused:
        return


def newest_settings(client: Client, keys: Keys) -> str:
    """Return the settings of the worker whose tenure began last, as JSON; empty if unknown.

    Raises `RedisError`.
    """
    found: Any = client.xrevrange(keys.tenures, count=MOST_OF_ALL)
    told = (text(fields, "settings") for _, fields in found if text(fields, "what") == TENURE)
    return next(told, "")


def _has_room(client: Client, keys: Keys) -> bool:
    """Tell whether few tenures began within the hour, of this stream and of all."""
    since_ms = max(0, server_time_us(client) // 1000 - _HOUR_MS)
    found: Any = client.xrevrange(keys.tenures, "+", f"{since_ms}-0", count=MOST_OF_ALL)
    began = [text(fields, "stream") for _, fields in found if text(fields, "what") == TENURE]
    return len(began) < MOST_OF_ALL and began.count(keys.control) < MOST_AN_HOUR

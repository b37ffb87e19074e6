"""Who owned a control stream, with which settings and release: records in `{N}:tenures`.

Beside what Redis forgot: `what` (tenure), `stream`, `by` (host:pid), `version`, `settings` (JSON,
without secrets). And what kept an owner from serving, once that is over: `what` (outage), `stream`,
`by`, `of` (store or redis), `since` and `until` (RFC 3339, by the worker's clock), `detail`. And
that an owner gave the stream back in good order: `what` (ended), `stream`, `by`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.errors import Refused
from sidecar.redis.forgotten import MAX_RECORDS
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us, text
from sidecar.wire.moments import rfc3339

TENURE: Final = "tenure"
OUTAGE: Final = "outage"
ENDED: Final = "ended"
MOST_AN_HOUR: Final = 12
"""Of a control stream. One that passes from hand to hand must not push out what Redis forgot."""
MOST_OF_ALL: Final = 200
"""Of all streams together: a worker may take thousands at once."""
_LOOKED_AT: Final = 3 * MOST_OF_ALL
"""Of each of the three kinds of records."""
LONGEST_DETAIL: Final = 500
"""Characters of what a store or a Redis said."""
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Owner:
    """A worker, as the record of its tenures has it."""

    name: str
    """host:pid."""
    version: str
    settings: str
    """JSON, without secrets."""


class Outage(NamedTuple):
    """A time in which an owner could not serve."""

    of: str
    """`store` or `redis`."""
    since_s: float
    until_s: float
    """Seconds since the epoch, by the worker's clock."""
    detail: str
    """What was wrong, in words."""


def put_on_record(client: Client, keys: Keys, owner: Owner) -> None:
    """Put on record that a tenure begins, as far as Redis takes it.

    A server without memory for it, a key of another kind or a right that lacks keep no worker from
    serving. Raises `RedisError` for an outage.
    """
    told = {"version": owner.version, "settings": owner.settings}
    _put(client, keys, TENURE, owner.name, told)


def put_end_on_record(client: Client, keys: Keys, owner: Owner) -> None:
    """Put on record that an owner gives the stream back in good order, as `put_on_record` does."""
    _put(client, keys, ENDED, owner.name, {})


def put_outage_on_record(client: Client, keys: Keys, by: str, outage: Outage) -> None:
    """Put on record that an owner could not serve, as `put_on_record` does."""
    told = {
        "of": outage.of, "since": rfc3339(outage.since_s * 1e6),
        "until": rfc3339(outage.until_s * 1e6), "detail": outage.detail[:LONGEST_DETAIL],
    }  # fmt: skip
    _put(client, keys, OUTAGE, by, told)


def _put(client: Client, keys: Keys, what: str, by: str, told: dict[str, str]) -> None:
    record: dict[Any, Any] = {"what": what, "stream": keys.control, "by": by, **told}
    try:
        if _has_room(client, keys, what):
            client.xadd(keys.tenures, record, maxlen=MAX_RECORDS)
    except Refused:
        return


def newest_settings(client: Client, keys: Keys) -> str:
    """Return the settings of the worker whose tenure began last, as JSON; empty if unknown.

    Raises `RedisError`.
    """
    found: Any = client.xrevrange(keys.tenures, count=_LOOKED_AT)
    told = (text(fields, "settings") for _, fields in found if text(fields, "what") == TENURE)
    return next(told, "")


def _has_room(client: Client, keys: Keys, what: str) -> bool:
    """Tell whether few records of this kind came within the hour, of this stream and of all."""
    since_ms = max(0, server_time_us(client) // 1000 - _HOUR_MS)
    found: Any = client.xrevrange(keys.tenures, "+", f"{since_ms}-0", count=_LOOKED_AT)
    streams = [text(fields, "stream") for _, fields in found if text(fields, "what") == what]
    return len(streams) < MOST_OF_ALL and streams.count(keys.control) < MOST_AN_HOUR

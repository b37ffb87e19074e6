"""What a day adds to the stores, as the newest notifications tell: without keep rules it stays.

About: a bounded number of notifications is read, and the sizes of some of their artifacts are
looked up. What producers put and never announced is in no notification.
"""

from __future__ import annotations

from contextlib import suppress
from statistics import fmean
from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.scan import StreamInfo, server_time_us, stream_info
from sidecar.wire.event import Rejected, decode
from sidecar.wire.ids import EntryId
from store import Capability, Corrupt, InvalidRef, NotFound, Pin, Store, Unavailable, versioned

MOST: Final = 500
"""So many notifications are read at most."""
MOST_SIZES: Final = 50
"""Of so many artifacts the size is looked up."""
_DAY_MS: Final = 86_400_000


class Added(NamedTuple):
    """What a day adds to the fleet's store; to the producers' as much, if that is another."""

    refs: int
    size_bytes: int | None
    """None where no store tells sizes."""


def added(notify: Client, stream: str, fleet: Store | None) -> Added | None:
    """Return what was announced within a day; None where the stream does not tell.

    Of a busy stream the newest `MOST` stand for the day; Redis 6.2 does not count what was trimmed.
    Raises `RedisError`.
    """
    info = stream_info(notify, stream)
    if info is None:
        return None
    now_ms = server_time_us(notify) // 1000
    page: Any = notify.xrevrange(stream, "+", str(max(0, now_ms - _DAY_MS)), count=MOST)
    if not page:
        return None if _is_cut(info, now_ms) else Added(0, 0)
    oldest_ms = EntryId(page[-1][0].decode()).pair[0]
    is_whole = len(page) < MOST and not _is_cut(info, now_ms)
    scale = 1.0 if is_whole else max(1.0, _DAY_MS / max(1, now_ms - oldest_ms))
    pins = list(dict.fromkeys(pin for _, fields in page if (pin := _pin(fields))))
    if not pins:
        return Added(0, 0)
    size_bytes = _mean_size(fleet, pins[:: -(-len(pins) // MOST_SIZES)]) if fleet else None
    return Added(
        round(len({pin.ref for pin in pins}) * scale),
        None if size_bytes is None else round(len(pins) * size_bytes * scale),
    )


def _is_cut(info: StreamInfo, now_ms: int) -> bool:
    """Tell whether notifications of the last day were trimmed."""
    oldest_ms = (info.first_id or info.last_id).pair[0]
    return oldest_ms > now_ms - _DAY_MS and (info.added or 0) > info.length


def _pin(fields: dict[bytes, bytes]) -> Pin | None:
    with suppress(Rejected):
        event, _ = decode(fields, recorded=True)
        if event.artifact_ref:
            return Pin(event.artifact_ref, event.checksum, event.manifest_checksum)
    return None


def _mean_size(fleet: Store, pins: list[Pin]) -> float | None:
    """Return how large artifacts are that the store has; None where it does not tell."""
    store, sizes = versioned(fleet, Capability.LIST), list[int]()
    if store is None:
        return None
    for pin in pins:
        try:
            sizes += [
                one.size_bytes + one.manifest_size_bytes
                for one in store.versions(pin.ref)
                if (one.checksum, one.manifest_checksum) == (pin.checksum, pin.manifest_checksum)
            ]
        except (NotFound, Corrupt, InvalidRef):
            continue
        except Unavailable:
            return None
    return fmean(sizes) if sizes else None

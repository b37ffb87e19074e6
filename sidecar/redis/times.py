"""Of which control streams the entry IDs are times.

They are positions: a producer may give its own, and a clock may have run ahead. They count as times
only where what was published of the stream lately agrees.
"""

from __future__ import annotations

from typing import Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scan import PAGE, origin_of, pages_back
from sidecar.wire.ids import EntryId
from sidecar.wire.subject import CLOCK_SLACK_MS

FEW: Final = 100
"""Notifications that are read where nothing rests on it: each may have 8 KiB."""
EARLIEST_MS: Final = 10**11
"""No entry is older (1973): a lower ID was given by somebody."""
LONGEST_WAIT_MS: Final = 7 * 86_400_000
"""An event may wait so long and its notification still agrees with its entry's ID."""


def streams_with_times(client: Client, keys: Keys) -> set[str]:
    """Return the control streams of which the newest notifications all agree.

    May raise `RedisError`.
    """
    return {stream for stream, agrees in _agreement(client, keys, PAGE).items() if agrees}


def age_s(entry_id: EntryId, now_us: int) -> float | None:
    """Return how old an entry is; None where its ID cannot be a time."""
    age_ms = now_us // 1000 - entry_id.ms
    is_time = entry_id.ms >= EARLIEST_MS and age_ms >= -CLOCK_SLACK_MS
    return max(0, age_ms) / 1e3 if is_time else None


def is_wait(waited_ms: float) -> bool:
    """Tell whether a notification may come so long after its entry, if that one's ID is a time."""
    return -CLOCK_SLACK_MS <= waited_ms <= LONGEST_WAIT_MS


def contradicted(client: Client, keys: Keys) -> set[str]:
    """Return the control streams of which a new notification tells that their IDs are no times.

    For a stream without any nothing speaks against it. May raise `RedisError`.
    """
    return {stream for stream, agrees in _agreement(client, keys, FEW).items() if not agrees}


def _agreement(client: Client, keys: Keys, newest: int) -> dict[str, bool]:
    agrees: dict[str, bool] = {}
    for entry in next(pages_back(client, keys.notifications, page=newest), []):
        origin = origin_of(entry.fields)
        if origin.entry:
            is_time = is_wait(entry.id.ms - origin.entry.ms)
            agrees[origin.stream] = agrees.get(origin.stream, True) and is_time
    return agrees

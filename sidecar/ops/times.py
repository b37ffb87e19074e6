"""Of which control streams the entry IDs are times.

They are positions: a producer may give its own, and a clock may have run ahead. They count as times
only where what was published of the stream lately agrees.
"""

from __future__ import annotations

from typing import Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scan import origin_of, pages_back
from sidecar.wire.subject import CLOCK_SLACK_MS

LONGEST_WAIT_MS: Final = 7 * 86_400_000
"""An event may wait so long and its notification still agrees with its entry's ID."""


def streams_with_times(client: Client, keys: Keys) -> set[str]:
    """Return the control streams of which the newest notifications all agree.

    May raise `RedisError`.
    """
    agrees: dict[str, bool] = {}
    for entry in next(pages_back(client, keys.notifications), []):
        origin = origin_of(entry.fields)
        if origin.entry:
            waited_ms = entry.id.ms - origin.entry.ms
            is_time = -CLOCK_SLACK_MS <= waited_ms <= LONGEST_WAIT_MS
            agrees[origin.stream] = agrees.get(origin.stream, True) and is_time
    return {stream for stream, all_agree in agrees.items() if all_agree}

"""Of which control streams the entry IDs are times.

They are positions: a producer may give its own, and a clock may have run ahead. They count as times
only where what was published of the stream lately agrees.
"""

from __future__ import annotations

from typing import Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scan import pages_back, text
from sidecar.wire.ids import id_pair
from sidecar.wire.subject import CLOCK_SLACK_MS, parted

LONGEST_WAIT_MS: Final = 7 * 86_400_000
"""An event may wait so long and its notification still agrees with its entry's ID."""


def streams_with_times(client: Client, keys: Keys) -> set[str]:
    """Return the control streams of which the newest notifications all agree.

    May raise redis-py's errors.
    """
    agrees: dict[str, bool] = {}
    for entry in next(pages_back(client, keys.notifications), []):
        stream, origin_id = parted(text(entry.fields, "origin"))
        if origin_id:
            waited_ms = id_pair(entry.id)[0] - origin_id[0]
            is_time = -CLOCK_SLACK_MS <= waited_ms <= LONGEST_WAIT_MS
            agrees[stream] = agrees.get(stream, True) and is_time
    return {stream for stream, all_agree in agrees.items() if all_agree}

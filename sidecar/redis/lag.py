"""How many entries of a control stream nobody has read; unknown is not 0.

The server's own number is null after deletes and wrong after some (redis#9127, redis#13957).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scan import StreamInfo
from sidecar.wire.ids import LAST, EntryId

MAX_COUNTED: Final = 100
"""So many waiting entries are counted one by one where the server does not know its lag."""


def is_beyond(position: EntryId, generated: EntryId) -> bool:
    """Tell whether the group's position lies beyond every ID that the stream ever gave."""
    return position > generated


def lag_of(client: Client, keys: Keys, group: Mapping[str, Any], info: StreamInfo) -> int | None:
    """Return how many entries wait unread; None when the server cannot say (Redis 6.2, or after
    deletes) and there are too many to count here.

    `group` and `info` are from XINFO. Redis 7 counts for ever what was trimmed before it was read.
    Raises `RedisError`.
    """
    position = EntryId(group["last-delivered-id"].decode())
    if not info.length or position >= info.last_id:
        return 0
    if info.first_id and info.first_id > position:
        return info.length
    if group.get("lag") is not None:
        return int(group["lag"])
    waiting: Any = client.xrange(keys.control, position.after, "+", count=MAX_COUNTED + 1)
    return len(waiting) if len(waiting) <= MAX_COUNTED else None


def is_doubtful(
    client: Client, stream: str, low: EntryId, position: EntryId, lowest_pending: EntryId | None
) -> bool:
    """Tell whether the group has passed `low`, the lowest unfinished entry, so that its lag says
    nothing.

    Raises `RedisError`.
    """
    first: Any = client.xrange(stream, low, LAST, count=1)
    first_id = EntryId(first[0][0].decode()) if first else None
    return is_skipped(low, first_id, position, lowest_pending)


def is_skipped(
    low: EntryId, first: EntryId | None, position: EntryId, lowest_pending: EntryId | None
) -> bool:
    """Tell whether `first`, the entry at or next above `low`, was handed out and is not pending.

    It may be finished; the index knows that.
    """
    if first is None or low == LAST:
        return False  # of the entry with the highest ID, low cannot tell that it is finished
    if first > position:
        return False
    return not lowest_pending or lowest_pending > first

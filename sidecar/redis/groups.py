"""A consumer group seen from outside: how far it was handed entries, and what is pending."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import redis

from sidecar.redis.client import Client, Side
from sidecar.redis.damage import low_of
from sidecar.redis.errors import Refused, is_absent, translated
from sidecar.redis.keys import Keys
from sidecar.wire.ids import FIRST, EntryId


def group_of(client: Client, stream: str, group: str) -> Mapping[str, Any] | None:
    """Return what XINFO GROUPS says of a group; None without the stream or the group.

    Raises `RedisError`.
    """
    return next((one for one in groups_at(client, stream) if one["name"] == group.encode()), None)


def groups_at(client: Client, stream: str | bytes) -> list[dict[str, Any]]:
    """Return what XINFO GROUPS says of each group; nothing without the stream.

    Raises `RedisError`.
    """
    try:
        found: Any = client.xinfo_groups(stream)
    except Refused as error:
        if is_absent(error):  # not asked before: it may go in between
            return []
        raise
    return [dict(one) for one in found]


def position_of(client: Client, stream: str, group: str) -> EntryId | None:
    """Return up to where entries were handed out; None without a group."""
    found = group_of(client, stream, group)
    return EntryId(found["last-delivered-id"].decode()) if found else None


def delivered(control: Side, notify: Side, keys: Keys) -> EntryId:
    """Return up to where entries were handed out.

    A lost group begins at the lowest unfinished entry again. Raises `SidecarError`.
    """
    with translated(control.url):
        position = position_of(control.at(keys.control), keys.control, keys.group)
    if position is not None:
        return position
    with translated(notify.url):
        low = low_of(notify.client, keys)
    return low.before if low else FIRST


def pending(
    client: Client, stream: str, group: str, first: EntryId, last: EntryId, *, page: int
) -> Iterator[list[tuple[EntryId, str]]]:
    """Yield what is pending from `first` to `last`, under any consumer: entry IDs and consumers.

    In pages. A group that is lost, maybe meanwhile, has nothing. Raises `RedisError`.
    """
    found: Any = [None] * page
    while len(found) == page:
        try:
            found = client.xpending_range(stream, group, first, last, page)
        except redis.ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return
            raise
        rows = [
            (EntryId(one["message_id"].decode()), one["consumer"].decode(errors="backslashreplace"))
            for one in found
        ]
        yield rows
        first = rows[-1][0].after if rows else first

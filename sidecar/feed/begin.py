"""Where a feed begins, as a person says it: so many notifications, or a position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sidecar.feed.blocking import Feed
from sidecar.redis.client import Client
from sidecar.redis.errors import NotPermitted
from sidecar.redis.keys import Keys
from sidecar.redis.scan import StreamInfo, pages_back, server_time_us, stream_info
from sidecar.wire.incarnations import Cursor, parse
from sidecar.wire.moments import parse_position
from sidecar.wire.notification import Notification


def cursor_of(client: Client, stream: str, since: str | None, count: int | None) -> int:
    """Return the control_version after which to begin; 0 is with the oldest there is.

    Without `since`, `count` come before the end, or all. Raises `UsageError` and `RedisError`.
    """
    info = stream_info(client, stream)
    end = info.last_id.control_version if info else 0
    if since:
        begin = parse_position(since, server_time_us(client))
        if begin.is_version or not begin.first_us:
            return begin.first_us
        return _of_now(client, stream, _from_time(begin.cursor, info))
    if count is None:
        return 0
    if count == 0:
        return end
    return _before_last(client, stream, count, info)


def _before_last(client: Client, stream: str, count: int, info: StreamInfo | None) -> int:
    """Return the cursor before the last so many."""
    for page in pages_back(client, stream):
        if count <= len(page):
            if info and page[count - 1].id == info.first_id:
                break  # before Redis 7.0 nothing tells whether there was anything before it
            return _of_now(client, stream, page[count - 1].id.control_version - 1)
        count -= len(page)
    return 0


def _of_now(client: Client, stream: str, number: int) -> int:
    """Return a cursor in the stream as it is: no notification need ever have had the number."""
    noted: Any = None
    with suppress(NotPermitted):  # an older ACL: then the feed does not look either
        noted = client.hget(Keys.of("", stream).incarnations, "list")
    incarnations = parse(noted)
    return Cursor(number, incarnations[-1].id) if incarnations else number


def _from_time(cursor: int, info: StreamInfo | None) -> int:
    """Return the cursor for a time, at which there need not be a notification."""
    if info is None:
        return 0
    if info.added is None and info.first_id and cursor < info.first_id.control_version:
        return 0  # before Redis 7.0 nothing tells whether there was anything before the oldest
    # After the last notification a cursor would have lost the stream's tail; a time has not.
    return min(cursor, info.last_id.control_version)


def retained(feed: Feed, cursor: int) -> Iterator[Notification]:
    """Yield the notifications that there are after a cursor, and end. Raises as `Feed.poll`."""
    while True:
        found = feed.poll(cursor)
        yield from found
        if not found:
            return
        cursor = found.cursor

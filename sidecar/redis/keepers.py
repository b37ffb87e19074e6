"""Consumer groups of others that keep a stream from being trimmed.

What a group has yet to read, or to acknowledge, stays. So one that nobody reads through any more
lets its stream grow for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.groups import groups_at
from sidecar.redis.keys import ARCHIVERS, GROUP
from sidecar.redis.scan import server_time_us
from sidecar.wire.ids import LAST, EntryId

LATE_MS: Final = 3_600_000
"""A group whose next entry is younger is only behind."""


class Keeper(NamedTuple):
    """A group that is far behind."""

    stream: str
    group: str
    first: EntryId
    """The oldest entry that it has not read, or not acknowledged."""

    def __str__(self) -> str:
        """Return it for a person, with what to do."""
        return (
            f"the group {self.group!r} on {self.stream}, {_whose(self.group)}, has yet to finish"
            f" {self.first}: nothing from there on is trimmed; XGROUP DESTROY it if nobody"
            " needs it"
        )


def _whose(group: str) -> str:
    if group.startswith(GROUP):
        return f"of the workers for another notification stream, {group.removeprefix(GROUP)!r}"
    if group.startswith(ARCHIVERS):
        return f"which the archive of {group.removeprefix(ARCHIVERS)!r} needs"
    return "which is not the sidecar's"


def keepers(client: Client, stream: str, own: Collection[str] = ()) -> list[Keeper]:
    """Return the groups of others whose oldest unfinished entry is more than an hour old.

    `own` are the groups that do not count. Raises `RedisError`.
    """
    groups = groups_at(client, stream)
    if not groups:
        return []
    late = EntryId.of(max(0, server_time_us(client) // 1000 - LATE_MS))
    named = ((one["name"].decode(errors="backslashreplace"), one) for one in groups)
    found = [
        Keeper(stream, name, first)
        for name, one in named
        if name not in own and (first := _first(client, stream, one)) and first < late
    ]
    return sorted(found)


def _first(client: Client, stream: str, group: dict[str, Any]) -> EntryId | None:
    """Return the oldest entry that a group has not finished; None without any."""
    pending: Any = client.xpending(stream, group["name"])
    if pending["min"]:
        return EntryId(pending["min"].decode())
    after = EntryId(group["last-delivered-id"].decode()).after
    unread: Any = client.xrange(stream, after, LAST, count=1)
    return EntryId(unread[0][0].decode()) if unread else None

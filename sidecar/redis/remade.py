"""A control stream made anew beside the old one, whose place it then takes in one step.

Both lie in one slot. Until that step the old stream is as it was; so a command that is killed in
between begins anew, and a worker that comes meanwhile continues with the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from sidecar.errors import UsageError
from sidecar.redis.client import Client
from sidecar.redis.groups import groups_at
from sidecar.redis.keys import Keys, groups_of, hash_tagged
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, EntryId


class Copy:
    """The new stream, under a name of its own until it takes the old one's place.

    Methods raise `RedisError`.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        """Raises `UsageError` for a name that no other key can share a slot with."""
        self._client = client
        self._keys = keys
        self._prefix = hash_tagged(keys.control)
        self._name = f"{self._prefix}:remaking"

    def begin(self) -> None:
        """Make it, with the group at its beginning, in place of what another attempt left.

        Raises `UsageError` where others read the old stream through a group: theirs would be lost.
        """
        groups = groups_at(self._client, self._keys.control)
        others = sorted({one["name"].decode(errors="backslashreplace") for one in groups})
        if beside := [name for name in others if name not in groups_of(self._keys)]:
            raise UsageError(
                f"others read {self._keys.control!r} through the groups {', '.join(beside)}, which"
                " would lose what they have not read; XGROUP DESTROY those that nobody needs"
            )
        self._client.delete(self._name)
        self._client.xgroup_create(self._name, self._keys.group, FIRST, mkstream=True)
        # So that it does not count as whole from its beginning on: what is finished went before.
        self._client.xadd(self._name, {"gone": ""}, id=FIRST.after)
        self._client.xtrim(self._name, maxlen=0, approximate=False)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append entries as they are, with IDs that the server gives."""
        with self._client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                fields: Any = entry.fields
                pipeline.xadd(self._name, fields)
            pipeline.execute()

    def take_over(self, last: EntryId) -> str | None:
        """Take the old stream's place, unless it has got more than its entry `last` since.

        Returns the name that the old one has now; None when there is more.
        """
        aside = f"{self._prefix}:remade:{server_time_us(self._client) // 1000}"
        with self._client.pipeline() as step:
            step.watch(self._keys.control)  # type: ignore[no-untyped-call]
            info = stream_info(step, self._keys.control)
            if info is None or info.last_id != last:
                return None
            step.multi()
            step.renamenx(self._keys.control, aside)
            step.renamenx(self._name, self._keys.control)
            try:
                done = step.execute()
            except redis.WatchError:
                return None
        return aside if all(done) else None

"""What was handed out of a control stream and waits all the same, wherever its group stands.

People with a Redis client read under other names, acknowledge, and set the group's position. So an
entry counts as finished only where the deduplication index says so, or where it lies below the
lowest unfinished entry: a worker has all others delivered again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final

from sidecar.redis.client import Client
from sidecar.redis.damage import low_of
from sidecar.redis.errors import NotPermitted
from sidecar.redis.finished import unfinished
from sidecar.redis.groups import pending, position_of
from sidecar.redis.keys import Keys
from sidecar.redis.lag import is_beyond
from sidecar.redis.publisher import remembered, sent_again
from sidecar.redis.scan import pages, stream_info
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin

PAGE: Final = 500


class Backlog:
    """Reads what waits of what a group was handed. Methods raise `RedisError`, `Damaged`."""

    def __init__(
        self, control: Client, notify: Client, keys: Keys, finished: Collection[str]
    ) -> None:
        """`finished` are origins that are known to be."""
        self._control, self._notify, self._keys = control, notify, keys
        self._finished = finished
        self.end, self._low = self._reach()
        """Up to where entries were handed out."""

    def entries(self) -> Iterator[list[Entry]]:
        """Yield what was handed out and waits, in pages; some twice."""
        yield from chain(self.pending(), self.passed_over())

    def passed_over(self) -> Iterator[list[Entry]]:
        """Yield what was handed out and is not finished, in entry order, in pages.

        A worker that begins, or finds the group moved, has all of it delivered again in this order.
        """
        handed_out = pages(self._control, self._keys.control, self._low, self.end, page=PAGE)
        yield from map(self._unfinished, handed_out)

    def _reach(self) -> tuple[EntryId, EntryId]:
        """Return up to where entries were handed out, and from where on some may be unfinished.

        Without a group all may come again.
        """
        stream = self._keys.control
        position = position_of(self._control, stream, self._keys.group)
        info = stream_info(self._control, stream)
        if position is None or info is None:
            return FIRST, LAST
        is_set = is_beyond(position, info.last_id)
        try:
            low = low_of(self._notify, self._keys)
        except NotPermitted:
            low = None
        return info.last_id if is_set else position, low or (FIRST if is_set else LAST)

    def _unfinished(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return those that nothing tells to be finished."""
        rest = [one for one in entries if self._origin(one) not in self._finished]
        look_up = partial(remembered, self._notify, self._keys)
        again = partial(sent_again, self._notify, self._keys)
        try:
            return list(unfinished(self._keys.control, rest, look_up, again))
        except NotPermitted:
            return rest

    def pending(self) -> Iterator[list[Entry]]:
        """Yield what is pending in the group, under any consumer."""
        stream = self._keys.control
        for page in pending(self._control, stream, self._keys.group, FIRST, LAST, page=PAGE):
            pipeline = self._control.pipeline(transaction=False)
            for entry_id, _ in page:
                pipeline.xrange(stream, entry_id, entry_id)
            found = zip(page, pipeline.execute(), strict=True)
            yield [Entry(entry_id, raw[0][1]) for (entry_id, _), raw in found if raw]

    def _origin(self, entry: Entry) -> Origin:
        return Origin.of(self._keys.control, entry.id)

"""Who may have what: first come, first served. Pure: no thread, no clock, no Redis.

What no two items may have at the same time, a ref or an event_id, they *claim*. An item waits only
for items that claimed before it, so no two wait for each other, and none is overtaken.

No step takes longer for there being many that wait: one tenant may name one ref in all its events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

Claim = str | bytes
T = TypeVar("T")
"""What claims: hashed and compared by identity."""


class Claims(Generic[T]):
    """For each claim a queue: who is the first in all its queues has what it claims."""

    def __init__(self) -> None:
        self._made: Final[dict[T, Sequence[Claim]]] = {}
        # A dict's first key takes the longer to find the more before it were deleted.
        self._queues: Final[dict[Claim, OrderedDict[T, None]]] = {}
        self._came_first: Final[dict[T, None]] = {}
        """Who has become the first in a queue since `freed` was asked."""

    def __len__(self) -> int:
        return len(self._made)

    def claim(self, item: T, what: Sequence[Claim]) -> bool:
        """Claim `what` for an item, unless it has claimed; False when it must wait for that."""
        if item not in self._made:
            self._made[item] = what
            for one in what:
                self._queues.setdefault(one, OrderedDict())[item] = None
        return self._is_first(item)

    def release(self, item: T) -> None:
        """Give up what an item claims, if anything, whether it has that or waits for it."""
        self._came_first.pop(item, None)
        for one in self._made.pop(item, ()):
            queue = self._queues[one]
            was_first = next(iter(queue)) is item
            del queue[item]
            if not queue:
                del self._queues[one]
            elif was_first:
                self._came_first[next(iter(queue))] = None

    def freed(self) -> list[T]:
        """Return, once, the items that waited and have what they claim now."""
        found = [item for item in self._came_first if self._is_first(item)]
        self._came_first.clear()
        return found

    def _is_first(self, item: T) -> bool:
        for one in self._made[item]:  # noqa: SIM110 -- the generator of `all` would cost each event
            if next(iter(self._queues[one])) is not item:
                return False
        return True

"""What waits for the stores, and whose turn it is. Pure: no thread, no clock, no Redis.

Artifacts of one ref go one after another, in the order in which they came. No tenant has more than
its share at the stores, so that its slow artifacts leave some threads for the others. And no step
takes longer for there being many that wait, or many of one tenant.
"""

from __future__ import annotations

from collections import deque

from sidecar.worker.claims import Claims
from sidecar.worker.window import Item


class Turns:
    """The line before the stores. Not for use from several threads at a time."""

    def __init__(self, share: int) -> None:
        """So many items of one tenant may be at the stores at a time."""
        self._share = share
        self._next: deque[Item] = deque()
        self._refs = Claims[Item]()
        """Who is at the stores or waits for them, by ref."""
        self._at_stores: dict[Item, None] = {}
        self._busy: dict[str | None, int] = {}
        """Of each tenant, how many items are at the stores."""
        self._over: dict[str | None, deque[Item]] = {}
        """Of each tenant that has its share, what had its turn and waits for another one's end."""

    def __len__(self) -> int:
        """Return how many may have their turn now."""
        return len(self._next)

    @property
    def waits(self) -> bool:
        """Whether something waits for its turn, or for its tenant's."""
        return bool(self._next or self._over)

    def deal(self, share: int) -> None:
        """Let so many items of one tenant be at the stores at a time, from now on."""
        if share > self._share:
            self._next.extendleft(item for over in self._over.values() for item in reversed(over))
            self._over.clear()
        self._share = share

    def join(self, item: Item) -> None:
        """Put an item at the end of the line."""
        if self._refs.claim(item, (item.ref,)):
            self._next.append(item)

    def take(self) -> Item | None:
        """Take the first item whose ref is free, and whose tenant has a thread left."""
        while self._next:
            item = self._next.popleft()
            busy = self._busy.get(item.tenant, 0)
            if busy < self._share:
                self._busy[item.tenant] = busy + 1
                self._at_stores[item] = None
                return item
            self._over.setdefault(item.tenant, deque()).append(item)
        return None

    def done(self, item: Item) -> None:
        """Let those go on that waited for an item's tenant or ref."""
        self._busy[item.tenant] -= 1
        if not self._busy[item.tenant]:
            del self._busy[item.tenant]
        del self._at_stores[item]
        if over := self._over.get(item.tenant):
            self._next.appendleft(over.popleft())
            if not over:
                del self._over[item.tenant]
        self._refs.release(item)
        self._next.extend(self._refs.freed())

    def forget(self) -> None:
        """Let go all that waits. What is at the stores still counts in its tenant's share, and
        still has its ref: a store may take long over a Put, and it must not end behind a later one.
        """
        self._next.clear()
        self._over.clear()
        self._refs = Claims[Item]()
        for item in self._at_stores:
            self._refs.claim(item, (item.ref,))

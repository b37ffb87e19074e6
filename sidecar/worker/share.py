"""Which of several workers has which of many control streams. Pure: no clock, no Redis.

Fairness only: that no two own one stream is the lease's business. A worker takes streams up to its
share, gives one back when another has two fewer, and takes more than its share only of streams
that nobody else has taken for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.redis.members import Member

MOST_NAMES: Final = 1000


class Share:
    """One worker's share of the streams that it serves. Safe to use from several threads."""

    def __init__(self, serves: Sequence[str]) -> None:
        self._serves = frozenset(serves)
        self._owned: set[str] = set()
        self._given: set[str] = set()
        """Given back for another to take, and not seen with another yet."""
        self._unable: set[str] = set()
        """What this worker cannot serve now."""
        self._others: list[Member] = []
        self._names: dict[str, str] = {}
        """By id, of the workers seen last, also of those that have left."""
        self._may_give = 0
        self._lock = threading.Lock()

    @property
    def owned(self) -> frozenset[str]:
        """The streams that this worker owns now."""
        with self._lock:
            return frozenset(self._owned)

    def owns(self, stream: str) -> bool:
        """Tell whether this worker owns `stream` now."""
        with self._lock:
            return stream in self._owned

    @property
    def unable(self) -> frozenset[str]:
        """The streams that this worker cannot serve now."""
        with self._lock:
            return frozenset(self._unable)

    def cannot_serve(self, stream: str) -> None:
        """Note that this worker cannot serve `stream` now: it is no one to leave it to."""
        with self._lock:
            self._unable.add(stream)

    def can_serve(self, stream: str) -> None:
        """Note that this worker could serve `stream`."""
        with self._lock:
            self._unable.discard(stream)

    def is_shared(self, stream: str) -> bool:
        """Tell whether another worker that is alive can serve `stream`."""
        with self._lock:
            return any(stream in member.serves for member in self._others)

    def see(self, others: Iterable[Member]) -> None:
        """Learn which other workers are alive, and what they own."""
        with self._lock:
            self._others = [member for member in others if member.serves & self._serves]
            seen = {member.id: member.name for member in self._others}
            self._names = dict(list((seen | self._names).items())[:MOST_NAMES])
            taken = {stream for member in self._others for stream in member.owns}
            self._given = self._given - taken if self._others else set()
            fewest = min((len(member.owns) for member in self._others), default=len(self._owned))
            above = len(self._owned) - self._most()
            self._may_give = max(above, int(len(self._owned) - fewest > 1))

    def name_of(self, worker: str) -> str:
        """Return the name of another worker by its id; the id, if it was not seen."""
        with self._lock:
            return self._names.get(worker, worker)

    def may_take(self, stream: str) -> bool:
        """Tell whether to take `stream` at once, should it be free."""
        with self._lock:
            if not any(stream in member.serves for member in self._others):
                return True
            return stream not in self._given and len(self._owned) < self._most()

    def took(self, stream: str) -> None:
        """Note that this worker owns `stream`."""
        with self._lock:
            self._owned.add(stream)
            self._given.discard(stream)

    def lost(self, stream: str) -> None:
        """Note that this worker does not own `stream` any more."""
        with self._lock:
            self._owned.discard(stream)

    def gives(self, stream: str) -> bool:
        """Tell whether `stream`, which this worker owns, is to be given back now, and note it."""
        with self._lock:
            fewer = (
                len(member.owns) < len(self._owned) - 1
                for member in self._others
                if stream in member.serves
            )
            if self._may_give <= 0 or not any(fewer):
                return False
            self._may_give -= 1
            self._owned.discard(stream)
            self._given.add(stream)
            return True

    def _most(self) -> int:
        """Return how many streams are a fair share: the average, rounded up."""
        return -(-len(self._serves) // (1 + len(self._others)))

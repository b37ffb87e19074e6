"""When nothing moved while events waited: over all events of a window."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from sidecar.replay.timeline import End, Life

FAR_US: Final = 1 << 62
"""Later than any time. An ID may be anything."""
QUIET_US: Final = 2_000_000
"""From so long without an end on, while events waited, it is worth telling."""
MAX_QUIET: Final = 100
A_ROW: Final = 2
"""So many dead letters one after the other are a row."""


class Stall(NamedTuple):
    """A time without an end."""

    from_us: int
    to_us: int
    waiting: int
    """So many had come a good while before it continued, and ended then or later."""
    letters: int
    """So many dead letters in a row came right before it; 0 for less than a row."""
    tenants: int
    """Of so many tenants they were."""
    tenant: str
    """Whose they were, when all were of one."""


class Stalls:
    """What all events of a window tell of its stalls: two integers an event are kept."""

    def __init__(self) -> None:
        self._begun, self._ended = array("q"), array("q")
        self._letters: list[tuple[int, str]] = []

    def add(self, life: Life) -> None:
        """Take in a life."""
        if life.delay_s is None:
            return
        begun_us = min(life.begun_us, FAR_US)
        ended_us = max(begun_us, min(life.ended_us, FAR_US))
        self._begun.append(begun_us)
        self._ended.append(ended_us)
        if life.end is End.DEAD:
            self._letters.append((ended_us, life.tenant_id))

    def found(self) -> list[Stall]:
        """Return the stalls, the longest first."""
        return heapq.nlargest(MAX_QUIET, self._all(), key=lambda one: one.to_us - one.from_us)

    def _all(self) -> Iterator[Stall]:
        begun, ended, letters = sorted(self._begun), sorted(self._ended), sorted(self._letters)
        dead = [at for at, _ in letters]
        for at, then in pairwise(ended):
            if then - at < QUIET_US:
                continue
            # Those that had come a good while before it continued, less those that had ended.
            waiting = bisect_left(begun, then - QUIET_US // 2) - bisect_left(ended, then)
            if waiting > 0:
                row = letters[_row(ended, dead, at) : bisect_right(dead, at)]
                row = row if len(row) >= A_ROW else []
                whose = sorted({tenant for _, tenant in row})
                only = whose[0] if len(whose) == 1 else ""
                yield Stall(at, then, waiting, len(row), len(whose), only)


def _row(ended: list[int], dead: list[int], at_us: int) -> int:
    """Return where among the dead letters the row begins that nothing else ended after."""
    stop, upto = bisect_right(dead, at_us), bisect_right(ended, at_us)
    first = stop
    while first > 0:
        # A letter's time is cut to the millisecond: what ended in the same one may have been first.
        since = (dead[first - 1] // 1000 + 1) * 1000
        if upto - bisect_left(ended, since) > stop - bisect_left(dead, since):
            break
        first -= 1
    return first

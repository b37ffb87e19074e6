"""How many artifacts are carried at once: tried out, by what comes through. Pure: a clock is given.

One thread is best where a store answers at once, for threads wait for each other at the
interpreter's lock; hundreds are best where each request takes long. So laps are timed, in turns at
the width in use and at twice or half of it. Twice is kept when it brings clearly more, half when it
brings hardly less.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from typing import Final, Literal, Protocol

Threads = int | Literal["auto"]
AUTO: Final = "auto"

LEAST: Final = 2
"""Of a number that is fixed: of one thread a tenant would have all."""
MOST: Final = 256
DESCRIPTORS_EACH: Final = 6
LAP_S: Final = 0.1
LAP_ITEMS: Final = 4
"""A lap has so many artifacts at least, twice as many as are carried at once, and takes so long:
fewer say nothing, for those that began together end together."""
BETTER: Final = 1.2
"""Twice as many must bring so many times as much."""
NO_WORSE: Final = 0.9
"""Half as many must bring so many times as much."""
REST_LAPS: Final = 20
"""So many laps pass without a trial after one of each kind has failed."""
STALL_S: Final = 1.0
STALL_WIDTH: Final = 8
"""As many may be under way when none came through for so long: what hangs must not stop the rest,
and what comes back must not be overrun."""


class Width(Protocol):
    """How many items may be under way at once. Its user locks."""

    @property
    def at_once(self) -> int:
        """How many may be under way now."""

    def begins(self) -> None:
        """An item begins, and none is under way."""

    def done(self, *, waiting: bool, came_through: bool) -> None:
        """One item is done; `waiting`: another could have been under way beside it."""

    def stalled(self) -> bool:
        """Tell whether more may be under way for none having come through lately."""


class Fixed:
    """A width that the operator chose."""

    def __init__(self, at_once: int) -> None:
        self.at_once: Final = at_once

    def begins(self) -> None:
        """See `Width`."""

    def done(self, *, waiting: bool, came_through: bool) -> None:
        """See `Width`."""

    def stalled(self) -> bool:
        """See `Width`."""
        return False


class Tried:
    """A width that follows what comes through."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._kept = self._tried = 1
        """The width in use, and the one of this lap."""
        self._rate = 0.0
        """What came through a second, in the last lap at the width in use."""
        self._up = True
        """Whether the next trial is of more."""
        self._rest = 0
        self._last = clock()
        self._begin_lap()

    @property
    def at_once(self) -> int:
        """See `Width`."""
        return self._tried

    def begins(self) -> None:
        """See `Width`. Where nothing was asked for, nothing hung."""
        self._last = self._clock()

    def done(self, *, waiting: bool, came_through: bool) -> None:
        """See `Width`. A lap counts while something waits: else the width is not what limits."""
        self._last = now = self._clock()
        if not waiting:
            self._tried = self._kept
            self._begin_lap()
            return
        if self._before:
            self._before -= 1  # it began in the lap before
            self._began = now
            return
        self._items += 1
        self._through += came_through
        if self._items >= max(LAP_ITEMS, 2 * self._tried) and now - self._began >= LAP_S:
            self._end_lap(self._through / (now - self._began))

    def stalled(self) -> bool:
        """See `Width`."""
        if self._tried >= min(STALL_WIDTH, self._most) or self._clock() - self._last < STALL_S:
            return False
        self._kept = self._tried = min(STALL_WIDTH, self._most)
        self._begin_lap()
        return True

    def _begin_lap(self) -> None:
        self._before = self._tried
        self._items = self._through = 0
        self._began = self._clock()

    def _end_lap(self, rate: float) -> None:
        if not rate:
            self._kept = self._tried = max(1, self._kept // 2)  # an outage: there is no better
        elif self._tried == self._kept:
            self._rate = rate
            self._try_another()
        else:
            self._judge(rate)
        self._begin_lap()

    def _try_another(self) -> None:
        """Try more or fewer in the next lap, unless both were tried lately."""
        if self._rest:
            self._rest -= 1
            return
        other = self._kept * 2 if self._up else self._kept // 2
        if 1 <= other <= self._most:
            self._tried = other
        else:
            self._turn()

    def _judge(self, rate: float) -> None:
        """Keep what was tried, and go further that way, or turn."""
        if rate >= self._rate * (BETTER if self._up else NO_WORSE):
            self._kept, self._rate = self._tried, rate
            self._try_another()
        else:
            self._tried = self._kept
            self._turn()

    def _turn(self) -> None:
        self._up = not self._up
        if self._up:
            self._rest = REST_LAPS


def store_threads(value: str | int) -> Threads:
    """Read what `--store-threads` is given. Raises ValueError."""
    if value == AUTO:
        return AUTO
    match = re.fullmatch(r"\s*([0-9]{1,3})\s*", str(value))
    if not match or not LEAST <= int(match[1]) <= MOST:
        raise ValueError(f"write auto, or a number from {LEAST} to {MOST}")
    return int(match[1])


def most_at_once(threads: Threads, streams: int, *, streaming: bool) -> int:
    """Return how many artifacts of each of so many streams are carried at once, at most.

    Together so many as there are descriptors for: one on its way takes up to four. Stores that do
    not stream take the whole of each into memory: there are no more of these than ever.
    """
    if threads != AUTO:
        return threads
    if not streaming:
        return STALL_WIDTH
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(STALL_WIDTH, min(MOST, descriptors // DESCRIPTORS_EACH) // streams)


def width_of(threads: Threads, most: int, clock: Callable[[], float]) -> Width:
    """Return the width that `--store-threads` asks for."""
    return Tried(most, clock) if threads == AUTO else Fixed(threads)

"""What a contender costs: time, the processor's time, and how often its threads gave way.

Time depends on what else the machine does; the other two hardly do.
"""

from __future__ import annotations

import resource
import time
from typing import NamedTuple


class Cost(NamedTuple):
    """What a lap took, of this process and those that it started and waited for."""

    seconds: float
    processor_s: float
    switches: int
    """How often a thread waited and another one ran."""


class Lap:
    """Begins to measure when it is made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), _used()

    def end(self) -> Cost:
        """Return what it cost since it was made."""
        seconds = time.perf_counter() - self._began
        (processor_s, switches), before = _used(), self._used
        return Cost(seconds, processor_s - before[0], switches - before[1])


def _used() -> tuple[float, int]:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both), sum(one.ru_nvcsw for one in both)

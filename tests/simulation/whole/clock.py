"""The product's clocks and random names, taken from the simulation for the time of a run.

What the product is given, it is given; what it takes for itself (`time.time()`, `time.sleep()`,
`secrets.token_hex()`), it finds here: each module of the product that has `time` gets another one.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

Read = Callable[[], float]


class SimulatedTime:
    """Stands in for the module `time`: the clocks are those of the process that asks."""

    def __init__(self, schedule: Schedule, epoch_s: float) -> None:
        self._schedule = schedule
        self._epoch_s = epoch_s
        self._offsets: dict[object, float] = {}
        """By process, what its wall clock is off."""
        self.behind_s = 0.0
        """How far any of them was ever behind."""

    def set_wall(self, process: object, offset_s: float) -> None:
        """Let the wall clock of a process be off by so much."""
        self._offsets[process] = offset_s
        self.behind_s = max(self.behind_s, -offset_s)

    def time(self) -> float:
        """Return what `time.time` would."""
        offset_s = self._offsets.get(self._schedule.current.process, 0.0)
        return self._epoch_s + self._schedule.now + offset_s

    def time_ns(self) -> int:
        """Return what `time.time_ns` would."""
        return int(self.time() * 1e9)

    def monotonic(self) -> float:
        """Return what `time.monotonic` would."""
        return self._schedule.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        """Do what `time.sleep` would."""
        self._schedule.wait(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@cache
def _having_time(_loaded: int) -> list[ModuleType]:
    """Return the product's modules that have `time`, of so many that are loaded."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("sidecar", "store") and getattr(module, "time", None) is time
    ]


@contextmanager
def simulated(clock: SimulatedTime) -> Iterator[None]:
    """Let the product find `clock` and repeatable names."""
    names = count(1)
    found = _having_time(len(sys.modules))
    token_hex = secrets.token_hex
    for module in found:
        module.time = clock  # type: ignore[attr-defined]
    secrets.token_hex = lambda nbytes=None: f"{next(names):0{2 * (nbytes or 32)}x}"
    try:
        yield
    finally:
        secrets.token_hex = token_hex
        for module in found:
            module.time = time  # type: ignore[attr-defined]

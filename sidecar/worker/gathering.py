"""What metrics ask of Redis and of disks, at an interval, each step in a thread of its own.

A scrape asks nobody, however often it comes; a disk that hangs keeps no worker from telling the
others that it lives, nor what waits in the streams from being told: that is when one looks there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

from sidecar.telemetry.gathered import Gathered, Sample
from sidecar.worker.supervision import Supervisor

EVERY_S: Final = 5.0
SELDOM_S: Final = 600.0
"""For what costs a request to an object store, or a thousand commands."""
LEAVE_S: Final = 10.0
METRICS: Final = "metrics"


class Step(NamedTuple):
    """What is gathered together."""

    gather: Callable[[], Iterable[Sample]]
    every_s: float = EVERY_S


class Gathering:
    """Gathers until it is closed."""

    def __init__(
        self, steps: Mapping[str, Step], gathered: Gathered, supervisor: Supervisor
    ) -> None:
        """`steps` by what they gather (`catalogue.GATHERINGS`)."""
        self._gathered, self._supervisor = gathered, supervisor
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=one, name=f"metrics {one[0]}", daemon=True)
            for one in steps.items()
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End, without waiting long for what hangs."""
        self._stop.set()
        until = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, what: str, step: Step) -> None:
        gather = partial(self._gather, what, step)
        is_stopped = False
        while not is_stopped:
            done = self._supervisor.attempt(METRICS, what, gather)
            is_stopped = self._stop.wait(step.every_s if done else EVERY_S)

    def _gather(self, what: str, step: Step) -> bool:
        self._gathered.put(what, step.gather(), step.every_s)
        return True

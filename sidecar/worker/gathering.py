"""What metrics ask of Redis and of disks, at an interval, in a thread of its own.

A scrape asks nobody, however often it comes; and a disk that hangs keeps no worker from telling
the others that it lives.
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
"""For what costs a request to an object store."""
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
        self._steps, self._gathered, self._supervisor = steps, gathered, supervisor
        self._due = dict.fromkeys(steps, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, without waiting long for what hangs."""
        self._stop.set()
        self._thread.join(LEAVE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            for what, step in self._steps.items():
                if time.monotonic() >= self._due[what]:
                    self._supervisor.attempt(METRICS, what, partial(self._gather, what, step))
            self._stop.wait(EVERY_S)

    def _gather(self, what: str, step: Step) -> None:
        self._gathered.put(what, step.gather(), step.every_s)
        self._due[what] = time.monotonic() + step.every_s - EVERY_S / 2

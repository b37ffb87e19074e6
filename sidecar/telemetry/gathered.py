"""What was gathered last from Redis and from disks, as a scrape shows it.

A scrape asks nobody. What could not be gathered again is shown for a while, and then it is absent:
an old number is no number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sidecar.telemetry.catalogue import FROM_OUTSIDE, GATHERED, GATHERINGS, Meter

SHOWN_S: Final = 60.0
"""So long is shown what was due to be gathered again."""


class Sample(NamedTuple):
    """The value of one series."""

    meter: Meter
    value: float
    labels: tuple[str, ...] = ()


class _Found(NamedTuple):
    """What was gathered together."""

    samples: list[Sample]
    at: float
    """Seconds since the epoch."""
    until: float
    """Until when it is shown, by a clock that is never set."""


class Gathered(Collector):
    """What was gathered last. Safe to use from several threads."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._clock, self._wall_clock = clock, wall_clock
        self._found: dict[str, _Found] = {}

    def put(self, what: str, samples: Iterable[Sample], every_s: float) -> None:
        """Put what was just gathered in the place of what was before; it is due in `every_s`."""
        until = self._clock() + every_s + SHOWN_S
        self._found[what] = _Found(list(samples), self._wall_clock(), until)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric, without a series where nothing is known."""
        found = self._found.copy()
        when = GaugeMetricFamily(GATHERED.name, GATHERED.meaning, labels=GATHERED.labels)
        for what in GATHERINGS:
            when.add_metric([what], found[what].at if what in found else 0)
        families = {one: GaugeMetricFamily(one.name, one.meaning, labels=one.labels)
                    for one in FROM_OUTSIDE}  # fmt: skip
        now = self._clock()
        for sample in (each for one in found.values() if now < one.until for each in one.samples):
            families[sample.meter].add_metric(sample.labels, sample.value)
        yield from (when, *families.values())

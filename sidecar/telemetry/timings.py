"""Histograms that take many durations at a time: a relay has 20 µs for an event.

To observe one by one, as the client library has it, takes a lock and looks through all buckets.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from sidecar.telemetry.catalogue import BUCKETS_S, Meter

_BOUNDS: Final = (*map(str, map(float, BUCKETS_S)), "+Inf")


class Series:
    """The durations of one series. One thread may add, and others read meanwhile."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * len(_BOUNDS)
        self._sum_s = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Add a duration, of `count` events. Two clocks may make one that is below 0."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += count
        if seconds > 0:
            self._sum_s += seconds * count

    def add_all(self, seconds: Collection[float]) -> None:
        """Add durations, each of one event."""
        in_order, before = sorted(seconds), 0
        for bucket, bound in enumerate((*BUCKETS_S, math.inf)):
            upto = bisect_right(in_order, bound)
            self._counts[bucket] += upto - before
            before = upto
        self._sum_s += sum(in_order[bisect_right(in_order, 0.0) :])

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many durations are at most each bound, and the sum of all."""
        return list(zip(_BOUNDS, accumulate(self._counts.copy()), strict=True)), self._sum_s


class Timings(Collector):
    """One metric: a series for each combination of labels that was asked for."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._series: dict[tuple[str, ...], Series] = {}

    def series(self, *labels: str) -> Series:
        """Return the series with these labels; it is shown from now on."""
        return self._series.setdefault(labels, Series())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the metric."""
        meter = self._meter
        family = HistogramMetricFamily(meter.name, meter.meaning, labels=meter.labels)
        for labels, series in list(self._series.items()):
            buckets, sum_s = series.read()
            family.add_metric(labels, buckets, sum_s)
        yield family

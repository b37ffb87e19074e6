"""What a worker counts of itself; `telemetry.catalogue` has every metric by name."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.redis.errors import FULL
from sidecar.redis.forgotten import Part
from sidecar.telemetry import catalogue as c
from sidecar.telemetry.gathered import Gathered
from sidecar.telemetry.timings import Timings
from sidecar.wire.event import Reason
from sidecar.worker.policy import Mismatch
from sidecar.worker.timing import Took
from store import Corrupt, NotFound, Unavailable

_REASONS: Final = frozenset(Reason)
_ERRORS: Final = (Unavailable, NotFound, Corrupt, Mismatch)


@dataclass(frozen=True, slots=True)
class State:
    """What a relay is doing: one of `STATES`, and why."""

    state: str = "standby"
    detail: str = "starting"


_M = TypeVar("_M", Counter, Gauge)


def _made(registry: CollectorRegistry, kind: type[_M], meter: c.Meter) -> _M:
    return kind(meter.name, meter.meaning, meter.labels, registry=registry)


class Metrics:
    """The metrics of one process. Safe to use from several threads."""

    def __init__(self, log_dropped: Callable[[], int] = lambda: 0) -> None:
        """`log_dropped` tells how many log lines were dropped so far."""
        self._registry = CollectorRegistry()
        self.gathered = Gathered()
        self.delivery, self.stage = Timings(c.DELIVERY), Timings(c.STAGE)
        collectors = (_LogDropped(log_dropped), self.gathered, self.delivery, self.stage)
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        made = partial(_made, self._registry)
        made(Gauge, c.BUILD).labels(__version__, platform.python_version()).set(1)
        self.read, self.finished = made(Counter, c.READ), made(Counter, c.FINISHED)
        self.dead, self.conflicts = made(Counter, c.DEAD), made(Counter, c.CONFLICTS)
        self.retries, self.forgot = made(Counter, c.RETRIES), made(Counter, c.FORGOT)
        self.given_back, self.takeovers = made(Counter, c.GIVEN_BACK), made(Counter, c.TAKEOVERS)
        self.last_publish, self.state = made(Gauge, c.LAST_PUBLISH), made(Gauge, c.STATE)
        self.owner, self.full = made(Gauge, c.OWNER), made(Gauge, c.FULL)
        self.window, self.held = made(Gauge, c.WINDOW), made(Gauge, c.HELD)
        self.held_longest = made(Gauge, c.HELD_LONGEST)
        self.paused = made(Gauge, c.PAUSED)
        self.background_failures = made(Counter, c.BACKGROUND_FAILURES)
        self.background = made(Gauge, c.BACKGROUND_FAILING)
        for work in c.WORKS:
            self.background_failures.labels(work)
            self.background.labels(work)
        self._trim_blocked = made(Gauge, c.TRIM_BLOCKED)
        self._retired = made(Counter, c.RETIRED)
        self._retired_bytes = made(Counter, c.RETIRED_BYTES)
        for name in c.STORES:
            self.retired(name, 0, 0)

    def retired(self, store: str, refs: int, size_bytes: int) -> None:
        """Count what went from a store by keep rules."""
        self._retired.labels(store).inc(refs)
        self._retired_bytes.labels(store).inc(size_bytes)

    def background_failed(self, work: str, error: Exception) -> None:
        """Count a failure of background work."""
        del error
        self.background_failures.labels(work).inc()

    def background_failing(self, work: str, count: int) -> None:
        """Set how many steps of this work fail now."""
        self.background.labels(work).set(count)

    def trim_blocked(self, stream: str, by: Iterable[str]) -> None:
        """Set who keeps a stream from being trimmed as its policy wants: of `BLOCKERS`."""
        found = frozenset(by)
        for one in c.BLOCKERS:
            self._trim_blocked.labels(stream, one).set(one in found)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _LogDropped(Collector):
    """Asks for the count when it is scraped: what cannot be logged must not need a hook."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        """Yield the metric."""
        meter = c.LOG_DROPPED
        yield CounterMetricFamily(meter.name, meter.meaning, value=self._count())


class StreamMetrics:
    """The observer of one relay: counts what it hears, and remembers the state for /readyz."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self._metrics = metrics
        self.stream = stream
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.now = State()
        self._delivery = metrics.delivery.series(stream)
        self._wait, self._store, self._publish = (
            metrics.stage.series(stream, stage) for stage in c.STAGES
        )
        self._show_from_the_start()
        self.state("standby", "starting")

    def _show_from_the_start(self) -> None:
        """Make each series before there is anything to count: a rate wants to see it at 0."""
        metrics, stream = self._metrics, self.stream
        for metric in (
            metrics.read, metrics.conflicts, metrics.given_back, metrics.takeovers,
            metrics.last_publish, metrics.owner, metrics.window, metrics.paused, metrics.held,
            metrics.held_longest,
        ):  # fmt: skip
            metric.labels(stream)
        for counter, values in (
            (metrics.finished, c.OUTCOMES), (metrics.dead, Reason), (metrics.retries, c.ERRORS),
            (metrics.forgot, Part),
        ):  # fmt: skip
            for value in values:
                counter.labels(stream, value)

    def owned_while(self, owns: Callable[[], bool]) -> None:
        """Show at each scrape whether this worker owns the stream."""
        self._metrics.owner.labels(self.stream).set_function(owns)

    def read(self, count: int) -> None:
        """Count new entries."""
        self._metrics.read.labels(self.stream).inc(count)
        self._count("read", count)

    def committed(self, outcome: str, count: int) -> None:
        """Count finished entries; a dead letter's outcome is its reason."""
        if outcome in _REASONS:
            self._metrics.dead.labels(self.stream, outcome).inc(count)
            outcome = "dead"
        self._metrics.finished.labels(self.stream, outcome).inc(count)
        self._count(outcome, count)

    def conflict_of_tenants(self, count: int) -> None:
        """Count events whose event_id another tenant's event has."""
        self._metrics.conflicts.labels(self.stream).inc(count)

    def retried(self, error: BaseException) -> None:
        """Count a failed attempt."""
        found = (kind.__name__ for kind in _ERRORS if isinstance(error, kind))
        self._metrics.retries.labels(self.stream, next(found, "other")).inc()
        self._count("retries", 1)

    def stored(self, seconds: float) -> None:
        """Time an artifact."""
        self._store.add(seconds)

    def published(self, took: Took, seconds: float) -> None:
        """Time a run of events, which took Redis so many seconds."""
        if not took.published:
            return
        self._publish.add(seconds, took.published)
        self._wait.add_all(took.waits_s)
        self._delivery.add_all(took.deliveries_s)
        self._metrics.last_publish.labels(self.stream).set(took.last / 1e6)

    def state(self, state: str, detail: str) -> None:
        """Remember the relay's state."""
        self.now = State(state, detail)
        for name in c.STATES:
            self._metrics.state.labels(self.stream, name).set(name == state)
        self._metrics.full.labels(self.stream).set(detail.startswith(FULL))
        if state in ("standby", "stopped"):
            self.gauge(window=0, held=0, longest_s=0)  # it is the next owner's
            self.paused(0)

    def gave_back(self) -> None:
        """Count a lease that was given back."""
        self._metrics.given_back.labels(self.stream).inc()

    def took_over(self) -> None:
        """Count a stream that was taken over."""
        self._metrics.takeovers.labels(self.stream).inc()

    def forgot(self, part: str) -> None:
        """Count something that Redis forgot."""
        self._metrics.forgot.labels(self.stream, part).inc()

    def paused(self, count: int) -> None:
        """Set how many tenants are paused."""
        self._metrics.paused.labels(self.stream).set(count)

    def gauge(self, *, window: int, held: int, longest_s: float) -> None:
        """Set the gauges."""
        self._metrics.window.labels(self.stream).set(window)
        self._metrics.held.labels(self.stream).set(held)
        self._metrics.held_longest.labels(self.stream).set(longest_s)

    def take_counts(self) -> dict[str, int]:
        """Return what was counted since the last call, for the summary line."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def _count(self, name: str, count: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count

"""Every metric, by name, in one place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.redis.errors import FULL
from sidecar.redis.forgotten import Part
from sidecar.wire.event import Reason
from store import StoreError

STATES: Final = ("active", "standby", "halted", "waiting", "recovering", "stopped")
_REASONS: Final = frozenset(Reason)


@dataclass(frozen=True, slots=True)
class State:
    """What a relay is doing: one of `STATES`, and why."""

    state: str = "standby"
    detail: str = "starting"


_M = TypeVar("_M", Counter, Gauge)


def _made(kind: type[_M], registry: CollectorRegistry, name: str, help_: str, *labels: str) -> _M:
    return kind(name, help_, labels, registry=registry)


class Metrics:
    """The metrics of one process. Safe to use from several threads."""

    def __init__(self, log_dropped: Callable[[], int] = lambda: 0) -> None:
        """`log_dropped` tells how many log lines were dropped so far."""
        self._registry = CollectorRegistry()
        self._registry.register(_LogDropped(log_dropped))
        counter = partial(_made, Counter, self._registry)
        gauge = partial(_made, Gauge, self._registry)
        self.read = counter("sidecar_entries_read", "Control entries read", "stream")
        self.finished = counter(
            "sidecar_entries_finished",
            "Control entries acknowledged, by what became of them: published, duplicate, dead,"
            " dead already",
            "stream", "outcome",
        )  # fmt: skip
        self.dead = counter("sidecar_dead_letters", "Dead letters, by reason", "stream", "reason")
        self.conflicts = counter(
            "sidecar_conflicts_between_tenants",
            "Events whose event_id another tenant's event has",
            "stream",
        )
        self.retries = counter("sidecar_retries", "Failed attempts, by error", "stream", "error")
        self.stored = Histogram(
            "sidecar_store_seconds",
            "Time to resolve, verify and put one artifact",
            ["stream"],
            registry=self._registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.state = gauge(
            "sidecar_state", "1 for the state that the relay is in", "stream", "state"
        )
        self.full = gauge(
            "sidecar_redis_full", "1 while the relay waits for a Redis that is full", "stream"
        )
        self.given_back = counter(
            "sidecar_leases_given_back",
            "Times that the lease was given back, as this worker could not serve",
            "stream",
        )
        self.forgot = counter(
            "sidecar_redis_forgot",
            "Times that Redis was found to have forgotten a part of what it had",
            "stream", "part",
        )  # fmt: skip
        self.background_failures = counter(
            "sidecar_background_failures",
            "Failures of work beside relaying: trimming, archiving and the like",
            "work",
        )
        self.background = gauge(
            "sidecar_background_failing",
            "Streams on which this work beside relaying fails now",
            "work",
        )
        self.window = gauge("sidecar_window_entries", "Entries in memory", "stream")
        self.held = gauge("sidecar_held_tenants", "Tenants whose event is tried again", "stream")
        self.pending = gauge(
            "sidecar_pending_entries", "Entries read and not acknowledged", "stream"
        )

    def background_failed(self, work: str, error: Exception) -> None:
        """Count a failure of background work."""
        del error
        self.background_failures.labels(work).inc()

    def background_failing(self, work: str, count: int) -> None:
        """Set how many steps of this work fail now."""
        self.background.labels(work).set(count)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _LogDropped(Collector):
    """Asks for the count when it is scraped: what cannot be logged must not need a hook."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        """Yield the metric."""
        yield CounterMetricFamily(
            "sidecar_log_lines_dropped",
            "Log lines that could not be written, or not soon enough",
            value=self._count(),
        )


class StreamMetrics:
    """The observer of one relay: counts what it hears, and remembers the state for /readyz."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self._metrics = metrics
        self.stream = stream
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.now = State()
        for outcome in ("published", "duplicate", "dead"):
            metrics.finished.labels(stream, outcome)
        metrics.given_back.labels(stream)
        metrics.conflicts.labels(stream)
        for part in Part:
            metrics.forgot.labels(stream, part)
        self.state("standby", "starting")

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
        name = type(error).__name__ if isinstance(error, StoreError) else "other"
        self._metrics.retries.labels(self.stream, name).inc()
        self._count("retries", 1)

    def stored(self, seconds: float) -> None:
        """Time an artifact."""
        self._metrics.stored.labels(self.stream).observe(seconds)

    def state(self, state: str, detail: str) -> None:
        """Remember the relay's state."""
        self.now = State(state, detail)
        for name in STATES:
            self._metrics.state.labels(self.stream, name).set(name == state)
        self._metrics.full.labels(self.stream).set(detail.startswith(FULL))

    def gave_back(self) -> None:
        """Count a lease that was given back."""
        self._metrics.given_back.labels(self.stream).inc()

    def forgot(self, part: str) -> None:
        """Count something that Redis forgot."""
        self._metrics.forgot.labels(self.stream, part).inc()

    def gauge(self, *, window: int, held: int, pending: int) -> None:
        """Set the gauges."""
        self._metrics.window.labels(self.stream).set(window)
        self._metrics.held.labels(self.stream).set(held)
        self._metrics.pending.labels(self.stream).set(pending)

    def take_counts(self) -> dict[str, int]:
        """Return what was counted since the last call, for the summary line."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def _count(self, name: str, count: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count

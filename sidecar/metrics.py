"""Every metric, by name, in one place."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidecar.event import Reason
from store import StoreError

STATES: Final = ("active", "standby", "halted", "waiting", "recovering", "stopped")
_REASONS: Final = frozenset(Reason)


@dataclass(frozen=True, slots=True)
class State:
    """What a relay is doing: one of `STATES`, and why."""

    state: str = "standby"
    detail: str = "starting"


class Metrics:
    """The metrics of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        stream = ["stream"]
        self.read = Counter(
            "sidecar_entries_read", "Control entries read", stream, registry=registry
        )
        self.finished = Counter(
            "sidecar_entries_finished",
            "Control entries acknowledged, by what became of them: published, duplicate, dead,"
            " dead already",
            [*stream, "outcome"],
            registry=registry,
        )
        self.dead = Counter(
            "sidecar_dead_letters",
            "Dead letters, by reason",
            [*stream, "reason"],
            registry=registry,
        )
        self.retries = Counter(
            "sidecar_retries", "Failed attempts, by error", [*stream, "error"], registry=registry
        )
        self.stored = Histogram(
            "sidecar_store_seconds",
            "Time to resolve, verify and put one artifact",
            stream,
            registry=registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.state = Gauge(
            "sidecar_state", "1 for the state that the relay is in", [*stream, "state"],
            registry=registry,
        )  # fmt: skip
        self.window = Gauge(
            "sidecar_window_entries", "Entries in memory", stream, registry=registry
        )
        self.held = Gauge(
            "sidecar_held_tenants", "Tenants whose event is tried again", stream, registry=registry
        )
        self.pending = Gauge(
            "sidecar_pending_entries",
            "Entries read and not acknowledged",
            stream,
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class StreamMetrics:
    """The observer of one relay: counts what it hears, and remembers the state for /readyz."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self._metrics = metrics
        self._stream = stream
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.now = State()
        for outcome in ("published", "duplicate", "dead"):
            metrics.finished.labels(stream, outcome)
        self.state("standby", "starting")

    def read(self, count: int) -> None:
        """Count new entries."""
        self._metrics.read.labels(self._stream).inc(count)
        self._count("read", count)

    def committed(self, outcome: str, count: int) -> None:
        """Count finished entries; a dead letter's outcome is its reason."""
        if outcome in _REASONS:
            self._metrics.dead.labels(self._stream, outcome).inc(count)
            outcome = "dead"
        self._metrics.finished.labels(self._stream, outcome).inc(count)
        self._count(outcome, count)

    def retried(self, error: BaseException) -> None:
        """Count a failed attempt."""
        name = type(error).__name__ if isinstance(error, StoreError) else "other"
        self._metrics.retries.labels(self._stream, name).inc()
        self._count("retries", 1)

    def stored(self, seconds: float) -> None:
        """Time an artifact."""
        self._metrics.stored.labels(self._stream).observe(seconds)

    def state(self, state: str, detail: str) -> None:
        """Remember the relay's state."""
        self.now = State(state, detail)
        for name in STATES:
            self._metrics.state.labels(self._stream, name).set(name == state)

    def gauge(self, *, window: int, held: int, pending: int) -> None:
        """Set the gauges."""
        self._metrics.window.labels(self._stream).set(window)
        self._metrics.held.labels(self._stream).set(held)
        self._metrics.pending.labels(self._stream).set(pending)

    def take_counts(self) -> dict[str, int]:
        """Return what was counted since the last call, for the summary line."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def _count(self, name: str, count: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count

"""The worker's process: from settings to running relays, and to an exit code."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from structlog.typing import FilteringBoundLogger

from sidecar import __version__
from sidecar.errors import SidecarError, Unreachable
from sidecar.redis.embedded import EmbeddedServer
from sidecar.telemetry.tracing import exporting
from sidecar.wire.urls import redact
from sidecar.worker.exposed import warn_of_writers
from sidecar.worker.fleetstore import FleetStore
from sidecar.worker.health import BACKGROUND, FAILING, HealthServer
from sidecar.worker.housekeeping import Housekeeper
from sidecar.worker.metrics import Metrics, State, StreamMetrics
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.probing import Probing
from sidecar.worker.relay import Relay
from sidecar.worker.retaining import Relays, Sweep, Swept
from sidecar.worker.settings import Settings
from sidecar.worker.statuspage import Collect, StatusPage
from sidecar.worker.supervision import Supervisor
from sidecar.worker.threads import Beside, Threads
from sidecar.worker.wiring import Wiring, whoami

if TYPE_CHECKING:
    from sidecar.telemetry.exporting import Exporting

SUMMARY_EVERY_S: Final = 10.0
WAIT_TO_JOIN_S: Final = 2.0


def run(
    settings: Settings, log: FilteringBoundLogger, stop: threading.Event, *,
    log_dropped: Callable[[], int] = lambda: 0, collect: Collect = lambda *_: {},
    sweep: Sweep = lambda _: Swept(),
) -> int:  # fmt: skip
    """Run the worker until `stop` is set (or all is drained) and return the exit code.

    `log_dropped` tells how many log lines were dropped so far, for the metric; `collect` reads
    what the status page shows; `sweep` does a pass of the keep rules.

    Raises `SidecarError` for what keeps it from starting. A Redis or a store that is away keeps it
    only when no one watches its health: under an orchestrator (`--http`) it waits, and says so
    there, for a sidecar that exits would keep its pod from starting.
    """
    if stop.is_set():
        return _left_undone(settings)
    with ExitStack() as stack:
        return _Worker(settings, log, stop, log_dropped, collect, sweep).run(stack)


def _left_undone(settings: Settings) -> int:
    """Return the exit code of a worker that is stopped before it could begin."""
    return 3 if settings.drain else 0


class _Worker:
    """One process: its relays, and what runs beside them."""

    def __init__(
        self, settings: Settings, log: FilteringBoundLogger, stop: threading.Event,
        log_dropped: Callable[[], int], collect: Collect, sweep: Sweep,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._log = log
        self._stop = stop
        self._metrics = Metrics(log_dropped)
        self._observers = {
            stream: StreamMetrics(self._metrics, stream) for stream in settings.streams
        }
        self._threads = Threads(stop, log)
        self._supervisor = Supervisor(self._metrics, log)
        self._beat_s = min(settings.lease_s / 3, SUMMARY_EVERY_S)
        self._collect = collect
        self._sweep = sweep
        self._page = StatusPage(whoami(), self._states, log)

    def run(self, stack: ExitStack) -> int:
        """Start all, in the order in which each needs the others; `stack` ends it."""
        settings, log = self._settings, self._log
        warn_of_writers(settings, os.environ, log)
        traces = self._traces(stack) if settings.traces else None
        if settings.http:
            stack.callback(self._health(settings.http).close)
        own = None if settings.redis else stack.enter_context(_embedded(settings.data_dir, log))
        redis_url = own.url if own else settings.redis or ""
        notify_url = settings.notify_redis or redis_url
        wiring = Wiring(settings, redis_url, notify_url, self._supervisor, log, traces)
        stack.callback(wiring.close)
        self._begin_page(wiring, stack)
        while not self._is_joined(wiring):
            if self._stop.wait(WAIT_TO_JOIN_S):
                return _left_undone(settings)
        pipeline = wiring.pipeline()
        pool = wiring.pool(pipeline)
        stack.callback(pool.close)
        relays: list[Relay] = []
        housekeeper = wiring.housekeeper(
            self._beat_s, lambda: [held for relay in relays for held in relay.held],
            self._metrics.trim_blocked,
        )  # fmt: skip
        housekeeper.join()
        stack.callback(housekeeper.leave)
        relays += [
            wiring.relay(pipeline, pool, observer, partial(self._threads.beat, stream))
            for stream, observer in self._observers.items()
        ]
        self._show(wiring, stack)
        self._begin_beside(wiring, pipeline, relays, stack)
        log.info(
            "started", version=__version__, redis=redact(redis_url), streams=settings.streams,
            notify_stream=settings.notify_stream, source=redact(settings.source_url),
            fleet=redact(settings.fleet_url),
        )  # fmt: skip
        _calm_the_collector()
        self._threads.start(relays)
        self._watch(own, housekeeper, wiring.fleet_store)
        return self._threads.exit_code(drain=settings.drain)

    def _begin_beside(
        self, wiring: Wiring, pipeline: Pipeline, relays: Sequence[Relay], stack: ExitStack
    ) -> None:
        """Begin what does its work in a thread of its own; `stack` ends it."""
        settings = self._settings
        beside: list[Beside] = [Probing(wiring.fleet, wiring.share, self._supervisor)]
        if settings.archive:
            beside.append(wiring.archiving())
        if settings.keep or settings.source_keep:
            beside.append(wiring.retaining(
                self._sweep, Relays(lambda: [relay.window for relay in relays]),
                one_store=pipeline.one_store, went=self._metrics.retired,
            ))  # fmt: skip
        for one in beside:
            one.start()
            stack.callback(one.close)

    def _traces(self, stack: ExitStack) -> Exporting | None:
        """Return what sends traces, if the OTEL_… variables allow it; `stack` ends it."""
        traces = exporting(whoami(), lambda detail: self._log.warning("traces", detail=detail))
        if traces:
            stack.callback(traces.close)
        return traces

    def _show(self, wiring: Wiring, stack: ExitStack) -> None:
        """Fill the metrics with what is not counted, if anybody can see them."""
        for stream, observer in self._observers.items():
            observer.owned_while(partial(wiring.share.owns, stream))
            keys = wiring.keys[stream]
            for name in (keys.control, keys.notifications, keys.dead):
                self._metrics.trim_blocked(name, ())
        if self._settings.http:
            gathering = wiring.gathering(self._metrics.gathered)
            gathering.start()
            stack.callback(gathering.close)

    def _watch(
        self, own: EmbeddedServer | None, housekeeper: Housekeeper, fleet_store: FleetStore
    ) -> None:
        """Do what runs beside the relays, until the last of them has ended."""
        threads, summarise = self._threads, partial(_summarise, self._observers, self._log)
        summary_at = time.monotonic() + SUMMARY_EVERY_S
        while threads.running():
            threads.wait(self._beat_s)
            if own and not self._stop.is_set():
                threads.refuse(_kept(own, self._log))
            housekeeper.work()
            threads.refuse(fleet_store.watch())
            if time.monotonic() >= summary_at:
                self._supervisor.attempt("summary", "", summarise)
                summary_at += SUMMARY_EVERY_S
        summarise()

    def _health(self, address: str) -> HealthServer:
        page = self._page.answers() if self._settings.http_status_page else {}
        return HealthServer(
            address, stuck=self._threads.stuck, states=self._states,
            metrics=self._metrics.exposition, more=page,
        )  # fmt: skip

    def _begin_page(self, wiring: Wiring, stack: ExitStack) -> None:
        """Let the status page, if it is wanted, show what is on the servers."""
        if self._settings.http_status_page:
            keys = list(wiring.keys.values())
            self._page.begin(partial(self._collect, *wiring.sides(), keys))
            stack.callback(self._page.close)

    def _states(self) -> dict[str, State]:
        """Return what each relay does, and what of the work beside them fails."""
        states = {stream: seen.now for stream, seen in self._observers.items()}
        if failing := self._supervisor.failing():
            states[BACKGROUND] = State(FAILING, "; ".join(failing))
        return states

    def _is_joined(self, wiring: Wiring) -> bool:
        """Join the deployment; tell whether it could be reached, if that may be waited for."""
        settings = self._settings
        try:
            wiring.fleet  # noqa: B018 -- what is wrong with it is said also while Redis is away
            wiring.check_servers()
            wiring.check_beside()
            wiring.source  # noqa: B018 -- as above
            wiring.fleet_store.join(self._log, adopt=settings.adopt_fleet_store, by=whoami())
            wiring.fleet_store.tell(wiring.source, self._log)
            if not settings.archive:
                wiring.without_archive()
        except Unreachable as error:
            if not settings.http or settings.drain:
                raise
            self._log.warning("waiting", detail=str(error))
            for observer in self._observers.values():
                observer.state("waiting", str(error))
            return False
        return True


def _calm_the_collector() -> None:
    """Let the garbage collector look less often: an event makes a dozen objects and no cycle.

    At the default of 700 new objects it takes a quarter of the relay's time (`make bench`). What is
    there by now stays: it need not be looked at.
    """
    gc.freeze()
    gc.set_threshold(50_000)


def _summarise(observers: Mapping[str, StreamMetrics], log: FilteringBoundLogger) -> None:
    for stream, observer in observers.items():
        counts = observer.take_counts()
        if counts:
            log.info("summary", stream=stream, seconds=SUMMARY_EVERY_S, **counts)


@contextmanager
def _embedded(data_dir: Path, log: FilteringBoundLogger) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(data_dir)
    log.info("embedded server", url=redact(server.url), owner=server.owner)
    try:
        yield server
    finally:
        server.close()


def _kept(server: EmbeddedServer, log: FilteringBoundLogger) -> SidecarError | None:
    """Keep the embedded server up; return why that cannot be."""
    try:
        done = server.keep()
    except SidecarError as error:
        return error
    except OSError as error:
        log.warning("embedded server not kept up yet", detail=str(error))
        return None
    if done:
        log.warning("embedded server kept up", done=done, url=redact(server.url))
    return None

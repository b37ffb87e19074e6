"""The only place that wires things: from settings to running relays."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

import store
from sidecar import __version__
from sidecar.archiving import Archiving
from sidecar.embedded import EmbeddedServer
from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.event import KNOWN_TYPES
from sidecar.health import HealthServer
from sidecar.history.archiver import Archiver
from sidecar.history.live import LiveHistory
from sidecar.housekeeping import Housekeeper
from sidecar.metrics import Metrics, StreamMetrics
from sidecar.pipeline import Pipeline, Rules
from sidecar.redis.client import Client, Side, check_server, check_stream, connect, redact
from sidecar.redis.keys import Keys
from sidecar.redis.members import Members
from sidecar.redis.publisher import Publisher
from sidecar.redis.retention import Retention
from sidecar.redis.source import ControlStream
from sidecar.relay import IDLE_BLOCK_S, Options, Relay
from sidecar.settings import Settings
from sidecar.share import Share
from sidecar.stores import open_store
from store import Capability, Store

SUMMARY_EVERY_S: Final = 10.0
WAIT_FOR_REDIS_S: Final = 2.0


def run(settings: Settings, log: FilteringBoundLogger, stop: threading.Event) -> int:
    """Run the worker until `stop` is set (or all is drained) and return the exit code.

    Raises `SidecarError` for what keeps it from starting. A Redis that is away keeps it only when
    no one watches its health: under an orchestrator (`--http`) it waits, and says so there, for a
    sidecar that exits would keep its pod from starting.
    """
    _calm_the_collector()
    metrics = Metrics()
    observers = {stream: StreamMetrics(metrics, stream) for stream in settings.streams}
    with ExitStack() as stack:
        threads = _Threads(stop, log)
        if settings.http:
            health = HealthServer(
                settings.http,
                alive=threads.alive,
                states=lambda: {stream: seen.now for stream, seen in observers.items()},
                metrics=metrics.exposition,
            )
            stack.callback(health.close)
        redis_url = settings.redis or stack.enter_context(_embedded(settings.data_dir, log)).url
        notify_url = settings.notify_redis or redis_url
        source, fleet = open_store(settings.source_url), open_store(settings.fleet_url)
        _check_fleet(fleet, settings, log)
        pipeline = Pipeline(source, fleet, _rules(settings))
        pool = stack.enter_context(_pool(settings.store_threads))
        while not _servers_answer(settings, redis_url, notify_url, observers, log):
            if stop.wait(WAIT_FOR_REDIS_S):
                return 0
        share = Share(settings.streams)
        housekeeper = _housekeeper(settings, redis_url, notify_url, share, log)
        housekeeper.work()  # before a relay takes a stream that is another's share
        stack.callback(housekeeper.leave)
        relays = [
            _relay(settings, redis_url, notify_url, stream, pipeline, pool, observer, share, log)
            for stream, observer in observers.items()
        ]
        if settings.archive:
            archiving = _archiving(settings, redis_url, notify_url, fleet, share, log)
            archiving.start()
            stack.callback(archiving.close)
        log.info(
            "started", version=__version__, redis=redact(redis_url), streams=settings.streams,
            notify_stream=settings.notify_stream, source=redact(settings.source_url),
            fleet=redact(settings.fleet_url),
        )  # fmt: skip
        threads.start(relays)
        summary_at = time.monotonic() + SUMMARY_EVERY_S
        while threads.running():
            threads.wait(_beat_s(settings))
            housekeeper.work()
            if time.monotonic() >= summary_at:
                _summarise(observers, log)
                summary_at += SUMMARY_EVERY_S
        _summarise(observers, log)
        return threads.exit_code(drain=settings.drain)


def _calm_the_collector() -> None:
    """Let the garbage collector look less often: an event makes a dozen objects and no cycle.

    At the default of 700 new objects it takes a quarter of the relay's time (`make bench`).
    """
    gc.freeze()
    gc.set_threshold(50_000)


def _check_fleet(fleet: Store, settings: Settings, log: FilteringBoundLogger) -> None:
    if Capability.PINNED_GET in store.capabilities(fleet):
        return
    detail = (
        f"--fleet-store {redact(settings.fleet_url)}: the backend {fleet.name!r} keeps no"
        " versions, so a notification cannot be resolved once its ref is rewritten"
    )
    if not settings.allow_unpinned:
        raise UsageError(
            f"{detail}; choose one that declares pinned-get, such as file, or accept that with"
            " --allow-unpinned"
        )
    log.warning("unpinned", detail=detail)


def _rules(settings: Settings) -> Rules:
    return Rules(
        types=KNOWN_TYPES | set(settings.allow_type),
        tenant_scope=settings.tenant_scope,
        max_artifact_bytes=settings.max_artifact_bytes,
    )


def _servers_answer(
    settings: Settings,
    redis_url: str,
    notify_url: str,
    observers: Mapping[str, StreamMetrics],
    log: FilteringBoundLogger,
) -> bool:
    """Check the servers; tell whether they could be reached, if that may be waited for."""
    try:
        _check_servers(settings, redis_url, notify_url)
    except Unreachable as error:
        if not settings.http or settings.drain:
            raise
        log.warning("waiting", detail=str(error))
        for observer in observers.values():
            observer.state("waiting", str(error))
        return False
    return True


def _check_servers(settings: Settings, redis_url: str, notify_url: str) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
    for stream in settings.streams:
        with connect(redis_url, key=stream) as client:
            check_server(client, redis_url, writes=True)
            check_stream(client, redis_url, stream)
    keys = Keys.of(settings.streams[0], settings.notify_stream, settings.dead_stream)
    with connect(notify_url, key=keys.notifications) as client:
        check_server(client, notify_url, writes=True)
        check_stream(client, notify_url, keys.notifications)
        check_stream(client, notify_url, keys.dead)


def _relay(
    settings: Settings,
    redis_url: str,
    notify_url: str,
    stream: str,
    pipeline: Pipeline,
    pool: ThreadPoolExecutor,
    observer: StreamMetrics,
    share: Share,
    log: FilteringBoundLogger,
) -> Relay:
    keys = Keys.of(stream, settings.notify_stream, settings.dead_stream)
    client = connect(redis_url, key=stream)
    blocking = connect(redis_url, key=stream, block_s=IDLE_BLOCK_S)
    notify: Client = connect(notify_url, key=keys.notifications)
    return Relay(
        stream,
        ControlStream(client, blocking, keys),
        Publisher(
            notify,
            keys,
            lease_s=settings.lease_s,
            dedup_window_s=settings.dedup_window_s,
            wait_replicas=settings.wait_replicas,
        ),
        pipeline,
        pool,
        Options(
            lease_s=settings.lease_s,
            retry_budget_s=settings.retry_budget_s,
            max_consecutive_dead=settings.max_consecutive_dead,
            drain=settings.drain,
        ),
        observer,
        log.bind(stream=stream),
        share=share,
    )


def _beat_s(settings: Settings) -> float:
    return min(settings.lease_s / 3, SUMMARY_EVERY_S)


def _housekeeper(
    settings: Settings, redis_url: str, notify_url: str, share: Share, log: FilteringBoundLogger
) -> Housekeeper:
    notify = connect(notify_url, key=settings.notify_stream)
    keys = [
        Keys.of(stream, settings.notify_stream, settings.dead_stream) for stream in settings.streams
    ]
    members = Members(
        notify, keys[0], name=f"{socket.gethostname()}:{os.getpid()}", serves=settings.streams,
        lease_s=settings.lease_s,
    )  # fmt: skip
    policies = {
        "control": settings.trim_control,
        "notifications": settings.trim_notifications,
        "dead": settings.trim_dead,
    }
    retentions = {
        one.control: Retention(
            connect(redis_url, key=one.control),
            notify,
            one,
            policies,
            dedup_window_s=settings.dedup_window_s,
            archived_first=settings.archive,
        )
        for one in keys
    }
    return Housekeeper(members, share, retentions, _beat_s(settings), log)


def _archiving(
    settings: Settings,
    redis_url: str,
    notify_url: str,
    fleet: Store,
    share: Share,
    log: FilteringBoundLogger,
) -> Archiving:
    """Return what keeps the archive up. Raises `UsageError` when the store cannot hold one."""
    store_ = store.versioned(fleet, Capability.LIST, Capability.STREAM)
    if store_ is None:
        raise UsageError(
            f"--archive: the backend {fleet.name!r} cannot hold an archive; choose one that"
            " declares list and stream, such as file"
        )
    keys = {
        stream: Keys.of(stream, settings.notify_stream, settings.dead_stream)
        for stream in settings.streams
    }
    archivers = {}
    for stream, one in keys.items():
        notify = Side.open(notify_url, one.notifications)
        live = LiveHistory(Side.open(redis_url, stream), notify, [one], store_)
        archivers[stream] = Archiver(live, store_, notify.client, one)
    return Archiving(archivers, keys, share, settings.archive_every_s, log)


class _Threads:
    """A thread a relay. When one dies of a bug, all stop: a worker must not look healthy then."""

    def __init__(self, stop: threading.Event, log: FilteringBoundLogger) -> None:
        self._stop = stop
        self._log = log
        self._died = False
        self._ended = threading.Semaphore(0)
        self._relays: Sequence[Relay] = ()
        self._threads: list[threading.Thread] = []

    def start(self, relays: Sequence[Relay]) -> None:
        self._relays = relays
        self._threads = [
            threading.Thread(target=self._run, args=(relay,), name="relay") for relay in relays
        ]
        for thread in self._threads:
            thread.start()

    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def alive(self) -> bool:
        return not self._died

    def wait(self, timeout_s: float) -> None:
        """Wait until a relay ends, or so long."""
        self._ended.acquire(timeout=timeout_s)

    def exit_code(self, *, drain: bool) -> int:
        if self._died:
            return SidecarError.exit_code
        incomplete = drain and not all(relay.complete for relay in self._relays)
        return 3 if incomplete else 0

    def _run(self, relay: Relay) -> None:
        try:
            relay.run(self._stop)
        except Exception:  # noqa: BLE001 -- whatever it is, no relay may die unseen
            self._died = True
            self._stop.set()
            self._log.exception("a relay died; this is a bug, please report it")
        finally:
            self._ended.release()


def _summarise(observers: dict[str, StreamMetrics], log: FilteringBoundLogger) -> None:
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


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)

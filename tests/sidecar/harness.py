"""A rig that drives the relay as production does: real server, real scripts, real threads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import redis
import structlog
from structlog.typing import FilteringBoundLogger

from sidecar.ops.sweeping import sweep
from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Publisher
from sidecar.redis.retention import KINDS, Retention, Trimmed
from sidecar.redis.scan import server_time_us
from sidecar.redis.source import ControlStream
from sidecar.redis.tenures import Outage
from sidecar.wire.event import RESERVED
from sidecar.wire.signing import Signer
from sidecar.worker import app
from sidecar.worker.host import Host, Route, Traces
from sidecar.worker.outages import Outages
from sidecar.worker.ownership import IDLE_BLOCK_S
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.relay import Relay
from sidecar.worker.settings import Options, Settings
from sidecar.worker.share import Share
from sidecar.worker.storepool import StorePool
from sidecar.worker.timing import Took
from store import Artifact, ArtifactReader, NotFound, Position, checksum_of
from store.memory import MemoryStore

CONTROL: Final = "control:events"
NOTIFICATIONS: Final = "control:notifications"
PATIENCE_S: Final = 60.0
Found = TypeVar("Found")
WINDOW_S: Final = 7 * 86_400.0
"""How long a worker remembers unless it is told otherwise."""


def eventually(holds: Callable[[], Found], what: str = "") -> Found:
    """Wait until `holds()` is true; return that, for a second look may find something else.

    Fails the test when it takes too long.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never came true: {what or holds}"
        time.sleep(0.005)
    return found


def last_said(run: Running, words: str) -> bool:
    """Tell whether the state that the relay told last has these words in its detail."""
    return bool(run.observer.states) and words in run.observer.states[-1][1]


def silent_log() -> FilteringBoundLogger:
    """Return a logger that takes every line, the debug ones too, and shows none."""
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[],
        wrapper_class=structlog.make_filtering_bound_logger(10),
    )
    return log


@dataclass
class Recorder:
    """An observer that keeps what it hears."""

    states: list[tuple[str, str]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    retries: list[BaseException] = field(default_factory=list)
    read_count: int = 0
    given_back: int = 0
    took: list[Took] = field(default_factory=list)
    conflicts_of_tenants: int = 0
    paused_now: int = 0
    beats: int = 0
    forgotten: list[str] = field(default_factory=list)

    def read(self, count: int) -> None:
        """Count entries read."""
        self.read_count += count

    def committed(self, outcome: str, count: int) -> None:
        """Count entries finished."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count

    def conflict_of_tenants(self, count: int) -> None:
        """Count them."""
        self.conflicts_of_tenants += count

    def retried(self, error: BaseException) -> None:
        """Keep the error."""
        self.retries.append(error)

    def stored(self, seconds: float) -> None:
        """Take no notice."""

    def state(self, state: str, detail: str) -> None:
        """Keep the state."""
        self.states.append((state, detail))

    def gave_back(self) -> None:
        """Count it."""
        self.given_back += 1

    def forgot(self, part: str) -> None:
        """Keep it."""
        self.forgotten.append(str(part))

    def published(self, took: Took, seconds: float) -> None:
        """Keep what the events took."""
        del seconds
        self.took.append(took)

    def paused(self, count: int) -> None:
        """Keep it."""
        self.paused_now = count

    def gauge(self, *, window: int, held: int, longest_s: float) -> None:
        """Take no notice."""

    def beat(self) -> None:
        """Count it."""
        self.beats += 1

    @property
    def state_now(self) -> str:
        """The last state told."""
        return self.states[-1][0] if self.states else ""

    def count(self, state: str) -> int:
        """Return how often this state was entered."""
        return sum(1 for name, _ in self.states if name == state)


class SpyStore(MemoryStore):
    """A memory store that counts, and that a test can make fail or wait; not for records of logs,
    which a worker puts there as it starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.puts: list[str] = []
        self.on_get: Callable[[str], None] = lambda _: None
        self.on_put: Callable[[str], None] = lambda _: None

    def get(self, ref: str, **how: Any) -> Artifact:
        """Get, after the test's hook."""
        if not ref.startswith(RESERVED):
            self.gets.append(ref)
            self.on_get(ref)
        return super().get(ref, **how)

    def open(self, ref: str, **how: Any) -> ArtifactReader:
        """Open, after the same hook."""
        self.gets.append(ref)
        self.on_get(ref)
        return super().open(ref, **how)

    def put(self, ref: str, data: Any, manifest: Any, *, position: Position | None = None) -> None:
        """Put, after the test's hook; a stream is put so, too."""
        self.puts.append(ref)
        self.on_put(ref)
        super().put(ref, data, manifest, position=position)

    def plant(self, ref: str, data: bytes, manifest: bytes = b"{}") -> None:
        """Put behind the hook's back."""
        super().put(ref, data, manifest)


class PlainStore:
    """The least that a third party's store has: no versions, no position, no listing."""

    name = "plain"

    def __init__(self) -> None:
        self.pairs: dict[str, Artifact] = {}

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Keep the pair."""
        self.pairs[ref] = Artifact(data, manifest)

    def get(self, ref: str) -> Artifact:
        """Return the pair."""
        if ref not in self.pairs:
            raise NotFound(ref)
        return self.pairs[ref]

    def exists(self, ref: str) -> bool:
        """Tell whether there is one."""
        return ref in self.pairs


class Running:
    """A relay in a thread of its own."""

    def __init__(self, relay: Relay, observer: Recorder, keys: Keys) -> None:
        self.relay = relay
        self.observer = observer
        self.keys = keys
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.relay.run(self._stop)
        except BaseException as error:  # noqa: BLE001 -- the test thread raises it
            self.error = error

    def finish(self) -> bool:
        """Wait until it ends by itself; return whether a drain was complete."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"the relay does not end: {self.observer.states[-5:]}"
        if self.error is not None:
            raise self.error
        return self.relay.complete

    def stop(self) -> None:
        """Stop it and wait for its end."""
        self._stop.set()
        self.finish()


class AtWork:
    """A whole worker in a thread of its own."""

    def __init__(self, settings: Settings, log: FilteringBoundLogger) -> None:
        self.codes: list[int] = []
        """Where its exit code will be."""
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings, log), daemon=True)
        self._thread.start()

    def _run(self, settings: Settings, log: FilteringBoundLogger) -> None:
        self.codes.append(app.run(settings, log, self.stop, sweep=sweep))

    def end(self) -> None:
        """Stop it and wait for its end."""
        self.stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the worker does not end"


@contextmanager
def at_work(settings: Settings, log: FilteringBoundLogger | None = None) -> Iterator[AtWork]:
    """Run a worker for as long as the block lasts; silent, unless there is a log."""
    worker = AtWork(settings, log or silent_log())
    try:
        yield worker
    finally:
        worker.end()


@dataclass
class Rig:
    """A server, two stores, and everything that a test does with a control stream."""

    url: str
    client: redis.Redis
    source: Any = field(default_factory=SpyStore)
    fleet: Any = field(default_factory=SpyStore)
    control: str = CONTROL
    notify: str = NOTIFICATIONS
    rules: Rules = field(default_factory=Rules)
    lease_s: float = 1.0
    dedup_window_s: float = 3600.0
    wait_replicas: int = 0
    stream_class: type[ControlStream] = ControlStream
    threads: int = 4
    outages: list[Outage] = field(default_factory=list)
    signer: Signer | None = None
    sent: dict[str, str] = field(default_factory=dict)
    """Entry ID by event_id, of what was produced first."""

    @property
    def keys(self) -> Keys:
        """The key names."""
        return Keys.of(self.control, self.notify)

    # --- the producer ----------------------------------------------------------------------

    def add(self, raw: bytes | str, **fields: bytes | str) -> str:
        """Append one entry with this value of `event`; return its ID."""
        entry: Any = {"event": raw, **fields}
        answer: Any = self.client.xadd(self.control, entry)
        return str(answer.decode())

    def emit(
        self, event_id: str, *, tenant: str = "t", kind: str = "run.abort", **more: Any
    ) -> str:
        """Append an event without an artifact, unless `more` names one."""
        body = {"event_id": event_id, "type": kind, "tenant_id": tenant, **more}
        entry_id = self.add(json.dumps(body, ensure_ascii=False))
        self.sent.setdefault(event_id, entry_id)
        return entry_id

    def emit_artifact(
        self,
        event_id: str,
        *,
        tenant: str = "t",
        ref: str | None = None,
        data: bytes | None = None,
        put: bool = True,
        **more: Any,
    ) -> str:
        """Put an artifact (unless told not to) and append the event that names it."""
        ref = ref or ref_of(event_id)
        data = data_of(event_id) if data is None else data
        if put:
            self.plant(ref, data)
        return self.emit(
            event_id, tenant=tenant, artifact_ref=ref, checksum=checksum_of(data), **more
        )

    def plant(self, ref: str, data: bytes) -> None:
        """Put an artifact at the source."""
        plant = getattr(self.source, "plant", self.source.put)
        plant(ref, data, manifest_of(data))

    # --- the relay -------------------------------------------------------------------------

    @contextmanager
    def relay(
        self, pipeline: Pipeline | None = None, publisher_url: str | None = None,
        traces: Traces | None = None, **options: Any,
    ) -> Iterator[Running]:  # fmt: skip
        """Run a relay for as long as the block lasts."""
        usual = {"lease_s": self.lease_s, "retry_budget_s": 0.0, "store_threads": 8}
        options = usual | options
        keys = self.keys
        with ExitStack() as stack:
            pool = StorePool(self.threads)
            stack.callback(pool.close)
            clients = [
                connect(self.url),
                connect(self.url, block_s=IDLE_BLOCK_S),
                connect(publisher_url or self.url),
            ]
            for client in clients:
                stack.callback(client.close)
            observer = Recorder()
            publisher = Publisher(
                clients[2], keys,
                lease_s=options["lease_s"], dedup_window_s=self.dedup_window_s,
                wait_replicas=self.wait_replicas, signer=self.signer,
            )  # fmt: skip
            relay = Relay(
                Route(self.control, self.stream_class(clients[0], clients[1], keys), publisher),
                pipeline or Pipeline(self.source, self.fleet, self.rules),
                Host(
                    pool,
                    Share([self.control]),
                    observer.beat,
                    traces=traces,
                    outages=Outages(self.outages.append),
                ),
                Options(**options),
                observer,
                silent_log(),
            )
            run = Running(relay, observer, keys)
            try:
                yield run
            finally:
                run.stop()

    def drain(self, **options: Any) -> Recorder:
        """Run a relay until nothing is left; it must be able to finish everything."""
        with self.relay(drain=True, **options) as run:
            assert run.finish(), "the drain left something behind"
            return run.observer

    # --- what came of it -------------------------------------------------------------------

    def notifications(self) -> list[dict[str, Any]]:
        """Return the notifications' events, each with `origin` and `entry` besides."""
        found: Any = self.client.xrange(self.notify)
        return [
            json.loads(fields[b"event"])
            | {"origin": fields[b"origin"].decode(), "entry": entry_id.decode()}
            for entry_id, fields in found
        ]

    def published(self) -> list[str]:
        """Return the event_ids of the notifications, in order."""
        return [note["event_id"] for note in self.notifications()]

    def letters(self) -> list[dict[str, bytes]]:
        """Return the dead letters."""
        found: Any = self.client.xrange(self.keys.dead)
        return [{name.decode(): value for name, value in fields.items()} for _, fields in found]

    def reasons(self) -> list[str]:
        """Return the reasons of the dead letters, in order."""
        return [letter["reason"].decode() for letter in self.letters()]

    def pending(self) -> int:
        """Return how many entries are pending."""
        summary: Any = self.client.xpending(self.control, self.keys.group)
        return int(summary["pending"])

    def audit(self) -> None:
        """Assert what must hold of the notifications and letters, whatever happened (G1 to G5)."""
        notes = self.notifications()
        ids = [note["event_id"] for note in notes]
        assert len(set(ids)) == len(ids), "an event_id is published twice"
        clocks = [note["control_version"] for note in notes]
        assert clocks == sorted(set(clocks)), "control_version does not rise"
        for note in notes:
            stamp = note["control_version"]
            assert note["entry"] == f"{stamp // 1000}-{stamp % 1000}"
            if note.get("artifact_ref"):
                pinned = self.fleet.get(
                    note["artifact_ref"],
                    checksum=note["checksum"],
                    manifest_checksum=note["manifest_checksum"],
                )
                assert checksum_of(pinned.data) == note["checksum"]
        by_tenant: dict[str, list[tuple[int, int]]] = {}
        for note in notes:
            ms, _, seq = note["origin"].rpartition("/")[2].partition("-")
            by_tenant.setdefault(note.get("tenant_id", ""), []).append((int(ms), int(seq)))
        for tenant, origins in by_tenant.items():
            assert origins == sorted(origins), f"tenant {tenant!r} is out of order"
        dead = [letter["origin"] for letter in self.letters()]
        assert len(set(dead)) == len(dead), "an origin has two dead letters"


def note_nothing_to_prune(client: redis.Redis, keys: Keys) -> None:
    """Note what a worker does that found nothing to prune, unless something is noted.

    It asks for each shard of the index, the first time: that takes longer than most tests.
    """
    now_us = server_time_us(client)
    overlong_us = Pruning(client, keys, dedup_window_s=WINDOW_S)._overlong_us(None, now_us, 0)
    client.set(keys.pruned, f"{now_us} {overlong_us}", nx=True)


def trim_once(retention: Retention) -> list[Trimmed]:
    """Trim each stream a round."""
    return [retention.trim_one(kind) for kind in KINDS]


def ref_of(event_id: str) -> str:
    """Return the ref that `Rig.emit_artifact` uses."""
    return f"artifacts/{event_id}"


def data_of(event_id: str) -> bytes:
    """Return the data that `Rig.emit_artifact` uses."""
    return f"data of {event_id}".encode()


def manifest_of(data: bytes) -> bytes:
    """Return the manifest that `Rig.plant` uses."""
    return json.dumps({"size": len(data)}).encode()

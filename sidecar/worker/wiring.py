"""From settings to the parts of a worker: what reads and writes where."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

import store
from sidecar import __version__
from sidecar.errors import Unreachable, UsageError
from sidecar.history.archiver import Archiver
from sidecar.history.live import LiveHistory
from sidecar.history.sealing import Sealer
from sidecar.redis import takeovers, tenures
from sidecar.redis.archived import hold, let_go
from sidecar.redis.beside import second, was_read
from sidecar.redis.client import Client, Side, check_server, check_stream, connect
from sidecar.redis.errors import translated
from sidecar.redis.fitness import Fitness, check_format, check_letters, check_owner
from sidecar.redis.fleet import noted
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held, Members, new_id
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Publisher
from sidecar.redis.retention import Retention
from sidecar.redis.scripts import Shelf
from sidecar.redis.source import ControlStream
from sidecar.stores import named, open_store
from sidecar.telemetry import outside
from sidecar.telemetry.gathered import Gathered
from sidecar.wire.keeping import source_rules, unattended
from sidecar.wire.logbook import keeper_of
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust
from sidecar.wire.urls import redact
from sidecar.worker.archiving import Archiving
from sidecar.worker.fleetstore import FleetStore
from sidecar.worker.gathering import SELDOM_S, Gathering, Step
from sidecar.worker.host import Host, Route, Traces
from sidecar.worker.housekeeping import Chores, Housekeeper
from sidecar.worker.inflight import most_bytes_each
from sidecar.worker.metrics import StreamMetrics
from sidecar.worker.outages import Outages
from sidecar.worker.ownership import IDLE_BLOCK_S
from sidecar.worker.pipeline import Pipeline, Rules, same_storage
from sidecar.worker.relay import Relay
from sidecar.worker.retaining import Place, Relays, Retaining, Sweep, Task
from sidecar.worker.settings import Settings, recorded
from sidecar.worker.share import Share
from sidecar.worker.storepool import StorePool
from sidecar.worker.supervision import Supervisor
from sidecar.worker.takeovers import Takeovers
from sidecar.worker.width import most_at_once
from store import Capability, Store

if TYPE_CHECKING:
    from sidecar.telemetry.exporting import Exporting


def whoami() -> str:
    """Return the name of this worker: its host and its process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Wiring:
    """Builds the parts of one worker. Each part has connections of its own."""

    def __init__(
        self, settings: Settings, redis_url: str, notify_url: str, supervisor: Supervisor,
        log: FilteringBoundLogger, exporting: Exporting | None = None,
    ) -> None:  # fmt: skip
        """`redis_url` is the server with the control streams; `exporting` sends traces."""
        self.settings = settings
        self.redis_url = redis_url
        self.notify_url = notify_url
        self.supervisor = supervisor
        self.log = log
        self._exporting = exporting
        self._id = new_id()
        self._opened: list[Client] = []
        self.share = Share(settings.streams)
        self._takeovers = Takeovers(self.share, log)
        self.keys = {
            stream: Keys.of(stream, settings.notify_stream, settings.dead_stream)
            for stream in settings.streams
        }

    def close(self) -> None:
        """Close the connections of all parts, which have ended."""
        for client in self._opened:
            client.connection_pool.disconnect()

    def _connect(self, url: str, key: str, *, block_s: float = 0.0) -> Client:
        client = connect(url, key=key, block_s=block_s)
        self._opened.append(client)
        return client

    def check_servers(self) -> None:
        """Refuse what can be seen to be wrong before anything is read.

        Raises `UsageError` or `Unreachable`.
        """
        for stream in self.keys:
            with connect(self.redis_url, key=stream) as client:
                check_server(client, self.redis_url, writes=True)
                check_stream(client, self.redis_url, stream)
        keys = next(iter(self.keys.values()))
        with connect(self.notify_url, key=keys.notifications) as client:
            check_server(client, self.notify_url, writes=True)
            check_stream(client, self.notify_url, keys.notifications)
            check_stream(client, self.notify_url, keys.dead)
            check_format(client, self.notify_url, keys)
            check_owner(client, self.notify_url, keys)
            check_letters(client, self.notify_url, keys)

    def check_beside(self) -> None:
        """Refuse what looks like a mistyped notification stream, and log what is a second one.

        Raises `UsageError` or `Unreachable`.
        """
        wanted = self.settings.second_deployment
        first = next(iter(self.keys.values()))
        with (
            connect(self.notify_url, key=first.notifications) as notify,
            translated(self.notify_url),
        ):
            if notify.exists(first.notifications, first.stream):
                return
            for stream, keys in self.keys.items():
                with connect(self.redis_url, key=stream) as control, translated(self.redis_url):
                    detail = second(control, notify, keys, wanted=wanted)
                if detail:
                    self.log.warning("second deployment", detail=detail)

    @cached_property
    def signer(self) -> Signer | None:
        """What signs with this worker's key; None without one. Raises `UsageError`."""
        return Signer.of(self.settings.sign_key)

    @cached_property
    def source(self) -> Store:
        """The producer's store, opened. Where there is none a first worker makes it, and says so.

        Raises `UsageError` once events were read: then it must be elsewhere; and as `open_store`.
        """
        url, is_named = self.settings.source_url, bool(self.settings.source_store)
        with suppress(UsageError):
            return open_store(url, create=False)
        if is_named and self._was_read():
            # Reading comes after the store: another worker may have made it since the first look.
            try:
                return open_store(url, create=False)
            except UsageError as error:
                raise UsageError(f"--source-store: {error}; is it mounted?") from error
        with named("--source-store"):
            made = open_store(url)
        if is_named:
            detail = f"there was none at {redact(url)}; do producers put into that one?"
            self.log.warning("source store made", detail=detail)
        return made

    def _was_read(self) -> bool:
        """Tell whether any of the control streams was read before."""
        with translated(self.redis_url):
            for stream, keys in self.keys.items():
                with connect(self.redis_url, key=stream) as control:
                    if was_read(control, keys):
                        return True
        return False

    def sides(self) -> tuple[Side, Side]:
        """Return connections to both servers for one who looks on."""
        keys = next(iter(self.keys.values()))
        control, notify = self.redis_url, self.notify_url
        return (
            Side(self._connect(control, keys.control), control),
            Side(self._connect(notify, keys.notifications), notify),
        )

    @cached_property
    def fleet_store(self) -> FleetStore:
        """The fleet store as its log knows it."""
        client = self._connect(self.notify_url, self.settings.notify_stream)
        return FleetStore(
            self.fleet, self.settings.fleet_url, client, list(self.keys.values()), self.notify_url
        )

    @cached_property
    def fleet(self) -> Store:
        """The fleet's store, opened. Where none is noted it is made, and where it is to be another.

        Raises as `open_store`, and `UsageError` for one that keeps no versions, unless that is
        accepted.
        """
        with named("--fleet-store"):
            fleet = self._fleet()
        self._check_pins(fleet)
        return fleet

    def _fleet(self) -> Store:
        url = self.settings.fleet_url
        with suppress(UsageError):
            return open_store(url, create=False)
        there = "" if self.settings.adopt_fleet_store else self._noted_store()
        if not there:
            return open_store(url)
        # The note comes after the store: another worker may have made both since the first look.
        try:
            return open_store(url, create=False)
        except UsageError as error:
            raise UsageError(
                f"{error}; is it mounted? the notifications name the store {there}; correct"
                " the option, or say --adopt-fleet-store if the fleet has moved"
            ) from error

    def _noted_store(self) -> str:
        """Return which store the notifications name; empty without any, or while Redis is away."""
        first = next(iter(self.keys.values()))
        try:
            with (
                connect(self.notify_url, key=first.notifications) as client,
                translated(self.notify_url),
            ):
                there = noted(client, first)
        except Unreachable:
            return ""
        return f"{there.store} (noted as {there.url or 'unknown'})" if there.store else ""

    def pipeline(self) -> Pipeline:
        """Return the way of an artifact from store to store."""
        rules = Rules.of_options(
            allow_type=self.settings.allow_type,
            tenant_scope=self.settings.tenant_scope,
            max_artifact_bytes=self.settings.max_artifact_bytes,
            event_id_scope=self.settings.event_id_scope,
            sign_key=self.settings.sign_key,
        )
        if self._exporting is None:
            return Pipeline(self.source, self.fleet, rules)
        from sidecar.worker.tracing import TimedPipeline

        return TimedPipeline(self.source, self.fleet, rules, clock=time.monotonic)

    def _check_pins(self, fleet: Store) -> None:
        if Capability.PINNED_GET in store.capabilities(fleet):
            return
        detail = (
            f"--fleet-store {redact(self.settings.fleet_url)}: the backend {fleet.name!r} keeps no"
            " versions, so a notification cannot be resolved once its ref is rewritten"
        )
        if not self.settings.allow_unpinned:
            raise UsageError(
                f"{detail}; choose one that declares pinned-get, such as file, or accept that with"
                " --allow-unpinned"
            )
        self.log.warning("unpinned", detail=detail)

    def pool(self, pipeline: Pipeline) -> StorePool:
        """Return the threads that carry artifacts."""
        streams = len(self.settings.streams)
        each = most_at_once(self.settings.store_threads, streams, streaming=pipeline.streams)
        return StorePool(each, streams)

    def relay(
        self, pipeline: Pipeline, pool: StorePool, observer: StreamMetrics, beat: Callable[[], None]
    ) -> Relay:
        """Return the relay of the observer's stream."""
        one, stream, keys = self.settings, observer.stream, self.keys[observer.stream]
        client = self._connect(self.redis_url, stream)
        blocking = self._connect(self.redis_url, stream, block_s=IDLE_BLOCK_S)
        notify = self._connect(self.notify_url, keys.notifications)
        publisher = Publisher(
            notify, keys, lease_s=one.lease_s, dedup_window_s=one.dedup_window_s,
            wait_replicas=one.wait_replicas, worker=self._id,
            signer=self.signer,
        )  # fmt: skip
        fitness = Fitness(Side(client, self.redis_url), Side(notify, self.notify_url), keys)
        route = Route(stream, ControlStream(client, blocking, keys), publisher)
        record = partial(_record_takeover, notify, keys, observer)
        took_over = partial(self._takeovers.say, stream, record)
        owner = tenures.Owner(whoami(), __version__, json.dumps(recorded(one)))
        began = partial(tenures.put_on_record, notify, keys, owner)
        put_outage = partial(tenures.put_outage_on_record, notify, keys, owner.name)
        host = Host(
            pool, self.share, beat, fitness.check, took_over, began, connects=fitness.connects,
            outages=Outages(put_outage),
            gives_back=partial(tenures.put_end_on_record, notify, keys, owner),
            most_at_once=pool.each,
            traces=self._traces(keys, "verify" if pipeline.one_store else "put"),
        )  # fmt: skip
        apart = pipeline.apart(most_bytes_each(len(one.streams)))
        return Relay(route, apart, host, one, observer, self.log.bind(stream=stream))

    def _traces(self, keys: Keys, second_step: str) -> Traces | None:
        if self._exporting is None:
            return None
        from sidecar.worker import tracing

        return tracing.Traces(
            self._exporting.spans, keys, self.log.bind(stream=keys.control),
            second_step=second_step, room=self._exporting.room, clock=time.monotonic,
            wall_clock=time.time,
        )  # fmt: skip

    def housekeeper(
        self, beat_s: float, held: Callable[[], Sequence[Held]],
        blocked: Callable[[str, Collection[str]], None],
    ) -> Housekeeper:  # fmt: skip
        """Return what registers this worker, trims and prunes; all as `Housekeeper` has them."""
        one = self.settings
        notify = self._connect(self.notify_url, one.notify_stream)
        first = next(iter(self.keys.values()))
        members = Members(
            notify, first, name=whoami(), serves=one.streams, lease_s=one.lease_s, worker=self._id,
            signs=self.signer.key_id if self.signer else "",
        )  # fmt: skip
        controls = {stream: self._connect(self.redis_url, stream) for stream in self.keys}
        retentions = {
            stream: self._retention(control, notify, self.keys[stream])
            for stream, control in controls.items()
        }
        shelves = [Shelf(client) for client in (notify, *controls.values())]
        pruning = Pruning(notify, first, dedup_window_s=one.dedup_window_s)
        chores = Chores(members, retentions, pruning, shelves)
        return Housekeeper(
            chores, self.share, beat_s, self.supervisor, self.log, held=held, blocked=blocked
        )

    def _retention(self, control: Client, notify: Client, keys: Keys) -> Retention:
        one = self.settings
        return Retention(
            control, notify, keys, one.policies,
            dedup_window_s=one.dedup_window_s, archived_first=one.archive,
        )  # fmt: skip

    def gathering(self, gathered: Gathered) -> Gathering:
        """Return what asks Redis and disks for the metrics; `gathered` shows them."""
        one, all_keys = self.settings, list(self.keys.values())
        controls = {stream: self._connect(self.redis_url, stream) for stream in self.keys}
        notify = self._connect(self.notify_url, one.notify_stream)
        servers = {"control": controls[one.streams[0]], "notify": notify}
        every_s = one.archive_every_s if one.archive else 0.0
        urls = {"source": one.source_url, "fleet": one.fleet_url}
        steps = {
            "streams": Step(outside.Streams(controls, notify, all_keys).gather),
            "readers": Step(outside.ReadersBehind(notify, all_keys[0]).gather),
            "servers": Step(partial(outside.servers, servers)),
            "parts": Step(partial(outside.parts, controls, notify, all_keys), SELDOM_S),
            "archive": Step(partial(outside.archive, controls, notify, all_keys, every_s)),
            "stores": Step(partial(outside.disks, urls)),
            "growth": Step(
                partial(outside.growth, notify, one.notify_stream, self.fleet, self._unkept()),
                SELDOM_S,
            ),
            "logs": Step(partial(outside.logs, keeper_of(self.fleet)), SELDOM_S),
        }
        return Gathering(steps, gathered, self.supervisor)

    def _unkept(self) -> list[str]:
        """Return which stores grow, for no keep rule is followed."""
        one, names = self.settings, list[str]()
        if not one.source_keep and not same_storage(self.source, self.fleet):
            names.append("source")
        return names if one.keep else [*names, "fleet"]

    def archiving(self) -> Archiving:
        """Return what keeps the archive up. Raises `UsageError` when the store cannot hold one."""
        fleet = self.fleet
        archive = store.versioned(fleet, Capability.LIST, Capability.STREAM)
        if archive is None:
            raise UsageError(
                f"--archive: the backend {fleet.name!r} cannot hold an archive; choose one that"
                " declares list and stream, such as file"
            )
        _check_deletes(fleet, self.settings.archive_keep_s)
        archivers = {stream: self._archiver(keys, archive) for stream, keys in self.keys.items()}
        return Archiving(
            archivers, self.keys, self.share, self.settings.archive_every_s, self.supervisor,
            self.log, keep_s=self.settings.archive_keep_s,
        )  # fmt: skip

    def _archiver(self, keys: Keys, archive: store.VersionedStore) -> Archiver:
        notify = Side(self._connect(self.notify_url, keys.notifications), self.notify_url)
        control = Side(self._connect(self.redis_url, keys.control), self.redis_url)
        live = LiveHistory(control, notify, [keys], archive)
        held = partial(hold, control.client, keys)
        trust = Trust.of(self.settings.trust)
        sealer = Sealer(self.signer, keys.notifications, trust) if self.signer else None
        return Archiver(live, archive, notify.client, keys, hold=held, sealer=sealer)

    def retaining(
        self, sweep: Sweep, relays: Relays, *, one_store: bool,
        went: Callable[[str, int, int], None],
    ) -> Retaining:  # fmt: skip
        """Return what follows the keep rules. Raises `UsageError` where a store cannot."""
        one, places = self.settings, []
        if one.keep:
            rules = [unattended(text) for text in one.keep]
            places.append(Place("fleet", _deleting("--keep", self.fleet), rules))
        if one.source_keep:
            if one_store:
                raise UsageError("--source-keep: the producers' store is the fleet's: say --keep")
            source = _deleting("--source-keep", self.source)
            there = keeper_of(self.fleet)  # None: no ref goes by published+AGE
            places.append(Place("source", source, source_rules(one.source_keep), there))
        keys = list(self.keys.values())
        task = Task(places, *self.sides(), keys, one.keep_grace_s, whoami())
        return Retaining(task, sweep, self.share, relays, self.supervisor, self.log, went)

    def without_archive(self) -> None:
        """Hold nothing back for an archive that was kept before. Raises as `connect`."""
        for stream, keys in self.keys.items():
            with connect(self.redis_url, key=stream) as client, translated(self.redis_url):
                let_go(client, keys)


def _check_deletes(fleet: store.Store, keep_s: float | None) -> None:
    if keep_s and not store.versioned(fleet, Capability.DELETE):
        raise UsageError(
            f"--archive-keep: the backend {fleet.name!r} cannot delete; leave the option out, or"
            " choose one that declares delete, such as file"
        )


def _deleting(option: str, opened: Store) -> store.VersionedStore:
    found = store.versioned(opened, Capability.DELETE, Capability.LIST)
    if found is None:
        raise UsageError(
            f"{option}: the backend {opened.name!r} cannot delete; leave the option out, or choose"
            " one that declares delete and list, such as file"
        )
    return found


def _record_takeover(client: Client, keys: Keys, observer: StreamMetrics, before: str) -> None:
    observer.took_over()
    takeovers.put_on_record(client, keys, by=whoami(), before=before)

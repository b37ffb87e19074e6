"""A worker that serves several streams: the real relays, share, housekeeper and archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.redis.members import Members
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Publisher
from sidecar.redis.retention import Retention, parse_policy
from sidecar.redis.source import ControlStream
from sidecar.worker.archiving import Archiving
from sidecar.worker.fleetstore import FleetStore
from sidecar.worker.host import Host, Route
from sidecar.worker.housekeeping import Chores, Housekeeper
from sidecar.worker.ownership import IDLE_BLOCK_S
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.relay import Relay
from sidecar.worker.settings import Options
from sidecar.worker.share import Share
from sidecar.worker.supervision import EXPECTED, Supervisor
from tests.simulation.quiet import QUIET
from tests.simulation.schedule import Process, Task
from tests.simulation.whole.depot import DepotStore
from tests.simulation.worker import SimulatedPool, SimulatedQueue

ARCHIVE_EVERY_S = 2.0

if TYPE_CHECKING:
    from sidecar.redis.keys import Keys
    from tests.simulation.whole.world import Fleet, World


class Signal:
    """Stands in for `threading.Event`, for any number of tasks that wait."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._set = False
        self._waiting: dict[Task, None] = {}

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._set = True
        for task in self._waiting:
            self._world.schedule.wake(task)

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most so many seconds."""
        self._world.step(self._process)
        if not self._set:
            task = self._world.schedule.current
            self._waiting[task] = None
            try:
                self._world.schedule.wait(timeout)
            finally:
                self._waiting.pop(task, None)
        return self._set


class WholeWorker:
    """One process of `sidecar run`."""

    def __init__(self, world: World, fleet: Fleet, number: int, keys: Sequence[Keys]) -> None:
        """`keys` are those of the streams that it serves."""
        self.world = world
        self.fleet = fleet
        self.keys = keys
        self.number = number
        self.process = Process(f"worker{number}")
        self.drift_s = world.chance.uniform(0.0, 1000.0)
        wall_offset_s = world.chance.choice((0.0, 0.0, world.chance.uniform(-60.0, 60.0)))
        world.time.set_wall(self.process, wall_offset_s)
        self.stop = Signal(world, self.process)
        self.pool = SimulatedPool(cast("Any", world), self.process, world.plan.threads)
        self.share = Share([keys.control for keys in keys])
        self.relays: dict[str, Relay] = {}
        self.states: dict[str, tuple[str, str]] = {}
        self._running = 0
        self.supervisor = Supervisor(_Failures(), QUIET, clock=self.clock)

    def clock(self) -> float:
        """Return what `time.monotonic` would."""
        return self.world.schedule.now + self.drift_s

    def wall_clock(self) -> float:
        """Return what `time.time` would."""
        return self.world.time.time()

    def start(self) -> None:
        """Let it run."""
        self.world.schedule.spawn(self.process, self._run)

    def _run(self) -> None:
        fleet, plan = self.fleet, self.world.plan
        streams = [keys.control for keys in self.keys]
        share = self.share
        fleet_store = self._joined()
        housekeeper = self._housekeeper(share)
        housekeeper.work()
        pipeline = Pipeline(
            DepotStore(self.world, fleet.source), DepotStore(self.world, fleet.store), Rules()
        )
        for keys in self.keys:
            self.relays[keys.control] = self._relay(keys, share, pipeline)
        self._running = len(streams)
        for relay in self.relays.values():
            self.world.schedule.spawn(self.process, lambda relay=relay: self._relay_runs(relay))  # type: ignore[misc]
        if plan.archive:
            self._archiving(share)
        while self._running:
            self.world.step(self.process)
            self.world.schedule.wait(plan.lease_s / 3)
            housekeeper.work()
            if wrong := fleet_store.watch():
                raise wrong
        housekeeper.leave()
        self.world.ended(self)

    def _joined(self) -> FleetStore:
        """Register the log in the fleet's store, before anything is put there."""
        client = self.world.client(self.fleet.notify, self.process)
        store = DepotStore(self.world, self.fleet.store)
        joining = FleetStore(store, "memory:", client, self.keys, "redis://notify")
        while True:
            try:
                joining.join(QUIET, adopt=False, by="op")
            except EXPECTED as error:  # whoever runs it starts it again
                self.world.note("waits", self.process.name, str(error))
                self.world.schedule.wait(0.5)
            else:
                return joining

    def _relay_runs(self, relay: Relay) -> None:
        relay.run(self.stop)  # type: ignore[arg-type]
        self._running -= 1

    def _relay(self, keys: Any, share: Share, pipeline: Pipeline) -> Relay:
        world, plan, fleet = self.world, self.world.plan, self.fleet
        control = world.client(fleet.control, self.process)
        blocking = world.client(fleet.control, self.process, IDLE_BLOCK_S)
        publisher = Publisher(
            world.client(fleet.notify, self.process), keys, lease_s=plan.lease_s,
            dedup_window_s=plan.dedup_window_s,
        )  # fmt: skip
        world.tokens[self.process, keys.control.encode()] = publisher._token.encode()
        return Relay(
            Route(keys.control, ControlStream(control, blocking, keys), publisher),
            pipeline,
            Host(
                self.pool,
                share,
                clock=self.clock,
                wall_clock=self.wall_clock,
                finished=lambda: cast("SimpleQueue[Any]", SimulatedQueue(world.schedule)),
            ),
            Options(
                lease_s=plan.lease_s,
                retry_budget_s=plan.retry_budget_s,
                max_consecutive_dead=plan.max_consecutive_dead,
                store_threads=plan.store_threads,
            ),
            _Observer(self, keys.control),
            QUIET,
        )

    def _housekeeper(self, share: Share) -> Housekeeper:
        world, plan, fleet = self.world, self.world.plan, self.fleet
        notify = world.client(fleet.notify, self.process)
        members = Members(
            notify, self.keys[0], name=self.process.name,
            serves=[keys.control for keys in self.keys], lease_s=plan.lease_s, clock=self.clock,
        )  # fmt: skip
        policies = {
            "control": parse_policy(plan.trim_control),
            "notifications": parse_policy(plan.trim_notifications),
            "dead": parse_policy(plan.trim_dead),
        }
        retentions: Mapping[str, Retention] = {
            keys.control: Retention(
                world.client(fleet.control, self.process), notify, keys, policies,
                dedup_window_s=plan.dedup_window_s, archived_first=plan.archive,
            )
            for keys in self.keys
        }  # fmt: skip
        pruning = Pruning(notify, self.keys[0], dedup_window_s=plan.dedup_window_s)
        return Housekeeper(
            Chores(members, retentions, pruning),
            share,
            plan.lease_s / 3,
            self.supervisor,
            QUIET,
            clock=self.clock,
        )

    def _archiving(self, share: Share) -> None:
        world, plan, fleet = self.world, self.world.plan, self.fleet
        store = cast("Any", DepotStore(world, fleet.store))
        archivers = {}
        for keys in self.keys:
            notify = Side(world.client(fleet.notify, self.process), "redis://notify")
            control = Side(world.client(fleet.control, self.process), "redis://control")
            live = LiveHistory(control, notify, [keys], store)
            archivers[keys.control] = Archiver(
                live, store, notify.client, keys, sizes=Sizes(plan.archive_rows)
            )
        keys_of = {keys.control: keys for keys in self.keys}
        archiving = Archiving(archivers, keys_of, share, ARCHIVE_EVERY_S, self.supervisor, QUIET)
        archiving._stopping = self.stop  # type: ignore[assignment]
        world.schedule.spawn(self.process, archiving._run)

    # --- what it leaves behind -----------------------------------------------------------------

    def leftovers(self) -> str:
        """Say what an idle worker still holds of what is done; empty when it is nothing."""
        for name, relay in self.relays.items():
            if relay.window or relay._holds or not relay._ownership._is_owner:
                continue  # a standby keeps the budgets that its tenure left, for the next one
            kept = {
                "claims": len(relay.window._claims),
                "troubles": len(relay._admission._troubles),
            }
            kept["pool"] = len(self.pool._waiting)
            if any(kept.values()):
                return f"memory: {self.process} holds of {name}: {kept}"
        return ""


class _Failures:
    """What background work tells: nothing may fail that no fault explains."""

    def background_failed(self, work: str, error: Exception) -> None:
        """Let a bug be seen."""
        del work
        if not isinstance(error, EXPECTED):
            raise error

    def background_failing(self, work: str, count: int) -> None:
        """Take no notice."""


class _Observer:
    """What a relay tells metrics and health."""

    def __init__(self, worker: WholeWorker, stream: str) -> None:
        self._worker = worker
        self._stream = stream

    def state(self, state: str, detail: str) -> None:
        """Remember it, and write it into the trace."""
        self._worker.states[self._stream] = state, detail
        self._worker.world.note("state", self._worker.process.name, self._stream, state, detail)

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None

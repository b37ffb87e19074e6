"""One whole run: fleets, their servers, stores, workers, readers, operators and people."""

from __future__ import annotations

import gc
import logging
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis

from sidecar.history.contract import Streams
from sidecar.ops import audit
from sidecar.redis import pruning
from sidecar.redis.client import TIMEOUT_S
from sidecar.redis.keys import Keys
from sidecar.worker import caution, housekeeping, relay, width
from tests.simulation.faults import PROCESS, Fault
from tests.simulation.invariants import Violation, guarded
from tests.simulation.producer import Sent
from tests.simulation.schedule import Killed, Process, Schedule
from tests.simulation.stores import Pin
from tests.simulation.streams import parse_id
from tests.simulation.whole import clock, finish, operators, people
from tests.simulation.whole.box import Box
from tests.simulation.whole.client import model, swift_client
from tests.simulation.whole.depot import Depot
from tests.simulation.whole.feeds import Controller
from tests.simulation.whole.kinds import Deed, WholeFaults
from tests.simulation.whole.oracle import Oracle
from tests.simulation.whole.plan import DRAWN, FleetPlan, Plan, Scene, scene_of
from tests.simulation.whole.producers import WholeProducer
from tests.simulation.whole.truth import Place
from tests.simulation.whole.worker import WholeWorker
from tests.simulation.world import EPOCH_S, Result

MAX_WORKERS: Final = 10
TRIM_EVERY_S: Final = 2.0
LONGEST_STALL: Final = 3.0
LAP_S: Final = 0.005
"""A run has some dozens of artifacts, and each takes half a millisecond."""
MAX_COMMANDS: Final = 200_000
"""A run sends some thousand; one in which operators take their time, some ten thousand."""
COLLECT_EVERY: Final = 10
"""Seeds of which the garbage is let lie."""


@dataclass(eq=False)
class Fleet:
    """One fleet: where its streams are, and its stores."""

    plan: FleetPlan
    keys: list[Keys]
    control: Box
    notify: Box
    source: Depot
    store: Depot

    def __post_init__(self) -> None:
        self.control_streams = [keys.control.encode() for keys in self.keys]
        self.notifications = self.keys[0].notifications.encode()
        self.dead = self.keys[0].dead.encode()
        self.group = self.keys[0].group.encode()

    def streams(self) -> Streams:
        """Return the streams of the log, by name."""
        return Streams.of(self.keys)

    def places(self) -> list[tuple[Box, bytes]]:
        """Return the control streams and the notifications, each with its server."""
        found = [(self.control, key) for key in self.control_streams]
        return [*found, (self.notify, self.notifications)]

    def shares(self, *, apart: bool) -> list[list[Keys]]:
        """Return which streams each worker serves: all of them, or one."""
        if apart:
            count = max(self.plan.workers, len(self.keys))
            return [[self.keys[number % len(self.keys)]] for number in range(count)]
        return [self.keys] * self.plan.workers


class World:
    """Everything of one run."""

    def __init__(self, seed: int, *, keeps_trace: bool, scene: Scene = DRAWN) -> None:
        self.chance = random.Random(f"whole {seed}")
        self.plan = scene.set(Plan.draw(self.chance))
        self.schedule = Schedule()
        self.faults = WholeFaults(self.chance, scene.deeds)
        self.trace: list[tuple[Any, ...]] = []
        self._keeps_trace = keeps_trace
        self.epoch_s = EPOCH_S
        self.time = clock.SimulatedTime(self.schedule, EPOCH_S)
        self.clock_back_s = 0.0
        self.oracle = Oracle(self)
        self.fleets: list[Fleet] = []
        self.boxes = [Box(self, f"server{n + 1}") for n in range(self.plan.servers)]
        store = Depot("fleet", self._put)
        for plan in self.plan.fleets:
            keys = [Keys.of(name, plan.notifications) for name in plan.streams]
            control, notify = self.boxes[0], self.boxes[-1]
            if len(self.plan.fleets) > 1:  # each has one server, the same or another
                control = notify = self.boxes[len(self.fleets) % len(self.boxes)]
            fleet = Fleet(plan, keys, control, notify, Depot("source", self._put), store)
            self.fleets.append(fleet)
            self.oracle.know(fleet)
        self.workers: dict[Process, WholeWorker] = {}
        self.tokens: dict[tuple[Process, bytes], bytes] = {}
        self.acting: dict[Process, float] = {}
        """Since when an operator is at it, by process."""
        self.dying: dict[Process, int] = {}
        """After how many more steps a process is killed."""
        self.actor: Process | None = None
        self.by_people = self.trims = False
        """Whether people are at it, and whether they trim."""
        self.sending: Sent | None = None
        self.repaired: list[tuple[Place, int]] = []
        """What a repair appended again, and when that began."""
        self.lasting: set[Deed] = set()
        self.cut_off: dict[Process, Box] = {}
        self.deaths = 0
        self.commands = 0
        self.steps = 0
        self._started = 0
        self._numbers = 0
        self._nature = Process("nature")
        self.producing = Process("producers")
        self.producers: list[WholeProducer] = []
        self.controllers: list[Controller] = []
        rates = self.faults.rates
        slow = (Fault.STALL, Fault.SUSPEND, Fault.STORE_SLOW, Fault.LATE_REQUEST, Fault.LATE_REPLY)
        self.steady = not any(kind in rates for kind in slow) and not (
            {Deed.STORE_HANGS, Deed.SERVER_CLOCK, Deed.WORKER_CLOCK} & set(self.faults.deeds)
        )

    def _put(self, depot: Depot, pin: Pin) -> int:
        """Note that an artifact was put; say when."""
        if depot.name == "fleet":
            self.guarded(self.oracle.erased.came)(depot, pin)
        return self.oracle.truth.tick()

    # --- what the parts ask --------------------------------------------------------------------

    def note(self, *what: Any) -> None:
        """Write a line into the trace."""
        if self._keeps_trace:
            self.trace.append((self.schedule.now, *what))

    def number(self) -> int:
        """Return a number that was not given before."""
        self._numbers += 1
        return self._numbers

    def guarded(self, check: Callable[..., None]) -> Callable[..., None]:
        """Return a check whose violation ends the run."""
        return guarded(self.schedule, check)

    def serve(self, process: Process, command: tuple[bytes, ...], run: Callable[[], Any]) -> Any:
        """Run a command of a process, and write it into the trace."""
        self.commands += 1
        if self.commands == MAX_COMMANDS:
            self.schedule.fail(Violation(f"progress: {process} goes round without an end"))
        self.actor = process
        reply: Any = None
        try:
            reply = run()
        except Exception as error:
            reply = error
            raise
        finally:
            self.actor = None
            if self._keeps_trace:
                self.note(process.name, command, reply)
        return reply

    def client(self, box: Box, process: Process, block_s: float = 0.0) -> redis.Redis:
        """Return a client for a process."""
        return swift_client(wire=box.wire, process=process, socket_timeout=TIMEOUT_S + block_s)

    @property
    def acting_since(self) -> float | None:
        """When the operator began who sends this command; None when it is no operator's."""
        return self.acting.get(self.actor) if self.actor else None

    # --- producers and people ------------------------------------------------------------------

    def append(
        self, box: Box, key: bytes, entry_id: bytes, fields: list[bytes], sent: Sent | None
    ) -> None:
        """Append an entry, for a producer or a person. It may be refused."""
        self.sending = sent
        try:
            answer = box.wire.local(b"XADD", key, entry_id, *fields)
            if isinstance(answer, Exception):
                answer = box.wire.local(b"XADD", key, b"*", *fields)  # his IDs are used up
        finally:
            self.sending = None
        self.note("appended", key, answer, fields[1][:80])
        if isinstance(answer, bytes):
            parse_id(answer)

    def reaches(self, box: Box) -> bool:
        """Tell whether a producer reaches a server now."""
        return box.wire.reachable(self.producing) and self.schedule.now >= box.busy_until

    def refuses(self, box: Box) -> bool:
        """Tell whether a full server refuses a producer."""
        return box.full

    def people(self, box: Box, *command: bytes) -> Any:
        """Do what a person does with a client."""
        self.by_people, self.trims = True, command[0] == b"XTRIM"
        try:
            answer = box.wire.local(*command)
        finally:
            self.by_people = self.trims = False
        self.note("person", box.name, command, answer)
        return answer

    def forget_indexes(self, box: Box) -> None:
        """Note that the deduplication indexes on a server are gone."""
        for fleet in self.fleets:
            if fleet.notify is box:
                self.oracle.index_gone_at[fleet.notifications] = self.oracle.truth.tick()

    def relieve(self, box: Box) -> None:
        """Let a server have memory again."""
        self.note("relieved", box.name)
        box.limit_bytes = None

    def undo_garbage(self, fleet: Fleet, command: tuple[bytes, ...]) -> None:
        """Take out what somebody wrote into a key."""
        key = command[1]
        if command[0] == b"SET":
            found = fleet.notify.server.data.get(key)
            if found == command[2]:
                self.people(fleet.notify, b"DEL", key)
                for keys in fleet.keys:  # as the words say
                    if keys.low.encode() == key:
                        self.people(fleet.control, b"XGROUP", b"DESTROY",
                                    keys.control.encode(), fleet.group)  # fmt: skip
        else:
            self.people(fleet.notify, b"HDEL", key, command[2])

    # --- workers -------------------------------------------------------------------------------

    def step(self, process: Process) -> None:
        """Let a process crash or stall here, if its hour has come."""
        if not process.alive:
            raise Killed
        self.steps += 1
        if process in self.dying:
            self.dying[process] -= 1
            if self.dying[process] < 0:
                self.crash(process)
        if self.acting and self.plan.operator_s and process in self.acting:  # it takes its time
            self.schedule.wait(self.chance.uniform(0.0, self.plan.operator_s))
        fault = self.faults.draw(PROCESS)
        if fault is not None:
            self._befall(process, fault)

    def _befall(self, process: Process, fault: Fault) -> None:
        worker = self.workers.get(process)
        if worker is None and process not in self.acting:
            return
        self.note("fault", process.name, fault.name)
        if fault is Fault.CRASH:
            self.crash(process)
        elif fault is Fault.STOP:
            if worker is not None:
                worker.stop.set()
        else:
            stall_s = self.plan.lease_s * self.chance.uniform(0.3, LONGEST_STALL)
            process.frozen_until = self.schedule.now + stall_s
            if worker is not None and fault is Fault.SUSPEND:
                worker.drift_s -= stall_s
            self.schedule.wait(0.0)

    def crash(self, process: Process) -> None:
        """Let a process die at once; of a worker, another one begins later."""
        self.note("crash", process.name)
        self.deaths += process in self.workers
        self.schedule.kill(process)
        for box in self.boxes:
            box.wire.leave(process)
        self._gone(process)
        if self.schedule.current.process is process:
            raise Killed

    def crash_all(self) -> None:
        """Let every worker die at once."""

        def die() -> None:
            for process in list(self.workers):
                self.crash(process)

        self.schedule.spawn(Process("power"), die)

    def ended(self, worker: WholeWorker) -> None:
        """A worker ended as it should."""
        self.note("ended", worker.process.name)
        for box in self.boxes:
            box.wire.leave(worker.process)
        self.schedule.kill(worker.process)
        self._gone(worker.process)
        raise Killed

    def _gone(self, process: Process) -> None:
        worker = self.workers.pop(process, None)
        if worker is not None and self._started < MAX_WORKERS and self.faults.on:
            delay_s = self.chance.uniform(0.0, 1.5)
            self.schedule.after(delay_s, lambda: self.start_worker(worker.fleet, worker.keys))

    def start_worker(self, fleet: Fleet, keys: Sequence[Keys]) -> None:
        """Let a new worker begin."""
        self._started += 1
        worker = WholeWorker(self, fleet, self._started, keys)
        self.workers[worker.process] = worker
        self.note("start", worker.process.name)
        worker.start()

    def some_worker(self) -> WholeWorker | None:
        """Return a worker; None while there is none."""
        return self.workers[self.chance.choice(list(self.workers))] if self.workers else None

    # --- the run -------------------------------------------------------------------------------

    def run(self, seed: int) -> Result:
        """Let it all happen, check it, and return what came of it."""
        violation = ""
        model()
        with self._constants(), clock.simulated(self.time):
            try:
                self._chaos()
                finish.finish(self)
            except Violation as error:
                violation = str(error)
            except Exception as error:  # noqa: BLE001 -- of any actor: none may die of a bug
                violation = "died: " + "".join(traceback.format_exception(error))
            finally:
                self.schedule.end()
        happened: Counter[Any] = Counter(self.faults.happened)
        happened.update(self.faults.did)
        return Result(
            seed, violation, happened,
            self.schedule.turns, self.commands, len(self.oracle.truth.notes),
            Counter(self.oracle.buried), self.trace, self.plan, self.steps, " KIND=whole",
        )  # fmt: skip

    def _chaos(self) -> None:
        number = 0
        for fleet in self.fleets:
            for keys in fleet.shares(apart=self.plan.apart):
                self.schedule.after(
                    self.chance.expovariate(1 / 0.2), partial(self.start_worker, fleet, keys)
                )
            for one, ids in zip(fleet.keys, fleet.plan.ids, strict=True):
                number += 1
                producer = WholeProducer(self, fleet, one.control, ids, number)
                self.producers.append(producer)
                delay_s = self.chance.choice((0.0, 0.5))
                self.schedule.spawn(self.producing, producer.run, delay_s)
            for at, kind in enumerate(fleet.plan.feeds):
                controller = Controller(self, fleet, kind, 10 * number + at)
                self.controllers.append(controller)
                self.schedule.spawn(controller.process, controller.run)
        self.schedule.spawn(self._nature, self._live)
        self.schedule.spawn(Process("operators"), operators.Operators(self).run)
        self.wait(self.plan.chaos_s)

    def _live(self) -> None:
        """Let people do what the seed lets them do, now and then, while the faults last."""
        deeds = [deed for deed in people.DEEDS if deed in self.faults.deeds]
        every_s = self.plan.chaos_s / 4
        while deeds and self.faults.on:
            self.schedule.wait(self.chance.expovariate(1 / every_s))
            if self.faults.on:
                deed = self.chance.choice(deeds)
                self.note("deed", deed.name)
                if people.DEEDS[deed](self):
                    self.faults.count(deed)

    def wait(self, seconds: float) -> None:
        """Let simulated time pass, in the simulation's own thread."""
        until = self.schedule.now + seconds
        while self.schedule.now < until:
            self.schedule.wait(until - self.schedule.now)
            if self.schedule.failure is not None:
                raise self.schedule.failure

    @contextmanager
    def _constants(self) -> Iterator[None]:
        """Make the product's sizes so small that a handful of events meets them."""
        plan = self.plan
        sizes: list[tuple[Any, str, Any]] = [
            (relay, "BATCH", plan.batch), (relay, "WINDOW", plan.window),
            (relay, "MAX_HELD", plan.max_held),
            (caution, "CRASHES_TILL_CAREFUL", plan.crashes_till_careful),
            (relay, "BUSY_WAIT_S", 0.1), (housekeeping, "TRIM_EVERY_S", TRIM_EVERY_S),
            (audit, "scratch", finish.Nowhere), (audit, "sqlite3", finish.InMemory),
            (logging.getLogger("sidecar.feed"), "disabled", True),
            (width, "LAP_S", LAP_S),
            (pruning, "SHARDS", plan.shards), (Keys, "seen", few_shards(plan.shards)),
        ]  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(_garbage_left())
            for owner, name, value in sizes:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            yield


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Let no collector look through a run: it makes much, and little that is not freed at once."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spare() -> None:
    """Let the collector pass by what is there for good: it would look through it at each seed."""
    gc.collect()
    gc.freeze()


def few_shards(count: int) -> Callable[[Keys, bytes], str]:
    """Let so few events have company in their shards, as millions have."""

    def seen(self: Keys, digest: bytes) -> str:
        return f"{self.prefix}:seen:{int.from_bytes(digest[:2]) % count:04x}"

    return seen


def simulate(seed: int, *, keeps_trace: bool = True, scene: Scene | None = None) -> Result:
    """Run one whole seed, in a scene of its own unless one is given."""
    return World(seed, keeps_trace=keeps_trace, scene=scene or scene_of(seed)).run(seed)


def run_lean(seed: int) -> Result:
    """Run one whole seed, and look at its steps only when they are needed."""
    result = simulate(seed, keeps_trace=False)
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return simulate(seed) if result.violation else result

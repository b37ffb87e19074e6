"""One run: producers, workers, a server and two stores in one process, all of it from one seed."""

from __future__ import annotations

import hashlib
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.redis import halts, tenants
from sidecar.worker import caution, relay
from tests.simulation.faults import PROCESS, WORLD, Fault, Faults
from tests.simulation.invariants import Violation, Watch, guarded
from tests.simulation.producer import Book, Producer
from tests.simulation.schedule import Killed, Process, Schedule
from tests.simulation.server import Server
from tests.simulation.stores import Shelf
from tests.simulation.streams import show_id
from tests.simulation.wire import Wire
from tests.simulation.worker import Worker

EPOCH_S: Final = 1_767_225_600.0
PATIENCE_S: Final = 120.0
"""Of simulated time, for all to be finished once the faults have ended."""
MAX_WORKERS: Final = 14
SHOWN: Final = 400
"""Characters shown of one thing in a story."""


@dataclass(frozen=True)
class Plan:
    """What the seed fixes at the beginning."""

    control: str
    notifications: str
    events: int
    pauses: float
    chaos_s: float
    workers: int
    threads: int
    lease_s: float
    retry_budget_s: float
    max_consecutive_dead: int
    dedup_window_s: float
    batch: int
    window: int
    max_held: int
    crashes_till_careful: int

    @classmethod
    def draw(cls, chance: random.Random) -> Plan:
        """Draw one."""
        window = chance.choice((1, 2, 3, 5, 8, 1000))
        return cls(
            control="control:events",
            notifications="control:notifications",
            events=chance.randint(3, 30),
            pauses=chance.choice((0.1, 0.5, 0.9)),
            chaos_s=chance.choice((2.0, 4.0, 8.0)),
            workers=chance.choice((1, 2, 2, 3)),
            threads=chance.randint(1, 4),
            lease_s=chance.choice((1.0, 2.0)),
            retry_budget_s=chance.choice((0.0, 1.0, 3.0)),
            max_consecutive_dead=chance.choice((0, 2, 100)),
            dedup_window_s=7 * 86400.0,
            batch=chance.choice((1, 2, 3, 500)) if window < 1000 else 500,
            window=window,
            max_held=chance.choice((1, 2, 10_000)),
            crashes_till_careful=chance.choice((1, 2, 3)),
        )


@dataclass
class Result:
    """What came of a run."""

    seed: int
    violation: str = ""
    happened: Counter[Any] = field(default_factory=Counter)
    turns: int = 0
    commands: int = 0
    published: int = 0
    buried: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    plan: object = None
    steps: int = 0
    kind: str = ""
    """How to ask for it again, beside its seed."""

    def digest(self) -> str:
        """Return what two runs have in common only when every step of them was the same."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()

    def story(self, last: int = 60) -> str:
        """Return what a person needs to look into a failed run."""
        faults = ", ".join(f"{n} x {kind}" for kind, n in sorted(self.happened.items()))
        steps = self.trace[len(self.trace) - last :] if last < len(self.trace) else self.trace
        lines = [f"{at:9.4f}  " + "  ".join(map(_shown, rest)) for at, *rest in steps]
        return "\n".join([
            f"seed {self.seed}: {self.violation or 'nothing is wrong'}",
            f"plan: {self.plan}", f"faults: {faults}", *lines,
            f"replay: make simulate SEED={self.seed}{self.kind}",
        ])  # fmt: skip


class World:
    """Everything of one run."""

    def __init__(self, seed: int, *, crash_at_step: int | None, quiet: bool) -> None:
        self.chance = random.Random(seed)
        self.plan = Plan.draw(self.chance)
        self.schedule = Schedule()
        self.faults = Faults(self.chance, quiet=quiet)
        self.trace: list[tuple[Any, ...]] = []
        self.epoch_s = EPOCH_S
        self.server_offset_us = 0
        self.clock_back_s = 0.0
        self.source, self.fleet = Shelf(), Shelf()
        self.book = Book()
        self.remember: Callable[..., None] = lambda *_: None
        self.server = Server(self._server_time_us)
        self.watch = Watch(self)
        self.server.appended = guarded(self.schedule, self.watch.appended)
        self.server.acknowledged = guarded(self.schedule, self.watch.acknowledged)
        self.server.delivered = self.watch.delivered
        self.server.refuse = self._refuse
        self.wire = Wire(self.schedule, self.server, self.faults, self.step, self.note, self._serve)
        self.workers: dict[Process, Worker] = {}
        self.tokens: dict[Process, bytes] = {}
        self.steps = 0
        self.commands = 0
        self._crash_at_step = crash_at_step
        self._started = 0
        self._nature = Process("nature")
        self._producers = Process("producers")

    # --- what the parts ask --------------------------------------------------------------------

    def note(self, *what: Any) -> None:
        """Write a line into the trace."""
        self.trace.append((self.schedule.now, *what))

    def token(self, process: Process) -> bytes | None:
        """Return the fencing token of a worker."""
        return self.tokens.get(process)

    def _server_time_us(self) -> int:
        return int((self.epoch_s + self.schedule.now) * 1e6) + self.server_offset_us

    def _serve(self, process: Process, command: tuple[bytes, ...], run: Callable[[], Any]) -> Any:
        self.commands += 1
        reply: Any = None
        try:
            reply = self.watch.serve(process, command, run)
        except Violation as violation:
            self.schedule.fail(violation)
        except Exception as error:
            reply = error
            raise
        finally:
            self.note(process.name, command, reply)
        return reply

    def _refuse(self, key: bytes, goes_on: bool) -> str | None:
        """A script that has written continues when the memory ends, but an XADD of its may fail."""
        stream = self.plan.control.encode()
        if self.wire.is_local or key == stream:
            return None
        kinds = {
            self.watch.dead: Fault.NO_LETTER,
            self.plan.notifications.encode(): Fault.NO_NOTIFICATION,
        }
        kind = kinds.get(key, Fault.NO_MEMORY)
        if (goes_on and kind is Fault.NO_MEMORY) or not self.faults.draw((kind,)):
            return None
        self.note("server refuses a write", key)
        return "OOM command not allowed when used memory > 'maxmemory'."

    # --- workers -------------------------------------------------------------------------------

    def step(self, process: Process) -> None:
        """Let a worker crash or stall here, if its hour has come."""
        if not process.alive:
            raise Killed
        worker = self.workers.get(process)
        if worker is None:
            return
        self.steps += 1
        if self.steps == self._crash_at_step:
            self.faults.happened[Fault.CRASH] += 1
            self.crash(worker)
        fault = self.faults.draw(PROCESS)
        if fault is None:
            return
        self.note("fault", process.name, fault.name)
        if fault is Fault.CRASH:
            self.crash(worker)
        elif fault is Fault.STOP:
            worker.stop.set()
        else:
            self._stall(worker, counted=fault is Fault.STALL)

    def crash(self, worker: Worker) -> None:
        """Let a worker die at once; another one begins later."""
        self.note("crash", worker.process.name)
        self.schedule.kill(worker.process)
        self.wire.leave(worker.process)
        self._gone(worker)
        if self.schedule.current.process is worker.process:
            raise Killed

    def _stall(self, worker: Worker, *, counted: bool) -> None:
        stall_s = self.plan.lease_s * self.chance.uniform(0.3, 3.0)
        worker.process.frozen_until = self.schedule.now + stall_s
        if not counted:
            worker.drift_s -= stall_s
        self.schedule.wait(0.0)

    def ended(self, worker: Worker) -> None:
        """A worker ended as it should."""
        self.note("ended", worker.process.name)
        self.wire.leave(worker.process)
        self._gone(worker)

    def _gone(self, worker: Worker) -> None:
        self.workers.pop(worker.process, None)
        if self._started < MAX_WORKERS and self.faults.on:
            self.schedule.after(self.chance.uniform(0.0, 1.5), self.start_worker)

    def start_worker(self) -> None:
        """Let a new worker begin."""
        self._started += 1
        worker = Worker(self, self._started)
        self.workers[worker.process] = worker
        self.tokens[worker.process] = worker.token
        self.note("start", worker.process.name)
        worker.start()

    # --- nature and the operator ---------------------------------------------------------------

    def _live(self) -> None:
        """Let something happen to everyone now and then, while the faults last."""
        while self.faults.on:
            self.schedule.wait(self.chance.expovariate(1 / 0.3))
            fault = self.faults.draw(WORLD)
            if fault is not None:
                self.note("fault", fault.name)
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        chance, now = self.chance, self.schedule.now
        while_s = chance.choice((0.05, 1.0, 3.0)) * chance.random()
        if fault is Fault.SERVER_RESTART:
            self.wire.restart(while_s)
        elif fault is Fault.SERVER_AWAY:
            self.wire.go_away(while_s)
        elif fault is Fault.CUT_OFF:
            self._cut_off(now + while_s)
        elif fault is Fault.STORE_AWAY:
            chance.choice((self.source, self.fleet)).away_until = now + while_s
        elif fault is Fault.LEASE_GONE:
            self.wire.local(b"DEL", self.watch.lease)
        elif fault in {
            Fault.SERVER_CLOCK_FORWARD, Fault.SERVER_CLOCK_BACK, Fault.WORKER_CLOCK,
        }:  # fmt: skip
            self._step_clock(fault)
        else:
            self._operate(fault)

    def _cut_off(self, until: float) -> None:
        if self.workers:
            process = self.chance.choice(list(self.workers))
            self.wire.cut_off[process] = until
            self.wire.cut([link for link in self.wire.links if link.process is process])

    def _step_clock(self, fault: Fault) -> None:
        step_s = self.chance.choice((0.001, 1.0, 20.0)) * self.chance.random()
        if fault is Fault.SERVER_CLOCK_FORWARD:
            self.server_offset_us += int(step_s * 1e6)
        elif fault is Fault.SERVER_CLOCK_BACK:
            self.server_offset_us -= int(step_s * 1e6)
            self.clock_back_s += step_s
        elif self.workers:
            worker = self.workers[self.chance.choice(list(self.workers))]
            worker.wall_offset_s += self.chance.choice((-1, 1)) * 100 * step_s

    def _operate(self, fault: Fault) -> None:
        stream, group = self.plan.control.encode(), self.watch.group
        if fault is Fault.PAUSE:
            halts.pause(_Operator(self), self._keys, reason="by hand", by="op", now="now")  # type: ignore[arg-type]
            self.schedule.after(self.chance.uniform(0.0, 2.0), self._resume)
            return
        found = self.server.data.get(stream)
        pending = sorted(found.groups[group].pending) if found and group in found.groups else []
        if fault is Fault.DELETE_ENTRY:
            present = [i for i in pending if found and i in found.fields]
            if not present:
                self.faults.happened[fault] -= 1
            else:
                gone = self.chance.choice(present)
                self.book.deleted.add(gone)
                self.wire.local(b"XDEL", stream, show_id(gone))
            return
        self.book.forgotten = self.book.forgotten or bool(self.book.deleted)
        if fault is Fault.DELETE_GROUP:
            self.wire.local(b"XGROUP", b"DESTROY", stream, group)
        else:
            self.wire.local(b"XGROUP", b"DELCONSUMER", stream, group, b"worker")

    def _resume(self) -> None:
        halts.resume(_Operator(self), self._keys, reason="continue", by="op", now="now")  # type: ignore[arg-type]

    def _resume_tenants(self) -> None:
        how = {"reason": "continue", "by": "op", "now": "now"}
        for tenant in list(self.server.data.get(self.watch.paused) or {}):
            tenants.resume_tenant(_Operator(self), self._keys, tenant=tenant.decode(), **how)  # type: ignore[arg-type]

    @property
    def _keys(self) -> Any:
        from sidecar.redis.keys import Keys

        return Keys.of(self.plan.control, self.plan.notifications)

    # --- the run -------------------------------------------------------------------------------

    def run(self, seed: int) -> Result:
        """Let it all happen, check it, and return what came of it."""
        violation = ""
        with self._constants():
            try:
                self._chaos()
                self._drain()
                self.watch.finally_()
            except Violation as error:
                violation = str(error)
            except Exception as error:  # noqa: BLE001 -- of a worker: no relay may die of a bug
                violation = "died: " + "".join(traceback.format_exception(error))
            finally:
                self.schedule.end()
        return Result(
            seed, violation, self.faults.happened, self.schedule.turns, self.commands,
            len(self.watch.published), Counter(self.watch.buried.values()), self.trace, self.plan,
            self.steps,
        )  # fmt: skip

    def _chaos(self) -> None:
        for _ in range(self.plan.workers):
            self.schedule.after(self.chance.expovariate(1 / 0.2), self.start_worker)
        self.schedule.spawn(self._producers, Producer(self).run, self.chance.choice((0.0, 0.5)))
        self.schedule.spawn(self._nature, self._live)
        self._wait(self.plan.chaos_s)

    def _drain(self) -> None:
        """End the faults, and have everything finished in time."""
        self.faults.on = False
        self.note("the faults end")
        self.wire.away_until = 0.0
        self.wire.cut_off.clear()
        deadline = self.schedule.now + PATIENCE_S + self.clock_back_s + self.plan.chaos_s
        while not self._is_drained():
            if all(worker.stop.is_set() for worker in self.workers.values()):
                self.start_worker()
            if b"reason" in (self.server.data.get(self.watch.halt) or {}):
                self._resume()
            self._resume_tenants()
            if self.schedule.now > deadline:
                unfinished = [show_id(each).decode() for each in self.watch.unfinished()]
                raise Violation(
                    f"liveness: {self.watch.pending()} pending, unfinished: {unfinished}"
                )
            self._wait(0.25)

    def _is_drained(self) -> bool:
        return (
            not self._producers.tasks and not self.watch.unfinished() and self.watch.pending() == 0
        )

    def _wait(self, seconds: float) -> None:
        until = self.schedule.now + seconds
        while self.schedule.now < until:
            self.schedule.wait(until - self.schedule.now)
            if self.schedule.failure is not None:
                raise self.schedule.failure

    @contextmanager
    def _constants(self) -> Iterator[None]:
        """Make the relay's sizes so small that a handful of events meets them."""
        plan = self.plan
        sizes = [
            (relay, "BATCH", plan.batch), (relay, "WINDOW", plan.window),
            (relay, "MAX_HELD", plan.max_held), (relay, "BUSY_WAIT_S", 0.1),
            (caution, "CRASHES_TILL_CAREFUL", plan.crashes_till_careful),
        ]  # fmt: skip
        with ExitStack() as stack:
            for owner, name, value in sizes:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            yield


class _Operator:
    """What the operator's commands take for a client."""

    def __init__(self, world: World) -> None:
        self._world = world

    def register_script(self, source: str) -> Callable[..., Any]:
        def run(keys: list[str], args: list[str]) -> Any:
            words = [source, str(len(keys)), *keys, *args]
            return self._world.wire.local(b"EVAL", *(word.encode() for word in words))

        return run


def _shown(what: Any) -> str:
    text = what if isinstance(what, str) else repr(what)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def simulate(seed: int, *, crash_at_step: int | None = None, quiet: bool = False) -> Result:
    """Run one seed; `quiet` without faults, but for a crash at that step of the workers."""
    return World(seed, crash_at_step=crash_at_step, quiet=quiet).run(seed)


def run_lean(seed: int) -> Result:
    """Run one seed, and keep its steps only when they are needed."""
    result = simulate(seed)
    if not result.violation:
        result.trace.clear()
    return result

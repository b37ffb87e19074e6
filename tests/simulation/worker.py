"""A worker: the real relay, publisher, source and pipeline, on simulated edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sidecar.redis.client import TIMEOUT_S
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Publisher
from sidecar.redis.source import ControlStream
from sidecar.worker.host import Host, Route
from sidecar.worker.ownership import IDLE_BLOCK_S
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.relay import Relay
from sidecar.worker.settings import Options
from sidecar.worker.share import Share
from sidecar.worker.timing import Took
from tests.simulation.quiet import QUIET
from tests.simulation.schedule import Process, Schedule, Task
from tests.simulation.stores import ShelfStore
from tests.simulation.wire import SimulatedConnection

if TYPE_CHECKING:
    from tests.simulation.world import World


class SimulatedSignal:
    """Stands in for `threading.Event`."""

    def __init__(self, schedule: Schedule, step: Callable[[], None]) -> None:
        self._schedule = schedule
        self._step = step
        self._set = False
        self._waiting: Task | None = None

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._set = True
        if self._waiting:
            self._schedule.wake(self._waiting)

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most so many seconds."""
        self._step()
        if not self._set:
            self._waiting = self._schedule.current
            self._schedule.wait(timeout)
            self._waiting = None
        return self._set


class SimulatedQueue:
    """Stands in for `queue.SimpleQueue`."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._items: deque[Any] = deque()
        self._waiting: Task | None = None

    def put(self, item: Any) -> None:
        """Append, and wake who waits."""
        self._items.append(item)
        if self._waiting:
            self._schedule.wake(self._waiting)

    def get_nowait(self) -> Any:
        """Take the first. Raises `Empty`."""
        if not self._items:
            raise Empty
        return self._items.popleft()

    def get(self, timeout: float) -> Any:
        """Take the first, waiting for it. Raises `Empty`."""
        if not self._items:
            self._waiting = self._schedule.current
            self._schedule.wait(timeout)
            self._waiting = None
        return self.get_nowait()


class SimulatedPool(Executor):
    """Stands in for the thread pool: tasks of the worker's process, begun when the seed says."""

    def __init__(self, world: World, process: Process, threads: int) -> None:
        self._world = world
        self._process = process
        self._threads = threads
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it run by and by. The future stays open: the relay has its own queue of results."""
        self._waiting.append(lambda: fn(*args, **kwargs))
        if self._running < self._threads:
            self._running += 1
            self._world.schedule.spawn(
                self._process, self._run, self._world.chance.expovariate(1 / 0.0005)
            )
        return Future()

    def _run(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
        self._running -= 1


class Worker:
    """One process of `sidecar run`. Its life begins with `start`."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.process = Process(f"worker{number}")
        self.token = b"%032x" % number
        self.drift_s = world.chance.uniform(0.0, 1000.0)
        """What its monotonic clock shows at the beginning."""
        self.wall_offset_s = world.chance.choice((0.0, 0.0, world.chance.uniform(-60.0, 60.0)))
        self.stop = SimulatedSignal(world.schedule, lambda: world.step(self.process))

    def clock(self) -> float:
        """Return what `time.monotonic` would."""
        return self.world.schedule.now + self.drift_s

    def wall_clock(self) -> float:
        """Return what `time.time` would."""
        return self.world.epoch_s + self.world.schedule.now + self.wall_offset_s

    def start(self) -> None:
        """Let it run."""
        self.world.schedule.spawn(self.process, self._run)

    def _run(self) -> None:
        world, plan = self.world, self.world.plan
        keys = Keys.of(plan.control, plan.notifications)
        publisher = Publisher(
            self._client(), keys, lease_s=plan.lease_s, dedup_window_s=plan.dedup_window_s
        )
        publisher._token = self.token.decode()
        control = ControlStream(self._client(), self._client(IDLE_BLOCK_S), keys)
        relay = Relay(
            Route(plan.control, control, publisher),
            Pipeline(self._store(world.source), self._store(world.fleet), Rules()),
            Host(
                SimulatedPool(world, self.process, plan.threads),
                Share([plan.control]),
                clock=self.clock,
                wall_clock=self.wall_clock,
                finished=lambda: cast("SimpleQueue[Any]", SimulatedQueue(world.schedule)),
            ),
            Options(
                lease_s=plan.lease_s,
                retry_budget_s=plan.retry_budget_s,
                max_consecutive_dead=plan.max_consecutive_dead,
                store_threads=8,
            ),
            self,
            QUIET,
        )
        relay.run(self.stop)  # type: ignore[arg-type]
        world.ended(self)

    def _client(self, block_s: float = 0.0) -> redis.Redis:
        pool: Any = redis.ConnectionPool(
            connection_class=SimulatedConnection,
            wire=self.world.wire,
            process=self.process,
            protocol=2,
            socket_timeout=TIMEOUT_S + block_s,
            retry=Retry(NoBackoff(), 0),
        )
        return redis.Redis(connection_pool=pool)

    def _store(self, shelf: Any) -> ShelfStore:
        world = self.world
        return ShelfStore(shelf, world.schedule, world.faults, world.step, world.plan.lease_s)

    # --- the relay's observer ------------------------------------------------------------------

    def read(self, count: int) -> None:
        """See `Observer`."""

    def committed(self, outcome: str, count: int) -> None:
        """See `Observer`."""

    def conflict_of_tenants(self, count: int) -> None:
        """See `Observer`."""

    def retried(self, error: BaseException) -> None:
        """See `Observer`."""

    def stored(self, seconds: float) -> None:
        """See `Observer`."""

    def state(self, state: str, detail: str) -> None:
        """Write it into the trace."""
        self.world.note("state", self.process.name, state, detail)

    def gave_back(self) -> None:
        """See `Observer`."""

    def forgot(self, part: str) -> None:
        """Write it into the trace."""
        self.world.note("forgot", self.process.name, part)

    def published(self, took: Took, seconds: float) -> None:
        """See `Observer`."""

    def paused(self, count: int) -> None:
        """Take no notice."""

    def gauge(self, *, window: int, held: int, longest_s: float) -> None:
        """See `Observer`."""

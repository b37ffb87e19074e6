"""One round under fire: a fleet, a Redis, a producer, and everything that can happen to them.

A round draws its points from its seed: the kind of each, its victim and its moment. It ends with
calm: the producer stops, the fleet is drained, and the check from outside looks at everything.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.faults import disk, outside
from tests.faults.crashing import CrashingRedis
from tests.faults.fleet import Fleet, Stuck, points
from tests.faults.load import Load
from tests.faults.proxy import CALM, Proxy, Weather
from tests.faults.watch import FenceWatch
from tests.faults.zygote import REPOSITORY, Zygote

SHARES: Final = {
    "kill the active": 0.5,
    "kill a standby": 0.15,
    "kill all": 0.1,
    "stall the active": 0.2,
    "kill the stalled": 0.05,
}
"""The kinds of kill point, and the share that each has."""
LOOK_EVERY: Final = 10
DISK_MIB: Final = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What one round does."""

    seed: int
    kills: int
    redis_crashes: int = 0
    clean_stops: int = 0
    disk_faults: int = 0
    """How often the fleet's disk is full, or fails; needs root, and strace."""
    workers: int = 2
    lease_s: float = 0.2
    per_second: float = 150.0
    weather: Weather | None = None
    """What the network is like; None is without a proxy."""
    product: Path = REPOSITORY
    """Where `sidecar` and `store` are imported from."""
    directory: Path | None = None
    """Where the round has its directories; the system's place for such by default."""
    until_caught: bool = False
    """Whether to end at the first violation."""


@dataclass
class Figures:
    """What came of rounds."""

    points: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    fenced_writes: int = 0
    """Notifications and letters that were held against the fence as they were written."""
    held_back: int = 0
    """How often a worker put a tenant off, as a store failed."""
    resent: int = 0
    network: Counter[str] = field(default_factory=Counter)
    takeovers_s: list[float] = field(default_factory=list)
    """From the kill or the stall of the active worker until another held the lease."""
    silences_s: list[float] = field(default_factory=list)
    """From the kill or the stall of the active worker until the next notification after it."""
    handovers_s: list[float] = field(default_factory=list)
    """From a clean stop of the active worker until another held the lease."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many kill points there were."""
        return sum(self.points[kind] for kind in SHARES)

    def add(self, other: Figures) -> None:
        """Add another round's."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> dict[str, Any]:
        """Return all of it as one JSON object."""
        return {
            "kill_points": self.kills,
            "points": dict(self.points),
            "entries": self.entries,
            "ends": dict(self.ends),
            "dead_letters": dict(self.reasons),
            "held_against_the_fence": self.fenced_writes,
            "held_back": self.held_back,
            "sent_again_by_the_producer": self.resent,
            "network": dict(self.network),
            "takeover_s": spread(self.takeovers_s),
            "silence_s": spread(self.silences_s),
            "handover_s": spread(self.handovers_s),
            "seconds": round(self.seconds, 1),
            "violations": self.violations,
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the count, the median, the 99th percentile and the maximum."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "max": round(ordered[-1], 3),
    }


def run(plan: Plan) -> Figures:
    """Run a round. Its directory stays, and is named, when something is violated."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix=f"fire-{plan.seed}-", dir=plan.directory))
    with _round(plan, directory) as round_:
        figures = round_.run()
    figures.seconds = time.monotonic() - began
    if figures.violations and not plan.until_caught:
        figures.violations.append(f"seed {plan.seed}: all of it is kept in {directory}")
    else:
        shutil.rmtree(directory)
    return figures


@contextmanager
def _round(plan: Plan, directory: Path) -> Iterator[_Round]:
    with ExitStack() as stack:
        server = stack.enter_context(CrashingRedis(directory / "redis"))
        watch = FenceWatch(server.port)
        stack.enter_context(watch.running())
        proxy = None
        if plan.weather:
            proxy = Proxy(server.port, plan.seed, plan.weather)
            stack.enter_context(proxy.running())
        client = stack.enter_context(
            redis.Redis.from_url(
                server.url, protocol=2, retry=Retry(ConstantBackoff(0.01), 100), socket_timeout=30
            )
        )
        if plan.disk_faults:
            stack.enter_context(disk.small_disk(directory / "fleet", DISK_MIB))
        zygote = stack.enter_context(closing(Zygote(plan.product)))
        url = f"redis://127.0.0.1:{proxy.port}/0" if proxy else server.url
        yield _Round(
            plan,
            server,
            proxy,
            Fleet(zygote, client, url, directory, plan.workers, plan.lease_s),
            Load(server.url, directory / "source", plan.seed, plan.per_second),
            outside.Checker(client, directory / "fleet"),
            watch,
        )


@dataclass
class _Round:
    """A round that runs."""

    plan: Plan
    server: CrashingRedis
    proxy: Proxy | None
    fleet: Fleet
    load: Load
    checker: outside.Checker
    watch: FenceWatch
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self._random = random.Random(f"fire {self.plan.seed}")

    def run(self) -> Figures:
        figures, fleet = self.figures, self.fleet
        fleet.violations = figures.violations
        try:
            self._fire()
            if not (self._is_violated() and self.plan.until_caught):
                fleet.drain()
                figures.violations += self.checker.finish()
                self._check_promises()
                figures.violations += outside.violations(fleet.client, self.checker.fleet)
        except Stuck as stuck:
            figures.violations.append(f"stuck: {stuck}")
        figures.violations += self.watch.violations
        figures.fenced_writes = self.watch.writes
        figures.held_back = fleet.said("held back")
        figures.entries = self.checker.entries
        figures.ends, figures.reasons = self.checker.ends, self.checker.reasons
        figures.resent = self.load.resent
        figures.network = self.proxy.counts if self.proxy else Counter()
        return figures

    def _fire(self) -> None:
        """Go through the points, and come to calm."""
        fleet, figures = self.fleet, self.figures
        with self.load.running():
            fleet.fill()
            fleet.progress()
            for number, kind in enumerate(points(self._kinds(), self._random.shuffle)):
                _POINTS[kind](self)
                figures.points[kind] += 1
                self._breathe()
                if number % LOOK_EVERY == 0:
                    figures.violations += self.checker.look()
                if self._is_violated() and self.plan.until_caught:
                    return
            if self.proxy:
                self.proxy.weather = CALM
            fleet.progress()
        fleet.stop()

    def _is_violated(self) -> bool:
        return bool(self.figures.violations or self.watch.violations)

    def _kinds(self) -> dict[str, int]:
        """Say how many points of each kind there are."""
        plan = self.plan
        kinds = {kind: int(plan.kills * share) for kind, share in SHARES.items()}
        kinds["kill the active"] += plan.kills - sum(kinds.values())
        kinds["crash Redis"] = plan.redis_crashes
        kinds["stall Redis"] = plan.redis_crashes // 2
        kinds["stop the active"] = plan.clean_stops
        kinds["fill the disk"] = plan.disk_faults // 2
        kinds["fail the disk"] = plan.disk_faults - plan.disk_faults // 2
        return kinds

    def _breathe(self) -> None:
        """Wait for the next point: mostly until something is published, at times less."""
        self.fleet.fill()
        if self._random.random() < 0.7:
            self.fleet.progress()
        time.sleep(self._random.uniform(0, 0.05))

    def _check_promises(self) -> None:
        """What the producer put and emitted is published; an outage buries nothing."""
        figures, checker = self.figures, self.checker
        lost = self.load.event_ids - checker.published - set(checker.dead_ids)
        if lost:
            figures.violations.append(f"G3: no entry is left of {sorted(lost)[:5]}")
        innocent = self.load.event_ids & set(checker.dead_ids)
        if len(innocent) > checker.reasons["poison"]:
            figures.violations.append(
                f"buried, with nothing wrong: {sorted(innocent)[:5]} {checker.reasons}"
            )

    # --- points --------------------------------------------------------------------------------

    def kill_active(self) -> None:
        """Kill the active worker."""
        ready = self.fleet.until_standby()
        victim, before = self.fleet.active(), self.fleet.token()
        if victim is None:
            self.kill_standby()
            return
        began = time.monotonic()
        self.fleet.kill(victim)
        self._measure(before, began, count=ready)

    def kill_standby(self) -> None:
        """Kill a worker that is not active, whatever it does."""
        if standbys := self.fleet.standbys():
            self.fleet.kill(self._random.choice(standbys))

    def kill_all(self) -> None:
        """Kill every worker within a moment."""
        for victim in list(self.fleet.workers):
            self.fleet.kill(victim)

    def stall_active(self) -> None:
        """Stop the active worker, let another take over, and resumes it as if nothing were."""
        self._stall(self.fleet.go_on)

    def kill_stalled(self) -> None:
        """Stop the active worker, let another take over, resumes it, and kill it."""
        self._stall(self._go_on_and_die)

    def _go_on_and_die(self, victim: Any) -> None:
        self.fleet.go_on(victim)
        time.sleep(self._random.uniform(0, 0.03))
        self.fleet.kill(victim)

    def _stall(self, then: Any) -> None:
        ready = self.fleet.until_standby()
        victim, before = self.fleet.active(), self.fleet.token()
        if victim is None:
            self.kill_standby()
            return
        began = time.monotonic()
        self.fleet.stall(victim)
        self._measure(before, began, count=ready)
        time.sleep(self._random.uniform(0, 0.1))
        then(victim)

    def stop_active(self) -> None:
        """Ask the active worker to stop: the standby need not wait for the lease to run out."""
        ready = self.fleet.until_standby()
        victim, before = self.fleet.active(), self.fleet.token()
        if victim is None or before is None:
            return
        began = time.monotonic()
        self.fleet.terminate(victim)
        took_s = self.fleet.takeover(before, began)
        if took_s is not None and ready:
            self.figures.handovers_s.append(took_s)
        self.fleet.see_off(victim)

    def crash_redis(self) -> None:
        """Kill Redis, and start it again after a while."""
        self.server.kill()
        time.sleep(self._random.uniform(0, 0.3))
        self.server.start()

    def stall_redis(self) -> None:
        """Stop Redis for up to two leases."""
        self.server.stall()
        time.sleep(self._random.uniform(0, 2 * self.plan.lease_s))
        self.server.go_on()

    def fill_disk(self) -> None:
        """Leave no room on the fleet's disk for a while; a worker may die meanwhile."""
        with disk.full(self.checker.fleet):
            time.sleep(self._random.uniform(0, 1))
            if self._random.random() < 0.5:
                self.kill_all()
                self.fleet.fill()
                time.sleep(self._random.uniform(0, 0.5))

    def fail_disk(self) -> None:
        """Let the active worker's Puts fail for a while; it may die meanwhile."""
        victim = self.fleet.active()
        if victim is None:
            return
        with disk.failing(victim.pid, self._random.choice(["EIO", "ENOSPC"])):
            time.sleep(self._random.uniform(0, 0.5))
            if self._random.random() < 0.5:
                self.fleet.kill(victim)

    def _measure(self, before: bytes | None, began: float, *, count: bool) -> None:
        """Wait for the takeover, and mostly for the first notification after it."""
        took_s = self.fleet.takeover(before, began)
        if took_s is None or before is None or not count:
            return
        self.figures.takeovers_s.append(took_s)
        if self._random.random() < 0.7:
            self.fleet.progress()
            self.figures.silences_s.append(time.monotonic() - began)


_POINTS: Final = {
    "kill the active": _Round.kill_active,
    "kill a standby": _Round.kill_standby,
    "kill all": _Round.kill_all,
    "stall the active": _Round.stall_active,
    "kill the stalled": _Round.kill_stalled,
    "stop the active": _Round.stop_active,
    "crash Redis": _Round.crash_redis,
    "stall Redis": _Round.stall_redis,
    "fill the disk": _Round.fill_disk,
    "fail the disk": _Round.fail_disk,
}


def rounds(plan: Plan, kills_a_round: int) -> list[Plan]:
    """Divide a plan into rounds, each with a seed of its own."""
    count = max(1, round(plan.kills / kills_a_round))
    return [
        replace(
            plan,
            seed=plan.seed + i,
            kills=_part(plan.kills, count, i),
            redis_crashes=_part(plan.redis_crashes, count, i),
            clean_stops=_part(plan.clean_stops, count, i),
            disk_faults=_part(plan.disk_faults, count, i),
        )
        for i in range(count)
    ]


def _part(whole: int, parts: int, i: int) -> int:
    return whole * (i + 1) // parts - whole * i // parts

"""Years in service, a day after the other: nothing grows for ever, and nothing that is needed goes.

`python -m tests.simulation.years --days 1096`. The relay, trimming, pruning, the archive with its
horizon, retention in both stores and the index are the product's own; server, stores and clock are
in memory, and time passes when a day is over. Each quarter is measured; the last two years are held
against each other. What must be there is read by a controller that registered and by one that
reads once a week, and, at the end of each quarter, as the newest version of each subject.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface
from redis.retry import Retry

from sidecar.history.archive import ArchiveHistory
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.joined import JoinedHistory
from sidecar.history.live import LiveHistory
from sidecar.history.state import state_at
from sidecar.ops.sweeping import sweep
from sidecar.redis import pruning, readers
from sidecar.redis.client import Client, Side
from sidecar.redis.keys import Keys
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Publisher
from sidecar.redis.retention import KINDS, Retention, parse_policy
from sidecar.redis.scan import pages
from sidecar.redis.source import ControlStream
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.keeping import source_rules, unattended
from sidecar.wire.subject import Subject, subject_of
from sidecar.worker.host import Host, Route
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.relay import Relay
from sidecar.worker.retaining import Place, SweepOrder
from sidecar.worker.settings import Options
from sidecar.worker.share import Share
from store import NotFound, checksum_of
from store.memory import MemoryStore
from tests.simulation.quiet import QUIET
from tests.simulation.server import Server
from tests.simulation.streams import Stream
from tests.simulation.whole import clock
from tests.simulation.whole.client import SwiftPool, model
from tests.simulation.whole.world import few_shards as of_few
from tests.simulation.wire import command_of

DAY_S: Final = 86_400.0
QUARTER_DAYS: Final = 91
YEAR: Final = 4
"""Quarters."""
EPOCH_S: Final = 1_700_000_000.0
KEYS: Final = Keys.of("control:events", "control:notifications")
KEEP: Final = "stacks/*/*/*:last=3,age=30d"
ARCHIVE_KEEP_S: Final = 150 * DAY_S
DEDUP_WINDOW_S: Final = 7 * DAY_S
POLICIES: Final = {"control": "age=7d", "notifications": "age=30d", "dead": "age=90d"}
READERS: Final = {"steady": 1, "weekly": 7}
"""By name, after how many days each reads again."""
READER_TTL_S: Final = 30 * 86_400
SHARDS: Final = 64
MOST_WAITS: Final = 100
"""Of a drain with everything at hand."""


class Calendar:
    """Stands in for the module `time`: time passes when somebody sleeps, or a day is over."""

    def __init__(self) -> None:
        self.now = EPOCH_S

    def time(self) -> float:
        """Return what `time.time` would."""
        return self.now

    def time_ns(self) -> int:
        """Return what `time.time_ns` would."""
        return int(self.now * 1e9)

    def monotonic(self) -> float:
        """Return what `time.monotonic` would."""
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Direct(ConnectionInterface):
    """A connection of redis-py that the server answers at once, in the thread that asks."""

    def __init__(self, *, server: Server, retry: Retry, **_: Any) -> None:
        self.pid, self.db, self.host, self.port, self.retry = os.getpid(), 0, "years", 0, retry
        self._server = server
        self._answers: list[Any] = []

    def connect(self) -> None:
        """Nothing is to be done."""

    def disconnect(self, *_: Any, **__: Any) -> None:
        """Forget what was not read."""
        self._answers.clear()

    def pack_command(self, *args: Any) -> list[tuple[bytes, ...]]:
        """Return the command as it is sent."""
        return [command_of(args)]

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> list[tuple[bytes, ...]]:
        """Return commands as they are sent."""
        return [command_of(each) for each in commands]

    def send_command(self, *args: Any, **_: Any) -> None:
        """Send one command."""
        self.send_packed_command(self.pack_command(*args))

    def send_packed_command(
        self,
        command: Sequence[tuple[bytes, ...]],
        check_health: bool = True,  # noqa: ARG002 -- redis-py's
    ) -> None:
        """Have commands done."""
        self._answers += [self._server.execute(one) for one in command]

    def can_read(self, timeout: float = 0) -> bool:  # noqa: ARG002 -- redis-py's
        """Tell whether there is an answer that nobody read."""
        return bool(self._answers)

    def is_ready(self) -> bool:
        """Tell whether there is no answer that nobody read."""
        return not self._answers

    def read_response(self, *_: Any, **__: Any) -> Any:
        """Return the next answer. Raises what it says."""
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AtOnce:
    """A pool for store work that does it in the thread that asks."""

    each = 8

    def submit(self, work: Callable[[], None], *_: Any, **__: Any) -> None:
        """Do it."""
        work()


@dataclass(frozen=True)
class Measure:
    """What there is at one time."""

    refs: int
    source_refs: int
    archived: int
    archived_bytes: int
    keys: int
    entries: int
    remembered: int


@dataclass
class Fleet:
    """What the producer sent, and what must be there."""

    newest: dict[Subject, tuple[str, str, str]] = field(default_factory=dict)
    """By subject, ref, checksum and checksum of the manifest of what was published last."""
    passed: dict[str, EntryId] = field(default_factory=lambda: dict.fromkeys(READERS, FIRST))


class Years:
    """A deployment that ages."""

    def __init__(self, seed: int, *, subjects: int, events_a_day: int) -> None:
        self.chance = random.Random(f"years {seed}")
        self.calendar = Calendar()
        self.server = Server(lambda: int(self.calendar.now * 1e6))
        self.client = self._client()
        self.source, self.fleet_store = MemoryStore(), MemoryStore()
        self.stacks = [f"t{n % 20}/web{n // 20}" for n in range(subjects)]
        self.versions = dict.fromkeys(self.stacks, 0)
        self.events_a_day = events_a_day
        self.fleet = Fleet()
        self.violations: list[str] = []
        self.measures: list[Measure] = []
        self._numbers = itertools.count()
        side = Side(self.client, "redis://years")
        self.side = side
        live = LiveHistory(side, side, [KEYS], self.fleet_store)
        self.live = live
        sizes = Sizes(checkpoint_rows=2000)
        self.archiver = Archiver(live, self.fleet_store, self.client, KEYS, sizes=sizes)
        policies = {name: parse_policy(text) for name, text in POLICIES.items()}
        self.retention = Retention(
            self.client, self.client, KEYS, policies,
            dedup_window_s=DEDUP_WINDOW_S, archived_first=True,
        )  # fmt: skip
        self.pruning = Pruning(self.client, KEYS, dedup_window_s=DEDUP_WINDOW_S)
        self.places = [
            Place("fleet", self.fleet_store, [unattended(KEEP)]),
            Place("source", self.source, source_rules(["published+1d"]), self.fleet_store),
        ]

    def _client(self) -> Client:
        client: Any = copy(model())
        client.response_callbacks = dict(client.response_callbacks)
        client.connection_pool = SwiftPool(
            connection_class=Direct, protocol=2, retry=Retry(NoBackoff(), 0), server=self.server
        )
        found: Client = client
        return found

    def run(self, days: int, tell: Callable[[str], None] = lambda _: None) -> None:
        """Let so many days pass."""
        with clock.simulated(self.calendar), few_shards(SHARDS):  # type: ignore[arg-type]
            for day in range(1, days + 1):
                self.day(day)
                if day % QUARTER_DAYS == 0:
                    self._judge()
                    self.measures.append(self.measure())
                    tell(f"day {day}: {self.measures[-1]}")

    # --- a day ---------------------------------------------------------------------------------

    def day(self, day: int) -> None:
        """Let events come in at four times of the day, and do each time what a worker does."""
        for _ in range(4):
            for _ in range(self.events_a_day // 4):
                self.produce()
            self.relay()
            self.calendar.now += DAY_S / 4
        for name, every in READERS.items():
            if day % every == 0:
                self.read(name)
        self.keep_house()

    def produce(self) -> None:
        """Send an event: mostly of a new version, at times a repeat, a rollback, or nonsense."""
        number, stack = next(self._numbers), self.chance.choice(self.stacks)
        kind = self.chance.random()
        if kind < 0.01:
            self.client.xadd(KEYS.control, {"event": b"no JSON"})
            return
        rolls_back = kind < 0.05 and self.versions[stack] > 0
        version = self.versions[stack] if rolls_back else self.versions[stack] + 1
        self.versions[stack] = version
        tenant, _, name = stack.partition("/")
        ref, data = f"stacks/{stack}/{version}", f"{stack} {version} {number}".encode() * 8
        self.source.put(ref, data, b"manifest")
        body = {
            "event_id": f"e{number}", "type": "stack.activated", "tenant_id": tenant,
            "stack_id": name, "version": version, "artifact_ref": ref,
            "checksum": checksum_of(data),
        }  # fmt: skip
        for _ in range(2 if kind > 0.95 else 1):
            self.client.xadd(KEYS.control, {"event": json.dumps(body)})

    def relay(self) -> None:
        """Relay all that waits."""
        calendar = self.calendar
        publisher = Publisher(self._client(), KEYS, lease_s=60, dedup_window_s=DEDUP_WINDOW_S)
        control = ControlStream(self._client(), self._client(), KEYS)
        host = Host(
            AtOnce(), Share([KEYS.control]), clock=calendar.monotonic,
            wall_clock=calendar.time, finished=SimpleQueue,
        )  # fmt: skip
        relay = Relay(
            Route(KEYS.control, control, publisher),
            Pipeline(self.source, self.fleet_store, Rules()), host,
            Options(
                lease_s=60, retry_budget_s=0, max_consecutive_dead=0, store_threads=8, drain=True
            ),
            _Deaf(), QUIET,
        )  # fmt: skip
        relay.run(_Never())  # type: ignore[arg-type]
        if not relay.complete:
            self.violations.append("a drain left something behind")

    def keep_house(self) -> None:
        """Archive, expire, trim, prune and retain, as far as it is due."""
        for stream in (KEYS.control, KEYS.notifications, KEYS.dead):
            for _ in self.archiver.archive(stream, rest=True):
                pass
            for _ in self.archiver.expire(stream, ARCHIVE_KEEP_S):
                pass
        self.archiver.keep_state()
        for kind in KINDS:
            while self.retention.trim_one(kind).more:
                pass
        while self.pruning.prune():
            self.calendar.now += 0.1
        for place in self.places:
            order = SweepOrder(
                place, self.side, self.side, [KEYS], grace_s=DAY_S, most=100_000, after="",
                collects=True, by="years", breathe=lambda: None,
            )  # fmt: skip
            sweep(order)

    # --- what must be there --------------------------------------------------------------------

    def read(self, name: str) -> None:
        """Read on as a controller does: each artifact is there, pinned, and nothing was trimmed."""
        trimmed: Any = self.client.hget(KEYS.trimmed, KEYS.notifications)
        passed = self.fleet.passed[name]
        if trimmed and EntryId(trimmed.decode()) > passed:
            self.violations.append(f"{name} was trimmed over: {trimmed!r} after {passed}")
        for page in pages(self.client, KEYS.notifications, passed.after, LAST):
            for entry in page:
                passed = entry.id
                self._resolve(json.loads(entry.fields[b"event"]), name)
        self.fleet.passed[name] = passed
        readers.passed(self.client, KEYS, name, passed.control_version, READER_TTL_S)

    def _resolve(self, body: dict[str, Any], who: str) -> None:
        ref, pins = body["artifact_ref"], (body["checksum"], body["manifest_checksum"])
        subject = subject_of(body.get("tenant_id", ""), body.get("stack_id", ""), ref)
        if who == "steady" and subject:
            self.fleet.newest[subject] = (ref, *pins)
        with suppress(NotFound):
            self.fleet_store.get(ref, checksum=pins[0], manifest_checksum=pins[1])
            return
        self.violations.append(f"{who} cannot resolve {ref}")

    def judge(self) -> None:
        """See that what runs in the fleet can be resolved, and that the state has all of it."""
        with clock.simulated(self.calendar):  # type: ignore[arg-type]
            self._judge()

    def _judge(self) -> None:
        for ref, checksum, manifest in self.fleet.newest.values():
            if not self.fleet_store.exists(ref, checksum=checksum, manifest_checksum=manifest):
                self.violations.append(f"{ref}, the newest of its subject, is gone")
        history = JoinedHistory(ArchiveHistory(self.fleet_store, self.live.streams), self.live)
        state = state_at(history, int(self.calendar.now * 1e6))
        if state.gaps:
            self.violations.append(f"the state has gaps: {state.gaps}")
        found = sum(1 for _ in state.rows())
        if found != len(self.fleet.newest):
            self.violations.append(f"the state has {found} of {len(self.fleet.newest)} subjects")

    def measure(self) -> Measure:
        """Count what there is."""
        own = [ref for ref in self.fleet_store.list() if not ref.startswith(".")]
        archived = list(self._archived())
        data = self.server.data
        shards = (one for key, one in data.items() if b":seen:" in key)
        return Measure(
            len(own), sum(1 for ref in self.source.list() if not ref.startswith(".")),
            len(archived), sum(archived), len(data),
            sum(len(one.ids) for one in data.values() if isinstance(one, Stream)),
            sum(len(one) for one in shards if isinstance(one, dict)),
        )  # fmt: skip

    def _archived(self) -> Iterator[int]:
        for ref in self.fleet_store.list(".sidecar/archive"):
            yield sum(one.size_bytes for one in self.fleet_store.versions(ref))


class _Never:
    """Stands in for an event that nobody sets."""

    def __init__(self) -> None:
        self._waits = 0

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        self._waits += 1
        assert self._waits < MOST_WAITS, f"a drain waits for {timeout} s again and again"
        return False


class _Deaf:
    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


@contextmanager
def few_shards(count: int) -> Iterator[None]:
    """Give the index so few shards that each has company, as with millions of events."""
    with ExitStack() as stack:
        for owner, name, value in ((pruning, "SHARDS", count), (Keys, "seen", of_few(count))):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def growth(measures: Sequence[Measure]) -> dict[str, float]:
    """Return of each measure by how much its mean of the last year differs from the year before."""
    found = {}
    for name in Measure.__dataclass_fields__:
        of_quarter = [getattr(one, name) for one in measures]
        before, last = of_quarter[-2 * YEAR : -YEAR], of_quarter[-YEAR:]
        found[name] = statistics.fmean(last) / max(statistics.fmean(before), 1) - 1
    return found


def main() -> None:
    """Let years pass, and say what there is."""
    options = argparse.ArgumentParser(prog="python -m tests.simulation.years", description=__doc__)
    options.add_argument("--days", type=int, default=12 * QUARTER_DAYS)
    options.add_argument("--subjects", type=int, default=2000)
    options.add_argument("--events", type=int, default=400, help="a day")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    years = Years(chosen.seed, subjects=chosen.subjects, events_a_day=chosen.events)
    began = time.monotonic()
    years.run(chosen.days, partial(print, flush=True))
    print(f"{next(years._numbers)} events in {time.monotonic() - began:.0f} s")
    if len(years.measures) >= 2 * YEAR:
        for name, more in growth(years.measures).items():
            print(f"{name}: {more:+.1%} in the last year")
    for one in years.violations:
        print(one)
    raise SystemExit(bool(years.violations))


if __name__ == "__main__":
    main()

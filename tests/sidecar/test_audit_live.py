"""An audit beside a live worker: whatever happens between two of its commands, nobody is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any, Final

import pytest
import redis

import store
from sidecar.ops.audit import Audit, AuditOrder, Culprit
from sidecar.redis.client import Side
from sidecar.redis.keys import CONSUMER, Keys

KEYS: Final = Keys.of("control", "notifications")
SCHEDULES: Final = 12
PAIRS: Final = 60
Step = Callable[[], Any]


class Watched(redis.Redis):
    """A client that lets the world move on before any of its commands."""

    before: Callable[[int], None] = staticmethod(lambda _: None)
    sent: list[tuple[Any, ...]]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Let come what is due, then send the command."""
        self.before(len(self.sent))
        self.sent.append(args)
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class World:
    """One entry, and what a worker and an operator may do with it, a step at a time."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self.client = client
        self.event = json.dumps({"event_id": "e", "type": "key.changed", "tenant_id": "t"})
        client.xgroup_create(KEYS.control, KEYS.group, "0", mkstream=True)
        self.entry = self.append()
        self.letter = ""
        self.again = ""

    def append(self) -> str:
        """Append the event; return the entry."""
        added: Any = self.client.xadd(KEYS.control, {"event": self.event})
        return str(added.decode())

    def hand_out(self) -> None:
        """Hand out all that was not."""
        self.client.xreadgroup(KEYS.group, CONSUMER, {KEYS.control: ">"})

    def publish(self, entry: str) -> None:
        """Publish the event of an entry."""
        fields: Any = {"event": self.event, "origin": f"{KEYS.control}/{entry}"}
        self.client.xadd(KEYS.notifications, fields)

    def bury(self) -> None:
        """Write a dead letter of the entry."""
        fields: Any = {"event": self.event, "origin": f"{KEYS.control}/{self.entry}", "reason": "x"}
        added: Any = self.client.xadd(KEYS.dead, fields)
        self.letter = added.decode()

    def acknowledge(self, entry: str) -> None:
        """Take an entry off the pending list."""
        self.client.xack(KEYS.control, KEYS.group, entry)

    def put_back(self) -> None:
        """Append the event of the letter."""
        self.again = self.append()

    def settle(self) -> None:
        """Have a record take the letter's place."""
        record: Any = {
            "letter": self.letter, "origin": f"{KEYS.control}/{self.entry}",
            "entry": f"{KEYS.control}/{self.again}",
        }  # fmt: skip
        with self.client.pipeline(transaction=True) as both:
            both.xdel(KEYS.dead, self.letter)
            both.xadd(KEYS.redriven, record)
            both.execute()

    def lose_group(self) -> None:
        """Lose the group, as a Redis without memory does."""
        self.client.xgroup_destroy(KEYS.control, KEYS.group)

    def make_group(self) -> None:
        """Make the group again, at the lowest unfinished entry."""
        self.client.xgroup_create(KEYS.control, KEYS.group, "0")


def _published(world: World) -> list[Step]:
    return [
        world.hand_out,
        lambda: world.publish(world.entry),
        lambda: world.acknowledge(world.entry),
    ]


def _pending(world: World) -> list[Step]:
    world.hand_out()
    return _published(world)[1:]


def _buried(world: World) -> list[Step]:
    world.hand_out()
    return [world.bury, lambda: world.acknowledge(world.entry)]


def _redriven(world: World) -> list[Step]:
    for step in _buried(world):
        step()
    return [
        world.put_back, world.settle, world.hand_out,
        lambda: world.publish(world.again), lambda: world.acknowledge(world.again),
    ]  # fmt: skip


def _settled(world: World) -> list[Step]:
    for step in _buried(world):
        step()
    world.put_back()
    return [world.settle]


def _group_lost(world: World) -> list[Step]:
    world.client.set(KEYS.low, world.entry)
    world.hand_out()
    return [world.lose_group, world.make_group, *_published(world)]


def _group_gone(world: World) -> list[Step]:
    world.client.set(KEYS.low, world.entry)
    world.hand_out()
    return [world.lose_group]


def _schedules(steps: int, commands: int) -> Iterator[Sequence[int]]:
    """Yield before which command each step comes: all at once, then a sample of the many."""
    yield from ([at] * steps for at in range(commands + 1))
    chosen = random.Random(4)
    for _ in range(SCHEDULES if steps > 1 else 0):
        yield sorted(chosen.choices(range(commands + 1), k=steps))


def _audit(client: Watched) -> tuple[list[Culprit], Audit]:
    client.sent = []
    side = Side(client, "redis://audited")
    audit = Audit(side, side, store.open_url("memory:"), AuditOrder([KEYS]))
    return list(audit.run()), audit


def _looked_up(client: Watched) -> list[tuple[Any, ...]]:
    """Return the entries that looked lost at first: they are read once more, each by itself."""
    return [args for args in client.sent if args[:2] == ("XRANGE", KEYS.control)
            and args[2] == args[3]]  # fmt: skip


def _run(
    begin: Callable[[World], list[Step]], schedule: Sequence[int], client: redis.Redis,
    watched: Watched,
) -> None:  # fmt: skip
    """Audit while the steps come before the commands that `schedule` says; nobody is named."""
    due = list(zip(schedule, begin(World(client)), strict=True))

    def before(command: int) -> None:
        while due and due[0][0] <= command:
            due.pop(0)[1]()

    watched.before = before
    culprits, audit = _audit(watched)
    watched.before = Watched.before
    assert culprits == [], schedule
    assert audit.found.ends.total() == audit.found.entries, schedule


@pytest.mark.parametrize("begin", [_published, _pending, _buried, _redriven, _settled])
def test_whatever_comes_between_two_commands(
    begin: Callable[[World], list[Step]], client: redis.Redis, redis_url: str
) -> None:
    """Each step before any command: nobody is named, nor even suspected."""
    with Watched.from_url(redis_url, protocol=2) as watched:
        steps = begin(World(client))
        _audit(watched)
        commands = len(watched.sent) + 3  # with all done there may be more to read
        for schedule in _schedules(len(steps), commands):
            _run(begin, schedule, client, watched)
            assert _looked_up(watched) == [], schedule


@pytest.mark.parametrize("begin", [_group_lost, _group_gone])
def test_a_group_that_is_lost_meanwhile(
    begin: Callable[[World], list[Step]], client: redis.Redis, redis_url: str
) -> None:
    """What was handed out is not pending any more, and yet waits: nobody is named."""
    with Watched.from_url(redis_url, protocol=2) as watched:
        steps = begin(World(client))
        _audit(watched)
        commands = len(watched.sent) + 6  # those that look again at what looks lost
        for schedule in _schedules(len(steps), commands):
            _run(begin, schedule, client, watched)


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(None, marks=pytest.mark.slow)])
def test_a_group_that_is_made_again_between_two_readings(
    client: redis.Redis, redis_url: str, pairs: int | None
) -> None:
    """Lost and made again before what is pending is read; then the entry comes once more.

    Of when it comes and when it is done, a sample of so many pairs, or all.
    """
    with Watched.from_url(redis_url, protocol=2) as watched:
        _pending(World(client))
        _audit(watched)
        at = next(n for n, args in enumerate(watched.sent) if args[0] == "XPENDING")
        after = range(at + 1, len(watched.sent) + 10)
        times = list(combinations_with_replacement(after, 2))
        for handed_out, done in random.Random(5).sample(times, pairs or len(times)):
            _run(_group_lost, [at, at, handed_out, done, done], client, watched)

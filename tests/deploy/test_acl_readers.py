"""A stolen controller can lie about its own place, and harms no other reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product
from typing import Any, Final

import pytest
import redis

from sidecar.errors import UsageError
from sidecar.feed import Feed, FeedGap
from sidecar.redis import readers
from sidecar.redis.client import Side
from sidecar.redis.fitness import Fitness
from sidecar.redis.retention import Policy, Retention
from tests.deploy.harness import KEYS, NOTIFY_STREAM, STREAM, Server, granted

pytestmark = pytest.mark.server

OTHERS: Final = (
    NOTIFY_STREAM, KEYS.trimmed, KEYS.incarnations, KEYS.fleet, KEYS.registered, KEYS.readers,
    KEYS.reader("other"), STREAM, KEYS.dead, KEYS.low, KEYS.archived, KEYS.halt,
)  # fmt: skip
"""What the safety of others hangs on."""


@pytest.fixture
def log(server: Server) -> Iterator[Retention]:
    """Ten notifications, of which the reader `other` has passed three; and what trims them."""
    with closing(server.client("sidecar")) as worker:
        side = Side(worker, "")
        Fitness(side, side, KEYS).check()
        worker.hset(KEYS.fleet, "log", "x")
        for number in range(1, 11):
            event = f'{{"event_id":"e{number}","type":"key.changed","control_version":{number}000}}'
            worker.xadd(NOTIFY_STREAM, {"event": event, "origin": "o"}, id=f"{number}-0")
        with closing(server.client("admin")) as admin:
            readers.passed(admin, KEYS, "other", 3000, 60)
        policies = dict.fromkeys(("control", "notifications", "dead"), Policy(length=0))
        yield Retention(worker, worker, KEYS, policies, dedup_window_s=0)


def _left(server: Server) -> int:
    return int(server.call("admin", "XLEN", NOTIFY_STREAM))


def test_a_controller_registers_and_passes(server: Server, log: Retention) -> None:
    """With the rights of the file a feed notes how far it is, and trimming heeds it."""
    with closing(Feed(server.url("controller"), reader="controller")) as feed:
        feed.passed(feed.poll(limit=2)[-1].control_version)
    log.trim_one("notifications")
    assert _left(server) == 8
    assert server.denials() == set()


def test_a_controller_is_no_other_reader(server: Server, log: Retention) -> None:
    """It can neither take another's place nor have it forgotten, so nothing unread goes."""
    with (
        closing(Feed(server.url("controller"), reader="other")) as feed,
        pytest.raises(UsageError, match="permission"),
    ):
        feed.passed(10_000)
    log.trim_one("notifications")
    assert _left(server) == 7
    assert [one.name for one in log.readers().good] == ["other"]


def _writes(user: str) -> list[tuple[str | int | bytes, ...]]:
    """Return each command of the user's with arguments that would change a key, whatever it is."""
    forms: dict[str, list[tuple[str | int | bytes, ...]]] = {
        "getset": [("garbage",)], "sadd": [("garbage",)], "hset": [(NOTIFY_STREAM, "9-0")],
        "set": [("garbage",)], "xadd": [("99-0", "event", "forged")], "del": [()],
        "expire": [(1,)], "hdel": [(NOTIFY_STREAM,)],
    }  # fmt: skip
    return [(name, *more) for name in granted(user) & forms.keys() for more in forms[name]]


@pytest.mark.usefixtures("log")
def test_nothing_that_others_hang_on_is_a_controllers_to_write(server: Server) -> None:
    """Each command that writes, on each key that others need: refused, or nothing is changed but
    that a name is added to the set of them.
    """
    with closing(server.client("admin")) as admin:
        before: dict[str, Any] = {key: admin.dump(key) for key in OTHERS}
        for (name, *more), key in product(_writes("controller"), OTHERS):
            if (name, key) == ("sadd", KEYS.registered):
                continue
            with pytest.raises(redis.ResponseError):
                server.call("controller", name, key, *more)
        assert {key: admin.dump(key) for key in OTHERS} == before


def test_a_flood_of_names_and_garbage_stops_no_trimming(server: Server, log: Retention) -> None:
    """What a stolen controller writes where it may is passed over, and named."""
    with closing(server.client("controller")) as thief:
        thief.sadd(KEYS.registered, "x" * 10_000_000, *(f"reader {n}" for n in range(3000)))
        thief.getset(KEYS.reader("controller"), "0 9999999999999999 999999999")
        thief.sadd(KEYS.registered, "controller")
    log.trim_one("notifications")
    assert _left(server) == 7
    found = log.readers()
    assert [one.name for one in found.good] == ["other"]
    assert [KEYS.reader("controller") in str(one) for one in found.bad] == [True]
    assert server.call("admin", "SCARD", KEYS.registered) == 3  # with the empty name


@pytest.mark.usefixtures("log")
def test_no_readers_cursor_becomes_a_gap(server: Server) -> None:
    """Whatever a stolen controller tries, the cursor of another continues."""
    with closing(server.client("controller")) as thief:
        for command in _writes("controller"):
            for key in (KEYS.trimmed, KEYS.incarnations, NOTIFY_STREAM, KEYS.fleet):
                with pytest.raises(redis.ResponseError):
                    thief.execute_command(command[0], key, *command[1:])  # type: ignore[no-untyped-call]
        readers.passed(thief, KEYS, "controller", 2**56, 60)
    with closing(Feed(server.url("controller"))) as feed:
        try:
            assert len(feed.poll(since=3000)) == 7
        except FeedGap as gap:
            pytest.fail(f"a gap: {gap}")

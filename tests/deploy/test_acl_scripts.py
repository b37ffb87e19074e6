"""Whoever stole a password that may send scripts can send ours, and no script of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from typing import Any, Final

import pytest
import redis

from sidecar.errors import SidecarError
from sidecar.redis import halts
from sidecar.redis.scripts import OF_PEOPLE, Shelf, script_of
from tests.deploy.harness import KEYS, NOTIFY_STREAM, STREAM, Server, granted, only_on

pytestmark = pytest.mark.server

PART: Final = KEYS.seen(bytes(2))
PEOPLE: Final = ("halter", "redriver", "repairer", "eraser")
ENDLESS: Final = "while true do end"
SCRIPTS: Final = sorted(
    path.name.removesuffix(".lua")
    for path in files("sidecar.redis").joinpath("lua").iterdir()
    if path.name.endswith(".lua")
)
NOTE: Final = {"by": "me", "now": "2026-01-01T00:00:00Z"}
NUMBERS: Final = ("0", "-1", "1e308", "9" * 19, "0x10", "nan")
TEXTS: Final = ("", "-", "+", "0-0", "18446744073709551615-18446744073709551615", "%", "[" * 5000)


@pytest.mark.parametrize("user", PEOPLE)
def test_nobody_who_is_not_a_worker_brings_an_endless_script(server: Server, user: str) -> None:
    """Neither sent nor loaded nor, by EVAL's twins, run as one that only reads."""
    for command in (
        ("EVAL", ENDLESS, 0), ("EVAL_RO", ENDLESS, 0), ("SCRIPT", "LOAD", ENDLESS),
        ("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() end)"),
    ):  # fmt: skip
        with pytest.raises(redis.ResponseError, match=r"permission|unknown command"):
            server.call(user, *command)
    assert server.call("health", "PING")


def test_a_script_that_no_worker_loaded_is_told_with_its_fix(server: Server) -> None:
    """A halter that comes before any worker learns that it takes one; with one it halts."""
    with closing(server.client("halter")) as client:
        with pytest.raises(SidecarError, match="start a worker"):
            halts.pause(client, KEYS, reason="r", **NOTE)
        with closing(server.client("sidecar")) as worker:
            Shelf(worker).fill()
        assert halts.pause(client, KEYS, reason="r", **NOTE).changed


def test_a_shelf_is_filled_again_after_a_flush(server: Server) -> None:
    """What somebody flushed, or a restart lost, is loaded at the next look."""
    with closing(server.client("sidecar")) as worker, closing(server.client("halter")) as client:
        shelf = Shelf(worker)
        shelf.fill()
        server.call("admin", "SCRIPT", "FLUSH")
        shelf.fill()
        assert halts.pause(client, KEYS, reason="r", **NOTE).changed
        assert halts.resume(client, KEYS, reason="r", **NOTE).changed
    assert server.denials() == set()


def test_only_the_rescuer_ends_a_script(server: Server) -> None:
    """While an endless script of a stolen worker's runs, the rescuer can log in and end it."""
    sha = server.call("sidecar", "SCRIPT", "LOAD", ENDLESS).decode()
    server.call("admin", "CONFIG", "SET", "lua-time-limit", "1")
    with closing(server.client("sidecar")) as stolen, closing(server.client("rescuer")) as rescuer:
        stolen.ping()
        connection: Any = stolen.connection_pool.get_connection()
        connection.send_command("EVALSHA", sha, 0)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until it has begun: nobody else is served then
            try:
                server.call("health", "PING")
            except redis.ResponseError as error:
                assert str(error).startswith(("BUSY", "Redis is busy")), error  # noqa: PT017
                break
        with pytest.raises(redis.ResponseError, match="permission"):
            server.call("operator", "SCRIPT", "KILL")
        assert rescuer.script_kill()
        with pytest.raises(redis.ResponseError, match=r"[Ss]cript killed"):
            connection.read_response()
        connection.disconnect()
    assert server.call("health", "PING")
    for user in (*PEOPLE, "operator", "controller", "producer", "sidecar"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            server.call(user, "SCRIPT", "KILL")


def _fill(server: Server) -> dict[bytes, Any]:
    """Fill what no script of people's may change for them; return what it looks like."""
    server.call("admin", "FLUSHALL")
    for key in (KEYS.fence, KEYS.lease, KEYS.low, KEYS.pruned):
        server.call("admin", "SET", key, "1-1")
    for key in (
        KEYS.trimmed,
        KEYS.archived,
        KEYS.fleet,
        KEYS.incarnations,
        PART,
    ):
        server.call("admin", "HSET", key, "f", "c" * 16 + "1")
    for stream in (STREAM, NOTIFY_STREAM, KEYS.dead):
        for number in range(1, 30):
            server.call("admin", "XADD", stream, f"{number}-0", "event", "{}", "origin", "o")
    return _dump(server)


def _dump(server: Server) -> dict[bytes, Any]:
    with closing(server.client("admin")) as admin:
        keys: Any = admin.keys("*")
        return {key: admin.dump(key) for key in keys}


def _reach(user: str) -> set[bytes]:
    """Return the keys that the user's own commands write to, without any script."""
    return {key.encode() for keys in only_on(user).values() for key in keys}


def _hostile(keys: tuple[str, ...]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield KEYS and ARGV: each key in every place, and words that scripts reckon with."""
    for key in keys:
        for words in itertools.chain(
            ([word] * 12 for word in (*NUMBERS, *TEXTS)), (["1-1", *NUMBERS, *TEXTS],)
        ):
            yield [key] * 9, list(words)


@pytest.mark.parametrize("user", PEOPLE)
def test_our_scripts_do_no_harm_in_the_wrong_hands(server: Server, user: str) -> None:
    """With hostile keys and arguments each script ends at once, and what the user could not
    change by its own commands stays as it is.
    """
    shas = {}
    with closing(server.client("admin")) as admin:
        for name in SCRIPTS:
            script = script_of(admin, name)
            shas[name] = admin.script_load(script.script)
    before = _fill(server)
    keys = (
        KEYS.fence, KEYS.halt, KEYS.trimmed, KEYS.fleet, PART, NOTIFY_STREAM, STREAM,
        KEYS.dead, KEYS.redriven, KEYS.resent, "other",
    )  # fmt: skip
    with closing(server.client(user)) as thief:
        for name, sha in shas.items():
            for hostile, words in _hostile(keys):
                try:
                    thief.evalsha(sha, len(hostile), *hostile, *words)
                except redis.ResponseError as error:
                    assert not str(error).startswith("BUSY"), name  # noqa: PT017
    after = _dump(server)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= _reach(user)


def test_the_scripts_of_people_are_those_that_they_send() -> None:
    """Who may send scripts may send them by hash alone."""
    assert set(OF_PEOPLE) <= set(SCRIPTS)
    for user in PEOPLE:
        assert "evalsha" in granted(user)
        assert not {"eval", "script|load", "script"} & granted(user)


def test_an_eraser_can_halt_a_stream_as_the_threat_model_says(server: Server) -> None:
    """An ACL knows keys and no fields: what counts changes of pauses also halts, and resumes."""
    server.call("eraser", "HINCRBY", KEYS.halt, "reason", 1)
    with closing(server.client("operator")) as client:
        assert halts.in_force(client, KEYS) is not None
        server.call("eraser", "HDEL", KEYS.halt, "reason")
        assert halts.in_force(client, KEYS) is None

"""The real commands, run as the users of deploy/redis/users.acl on real servers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import redis

import store
from sidecar.feed import Feed
from sidecar.worker.settings import file_url
from tests.cli.harness import DEAD, NOTIFICATIONS, REDRIVEN, STREAM, Cli
from tests.deploy.harness import ALSO_ON_A_CLUSTER, DEPLOY, ON_EACH_SERVER, Server, unused

As = Callable[[str], Cli]

NAMES: Final = ("SOURCE", "FLEET")
EVENT: Final = ("--type", "stack.activated", "--tenant", "t_1", "--stack", "web")
REASON: Final = ("--reason", "node 7 is back")


@pytest.fixture
def run_as(server: Server) -> Iterator[As]:
    """The commands as one of the users: the URL comes from the file that `secrets.sh` made."""
    with closing(server.client("admin")) as admin:

        def run(user: str) -> Cli:
            url = server.secrets / f"{user}-redis-url"
            stores = {f"SIDECAR_{name}_STORE": file_url(_store(server, name)) for name in NAMES}
            own = {"SIDECAR_REDIS": "", "SIDECAR_REDIS_FILE": str(url), **stores}
            return Cli("", server.root, admin, own)

        yield run


def _store(server: Server, name: str) -> Path:
    return server.root / name.lower()


def _emit(run_as: As, version: int, ref: str, *args: str) -> dict[str, Any]:
    """Emit an event with an artifact, as `producer`."""
    producer = run_as("producer")
    data = producer.directory / "data.json"
    data.write_text('{"v": 7}')
    ran = producer("emit", *EVENT, "--version", str(version), "--ref", ref, "--data", data, *args)
    assert ran.code == 0, ran.err
    return ran.object()


def _work(server: Server, **other: str) -> None:
    """Have the worker finish what is in the stream, as `sidecar`."""
    stores = {f"{name.lower()}_store": file_url(_store(server, name)) for name in NAMES}
    Cli(server.url("sidecar"), server.root, mock.Mock()).work(**(stores | other))


def _wait_for_reader(client: redis.Redis) -> None:
    """Wait until somebody's blocking XREAD waits."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        clients: Any = client.client_list()
        if any(one["cmd"] == "xread" for one in clients):
            return
        time.sleep(0.02)
    pytest.fail("nobody reads")


def _bury(server: Server, run_as: As, version: int, ref: str) -> str:
    """Have an event die because its artifact is away for a while; return the letter's ID."""
    _emit(run_as, version, ref)
    source, away = _store(server, "SOURCE"), server.root / "away"
    source.rename(away)
    empty = file_url(server.root / "empty")
    _work(server, source_store=empty)
    away.rename(source)
    letters = run_as("operator")("dead", "ls", "-n", "1", "--json").objects()
    assert [letter["reason"] for letter in letters] == ["artifact_missing"]
    return str(letters[0]["id"])


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_a_producer_emits_and_a_controller_tails(server: Server, run_as: As) -> None:
    """`emit`, `run` and `tail --resolve` do their jobs as their users, and nothing is denied."""
    controller = run_as("controller")
    assert controller("tail").code == 5  # before there is a stream
    server.call("admin", "CONFIG", "RESETSTAT")
    first = _emit(run_as, 7, "stacks/t_1/web/7")
    alone = run_as("producer")("emit", "--type", "key.changed", "--tenant", "t_1")
    assert alone.code == 0, alone.err
    assert unused(server, "producer") == set()
    _work(server)

    server.call("admin", "CONFIG", "RESETSTAT")
    ran = controller("tail", "--resolve", "--json")
    assert ran.code == 0, ran.err
    found = ran.objects()
    assert [one["event_id"] for one in found] == [first["event_id"], alone.object()["event_id"]]
    assert found[0]["resolved"] == {"ok": True, "size_bytes": 8, "manifest_size_bytes": 0}
    for options in (("-n", "1"), ("--since", str(found[0]["control_version"]))):
        ran = controller("tail", *options, "--resolve")
        assert ran.code == 0, ran.err
        assert str(found[1]["control_version"]) in ran.out
    after = str(found[1]["control_version"])
    with controller.running("tail", "--follow", "--since", after, "-n", "1", "--json") as tail:
        _wait_for_reader(controller.client)
        third = _emit(run_as, 8, "stacks/t_1/web/8")
        _work(server)
        out, err = tail.communicate(timeout=90)
    assert third["event_id"] in out.decode(), err
    with closing(Feed(server.url("controller"), reader="controller")) as feed:
        feed.passed(found[0]["control_version"])
    assert unused(server, "controller") == set()
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_a_waiter_emits_and_asks(server: Server, run_as: As) -> None:
    """`emit --wait` and `wait` work with the rights that they need, and nothing is denied."""
    waiter = run_as("waiter")
    _emit(run_as, 7, "stacks/t_1/web/7")
    _work(server)
    with closing(Feed(server.url("controller"), reader="controller")) as feed:
        feed.passed(feed.poll()[0].control_version)
    server.call("admin", "CONFIG", "RESETSTAT")
    found = waiter("wait", "t_1/web@7", "--readers", "all", "--json")
    assert (found.code, found.object()["readers"]) == (0, {"controller": True})
    alone = ("emit", "--type", "key.changed", "--event-id", "e", "--wait")
    ran = waiter(*alone, "--timeout", "0")
    assert ran.code == 3, ran.err
    assert "waits_for" in ran.objects()[1]
    assert waiter("wait", "e", "--timeout", "0").code == 3
    with waiter.running("wait", "e", "--json") as wait:
        _wait_for_reader(waiter.client)
        _work(server)
        out, err = wait.communicate(timeout=90)
    assert json.loads(out)["state"] == "published", err
    ran = waiter(*alone)
    assert (ran.code, ran.objects()[1]["state"]) == (0, "duplicate")
    assert unused(server, "waiter") == set()
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_an_operator_looks_and_a_halter_halts(server: Server, run_as: As) -> None:
    """Each command works as the user who is there for it, and nothing is denied."""
    operator, halter = run_as("operator"), run_as("halter")
    assert operator("status", "--json").object()["streams"][0]["exists"] is False
    letter = _bury(server, run_as, 7, "stacks/t_1/web/7")
    paused = halter("pause", "--reason", "maintenance", "--json").object()
    assert (paused["halted"], paused["changed"]) == (True, True)
    _emit(run_as, 8, "stacks/t_1/web/8")
    assert run_as("sidecar")("run", "--drain").code == 3

    assert "maintenance" in operator("status").out
    status = operator("status", "--json").object()
    assert status["streams"][0]["halt"]["reason"] == "maintenance"
    assert status["dead"]["by_reason"] == {"artifact_missing": 1}
    by_worker = run_as("sidecar")("status", "--json").object()  # the status page, by its login
    assert by_worker["streams"][0]["halt"] == status["streams"][0]["halt"]
    assert by_worker["dead"] == status["dead"]
    assert by_worker["parts"].keys() == status["parts"].keys()

    assert halter("resume", "--reason", "done", "--json").object()["changed"] is True
    _work(server)
    assert operator("status", "--json").object()["notifications"]["length"] == 1
    listed = operator("dead", "ls", "--each", "--only", "artifact_missing", "--json")
    assert [one["id"] for one in listed.objects()] == [letter]
    assert operator("dead", "show", letter, "--json").object()["reason"] == ("artifact_missing")
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_a_redriver_puts_letters_back(server: Server, run_as: As) -> None:
    """`dead redrive` works as `redriver`, which is granted nothing that it does not send."""
    _bury(server, run_as, 1, "stacks/t_1/web/1")
    overtaken = _bury(server, run_as, 1, "stacks/t_1/other")
    _emit(run_as, 2, "stacks/t_1/other", "--stack", "other")
    _work(server)

    redriver = run_as("redriver")
    server.call("admin", "CONFIG", "RESETSTAT")
    dry = redriver("dead", "redrive", "--all", "--dry-run")
    assert dry.code == 3, dry.err
    ran = redriver("dead", "redrive", "--all", "--only", "artifact_missing", *REASON)
    assert ran.code == 3, ran.err
    assert "overtook" in ran.out
    assert len(redriver.entries(DEAD)) == 1
    ran = redriver("dead", "redrive", overtaken, "--force", *REASON, "--json")
    assert (ran.code, ran.object()["result"]) == (0, "redriven"), ran.err
    assert unused(server, "redriver") == set()

    _work(server)
    assert redriver.entries(DEAD) == []
    assert [one["reason"] for one in redriver.entries(REDRIVEN)] == ["node 7 is back"] * 2
    resolved = run_as("controller")("tail", "--resolve", "--json").objects()
    assert [one["resolved"]["ok"] for one in resolved] == [True] * 3
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_a_repairer_has_lost_events_done_again(server: Server, run_as: As) -> None:
    """`audit` works as `operator`; with --repair as `repairer`, which is granted nothing else."""
    _emit(run_as, 1, "stacks/t_1/web/1")
    _work(server)
    operator, repairer = run_as("operator"), run_as("repairer")
    assert operator("audit").code == 0
    ((notification, _),) = server.call("operator", "XRANGE", NOTIFICATIONS, "-", "+")
    server.call("admin", "XDEL", NOTIFICATIONS, notification)
    assert operator("audit").code == 1
    assert operator("audit", "--repair", "--dry-run").code == 0
    server.call("admin", "XGROUP", "DESTROY", STREAM, f"sidecar:{NOTIFICATIONS}")
    server.call("admin", "CONFIG", "RESETSTAT")
    ran = repairer("audit", "--repair", *REASON)
    assert ran.code == 0, ran.err
    assert unused(server, "repairer") == set()
    _work(server)
    assert operator("audit").code == 0
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_a_collector_finds_what_is_named(server: Server, run_as: As) -> None:
    """`store gc` works as `collector`, which is granted nothing that it does not send."""
    _emit(run_as, 1, "stacks/t_1/web")
    _work(server)
    fleet = store.open_url(file_url(_store(server, "FLEET")))
    for data in (b"garbage", b"now"):
        fleet.put("stacks/t_1/web", data, b"")
    collector = run_as("collector")
    server.call("admin", "CONFIG", "RESETSTAT")
    ran = collector(
        "store", "gc", "--grace", "0", "--allow-short-grace", "--keep", "last=9", "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.objects()[-1]["summary"]["versions"] == 1
    assert unused(server, "collector") == set()
    assert run_as("controller")("tail", "--resolve", "--json").object()["resolved"]["ok"] is True
    assert server.denials() == set()


def test_an_eraser_empties_the_stores_of_a_tenant(server: Server, run_as: As) -> None:
    """`tenant erase` works as `eraser`, which is granted nothing that it does not send."""
    _emit(run_as, 1, "stacks/t_1/web")
    _work(server)
    eraser = run_as("eraser")
    server.call("admin", "CONFIG", "RESETSTAT")
    event = '{"event_id": "waits", "type": "tenant.created", "tenant_id": "t_1"}'
    server.call("producer", "XADD", STREAM, "*", "event", event)
    ran = eraser("tenant", "erase", "t_1", *REASON)
    assert (ran.code, "have not ended" in ran.err) == (2, True), ran.err
    _work(server)
    ran = eraser("tenant", "erase", "t_1", *REASON)
    assert ran.code == 0, ran.err
    assert not store.open_url(file_url(_store(server, "FLEET"))).exists("stacks/t_1/web")
    assert unused(server, "eraser") == set()
    assert server.denials() == set()


@pytest.mark.parametrize(("name", "user"), [("audit", "operator"), ("gc", "collector")])
def test_a_timers_command_works(server: Server, run_as: As, name: str, user: str) -> None:
    """What a unit of systemd runs by the clock ends with 0, as the user whose URL it loads."""
    unit = (DEPLOY / "systemd" / f"sidecar-{name}.service").read_text()
    assert f"LoadCredential=redis-url:/etc/sidecar/{user}-redis-url" in unit
    (command,) = re.findall(r"^ExecStart=/opt/sidecar/bin/sidecar (.*)", unit, re.MULTILINE)
    _emit(run_as, 1, "stacks/t_1/web")
    _work(server)
    ran = run_as(user)(*command.split())
    assert ran.code == 0, ran.err
    assert server.denials() == set()


def test_a_redriver_is_told_of_a_halt(server: Server, run_as: As) -> None:
    """What is redriven onto a halted stream waits, and the command says so."""
    letter = _bury(server, run_as, 1, "stacks/t_1/web/1")
    assert run_as("halter")("pause", "--reason", "maintenance").code == 0

    ran = run_as("redriver")("dead", "redrive", letter, *REASON)

    assert ran.code == 0, ran.err
    assert "maintenance" in ran.err
    assert server.denials() == set()


def test_nobody_else_puts_letters_back(server: Server, run_as: As) -> None:
    """Run as any other user `dead redrive` removes no letter; an operator may try it dry."""
    letter = _bury(server, run_as, 1, "stacks/t_1/web/1")
    before = server.call("admin", "XINFO", "STREAM", STREAM)

    for user in ("operator", "producer", "controller"):
        ran = run_as(user)("dead", "redrive", letter, *REASON)
        assert (ran.code, "users.acl" in ran.err) == (2, True)
    assert server.call("admin", "XINFO", "STREAM", STREAM) == before
    # The worker's may append, for it publishes: a repeat, which deduplication absorbs.
    assert run_as("sidecar")("dead", "redrive", letter, *REASON).code == 2

    assert server.call("admin", "XLEN", DEAD) == 1
    dry = run_as("operator")("dead", "redrive", letter, "--dry-run")
    assert dry.code == 0, dry.err


FORGED: Final = {
    "controller": (
        "SADD {control:notifications}:reader:controller x", "GETSET control:notifications x",
    ),
    "halter": (
        "HSET {control:notifications}:fence:control:events f v",
        "XADD {control:notifications}:halt:control:events * f v",
    ),
    "redriver": (
        "XADD control:notifications * f v", "XADD {control:notifications}:dead * f v",
        "XADD {control:notifications}:halt:control:events * f v",
        "XADD {control:notifications}:low:control:events * f v",
        "XDEL control:events 1-1", "XDEL control:notifications 1-1",
        "XDEL {control:notifications}:redriven 1-1",
    ),
    "repairer": (
        "XADD control:notifications * f v", "XADD {control:notifications}:dead * f v",
        "XADD {control:notifications}:halts * f v", "XADD {control:notifications}:tenures * f v",
        "HSET {control:notifications}:halt:control:events reason x",
        "HSET {control:notifications}:seen:0000 f v",
        "HDEL {control:notifications}:halt:control:events reason",
        "HDEL {control:notifications}:seen:0000 f", "HSET {control:notifications}:trimmed f v",
        "HSET {control:notifications}:fleet store x", "HSET {control:notifications}:anchors f v",
    ),
}  # fmt: skip
"""What these users once could write, though it is nothing that their commands write."""


@pytest.mark.parametrize("server", ON_EACH_SERVER, indirect=True)
def test_redrive_and_repair_with_rights_for_their_keys_alone(server: Server, run_as: As) -> None:
    """On each server a letter is redriven and an event done again, by users who may write what
    that takes, and nothing else.
    """
    letter = _bury(server, run_as, 1, "stacks/t_1/web/1")
    redriver, operator = run_as("redriver"), run_as("operator")
    ran = redriver("dead", "redrive", letter, *REASON)
    assert ran.code == 0, ran.err
    assert redriver.entries(DEAD) == []
    _work(server)
    ((notification, _),) = server.call("operator", "XRANGE", NOTIFICATIONS, "-", "+")
    server.call("admin", "XDEL", NOTIFICATIONS, notification)
    assert operator("audit").code == 1
    ran = run_as("repairer")("audit", "--repair", *REASON)
    assert ran.code == 0, ran.err
    _work(server)
    assert operator("audit").code == 0
    assert server.call("operator", "XLEN", NOTIFICATIONS) == 1
    assert server.denials() == set()


@pytest.mark.parametrize("server", ON_EACH_SERVER, indirect=True)
def test_nobody_writes_what_is_not_theirs(server: Server) -> None:
    """What a user may read it may not write, on the oldest server, too."""
    for user, commands in FORGED.items():
        for command in commands:
            with pytest.raises(redis.exceptions.NoPermissionError):
                server.call(user, *command.split())

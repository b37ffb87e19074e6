"""A server with the users of deploy/redis/users.acl and an append-only file is started again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.redis.client import connect
from sidecar.redis.members import Members
from sidecar.redis.publisher import Buried, Letter, Outbound, Outcome, Publisher
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.source import ControlStream
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from tests import servers
from tests.deploy.harness import DEPLOY, KEYS, STREAM, Server, run_server, wait_until_up
from tests.sidecar.harness import trim_once

KINDS: Final = ("valkey", "redis-6.2", "path")
APPEND_ONLY: Final = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def _running(kind: str, root: Path, port: int) -> Iterator[Server]:
    """Run a server on what lies in `root`; end it as a service manager does."""
    acl = (root / "secrets" / "users.acl").read_text()
    process = run_server(servers.path_of(kind), acl, root, port, *APPEND_ONLY)
    server = Server(port, root / "secrets", root)
    try:
        wait_until_up(lambda: server.call("health", "PING"), process)
        yield server
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def _outbound(event_id: str) -> Outbound:
    identity = identity_digest(event_id) + identity_digest("content")
    return Outbound(identity, b'{"control_version":', Origin(f"{STREAM}/{event_id}"), b"")


def _work(server: Server) -> None:
    """Have producer and worker write all that they write, most of it by scripts."""
    for _ in range(3):
        server.call("producer", "XADD", STREAM, "*", "event", "{}")
    with (
        closing(server.client("sidecar")) as client,
        closing(server.client("sidecar")) as blocking,
    ):
        control = ControlStream(client, blocking, KEYS)
        control.create_group(FIRST)
        one, two, _ = control.read_new(3, None)
        owner = Publisher(client, KEYS, lease_s=60, dedup_window_s=3600)
        assert owner.acquire() == 0
        owner.publish([_outbound("a"), _outbound("b")], two.id)
        fields: dict[str, str | bytes | int] = {"event": b"{", "reason": "malformed"}
        letter = Letter(Origin(f"{STREAM}/{two.id}"), b"", fields)
        assert owner.bury([letter], two.id, max_in_a_row=1, now="now") == [Buried.HALTED_NOW]
        control.acknowledge([one.id])
        Members(client, KEYS, name="me", serves=[STREAM], lease_s=60).beat([STREAM])
        policies = {"control": Policy(0, 1), "notifications": Policy(), "dead": Policy()}
        trimmed = trim_once(Retention(client, client, KEYS, policies, dedup_window_s=60))
        assert trimmed[0].removed


def _contents(server: Server) -> dict[str, Any]:
    """Return everything that the server holds, but what passes with time."""
    with closing(server.client("admin")) as client:
        found = {key.decode(): client.dump(key) for key in client.scan_iter()}
        streams = [key for key in found if client.type(key) == b"stream"]
        entries = {key: client.xrange(key) for key in streams}
        pending = client.xpending(STREAM, KEYS.group)
    return {key: entries.get(key, value) for key, value in found.items()} | {"pending": pending}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_restart_loses_nothing(kind: str, tmp_path: Path) -> None:
    """What scripts wrote as the worker's user is all there when the server has read its file."""
    port = servers.free_port()
    script = ["sh", str(DEPLOY / "secrets.sh"), str(tmp_path / "secrets"), f"127.0.0.1:{port}"]
    subprocess.run(script, check=True, capture_output=True)
    with _running(kind, tmp_path, port) as server:
        _work(server)
        before = _contents(server)
    assert {KEYS.notifications, KEYS.dead, KEYS.fence, KEYS.low, KEYS.halt, KEYS.trimmed} <= set(
        before
    )

    with _running(kind, tmp_path, port) as server:
        assert _contents(server) == before
        with closing(server.client("sidecar")) as client:
            owner = Publisher(client, KEYS, lease_s=60, dedup_window_s=3600)
            client.delete(KEYS.lease)
            assert owner.acquire() is not None
            client.hdel(KEYS.halt, "reason")
            (again,) = owner.publish([_outbound("a")], EntryId("1-0"))
            assert again.outcome is Outcome.DUPLICATE
        with (
            closing(connect(f"redis://127.0.0.1:{port}/0")) as nobody,
            pytest.raises(redis.AuthenticationError),
        ):
            nobody.ping()

"""While a script that does not end keeps the server busy: all wait, say so, and continue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest
import redis

from sidecar.feed import Feed
from sidecar.worker.settings import file_url
from tests.cli.harness import STREAM, Cli
from tests.deploy.harness import Server
from tests.proofs import sampled

pytestmark = pytest.mark.server

ENDLESS: Final = "while true do end"
EVENT: Final = '{"event_id":"%s","type":"key.changed"}'


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_busy(server: Server) -> bool:
    try:
        server.call("health", "PING")
    except redis.ResponseError as error:
        return "busy" in str(error)
    return False


@contextmanager
def _busy(server: Server) -> Iterator[None]:
    """Run an endless script as a stolen worker would; end it as the rescuer."""
    sha = server.call("sidecar", "SCRIPT", "LOAD", ENDLESS).decode()
    server.call("admin", "CONFIG", "SET", "lua-time-limit", "1")
    with closing(server.client("sidecar")) as stolen, closing(server.client("rescuer")) as rescuer:
        connection: Any = stolen.connection_pool.get_connection()
        connection.send_command("EVALSHA", sha, 0)
        _until(lambda: _is_busy(server))
        yield
        assert rescuer.script_kill()
        connection.disconnect()


def _cli(server: Server, user: str) -> Cli:
    stores = {f"SIDECAR_{name}_STORE": file_url(server.root / name) for name in ("SOURCE", "FLEET")}
    url = str(server.secrets / f"{user}-redis-url")
    own = {"SIDECAR_REDIS": "", "SIDECAR_REDIS_FILE": url, **stores}
    return Cli("", server.root, server.client("admin"), own)


@pytest.mark.parametrize("server", sampled(["valkey", "redis-6.2"], ["valkey"]), indirect=True)
def test_all_wait_while_a_script_keeps_the_server_busy(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Worker, feed and status name it and its end; then the next event comes, and none is lost."""
    found: list[str] = []

    def follow() -> None:
        with closing(Feed(server.url("controller"))) as feed:
            for notification in feed.follow():
                found.append(notification.event_id)
                if notification.event_id == "last":
                    return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    with _cli(server, "sidecar").running("run") as worker:
        server.call("producer", "XADD", STREAM, "*", "event", EVENT % "first")
        _until(lambda: found == ["first"])
        with _busy(server):
            ran = _cli(server, "operator")("status")
            assert (ran.code, "SCRIPT KILL" in ran.err) == (4, True), ran.err
            log: Any = worker.stderr
            _until(lambda: b"SCRIPT KILL" in log.readline())
            _until(lambda: "SCRIPT KILL" in caplog.text)
        server.call("producer", "XADD", STREAM, "*", "event", EVENT % "last")
        _until(lambda: found == ["first", "last"])
        assert worker.poll() is None
    reader.join(60)
    assert not reader.is_alive()

"""Values and entries of hundreds of MiB: who reads them has 192 MiB, and ends as ever."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from sidecar.redis.keys import Keys
from sidecar.redis.tenants import MOST_PAUSED
from tests import servers
from tests.sidecar.harness import Rig, eventually

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts only there"),
    pytest.mark.server,
    pytest.mark.proof,
]
MEMORY_BYTES = 192 << 20
LARGE_BYTES = 48 << 20
"""Read four times over, as it was, that is more than the limit."""
PART = b"x" * (1 << 20)
KEYS = Keys.of("control:events", "control:notifications")
COMMANDS = (
    "status", "doctor", "audit", "replay show --since 1d", "dead ls", "trace before",
    "dead history", "explain --since 1d",
)  # fmt: skip
_RUN_ALL = """
import resource, sys
from sidecar import cli
resource.setrlimit(resource.RLIMIT_DATA, (%d, %d))
for line in sys.argv[1:]:
    sys.argv = ["sidecar", *line.split()]
    try:
        cli.main()
    except SystemExit as end:
        print("ENDED", line, end.code, flush=True)
"""


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Iterator[Rig]:
    """Return what emits and looks, on the real, empty server."""
    yield Rig(redis_url, client)
    client.flushall()


def send(url: str, *words: str, parts: int = 0, whole: bool = False) -> None:
    """Send a command with many MiB behind these words, of which this process holds one.

    So many fields of a MiB each; or, `whole`, one value of that many MiB.
    """
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(b"*%d\r\n" % (len(words) + (1 if whole else 2 * parts)))
        connection.sendall(b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        if whole:
            connection.sendall(b"$%d\r\n" % (parts * len(PART)))
        for number in range(parts):
            name = b"f%d" % number
            field = b"$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, len(PART), PART)
            connection.sendall(PART if whole else field)
        if whole:
            connection.sendall(b"\r\n")
        assert connection.recv(64)[:1] in b"$:+", words


@contextmanager
def worker(rig: Rig, directory: Path) -> Iterator[None]:
    """Run a worker of little memory, with archive and status page. It must live at the end."""
    port = servers.free_port()
    command = [
        sys.executable, "-m", "sidecar", "run", "--source-store", f"file://{directory}/source",
        "--fleet-store", f"file://{directory}/fleet", "--http", f"127.0.0.1:{port}", "--archive",
        "--http-status-page", "--lease", "2", "--archive-every", "1s",
    ]  # fmt: skip
    env = {**os.environ, "SIDECAR_REDIS": rig.url}
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=env, stderr=log, preexec_fn=limit) as process,  # noqa: PLW1509
    ):
        try:
            yield
            assert process.poll() is None, (directory / "log").read_text()[-3000:]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def limit() -> None:
    """Run in the worker, before it is one."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))


def emit(rig: Rig, event_id: str) -> None:
    """Append an event without an artifact."""
    rig.client.xadd(rig.control, {"event": f'{{"event_id":"{event_id}","type":"run.abort"}}'})


def test_a_worker_of_192_mib_outlives_giants_of_every_kind(rig: Rig, tmp_path: Path) -> None:
    """It publishes what comes behind them; an entry ends as `too_large`; records are archived."""
    parts = LARGE_BYTES // len(PART)
    (tmp_path / "source").mkdir()
    with worker(rig, tmp_path):
        emit(rig, "before")
        eventually(lambda: "before" in rig.published())
        send(rig.url, "XADD", KEYS.control, "*", parts=parts)
        emit(rig, "behind")
        send(rig.url, "XADD", KEYS.redriven, "*", parts=parts)
        send(rig.url, "XADD", KEYS.halts, "*", "reason", parts=parts, whole=True)
        send(rig.url, "HSET", KEYS.halt, "by", parts=parts, whole=True)
        eventually(lambda: "behind" in rig.published())
        eventually(lambda: rig.reasons() == ["too_large"])
        for stream in (KEYS.redriven, KEYS.halts):
            last: Any = rig.client.xinfo_stream(stream)["last-generated-id"]
            eventually(lambda: rig.client.hget(KEYS.archived, stream) == last, stream)  # noqa: B023


def test_commands_of_192_mib_say_what_is_there(rig: Rig, tmp_path: Path) -> None:
    """Each reads all of it, and ends in order; where that is not to be had, it says what to do."""
    parts = LARGE_BYTES // len(PART)
    emit(rig, "before")
    send(rig.url, "XADD", KEYS.control, "*", parts=parts)
    send(rig.url, "XADD", KEYS.halts, "*", "reason", parts=parts, whole=True)
    send(rig.url, "HSET", KEYS.halt, "reason", parts=parts, whole=True)
    names = [f"{number:0>400}" for number in range(10 * MOST_PAUSED)]
    rig.client.hset(KEYS.paused, mapping=dict.fromkeys(names, "x" * 100))
    (tmp_path / "fleet").mkdir()
    env = {**os.environ, "SIDECAR_REDIS": rig.url, "SIDECAR_FLEET_STORE": f"file://{tmp_path}/fleet",
           "SIDECAR_SOURCE_STORE": f"file://{tmp_path}/fleet"}  # fmt: skip
    script = _RUN_ALL % (MEMORY_BYTES, MEMORY_BYTES)
    ran = subprocess.run(
        [sys.executable, "-c", script, *COMMANDS], env=env, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    ended = [line.rsplit(" ", 1) for line in ran.stdout.splitlines() if line.startswith("ENDED")]
    assert [name for name, _ in ended] == [f"ENDED {line}" for line in COMMANDS], ran.stderr[-3000:]
    assert {code for _, code in ended} <= {"0", "1", "2"}
    assert "MemoryError" not in ran.stderr
    assert f"no more than {MOST_PAUSED:,} can be paused; DEL it" in ran.stdout

"""Hostile HTTP clients, and a worker that has no file descriptor left: it relays, or waits."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

import store
from tests import servers
from tests.sidecar.harness import PATIENCE_S, Rig, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit and /proc are Linux's")
DESCRIPTORS = 128
ROUNDS = 12


@contextmanager
def worker(rig: Rig, directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sidecar run` with few descriptors, as a process; it must live at the end."""
    command = [
        sys.executable, "-m", "sidecar", "run", "--lease", "1",
        *servers.stores(directory), *options,
    ]  # fmt: skip
    env = {**os.environ, "SIDECAR_REDIS": rig.url}
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=env, stderr=log) as process,
    ):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        try:
            yield process
            assert process.poll() is None, (directory / "log").read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def emit(rig: Rig, source: Path, event_id: str) -> None:
    """Put an artifact into a real store and append its event."""
    ref = f"r/{event_id}"
    store.open_url(source.as_uri()).put(ref, event_id.encode(), b"{}")
    rig.emit(event_id, artifact_ref=ref, checksum=store.checksum_of(event_id.encode()))


def asked(port: int, path: str, timeout_s: float = PATIENCE_S) -> bytes:
    """Ask as a probe does; return the whole answer, empty when there is none."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout_s) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))
    return b""


def begun(port: int) -> socket.socket:
    """Return a connection that is being made."""
    connection = socket.socket()
    connection.setblocking(False)
    with suppress(BlockingIOError):
        connection.connect(("127.0.0.1", port))
    return connection


@contextmanager
def dripping(port: int, clients: int) -> Iterator[None]:
    """Keep so many connections open, each of which sends a byte of a request now and then."""
    stop, heard = threading.Event(), set[int]()

    def drip() -> None:
        connections: list[socket.socket] = []
        while not stop.wait(0.1):
            connections += [begun(port) for _ in range(clients - len(connections))]
            for connection in list(connections):
                try:
                    connection.send(b"G")
                    heard.add(connection.getsockname()[1])
                except BlockingIOError:
                    continue  # still connecting
                except OSError:
                    connection.close()
                    connections.remove(connection)
        for connection in connections:
            connection.close()

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        eventually(lambda: len(heard) >= clients, "so many clients were let in")
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)


@pytest.mark.server
def test_slow_clients_take_nothing_from_the_worker(rig: Rig, tmp_path: Path) -> None:
    """300 connections that drip keep no probe from its answer, and no event from its end."""
    port = servers.free_port()
    with worker(rig, tmp_path, "--http", f"127.0.0.1:{port}") as process:
        eventually(lambda: asked(port, "/livez").endswith(b"ok\n"))
        with dripping(port, 300):
            for n in range(ROUNDS):
                time.sleep(0.5)  # so long it takes until a careless server is full
                emit(rig, tmp_path / "source", f"e{n}")
                assert asked(port, "/livez").endswith(b"ok\n")
                assert json.loads(asked(port, "/readyz").rpartition(b"\r\n")[2])
            eventually(lambda: len(rig.published()) == ROUNDS)
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < DESCRIPTORS
            assert b"sidecar_state" in asked(port, "/metrics")


@pytest.mark.server
@pytest.mark.proof
def test_a_worker_without_descriptors_waits(rig: Rig, tmp_path: Path) -> None:
    """While nothing can be opened, and connections break, it waits; then it continues."""
    port = servers.free_port()
    with worker(rig, tmp_path, "--http", f"127.0.0.1:{port}", "--archive") as process:
        emit(rig, tmp_path / "source", "before")
        eventually(lambda: rig.published() == ["before"])
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, DESCRIPTORS))
        rig.client.set(rig.keys.fence, "another worker's")  # a new tenure begins
        rig.client.delete(rig.keys.lease)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)
        emit(rig, tmp_path / "source", "meanwhile")
        for round_ in range(6):
            with suppress(redis.RedisError):
                rig.client.client_kill_filter(_type="normal", skipme=True)
            rig.client.xadd("other", {"round": round_})
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        assert process.poll() is None, (tmp_path / "log").read_text()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        eventually(lambda: rig.published() == ["before", "meanwhile"])
        eventually(lambda: asked(port, "/livez").endswith(b"ok\n"))

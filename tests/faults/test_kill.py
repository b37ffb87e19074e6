"""The worker is killed at any moment, under load; then G1 to G5 are checked from outside."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import store
from tests.faults import outside

TENANTS = 7


class Load:
    """A producer that goes on while workers die: new refs, rewritten refs, repeats, bad events."""

    def __init__(self, client: Any, source: Path, seed: int, per_second: int) -> None:
        self._client = client
        self._store = store.open_url(source.as_uri())
        self._random = random.Random(seed)
        self._pause_s = 1 / per_second
        self._sent: list[bytes] = []
        self._count = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Produce in a thread of its own."""
        stop = threading.Event()

        def produce() -> None:
            while not stop.wait(self._pause_s):
                self.emit()

        thread = threading.Thread(target=produce)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def emit(self) -> None:
        """Append one entry."""
        kind = self._random.random()
        if kind < 0.05 and self._sent:
            raw = self._random.choice(self._sent[-200:])
        elif kind < 0.08:
            raw = b'{"event_id":"no type"}'
        else:
            raw = self._event(with_artifact=kind < 0.8)
            self._sent.append(raw)
        self._client.xadd(outside.CONTROL, {"event": raw})

    def _event(self, *, with_artifact: bool) -> bytes:
        self._count += 1
        tenant = f"t_{self._random.randrange(TENANTS)}"
        event: dict[str, Any] = {
            "event_id": f"evt_{self._count}",
            "type": "actor.changed",
            "tenant_id": tenant,
        }
        if with_artifact:
            large = self._random.random() < 0.05
            data = self._random.randbytes(100_000 if large else 2_000)
            rewritten = self._random.random() < 0.3
            ref = f"rows/{tenant}/1" if rewritten else f"stacks/{tenant}/{self._count}"
            self._store.put(ref, data, str(self._count).encode())
            event |= {"artifact_ref": ref, "checksum": "sha256:" + sha256(data).hexdigest()}
        return json.dumps(event).encode()


def worker(url: str, data_dir: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a real worker process."""
    command = [sys.executable, "-m", "sidecar", "run", "--data-dir", str(data_dir)]
    command += ["--lease", "0.3", "--max-consecutive-dead", "0", "--log-level", "error", *options]
    return subprocess.Popen(command, env={**os.environ, "SIDECAR_REDIS": url})


def kill_and_check(client: Any, url: str, data_dir: Path, kills: int, seed: int) -> int:
    """Kill workers at random moments under load; return how many entries all of it was about."""
    moments = random.Random(seed)
    load = Load(client, data_dir / "source", seed, per_second=400)
    (data_dir / "source").mkdir(exist_ok=True)
    with load.running():
        for kill in range(kills):
            before = client.xlen(outside.NOTIFICATIONS)
            process = worker(url, data_dir)
            deadline = time.monotonic() + 60
            while client.xlen(outside.NOTIFICATIONS) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.08))
            process.kill()
            process.wait()
            if kill % 20 == 0:
                assert outside.violations(client, data_dir / "fleet") == []
    drained = worker(url, data_dir, "--drain")
    assert drained.wait(120) == 0
    assert outside.violations(client, data_dir / "fleet") == []
    assert client.xpending(outside.CONTROL, outside.GROUP)["pending"] == 0
    return int(client.xlen(outside.CONTROL))


def test_a_worker_killed_again_and_again_breaks_no_guarantee(
    client: Any, redis_url: str, tmp_path: Path
) -> None:
    """After kills at random moments under load, every guarantee holds and nothing is pending."""
    assert kill_and_check(client, redis_url, tmp_path, kills=4, seed=1) > 0


@pytest.mark.slow
def test_two_hundred_kills_break_no_guarantee(client: Any, redis_url: str, tmp_path: Path) -> None:
    """Two hundred kills at random moments under load break no guarantee."""
    assert kill_and_check(client, redis_url, tmp_path, kills=200, seed=20261122) > 0


def plant_twice(client: Any, _fleet: Path) -> None:
    """Publish a notification a second time."""
    _, fields = client.xrevrange(outside.NOTIFICATIONS, count=1)[0]
    client.xadd(outside.NOTIFICATIONS, fields)


def plant_lost(client: Any, _fleet: Path) -> None:
    """Remove a notification."""
    entry, _ = client.xrange(outside.NOTIFICATIONS, count=1)[0]
    client.xdel(outside.NOTIFICATIONS, entry)


def plant_torn(_client: Any, fleet: Path) -> None:
    """Flip the last byte of every record."""
    for record in fleet.glob("refs/**/*@*"):
        content = record.read_bytes()
        record.chmod(0o644)
        record.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def plant_missing(_client: Any, fleet: Path) -> None:
    """Remove every record."""
    for record in fleet.glob("refs/**/*@*"):
        record.unlink()


@pytest.mark.parametrize(
    ("damage", "guarantee"),
    [(plant_twice, "G2"), (plant_lost, "G3"), (plant_torn, "G1"), (plant_missing, "G1")],
)
def test_the_check_from_outside_sees_damage(
    client: Any, redis_url: str, tmp_path: Path, damage: Any, guarantee: str
) -> None:
    """The check that the kill tests rest on finds each kind of damage that is planted."""
    (tmp_path / "source").mkdir()
    load = Load(client, tmp_path / "source", seed=3, per_second=1)
    for _ in range(60):
        load.emit()
    assert worker(redis_url, tmp_path, "--drain").wait(60) == 0
    assert outside.violations(client, tmp_path / "fleet") == []
    damage(client, tmp_path / "fleet")
    assert any(
        line.startswith(guarantee) for line in outside.violations(client, tmp_path / "fleet")
    )

"""`examples/controller.py`, killed on the way: it ends up equal to its producer."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

import store
from sidecar.producer import Producer
from tests.sidecar.harness import eventually
from tests.sidecar.test_feed import relay

EXAMPLE = Path(__file__).parents[2] / "examples" / "controller.py"


class Tenant:
    """A producer's rows, which it tells of one by one, and all in a snapshot now and then."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.rows: dict[str, str] = {}
        self._version = 0

    def change(self, name: str, value: str) -> None:
        """Change one row."""
        self.rows[f"rows/{name}"] = value
        self._producer.publish(
            type="key.changed", tenant_id="t", ref=f"rows/{name}", data=value.encode()
        )

    def snapshot(self) -> None:
        """Tell of all rows."""
        self._version += 1
        self._producer.publish(
            type="stack.activated", tenant_id="t", stack_id="db", version=self._version,
            ref=f"snapshots/{self._version}", data=json.dumps(self.rows).encode(),
        )  # fmt: skip


@pytest.fixture
def tenant(redis_url: str, tmp_path: Path) -> Tenant:
    """A tenant whose artifacts lie in the worker's source."""
    source = store.open_url((tmp_path / "source").as_uri())
    return Tenant(Producer(redis_url, "control:events", source))


@contextmanager
def controller(redis_url: str, tmp_path: Path) -> Iterator[Path]:
    """Run the example until it is killed."""
    database = tmp_path / "fleet.db"
    command = [sys.executable, str(EXAMPLE), redis_url, (tmp_path / "fleet").as_uri(),
               str(database), "t"]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            yield database
            assert process.poll() is None
        finally:
            process.kill()


def rows(database: Path) -> dict[str, str]:
    """Return what the controller has, whatever it is doing."""
    try:
        with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as db:
            return dict(db.execute("SELECT ref, value FROM rows"))
    except sqlite3.OperationalError:
        return {}


def test_it_ends_up_equal_though_it_is_killed(
    tenant: Tenant, redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    """From a snapshot and what came after, over a kill, and over a gap: the same rows."""
    tenant.change("gone-before", "1")
    tenant.snapshot()
    for n in range(20):
        tenant.change(f"{n % 7}", str(n))
    relay(redis_url, tmp_path)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)
    for n in range(20, 60):
        tenant.change(f"{n % 9}", str(n))
    relay(redis_url, tmp_path)
    with controller(redis_url, tmp_path) as database:
        pass  # killed at once, in the middle of whatever
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)
        assert client.hexists("{control:notifications}:readers", "t")
    tenant.change("lost", "with what was trimmed")
    tenant.snapshot()
    relay(redis_url, tmp_path)
    client.xtrim("control:notifications", maxlen=1, approximate=False)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)

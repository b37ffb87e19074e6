"""`examples/controller.py`, killed on the way: it ends up equal to its producer."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.producer import Producer
from sidecar.wire.ids import EntryId
from tests.proofs import sampled
from tests.sidecar.harness import eventually
from tests.sidecar.test_feed import relay

NOTIFICATIONS = "control:notifications"
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

    def snapshot(self, data: bytes | None = None) -> str:
        """Tell of all rows, or of what is none; return the event's id."""
        self._version += 1
        return self._producer.publish(
            type="stack.activated", tenant_id="t", stack_id="db", version=self._version,
            ref=f"snapshots/{self._version}", data=data or json.dumps(self.rows).encode(),
        ).event_id  # fmt: skip

    def other(self) -> None:
        """Tell of another tenant."""
        self._producer.publish(type="tenant.created", tenant_id="u")


@pytest.fixture
def tenant(redis_url: str, tmp_path: Path) -> Iterator[Tenant]:
    """A tenant whose artifacts lie in the worker's source."""
    source = store.open_url((tmp_path / "source").as_uri())
    with closing(Producer(redis_url, "control:events", source)) as producer:
        yield Tenant(producer)


def command(redis_url: str, tmp_path: Path) -> list[str]:
    """Return the example's command line."""
    fleet, database = (tmp_path / "fleet").as_uri(), str(tmp_path / "fleet.db")
    return [sys.executable, str(EXAMPLE), redis_url, fleet, database, "t"]


@contextmanager
def controller(redis_url: str, tmp_path: Path) -> Iterator[Path]:
    """Run the example until it is killed."""
    database = tmp_path / "fleet.db"
    with subprocess.Popen(command(redis_url, tmp_path)) as process:
        try:
            yield database
            assert process.poll() is None
        finally:
            process.kill()


def rows(database: Path) -> dict[str, str]:
    """Return what the controller has, whatever it is doing."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
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
        assert client.exists("{control:notifications}:reader:t")
    tenant.change("lost", "with what was trimmed")
    tenant.snapshot()
    relay(redis_url, tmp_path)
    client.xtrim(NOTIFICATIONS, maxlen=1, approximate=False)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)


@pytest.mark.proof
def test_it_is_in_no_gap_when_others_events_were_trimmed(
    tenant: Tenant, redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    """While nothing comes for its tenant its cursor continues with what comes for others."""
    tenant.change("mine", "1")
    relay(redis_url, tmp_path)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)
        tenant.other()
        relay(redis_url, tmp_path)
        last: Any = client.xinfo_stream(NOTIFICATIONS)["last-generated-id"]
        end = EntryId(last.decode()).control_version
        eventually(lambda: number(database, "SELECT control_version FROM sidecar_cursor") == end)
    client.hset("{control:notifications}:trimmed", NOTIFICATIONS, last)
    client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)
    tenant.change("late", "2")
    relay(redis_url, tmp_path)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)
        assert number(database, "SELECT count(*) FROM sidecar_applied") == 2  # not begun again


def number(database: Path, query: str) -> int:
    """Return a number that the controller keeps."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute(query).fetchone()[0])


NONE = [b"\xff", b"no JSON", b"[]", b'{"ref": {}}']


@pytest.mark.parametrize("data", sampled(NONE, [repr(b"no JSON")], repr))
def test_it_ends_at_a_snapshot_that_is_none(
    tenant: Tenant, redis_url: str, tmp_path: Path, data: bytes
) -> None:
    """It says in one line which event it is, whenever it is started, and keeps what it had."""
    tenant.change("mine", "1")
    relay(redis_url, tmp_path)
    with controller(redis_url, tmp_path) as database:
        eventually(lambda: rows(database) == tenant.rows)
    event_id = tenant.snapshot(data)
    relay(redis_url, tmp_path)
    for _ in range(2):
        ran = subprocess.run(
            command(redis_url, tmp_path), check=False, capture_output=True, text=True
        )
        (line,) = ran.stderr.splitlines()
        assert (ran.returncode, line.partition(":")[0]) == (1, event_id)
    assert rows(database) == tenant.rows


def test_without_arguments_it_says_what_it_wants() -> None:
    """Nothing given is a usage line, and no traceback."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("Usage: python examples/controller.py REDIS_URL STORE_URL")

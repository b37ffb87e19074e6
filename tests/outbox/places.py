"""A database with an outbox, where its pump sends to, and what came there."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Final

import psycopg
import pytest
import redis

import store
from sidecar.producer import outbox
from sidecar.producer.outbox import Figures, Pump
from sidecar.producer.outbox.postgres import PostgresOutbox
from sidecar.producer.outbox.pump import AnotherPump
from sidecar.producer.outbox.sqlite import SqliteOutbox
from sidecar.producer.outbox.table import Database
from tests.servers import PATIENCE_S

STREAM: Final = "control:events"


class Place:
    """An outbox, and where its pump sends to."""

    database: str
    database_class: ClassVar[type[Database]]

    def __init__(self, directory: Path, redis_url: str, server: str = "") -> None:
        """`server` is the URL of what the database is in; nothing, where it is a file."""
        self.directory = directory
        self.server = server
        self.redis_url = redis_url
        self.store = store.open_url((directory / "source").as_uri())
        self.told: list[str] = []

    def connect(self) -> Any:
        """Return a new connection, to be closed by the caller."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what the place has outside its directory."""

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Yield a connection whose transaction is committed, or rolled back at an error."""
        db = self.connect()
        try:
            yield db
            db.commit()
        finally:
            db.close()

    def prepare(self) -> None:
        """Make the tables."""
        with self.connected() as db:
            outbox.prepare(db)

    def stage(self, *event_ids: str, tenant: str = "t", **more: Any) -> None:
        """Stage events in one transaction."""
        with self.connected() as db:
            for event_id in event_ids:
                outbox.stage(db, type="key.changed", tenant_id=tenant, event_id=event_id, **more)

    def run(self, sql: str, *values: Any) -> list[Any]:
        """Run a statement by hand."""
        with self.connected() as db:
            found = db.execute(self.written(sql), values)
            return list(found) if found.description else []

    def written(self, sql: str) -> str:
        """Return a statement as the driver wants it; values are at each `?`."""
        return sql

    def plant(self, event: bytes, data: bytes | None = None, manifest: bytes = b"") -> None:
        """Insert a row as another program might."""
        self.run(
            "INSERT INTO sidecar_outbox (tenant, event, data, manifest) VALUES (?, ?, ?, ?)",
            b"t", event, data, manifest,
        )  # fmt: skip

    def pump(self, **more: Any) -> Pump:
        """Return a pump, to be closed by the caller."""
        given = {"told": self.told.append, "store": self.store, **more}
        return Pump(self.database, self.redis_url, STREAM, **given)

    def pumped(self, **more: Any) -> int:
        """Send all that waits, once no other pump is there."""
        pump = self.pump(**more)
        try:
            return self._sent_by(pump)
        finally:
            pump.close()

    def _sent_by(self, pump: Pump) -> int:
        """Let a pump send; a server takes a moment to notice that another one died."""
        for _ in range(int(PATIENCE_S / 0.005)):
            with suppress(AnotherPump):
                return pump.once()
            Event().wait(0.005)
        pytest.fail("another pump does not end")

    def entries(self) -> list[dict[bytes, bytes]]:
        """Return the entries of the control stream."""
        with redis.Redis.from_url(self.redis_url, protocol=2) as client:
            found: Any = client.xrange(STREAM)
        return [fields for _, fields in found]

    def appended(self) -> list[str]:
        """Return the event_ids of the control stream, in order."""
        return [json.loads(one[b"event"])["event_id"] for one in self.entries()]

    def forget_all(self) -> None:
        """Begin anew: nothing is staged, nor appended."""
        self.run("DELETE FROM sidecar_outbox")
        with redis.Redis.from_url(self.redis_url, protocol=2) as client:
            client.delete(STREAM)

    @staticmethod
    def until(holds: Callable[[], bool]) -> None:
        """Wait until it holds; fail the test when it does not come to."""
        for _ in range(int(PATIENCE_S / 0.01)):
            if holds():
                return
            Event().wait(0.01)
        pytest.fail("it does not come to hold")

    def figures(self) -> Figures:
        """Return how far the outbox is."""
        return outbox.figures(self.database)


class SqlitePlace(Place):
    """An outbox in a file."""

    database_class = SqliteOutbox

    def __init__(self, directory: Path, redis_url: str, server: str = "") -> None:
        super().__init__(directory, redis_url, server)
        self.database = str(directory / "app.db")
        self.prepare()

    def connect(self) -> sqlite3.Connection:
        """Return a new connection, to be closed by the caller."""
        return sqlite3.connect(self.database)


class PostgresPlace(Place):
    """An outbox in a schema of a real server."""

    database_class = PostgresOutbox

    def __init__(self, directory: Path, redis_url: str, server: str = "") -> None:
        super().__init__(directory, redis_url, server)
        self.schema = f"s{uuid.uuid4().hex}"
        self.database = f"{server}&options=-csearch_path%3D{self.schema}"
        with psycopg.connect(server) as db:
            db.execute(f"CREATE SCHEMA {self.schema}")
        self.prepare()

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection, to be closed by the caller."""
        return psycopg.connect(self.database)

    def written(self, sql: str) -> str:
        """Return a statement as psycopg wants it."""
        return sql.replace("?", "%s")

    def close(self) -> None:
        """Remove the schema; what a test that failed has left locked stays."""
        with psycopg.connect(self.server, options="-c lock_timeout=10s") as db:
            db.execute(f"DROP SCHEMA {self.schema} CASCADE")


KINDS: Final[dict[str, type[SqlitePlace | PostgresPlace]]] = {
    "sqlite": SqlitePlace, "postgres": PostgresPlace,
}  # fmt: skip

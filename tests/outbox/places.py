"""A database with an outbox, where its pump sends to, and what came there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Final

import pytest
import redis

import store
from sidecar.producer import outbox
from sidecar.producer.outbox import Figures, Pump
from sidecar.producer.outbox.sqlite import SqliteOutbox
from sidecar.producer.outbox.table import Database
from tests.servers import PATIENCE_S

STREAM: Final = "control:events"


class Place:
    """An outbox, and where its pump sends to."""

    database: str
    database_class: ClassVar[type[Database]]

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
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
            return list(db.execute(sql, values))

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
        """Send all that waits."""
        pump = self.pump(**more)
        try:
            return pump.once()
        finally:
            pump.close()

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

    def __init__(self, directory: Path, redis_url: str) -> None:
        super().__init__(directory, redis_url)
        self.database = str(directory / "app.db")
        self.prepare()

    def connect(self) -> sqlite3.Connection:
        """Return a new connection, to be closed by the caller."""
        return sqlite3.connect(self.database)


KINDS: Final = {"sqlite": SqlitePlace}

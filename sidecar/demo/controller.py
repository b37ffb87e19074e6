"""The fleet controller: follows notifications, resolves each, and applies it to its own database.

`python -m sidecar.demo.controller` with the database's path as its argument, `SIDECAR_REDIS` and
`SIDECAR_FLEET_STORE` in its environment. It ends when its standard input does, so that it never
outlives the demo.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

import store
from sidecar.demo import schema
from sidecar.demo.controlplane import SNAPSHOT_FORMAT, SNAPSHOT_KIND, SNAPSHOT_TYPE
from sidecar.feed import Feed
from sidecar.notification import Notification


class Status(NamedTuple):
    """How far a fleet database is."""

    cursor: int
    applied: int
    """Notifications applied, each counted once."""
    out_of_order: int
    """Changes that did not fit on the revision that was there."""
    resolved_bytes: int


class NotASnapshot(Exception):
    """An artifact whose manifest does not promise what a bootstrap needs."""


class Fleet:
    """A fleet database. What is applied and the cursor move in one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = schema.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(schema.FLEET)

    @property
    def cursor(self) -> int:
        """The control_version of the last notification applied."""
        return int(self._one("SELECT cursor FROM fleet_state"))

    @property
    def base(self) -> int:
        """The change that the snapshot it was made from ends at; -1 before there is one."""
        return int(self._one("SELECT base FROM fleet_state"))

    def apply(self, notification: Notification, artifact: store.Artifact | None) -> None:
        """Apply one notification. Doing it again, or after a later one, changes nothing."""
        if notification.type == SNAPSHOT_TYPE and artifact and self.base < 0:
            self.bootstrap(artifact)
        with self._transaction():
            if notification.type != SNAPSHOT_TYPE and self._is_next(notification):
                self._change(notification, artifact)
            self._db.execute(
                "INSERT INTO fleet_applied VALUES (?, ?, 1)"
                " ON CONFLICT (event_id) DO UPDATE SET times = times + 1",
                (notification.event_id, notification.control_version),
            )
            self._db.execute(
                "UPDATE fleet_state SET cursor = ?, resolved_bytes = resolved_bytes + ?",
                (notification.control_version, len(artifact.data) if artifact else 0),
            )

    def bootstrap(self, artifact: store.Artifact) -> None:
        """Start from a snapshot: its SQL, and the note that it is there, in one transaction.

        Raises `NotASnapshot`.
        """
        base = int(checked_manifest(artifact)["control_version"])
        sql, commit, _ = artifact.data.decode().rpartition("COMMIT;")
        note = f"UPDATE fleet_state SET base = {base};"  # noqa: S608 -- an int
        self._db.executescript(sql + note + commit)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _is_next(self, notification: Notification) -> bool:
        """Tell whether this change is news; count it when it does not fit on what is there."""
        if notification.id <= self.base:
            return False  # the snapshot has it
        have = schema.revision(self._db, notification.tenant_id, topic_of(notification))
        if notification.version > have != notification.base_version:
            self._db.execute("UPDATE fleet_state SET out_of_order = out_of_order + 1")
        return notification.version > have

    def _change(self, notification: Notification, artifact: store.Artifact | None) -> None:
        tenant_id = notification.tenant_id
        if notification.type == "stack.activated" and artifact:
            schema.apply_stack(self._db, tenant_id, artifact.data)
        elif artifact:
            schema.apply_rows(self._db, artifact.data)
        else:
            self._db.execute(
                "UPDATE runs SET state = 'aborted' WHERE tenant_id = ? AND run_id = ?",
                (tenant_id, (notification.model_extra or {}).get("run_id")),
            )
        schema.set_revision(self._db, tenant_id, topic_of(notification), notification.version)
        self._db.execute(
            "UPDATE control_state SET control_version = max(control_version, ?)",
            (notification.id,),
        )

    def _one(self, query: str) -> Any:  # noqa: ANN401 -- what SQLite holds
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def topic_of(notification: Notification) -> str:
    """Return what a notification's version counts: the changes of one tenant's topic."""
    if notification.type == "stack.activated":
        return f"stacks/{notification.stack_id}"
    if notification.artifact_ref:
        return notification.artifact_ref.split("/")[1]
    return "runs"


def checked_manifest(artifact: store.Artifact) -> dict[str, Any]:
    """Return a snapshot's manifest. Raises `NotASnapshot` unless it fits this controller."""
    manifest: dict[str, Any] = orjson.loads(artifact.manifest)
    wanted = {
        "kind": SNAPSHOT_KIND,
        "format": SNAPSHOT_FORMAT,
        "checksum": store.checksum_of(artifact.data),
        "control_model_version": schema.CONTROL_MODEL_VERSION,
        "cache_schema_version": schema.CACHE_SCHEMA_VERSION,
        "db_migration_version": len(schema.MIGRATIONS),
    }
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise NotASnapshot(f"{key} is {manifest.get(key)!r}; this controller wants {value!r}")
    return manifest


def status(path: Path) -> Status:
    """Look at a fleet database from outside, while its controller runs or after."""
    try:
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20.0)
    except sqlite3.OperationalError:
        return Status(0, 0, 0, 0)
    try:
        row = db.execute(
            "SELECT cursor, (SELECT count(*) FROM fleet_applied), out_of_order, resolved_bytes"
            " FROM fleet_state"
        ).fetchone()
    except sqlite3.OperationalError:  # it is being made
        row = None
    finally:
        db.close()
    return Status(*row) if row else Status(0, 0, 0, 0)


def everything(feed: Feed) -> list[Notification]:
    """Read all notifications there are."""
    found: list[Notification] = []
    while page := feed.poll(found[-1].control_version if found else 0):
        found += page
    return found


def follow(redis_url: str, store_url: str, path: Path) -> None:
    """Follow the notifications from where the database is, for ever."""
    fleet = Fleet(path)
    feed = Feed(redis_url, store=store.open_url(store_url))
    for notification in feed.follow(since=fleet.cursor):
        artifact = feed.resolve(notification) if notification.artifact_ref else None
        fleet.apply(notification, artifact)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    follow(os.environ["SIDECAR_REDIS"], os.environ["SIDECAR_FLEET_STORE"], Path(sys.argv[1]))

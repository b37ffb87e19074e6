"""Where a fleet controller keeps how far it is.

With what it applies, in one transaction, is best: then applying is once, whatever dies when. A
cursor beside that is stored after applying; what was applied last may then come once more.
"""

from __future__ import annotations

import math
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.redis.client import connect
from sidecar.redis.errors import translated
from sidecar.wire.incarnations import Cursor, cursor_text, incarnation_of
from sidecar.wire.notification import Notification

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS sidecar_applied (event_id TEXT PRIMARY KEY, control_version INTEGER);
CREATE TABLE IF NOT EXISTS sidecar_cursor (one INTEGER PRIMARY KEY, control_version INTEGER);
CREATE TABLE IF NOT EXISTS sidecar_incarnation (control_version INTEGER, id TEXT);
CREATE INDEX IF NOT EXISTS sidecar_applied_at ON sidecar_applied (control_version);
"""
_FORGET: Final = """
DELETE FROM sidecar_applied WHERE event_id IN
(SELECT event_id FROM sidecar_applied WHERE control_version < ? ORDER BY control_version LIMIT 2)
"""
"""Two for each that comes: the table shrinks, and no transaction has much to do."""
REMEMBERED_S: Final = 90 * 86_400.0
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Applied:
    """Cursor and applied-events guard in the controller's own SQLite database.

        applied = Applied(db)
        for batch in feed.batches(since=applied.cursor):
            with db:  # one transaction
                for n in batch:
                    if applied.is_news(n):
                        apply(db, n)
                applied.advance(batch.cursor)

    The guard knows the event_ids that were applied: a tail that Redis lost and a producer sent
    again has a new control_version, and the same event_id.

    Whatever writes begins a transaction unless one is open, and leaves it to the caller to commit,
    with what it applied: call it inside `with db`.
    """

    def __init__(self, db: sqlite3.Connection, *, remember_s: float | None = REMEMBERED_S) -> None:
        """Make the tables unless they are there.

        An event_id is forgotten `remember_s` seconds of control_versions after it was applied; None
        is never. Give more than the workers' `--dedup-window`: in it none is published twice.
        Raises `ValueError` unless that is a positive number.
        """
        if remember_s is not None and not 0 < remember_s < math.inf:
            raise ValueError("remember_s is a positive number of seconds, or None for ever")
        self._db, self._remember_us = db, remember_s and int(remember_s * 1e6)
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)

    @property
    def cursor(self) -> int:
        """The control_version of the last notification applied; 0 before the first.

        Once `advance` was given a batch's cursor, it knows of which incarnation of the stream it
        is (`Cursor`).
        """
        found = self._db.execute(
            "SELECT control_version, id FROM sidecar_cursor"
            " LEFT JOIN sidecar_incarnation USING (control_version)"
        ).fetchone()
        return Cursor(found[0], found[1] or "") if found else 0

    def is_news(self, notification: Notification) -> bool:
        """Note a notification, and tell whether its event was not applied before."""
        version = notification.control_version
        self._set(version)
        noted = self._db.execute(
            "INSERT OR IGNORE INTO sidecar_applied VALUES (?, ?)", (notification.event_id, version)
        )
        if self._remember_us is not None:
            self._db.execute(_FORGET, (version - self._remember_us,))
        return noted.rowcount == 1

    def advance(self, control_version: int) -> None:
        """Move the cursor on to there, over what was not for this controller; never back."""
        if control_version >= self.cursor:
            self._set(control_version)

    def move_to(self, control_version: int) -> None:
        """Begin anew behind a snapshot that has everything up to there, and nothing after it.

        What was applied from there on is forgotten: it comes again, and is news.
        """
        self._begin()
        self._db.execute(
            "DELETE FROM sidecar_applied WHERE control_version > ?", (control_version,)
        )
        self._set(control_version)

    def _begin(self) -> None:
        """Begin a transaction, for a connection that does not by itself: isolation_level=None."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _set(self, control_version: int) -> None:
        self._begin()
        number, incarnation = int(control_version), incarnation_of(control_version)
        self._db.execute("INSERT OR REPLACE INTO sidecar_cursor VALUES (1, ?)", (number,))
        if incarnation:  # without, the one that is noted is of another number, and says nothing
            self._db.execute("DELETE FROM sidecar_incarnation")
            self._db.execute("INSERT INTO sidecar_incarnation VALUES (?, ?)", (number, incarnation))


class FileCursor:
    """A cursor in a file, replaced atomically and durably."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> int:
        """Return what was stored last; 0 when there is no file. Raises `SidecarError`."""
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise SidecarError(f"the cursor {self._path} cannot be read: {error}") from error
        found = Cursor.parse(text.removesuffix("\n"))
        if found is None or not text.endswith("\n"):  # without its end it would read as a lower one
            raise SidecarError(
                f"the cursor {self._path} holds {text[:40]!r}, not a control_version; write the"
                " right one, or remove it to begin with a snapshot"
            )
        return found

    def store(self, control_version: int) -> None:
        """Store a cursor: when it returns, it survives a power cut. Raises `OSError`."""
        part = self._path.with_name(f".{self._path.name}.part")
        part.unlink(missing_ok=True)  # of one that was killed, or planted: never written through
        with os.fdopen(os.open(part, _NEW, 0o666), "w", encoding="ascii") as file:
            file.write(f"{cursor_text(control_version)}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class RedisCursor:
    """A cursor in a key of a Redis, for a controller that has no disk of its own."""

    def __init__(self, redis_url: str, key: str) -> None:
        self._url, self._key = redis_url, key
        self._client = connect(redis_url, key=key)

    def load(self) -> int:
        """Return what was stored last; 0 for none. Raises `Unreachable` and `SidecarError`."""
        with translated(self._url):
            found: Any = self._client.get(self._key)
        cursor = Cursor.parse(found.decode(errors="replace")) if found is not None else Cursor(0)
        if cursor is None:
            raise SidecarError(f"the key {self._key!r} holds {found[:40]!r}, not a control_version")
        return cursor

    def store(self, control_version: int) -> None:
        """Store a cursor. Raises `Unreachable`."""
        with translated(self._url):
            self._client.set(self._key, cursor_text(control_version))

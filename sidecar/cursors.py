"""Where a fleet controller keeps how far it is.

With what it applies, in one transaction, is best: then applying is once, whatever dies when. A
cursor beside that is stored after applying; what was applied last may then come once more.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.notification import Notification
from sidecar.redis.client import connect, translated

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS sidecar_applied (event_id TEXT PRIMARY KEY, control_version INTEGER);
CREATE TABLE IF NOT EXISTS sidecar_cursor (one INTEGER PRIMARY KEY, control_version INTEGER);
"""


class Applied:
    """Cursor and applied-events guard in the controller's own SQLite database.

        applied = Applied(db)
        for batch in feed.batches(since=applied.cursor):
            with db:  # one transaction
                for n in batch:
                    if applied.is_news(n):
                        apply(db, n)
                applied.advance(batch.cursor)

    The guard knows every event_id that was ever applied: a tail that Redis lost and a producer
    sent again has a new control_version, and the same event_id.

    Whatever writes begins a transaction unless one is open, and leaves it to the caller to commit,
    with what it applied: call it inside `with db`.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        """Make the two tables unless they are there."""
        self._db = db
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)

    @property
    def cursor(self) -> int:
        """The control_version of the last notification applied; 0 before the first."""
        found = self._db.execute("SELECT control_version FROM sidecar_cursor").fetchone()
        return int(found[0]) if found else 0

    def is_news(self, notification: Notification) -> bool:
        """Note a notification, and tell whether its event was not applied before."""
        self._set(notification.control_version)
        noted = self._db.execute(
            "INSERT OR IGNORE INTO sidecar_applied VALUES (?, ?)",
            (notification.event_id, notification.control_version),
        )
        return noted.rowcount == 1

    def advance(self, control_version: int) -> None:
        """Move the cursor on to there, over what was not for this controller; never back."""
        if control_version > self.cursor:
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
        self._db.execute("INSERT OR REPLACE INTO sidecar_cursor VALUES (1, ?)", (control_version,))


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
        if not re.fullmatch(r"[0-9]+\n", text):  # without its end it would read as a lower one
            raise SidecarError(
                f"the cursor {self._path} holds {text[:40]!r}, not a control_version; write the"
                " right one, or remove it to begin with a snapshot"
            )
        return int(text)

    def store(self, control_version: int) -> None:
        """Store a control_version: when it returns, it survives a power cut. Raises `OSError`."""
        part = self._path.with_name(f".{self._path.name}.part")
        with part.open("w", encoding="ascii") as file:
            file.write(f"{control_version}\n")
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
        if found is not None and not found.isdigit():
            raise SidecarError(f"the key {self._key!r} holds {found[:40]!r}, not a control_version")
        return int(found or 0)

    def store(self, control_version: int) -> None:
        """Store a control_version. Raises `Unreachable`."""
        with translated(self._url):
            self._client.set(self._key, control_version)

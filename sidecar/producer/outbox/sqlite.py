"""The outbox in SQLite: the table, and the pump's connection.

SQLite has one writer at a time: a row gets its number while its transaction holds the database, so
numbers are in the order of commits.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.producer.outbox.table import Database

NOW_MS: Final = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS sidecar_outbox_format (format INTEGER NOT NULL)",
    f"""CREATE TABLE IF NOT EXISTS sidecar_outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant BLOB NOT NULL,
        event BLOB NOT NULL,
        traceparent BLOB NOT NULL DEFAULT x'',
        data BLOB,
        manifest BLOB NOT NULL DEFAULT x'',
        state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'dead')),
        reason TEXT,
        detail TEXT,
        staged_at_ms INTEGER NOT NULL DEFAULT ({NOW_MS}),
        ended_at_ms INTEGER
    )""",
    (
        "CREATE INDEX IF NOT EXISTS sidecar_outbox_waiting ON sidecar_outbox (number)"
        " WHERE state = 'waiting'"
    ),
    (
        "CREATE INDEX IF NOT EXISTS sidecar_outbox_dead ON sidecar_outbox (number)"
        " WHERE state = 'dead'"
    ),
    (
        "CREATE INDEX IF NOT EXISTS sidecar_outbox_done ON sidecar_outbox (ended_at_ms)"
        " WHERE state = 'done'"
    ),
)
BUSY_S: Final = 5.0
"""So long the pump waits for a writer, before it says so and tries again."""
_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_LIKE_A_URL: Final = re.compile("[@=?#:]")
"""What was meant as one may have a password in it."""
_BROKEN: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteOutbox(Database):
    """The pump's own connection to a file. The lock is on a file beside it, `…-outbox.lock`."""

    blob = "BLOB"
    now_ms = NOW_MS

    def __init__(self, path: str) -> None:
        """Raise `UsageError` where there is no such file."""
        if not os.path.isfile(path):
            where = "that path" if _LIKE_A_URL.search(path) else path
            raise UsageError(
                f"there is no database at {where}; name the file that has the outbox, or"
                " postgresql://user:password@host/database"
            )
        self._path = Path(os.path.realpath(path))
        self._lock: int | None = None
        with _translated(self._path):
            self._db = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_S,
                check_same_thread=False,
            )  # fmt: skip

    def lock(self) -> bool:
        """Become the one pump, and let readers and the writer not wait for each other (WAL)."""
        try:
            self._lock = self._lock or os.open(f"{self._path}-outbox.lock", _LOCK, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UsageError(f"{self._path}-outbox.lock: {error.strerror}") from error
        self._run("PRAGMA journal_mode = WAL")
        self._run("PRAGMA synchronous = NORMAL")  # of its own marks: what was lost is sent again
        return True

    def close(self) -> None:
        """Close the connection, then let another pump in."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with _translated(self._path):
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.rollback()
            raise
        self._run("COMMIT")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_ERROR and "no such table" in str(error):
            raise UsageError(
                f"{path} has no outbox: sidecar.producer.outbox.prepare(connection) makes it"
            ) from error
        if code in _BROKEN:
            raise SidecarError(f"{path}: {error}; restore it from a backup") from error
        raise Unreachable(f"{path}: {error}; is it locked, or its disk full?") from error

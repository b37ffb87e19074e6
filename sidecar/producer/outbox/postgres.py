"""The outbox in PostgreSQL: the pump's connection. postgres.sql has the tables, and the order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.lines import visible
from sidecar.producer.outbox.table import Database, Ended, NotNow, Row
from sidecar.redis.client import url_of
from sidecar.wire.urls import FiledUrl, Unclear, check_form, redact

_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 60_000, "fallback_application_name": "sidecar outbox",
}  # fmt: skip
"""A network that lost the server is noticed in a minute or so, unless the URL says otherwise."""
_OPTIONS: Final = " ".join((
    "-c default_transaction_isolation=read\\ committed",  # what is marked is read as it is then
    "-c lock_timeout=5s",  # to wait for somebody's table lock is told
    # A pump that the network lost must not keep the lock for the two hours that are usual.
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
))  # fmt: skip
"""For the server, as it starts the session. A pooler that refuses them is none for a pump."""
_LOCK: Final = (
    "SELECT pg_try_advisory_lock('sidecar_outbox'::regclass::oid::int, 0), pg_backend_pid()"
)
_UNLOCK: Final = "SELECT pg_advisory_unlock('sidecar_outbox'::regclass::oid::int, 0)"
_RIGHTS: Final = (
    (
        "UPDATE sidecar_outbox SET state = state, reason = reason, detail = detail, data = data,"
        " manifest = manifest, ended_at_ms = ended_at_ms WHERE false"
    ),
    "DELETE FROM sidecar_outbox WHERE false",
    "DELETE FROM sidecar_outbox_order WHERE false",
)
"""What a pump does after it sent, of no row: where it may not, nothing is to be sent."""
_ADOPT: Final = (
    "INSERT INTO sidecar_outbox_order (number) SELECT number FROM sidecar_outbox AS staged"
    " WHERE state = 'waiting' AND NOT EXISTS ("
    "SELECT FROM sidecar_outbox_order AS placed WHERE placed.number = staged.number)"
    " ORDER BY number"
)
"""Rows that came in past the triggers (a restore, a replica that was promoted) come last."""
_TRIGGERS: Final = (
    "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'sidecar_outbox'::regclass"
    " AND tgenabled IN ('O', 'A') AND tgname IN"
    " ('sidecar_outbox_note', 'sidecar_outbox_place', 'sidecar_outbox_place_again')"
)
_FINAL: Final = re.compile(
    "authentication failed|no password supplied|no pg_hba.conf entry|does not exist"
    "|permission denied|not permitted to log in|unsupported startup parameter"
    "|certificate|does not support SSL|server does not support"
)
"""In the words of a connection that failed: to wait does not fix it."""
_WAITED_FOR: Final = ("08", "53", "55", "57", "58", "40", "25P03")
"""Classes of errors that pass: connections, resources, locks, somebody's hand, disks, conflicts."""
_FIXES: Final = {
    "42P01": "sidecar.producer.outbox.prepare(connection) makes the outbox",
    "42501": "docs/outbox.md has the rights that a pump needs",
}


def check_url(url: str) -> None:
    """Raise `UsageError`, which repeats nothing of it, for what is no URL of a PostgreSQL."""
    try:
        check_form(url)
        host = conninfo_to_dict(url).get("host")
    except Unclear as error:
        raise UsageError(f"{redact(url)} is not clear: {error}") from None
    except psycopg.Error:
        raise UsageError(
            f"{redact(url)} is no URL of a PostgreSQL: an option is unknown, or a '%' is not"
            " followed by two digits (%25 is a '%'); write"
            " postgresql://user:password@host:5432/database?sslmode=verify-full"
        ) from None
    if "@" in str(host):  # all after the first '@', as libpq reads it
        raise UsageError(f"{redact(url)} is not clear: in a login, write %40 for '@'")


class PostgresOutbox(Database):
    """The pump's own connection. Its lock is one of its session, and ends with that."""

    blob = "bytea"
    now_ms = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

    def __init__(self, url: str) -> None:
        """Connect. Raises `UsageError` and `Unreachable`."""
        self._url = url_of(url.file) if isinstance(url, FiledUrl) else url
        self._pid: int | None = None
        check_url(self._url)
        given: dict[str, Any] = {**conninfo_to_dict(self._url)}
        options = given.get("options") or os.environ.get("PGOPTIONS", "")  # as libpq has it
        given = {**_DEFAULTS, **given, "options": f"{options} {_OPTIONS}"}
        try:
            self._db = psycopg.connect("", autocommit=True, **given)
        except psycopg.Error as error:
            raise self._unconnected(error, given) from None

    def check(self) -> None:
        """Raise `UsageError` for an outbox that is not there, of another format, or not whole."""
        super().check()
        ((triggers,),) = self._run(_TRIGGERS)
        if triggers != len(re.findall("'sidecar_outbox_", _TRIGGERS)):
            raise UsageError(
                f"{redact(self._url)}: triggers of sidecar_outbox are missing or disabled, and rows"
                " would never be sent: ENABLE TRIGGER, or make the tables anew (docs/outbox.md)"
            )

    def lock(self) -> bool:
        """Become the one pump; make sure that it may mark what it sends."""
        ((is_ours, pid),) = self._run(_LOCK)
        if is_ours:
            for statement in (*_RIGHTS, _ADOPT):
                self._run(statement)
            self._pid = pid
        return bool(is_ours)

    def close(self) -> None:
        """Let another pump in, and close the connection: the server would notice that later."""
        with suppress(psycopg.Error):
            if self._pid is not None:
                self._db.execute(_UNLOCK)
        self._db.close()

    def waiting(self, most: int) -> list[Row]:
        """Return the first rows that wait, in the order of their commits; without artifacts."""
        self._check_session()
        while True:
            found = self._run(
                f"SELECT position, staged.number, {self._columns}"  # noqa: S608 -- ours, each
                " FROM (SELECT * FROM sidecar_outbox_order ORDER BY position LIMIT ?) AS placed"
                " LEFT JOIN sidecar_outbox AS staged"
                " ON staged.number = placed.number AND staged.state = 'waiting' ORDER BY position",
                most,
            )
            rows = [Row.of(*one) for one in found if one[1] is not None]
            if len(rows) < len(found):
                self._leave([one[0] for one in found if one[1] is None])  # removed by somebody
            if rows or not found:
                return rows

    def end(self, ended: Sequence[Ended]) -> None:
        """Note what became of rows, all at once: they have no place in the order any more."""
        with self._transaction():
            self._run("SET LOCAL synchronous_commit = off")  # what was lost is sent again
            super().end(ended)
            self._leave([one.row.position for one in ended])

    def _leave(self, positions: list[int]) -> None:
        self._run("DELETE FROM sidecar_outbox_order WHERE position = ANY(?)", positions)

    def _check_session(self) -> None:
        """Raise `UsageError` where statements go to other sessions: they have no lock."""
        ((pid,),) = self._run("SELECT pg_backend_pid()")
        if self._pid is not None and pid != self._pid:
            raise UsageError(
                f"{redact(self._url)} leads to a pooler in transaction mode; the pump needs a"
                " session of its own: name the server itself"
            )

    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._translated():
            cursor = self._db.execute(sql.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated(), self._db.transaction():
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._named(error) from error

    def _named(self, error: psycopg.Error) -> SidecarError:
        code = error.sqlstate or ""
        said = visible(error.diag.message_primary or str(error))
        where = redact(self._url)
        if code == "25006":
            return NotNow(
                f"{where} is a standby, or read-only: name the primary, or each of them with"
                " ?target_session_attrs=read-write"
            )
        if not code or code.startswith(_WAITED_FOR):
            return Unreachable(f"{where}: {said}; is it up, and not locked or full?")
        if code.startswith("42"):
            fix = _FIXES.get(code, "are these the tables that `prepare` makes?")
            return UsageError(f"{where}: {said}; {fix}")
        return SidecarError(f"{where}: {said} ({code})")

    def _unconnected(self, error: psycopg.Error, given: dict[str, Any]) -> SidecarError:
        """Return why there is no connection, without what was given for it: that may be anything
        that somebody mistyped, a password, too.
        """
        said = " ".join(str(error).split())
        values = {part for one in given.values() for part in (str(one), *str(one).split(","))} - {
            ""
        }
        for value in sorted(values, key=len, reverse=True):
            said = re.sub(rf"""(["']){re.escape(value)}\1""", r"\1…\1", said)
        if given.get("password"):
            said = said.replace(str(given["password"]), "…")
        pooled = "; that is a pooler: name the server itself" if "startup parameter" in said else ""
        text = f"{redact(self._url)}: {visible(said)}{pooled}"
        return NotNow(text) if _FINAL.search(said) else Unreachable(text)

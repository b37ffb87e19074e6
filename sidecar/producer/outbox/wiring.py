"""Which database a text names."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import UsageError
from sidecar.producer.outbox.sqlite import SqliteOutbox
from sidecar.producer.outbox.table import Database, Figures
from sidecar.wire.urls import redact


def check_database(database: str | Path) -> str:
    """Return what names a database. Raises `UsageError` for a URL of another kind."""
    text = database if isinstance(database, str) else str(database)
    if _is_postgres(text):
        try:
            from sidecar.producer.outbox import postgres
        except ImportError as error:
            raise UsageError(
                "an outbox in PostgreSQL needs the extra postgres; in a checkout:"
                " pip install '.[postgres]'"
            ) from error
        postgres.check_url(text)
    elif "://" in text:
        raise UsageError(
            "the path of an SQLite file is wanted, or postgresql://…; that is another URL"
        )
    return text


def opened(database: str | Path) -> Database:
    """Open a database with an outbox of this format. Raises `UsageError` and `Unreachable`."""
    found = _connected(check_database(database))
    try:
        found.check()
    except BaseException:
        found.close()
        raise
    return found


def _connected(text: str) -> Database:
    if not _is_postgres(text):
        return SqliteOutbox(text)
    from sidecar.producer.outbox.postgres import PostgresOutbox  # it is an extra

    return PostgresOutbox(text)


def _is_postgres(text: str) -> bool:
    return text.startswith(("postgresql://", "postgres://"))


def shown(database: str) -> str:
    """Return what names a database, without a password."""
    return redact(database) if "://" in database else database


def figures(database: str | Path) -> Figures:
    """Return how far the outbox of a database is, by a connection of its own.

    Raises `UsageError` where there is none, and `Unreachable`.
    """
    found = opened(database)
    try:
        return found.figures()
    finally:
        found.close()

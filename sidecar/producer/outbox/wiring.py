"""Which database a text names."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import UsageError
from sidecar.producer.outbox.sqlite import SqliteOutbox
from sidecar.producer.outbox.table import Database, Figures


def check_database(text: str) -> str:
    """Return what names a database. Raises `UsageError` for a URL of another kind."""
    if "://" in text:
        raise UsageError("the path of an SQLite file is wanted; that is a URL")
    return text


def opened(database: str | Path) -> Database:
    """Open a database with an outbox of this format. Raises `UsageError` and `Unreachable`."""
    found = SqliteOutbox(check_database(str(database)))
    try:
        found.check()
    except BaseException:
        found.close()
        raise
    return found


def figures(database: str | Path) -> Figures:
    """Return how far the outbox of a database is, by a connection of its own.

    Raises `UsageError` where there is none, and `Unreachable`.
    """
    found = opened(database)
    try:
        return found.figures()
    finally:
        found.close()

"""Databases and other temporary files, for what may be too much for memory.

A machine may have no place for them: a container whose root is read-only, and that has no /tmp.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sidecar.errors import UsageError

FULL: Final = sqlite3.OperationalError
"""What a database raises that has no room, or no place."""


class Scratch(sqlite3.Connection):
    """A database that nobody else sees, and that ends with the last who has it."""

    def __del__(self) -> None:
        """Close it: from Python 3.13 on one that is left open is warned of."""
        self.close()


def scratch(schema: str) -> Scratch:
    """Return a new one with these tables."""
    # The collector may end it, in whichever thread that runs.
    db = sqlite3.connect("", factory=Scratch, check_same_thread=False)
    db.executescript(schema)
    return db


def no_room(error: Exception) -> UsageError:
    """Return what is said where a temporary file cannot be made or written."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UsageError(
        f"a temporary file cannot be written: {said}; set TMPDIR to a directory that takes some"
    )


@contextmanager
def directory(prefix: str) -> Iterator[Path]:
    """Make a directory for the block, that nobody else may open. Raises `UsageError`."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise no_room(error) from error
    with made as name:
        yield Path(name)


class Spool(tempfile.SpooledTemporaryFile[bytes]):
    """A file in memory until it is large. What is written raises `UsageError` without room."""

    def write(self, data: Any) -> int:  # noqa: ANN401 -- as in its base
        """Add bytes."""
        try:
            return super().write(data)
        except OSError as error:
            raise no_room(error) from error

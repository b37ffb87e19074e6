"""Databases in temporary files, for what may be too much for memory."""

from __future__ import annotations

import sqlite3


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

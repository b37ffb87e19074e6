"""The fleet as a position saw it: the newest notification of each stack, and of each ref.

Memory stays constant: it is folded in a temporary SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import orjson

from sidecar.history import Gap, History
from sidecar.history.rows import of_line, to_line
from sidecar.notification import Notification, parse
from sidecar.redis.scan import entry_id_of
from sidecar.redis.source import FIRST, Entry

BATCH: Final = 5000
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE newest (kind, a, b, line, PRIMARY KEY (kind, a, b)) WITHOUT ROWID;
"""
_STACK: Final = "stack"
_REF: Final = "ref"


class FleetState:
    """The newest notifications up to a position."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = gaps
        """What nobody can tell: notifications that have expired. Empty when the state is whole."""
        self._db = sqlite3.connect("")
        self._db.executescript(_SCHEMA)

    def stacks(self) -> Iterator[Notification]:
        """Yield the newest of each tenant and stack, in their order."""
        return map(_notification, self._lines("WHERE kind = ? ORDER BY a, b", _STACK))

    def refs(self) -> Iterator[Notification]:
        """Yield the newest of each artifact_ref, in their order."""
        return map(_notification, self._lines("WHERE kind = ? ORDER BY a", _REF))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of them all, some twice."""
        return map(of_line, self._lines(""))

    def fold(self, entries: Iterable[Entry]) -> None:
        """Take in notifications, in order."""
        left = iter(entries)
        while batch := list(islice(left, BATCH)):
            newest: dict[tuple[str, str, str], Entry] = {}
            for entry in batch:
                for key in _keys(entry):
                    newest[key] = entry
            rows = [(*key, to_line(entry)) for key, entry in newest.items()]
            self._db.executemany("INSERT OR REPLACE INTO newest VALUES (?, ?, ?, ?)", rows)

    def _lines(self, which: str, *arguments: str) -> Iterator[bytes]:
        for (line,) in self._db.execute(f"SELECT line FROM newest {which}", arguments):  # noqa: S608
            yield line


def state_at(history: History, position: int) -> FleetState:
    """Return the state that the notifications up to the control_version `position` make.

    Raises as the history does.
    """
    stream, last = history.streams.notifications, entry_id_of(max(0, position))
    reach = history.reach(stream)
    gaps = reach.missing(FIRST, last) if reach else []
    state = FleetState([gap for gap in gaps if not gap.folded])
    state.fold(history.entries(stream, FIRST, last))
    return state


def _keys(entry: Entry) -> Iterator[tuple[str, str, str]]:
    try:
        body: dict[str, Any] = orjson.loads(entry.fields[b"event"])
        tenant, stack = body.get("tenant_id") or "", body.get("stack_id") or ""
        ref = body.get("artifact_ref") or ""
    except (KeyError, ValueError, AttributeError):
        return  # no sidecar wrote it
    if stack and body.get("version"):
        yield _STACK, tenant, stack
    if ref:
        yield _REF, ref, ""


def _notification(line: bytes) -> Notification:
    return parse(of_line(line).fields)

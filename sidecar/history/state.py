"""The fleet as a position saw it: the newest notification of each stack, and of each ref.

Memory is bounded: a state of many keys lies in a temporary SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from sidecar.history import Gap, History
from sidecar.history.rows import of_line, to_line
from sidecar.notification import Notification, parse
from sidecar.redis.scan import entry_id_of
from sidecar.redis.source import FIRST, Entry, id_after, id_pair, key_of

KEYS_IN_MEMORY: Final = 250_000
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE newest (kind, a, b, at, line, PRIMARY KEY (kind, a, b)) WITHOUT ROWID;
"""
_Key = tuple[str, str, str]
_STACK: Final = "stack"
_REF: Final = "ref"


class FleetState:
    """The newest notifications up to a position."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = gaps
        """What nobody can tell: notifications that have expired. Empty when the state is whole."""
        self._here: dict[_Key, Entry] = {}
        self._spilt: sqlite3.Connection | None = None

    def stacks(self) -> Iterator[Notification]:
        """Yield the newest of each tenant and stack, in their order."""
        return (parse(entry.fields) for entry in self._of_kind(_STACK))

    def refs(self) -> Iterator[Notification]:
        """Yield the newest of each artifact_ref, in their order."""
        return (parse(entry.fields) for entry in self._of_kind(_REF))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of them all, each once, in order."""
        if self._spilt:
            self._spill()
            return _read(self._spilt, "GROUP BY at ORDER BY at")
        once = {id_pair(entry.id): entry for entry in self._here.values()}
        return (once[at] for at in sorted(once))

    def __len__(self) -> int:
        if not self._spilt:
            return len(self._here)
        self._spill()
        return int(self._spilt.execute("SELECT count(*) FROM newest").fetchone()[0])

    def fold(self, entries: Iterable[Entry]) -> None:
        """Take in notifications, in order."""
        here = self._here
        for entry in entries:
            for key in _keys(entry):
                here[key] = entry
            if len(here) >= KEYS_IN_MEMORY:
                self._spill()

    def _of_kind(self, kind: str) -> Iterator[Entry]:
        if self._spilt:
            self._spill()
            yield from _read(self._spilt, "WHERE kind = ? ORDER BY a, b", kind)
            return
        for key in sorted(key for key in self._here if key[0] == kind):
            yield self._here[key]

    def _spill(self) -> None:
        """Move what is in memory into a temporary file."""
        if self._spilt is None:
            self._spilt = sqlite3.connect("")
            self._spilt.executescript(_SCHEMA)
        self._spilt.executemany(
            "INSERT OR REPLACE INTO newest VALUES (?, ?, ?, ?, ?)",
            [(*key, key_of(entry.id), to_line(entry)) for key, entry in self._here.items()],
        )
        self._here.clear()


def _read(db: sqlite3.Connection, which: str, *arguments: str) -> Iterator[Entry]:
    for (line,) in db.execute(f"SELECT line FROM newest {which}", arguments):  # noqa: S608
        yield of_line(line)


def state_at(history: History, position: int) -> FleetState:
    """Return the state that the notifications up to the control_version `position` make.

    Begins with a checkpoint, if the history has one. Raises as the history does.
    """
    stream, last = history.streams.notifications, entry_id_of(max(0, position))
    first, gaps = FIRST, list[Gap]()
    state = FleetState(gaps)
    checkpoint = history.checkpoint(last)
    if checkpoint is not None:
        first = id_after(checkpoint.last)
        gaps += checkpoint.gaps
        state.fold(checkpoint.entries())
    reach = history.reach(stream)
    missing = reach.missing(first, last) if reach else []
    gaps += [gap for gap in missing if not gap.folded]
    state.fold(history.entries(stream, first, last))
    return state


def _keys(entry: Entry) -> list[_Key]:
    """Return what a notification is the newest of: its stack, its ref."""
    try:
        body: dict[str, Any] = orjson.loads(entry.fields[b"event"])
        tenant, stack = body.get("tenant_id") or "", body.get("stack_id") or ""
        ref = body.get("artifact_ref") or ""
    except (KeyError, ValueError, AttributeError):
        return []  # no sidecar wrote it
    found = [(_REF, ref, "")] if ref else []
    if stack and body.get("version"):
        found.append((_STACK, tenant, stack))
    return found

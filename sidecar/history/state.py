"""The fleet as a position saw it: the newest notification of each stack, and of each ref.

Notifications are kept as rows, as they lie in segments: most give way to a newer one before anybody
wants to read them. Memory is bounded: a state of many keys lies in a temporary SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import orjson

from sidecar.history import Gap, History
from sidecar.history.rows import of_line
from sidecar.history.scratch import scratch
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.notification import Notification

KEYS_IN_MEMORY: Final = 250_000
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE newest (kind, a, b, line, PRIMARY KEY (kind, a, b)) WITHOUT ROWID;
"""
_REPLACE: Final = "INSERT OR REPLACE INTO newest VALUES (?, ?, ?, ?)"
_KEEP: Final = "INSERT OR IGNORE INTO newest VALUES (?, ?, ?, ?)"
_STACK: Final = "stack"
_REF: Final = "ref"


class FleetState:
    """The newest notifications up to a position."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = gaps
        """What nobody can tell: notifications that have expired. Empty when the state is whole."""
        self._refs: dict[str, bytes] = {}
        self._stacks: dict[tuple[str, str], bytes] = {}
        self._spilt: sqlite3.Connection | None = None
        self._older = False
        """Whether what comes is older than what is here."""

    def stacks(self) -> Iterator[Notification]:
        """Yield the newest of each tenant and stack, in their order."""
        here = (self._stacks[key] for key in sorted(self._stacks))
        lines = self._of_kind(_STACK) if self._spilt else here
        return (note for _, note in _written(lines))

    def refs(self) -> Iterator[Notification]:
        """Yield the newest of each artifact_ref, in their order."""
        here = (self._refs[key] for key in sorted(self._refs))
        lines = self._of_kind(_REF) if self._spilt else here
        return (note for _, note in _written(lines))

    def keyed(self) -> Iterator[tuple[Sequence[str], bytes]]:
        """Yield what each is the newest of, [ref] or [tenant, stack], and its row, in order."""
        if self._spilt:
            self._spill()
            for kind, a, b, row in self._spilt.execute(
                "SELECT kind, a, b, line FROM newest ORDER BY kind, a, b"
            ):
                yield ([a] if kind == _REF else [a, b]), row
            return
        yield from (([ref], self._refs[ref]) for ref in sorted(self._refs))
        yield from ((stack, self._stacks[stack]) for stack in sorted(self._stacks))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of them all; of what is the newest in two ways, twice."""
        return (entry for entry, _ in _written(row for _, row in self.keyed()))

    def __len__(self) -> int:
        if not self._spilt:
            return len(self._refs) + len(self._stacks)
        self._spill()
        return int(self._spilt.execute("SELECT count(*) FROM newest").fetchone()[0])

    def fold(self, lines: Iterable[bytes]) -> None:
        """Take in notifications, in order."""
        refs, stacks = self._refs, self._stacks
        for line in lines:
            ref, stack = _keys(line)
            if ref:
                refs[ref] = line
            if stack:
                stacks[stack] = line
            if len(refs) + len(stacks) >= KEYS_IN_MEMORY:
                self._spill()

    def fold_older(self, keyed: Iterable[tuple[Sequence[str], bytes]]) -> None:
        """Take in what a state before had, where nothing newer is here."""
        if self._spilt:
            self._spill()
        self._older = True
        refs, stacks = self._refs, self._stacks
        for key, row in keyed:
            if len(key) == 1:
                refs.setdefault(key[0], row)
            else:
                stacks.setdefault((key[0], key[1]), row)
            if len(refs) + len(stacks) >= KEYS_IN_MEMORY:
                self._spill()

    def _of_kind(self, kind: str) -> Iterator[bytes]:
        assert self._spilt  # noqa: S101 -- looked at before
        self._spill()
        return _read(self._spilt, "WHERE kind = ? ORDER BY a, b", kind)

    def _spill(self) -> None:
        """Move what is in memory into a temporary file."""
        if self._spilt is None:
            self._spilt = scratch(_SCHEMA)
        keyed = [
            *(((_REF, ref, ""), line) for ref, line in self._refs.items()),
            *(((_STACK, *stack), line) for stack, line in self._stacks.items()),
        ]
        self._spilt.executemany(
            _KEEP if self._older else _REPLACE,
            [(*key, line) for key, line in keyed],
        )
        self._refs.clear()
        self._stacks.clear()


def _read(db: sqlite3.Connection, which: str, *arguments: str) -> Iterator[bytes]:
    for (line,) in db.execute(f"SELECT line FROM newest {which}", arguments):  # noqa: S608
        yield line


def _written(lines: Iterable[bytes]) -> Iterator[tuple[Entry, Notification]]:
    """Yield what a sidecar wrote; anything else may lie among it."""
    for line in lines:
        try:
            entry = of_line(line)
            note = Notification.of_entry(entry.fields)
        except (KeyError, ValueError):
            continue
        yield entry, note


def state_at(history: History, position: int) -> FleetState:
    """Return the state that the notifications up to the control_version `position` make.

    Begins with a checkpoint, if the history has one. Raises as the history does.
    """
    stream, last = history.streams.notifications, EntryId.of_version(max(0, position))
    first, gaps = FIRST, list[Gap]()
    state = FleetState(gaps)
    checkpoint = history.checkpoint(last)
    if checkpoint is not None:
        first = checkpoint.last.after
        gaps += checkpoint.gaps
    reach = history.reach(stream)
    missing = reach.missing(first, last) if reach else []
    gaps += [gap for gap in missing if not gap.folded]
    state.fold(history.lines(stream, first, last))
    if checkpoint is not None:
        state.fold_older(checkpoint.keyed())
    return state


def _keys(line: bytes) -> tuple[str | None, tuple[str, str] | None]:
    """Return what a notification is the newest of: its ref, its tenant and stack."""
    try:
        row = orjson.loads(line)
        body = orjson.loads(row[row.index("event", 1) + 1])
        row.index("origin", 1)
        ref, tenant, stack, version = map(
            body.get, ("artifact_ref", "tenant_id", "stack_id", "version")
        )
    except (ValueError, IndexError, AttributeError):
        return None, None  # no sidecar wrote it
    return (
        ref if isinstance(ref, str) else None,
        (str(tenant or ""), str(stack)) if stack and version else None,
    )

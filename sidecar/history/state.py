"""The state of the fleet as a position saw it: the newest notification of each subject.

Notifications are kept as rows, as they lie in segments: most give way to a newer one before anybody
wants to read them. Memory is bounded: a state of many subjects lies in a temporary SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import orjson

from sidecar.history import Gap, History
from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import Keyed
from sidecar.history.rows import id_of_line, of_line, order_of_line
from sidecar.history.scratch import scratch
from sidecar.history.sealing import Proof, Seals
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.notification import Notification
from sidecar.wire.subject import Subject, subject_of
from sidecar.wire.trust import Trust

Believed = Callable[[Entry, str], None]
Runs = Callable[[str, EntryId, EntryId], Iterable[tuple[str, Iterable[bytes]]]]
MAX_LINE_BYTES: Final = 1 << 20
"""No sidecar writes a notification of a hundredth of that, and a checkpoint can have it."""
SUBJECTS_IN_MEMORY: Final = 2_000
"""With more the rest lies in a temporary database: a few MiB, which a processor's cache has."""
_SCHEMA: Final = """
PRAGMA page_size = 16384; PRAGMA cache_size = -6000;
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE newest (
    tenant, stack, ref, at, line, sealer, PRIMARY KEY (tenant, stack, ref)
);
"""
_KEEP_NEWEST: Final = """
INSERT INTO newest VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
SET at = excluded.at, line = excluded.line, sealer = excluded.sealer WHERE excluded.at >= at
"""


class FleetState:
    """The newest notifications up to a position."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = gaps
        """What nobody can tell: notifications that have expired. Empty when the state is whole."""
        self._here: dict[Subject, tuple[bytes, bytes, str]] = {}
        """Of each the order of its ID, its row, and who vouches for that."""
        self._spilt: sqlite3.Connection | None = None

    def stacks(self) -> Iterator[Notification]:
        """Yield the newest of each tenant and stack, in their order."""
        return self._notes(is_stack=True)

    def refs(self) -> Iterator[Notification]:
        """Yield the newest of each artifact_ref that is no stack's, in their order."""
        return self._notes(is_stack=False)

    def keyed(self) -> Iterator[Keyed]:
        """Yield the newest of each subject, in the order of the subjects."""
        if self._spilt:
            self._spill()
            rows = self._spilt.execute(
                "SELECT tenant, stack, ref, line, sealer FROM newest ORDER BY tenant, stack, ref"
            )
            yield from (Keyed(Subject(*row[:3]), *row[3:]) for row in rows)
            return
        yield from (Keyed(subject, *self._here[subject][1:]) for subject in sorted(self._here))

    def rows(self) -> Iterator[bytes]:
        """Yield the rows as they were published, the oldest first."""
        return (line for line, _ in self._oldest_first())

    def notifications(self, believed: Believed | None = None) -> Iterator[Notification]:
        """Yield them as they were published, the oldest first.

        `believed` looks at the entry of each before, and who vouches, and raises what it will.
        """
        return (note for _, note in _written(self._oldest_first(), believed))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of them all."""
        return (entry for entry, _ in _written(one[1:] for one in self.keyed()))

    def _oldest_first(self) -> Iterator[tuple[bytes, str]]:
        if self._spilt:
            self._spill()
            yield from self._spilt.execute("SELECT line, sealer FROM newest ORDER BY at")
            return
        yield from (one[1:] for one in sorted(self._here.values()))

    def __len__(self) -> int:
        if not self._spilt:
            return len(self._here)
        self._spill()
        return int(self._spilt.execute("SELECT count(*) FROM newest").fetchone()[0])

    def fold(self, lines: Iterable[bytes], sealer: str = "") -> None:
        """Take in notifications, in any order: of each subject the highest ID counts.

        `sealer` is as `Keyed` has it.
        """
        subjects = ((_subject(line), line) for line in lines)
        self.fold_keyed(Keyed(subject, line, sealer) for subject, line in subjects if subject)

    def fold_keyed(self, keyed: Iterable[Keyed]) -> None:
        """Take in notifications whose subjects are known, in any order."""
        here = self._here
        for subject, line, sealer in keyed:
            at, held = order_of_line(line), here.get(subject)
            if held is None or held[0] <= at:
                here[subject] = at, line, sealer
                if len(here) >= SUBJECTS_IN_MEMORY:
                    self._spill()

    def _notes(self, *, is_stack: bool) -> Iterator[Notification]:
        found = (one[1:] for one in self.keyed() if bool(one.subject.stack_id) is is_stack)
        return (note for _, note in _written(found))

    def _spill(self) -> None:
        """Move what is in memory into a temporary file."""
        if self._spilt is None:
            self._spilt = scratch(_SCHEMA)
        # In the order of the index, which the database has to find no place for then.
        rows = (subject + self._here[subject] for subject in sorted(self._here))
        self._spilt.executemany(_KEEP_NEWEST, rows)
        self._here.clear()


def _written(
    found: Iterable[tuple[bytes, str]], believed: Believed | None = None
) -> Iterator[tuple[Entry, Notification]]:
    """Yield what a sidecar wrote; anything else may lie among it."""
    for line, sealer in found:
        try:
            entry = of_line(line)
            if believed:
                believed(entry, sealer)
            note = Notification.of_entry(entry.fields)
        except (KeyError, ValueError):
            continue
        yield entry, note


def state_at(history: History, position: int, runs: Runs | None = None) -> FleetState:
    """Return the state that the notifications up to the control_version `position` make.

    Begins with a checkpoint, if the history has one. Raises as the history does. `runs` tells of
    the history's lines who vouches for them.
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
    if runs:
        for sealer, lines in runs(stream, first, last):
            state.fold(lines, sealer)
    else:
        state.fold(history.lines(stream, first, last))
    if checkpoint is not None:
        state.fold_keyed(checkpoint.keyed())
    return state


def sealed_state_at(
    archive: ArchiveHistory, position: int, trust: Trust
) -> tuple[FleetState, Proof]:
    """Return the state of an archive as `state_at`, with who vouches for what, and what it proves.

    Raises `Untrusted` besides, for a seal that is not over what it lies with.
    """
    seals = Seals(trust, archive.streams.notifications)
    sealed = ArchiveHistory(archive.store, archive.streams, seals)
    state = state_at(sealed, position, sealed.runs)
    return state, seals.proof()


def _subject(line: bytes) -> Subject | None:
    """Return what a notification replaces; None for what replaces nothing, or no sidecar wrote."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        row = orjson.loads(line)
        body = orjson.loads(row[row.index("event", 1) + 1])
        row.index("origin", 1)
        if not _is_notification(line, body):
            return None
        named = [body.get(name) or "" for name in ("tenant_id", "stack_id", "artifact_ref")]
    except (ValueError, IndexError, AttributeError):
        return None
    return subject_of(*named) if all(isinstance(one, str) for one in named) else None


def _is_notification(line: bytes, body: dict[str, object]) -> bool:
    """Tell whether a sidecar wrote this, as far as a look tells: else it hides what one wrote."""
    ms, sequence = id_of_line(line)
    has_names = isinstance(body.get("event_id"), str) and isinstance(body.get("type"), str)
    return has_names and body.get("control_version") == 1000 * ms + sequence

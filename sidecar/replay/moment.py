"""What there was at a position: the fleet's state, what waited, and what was dead."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from sidecar.errors import FilteredOut, Incomplete, NothingThere
from sidecar.history import Gap, History
from sidecar.history.archive import EXPIRED
from sidecar.history.halts import halts_of
from sidecar.history.redrives import Redrive
from sidecar.history.state import FleetState, state_at
from sidecar.replay.backs import Backs
from sidecar.replay.timeline import End, Life, dead_at, lives, of_trimmed
from sidecar.replay.window import Window, moment
from sidecar.wire.event import Event
from sidecar.wire.ids import FIRST, HIGHEST, EntryId, Origin
from sidecar.wire.moments import rfc3339
from sidecar.wire.notification import Notification


class Row(NamedTuple):
    """One thing that was there."""

    what: str
    """`stack`, `waiting`, `dead`, `halt` or `ref`."""
    event: Event | None
    event_id: str
    tenant_id: str
    at_us: int
    """When it was published, when its entry came, or when it died: since when it has been so, in
    microseconds since the epoch; 0 when nobody knows."""
    detail: str = ""

    @property
    def whose(self) -> str:
        """Tenant, stack and version, for a person."""
        return self.event.whose if self.event else self.tenant_id or "-"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""
        event = self.event
        fields = ("type", "tenant_id", "stack_id", "version", "artifact_ref", "checksum",
                  "manifest_checksum")  # fmt: skip
        return {
            "what": self.what,
            "since": rfc3339(self.at_us) if self.at_us else None,
            "event_id": self.event_id or None,
            **{name: (getattr(event, name) if event else None) or None for name in fields},
            "control_version": (event and event.control_version) or None,
            "detail": self.detail or None,
        }


class Moment:
    """The fleet at a position. Its methods raise as the history does."""

    def __init__(self, history: History, at_us: int, around_us: int, state: FleetState) -> None:
        self._history, self._at_us, self._around_us = history, at_us, around_us
        self._state = state
        self._backs = Backs(history)

    @property
    def gaps(self) -> list[Gap]:
        """Which notifications before have expired: what only they had is missing."""
        return self._state.gaps

    def conclude(self, *, held: int, shown: int) -> None:
        """Raise what says that something is missing; `shown` of `held` rows were shown."""
        if self.gaps:
            which = "; ".join(
                f"{moment(gap.first)} to {moment(gap.last)} ({gap.why})" for gap in self.gaps
            )
            raise Incomplete(
                f"notifications have expired: {which}. What only they had is missing here"
            )
        if not held:
            at = f"{self._at_us} ({rfc3339(self._at_us)})"
            raise NothingThere(f"there was nothing yet at {at}")
        if not shown:
            raise FilteredOut(f"the filters left nothing of {held:,}")

    def lacks(self) -> Iterator[str]:
        """Yield in words what is not shown, because the archive is not kept for so long."""
        reach = self._history.reach(self._history.streams.dead)
        last = EntryId.of(self._at_us // 1000, HIGHEST)
        for gap in reach.missing(FIRST, last) if reach else ():
            if gap.why == EXPIRED:
                yield f"dead letters up to {moment(gap.last)} have expired, and are not shown"

    def halts(self) -> Iterator[Row]:
        """Yield the halts that were in force."""
        for halt in halts_of(self._history, self._at_us, self._at_us):
            yield Row("halt", None, "", "", halt.since_us, f"{halt.stream}: {halt.reason}")

    def rows(self) -> Iterator[Row]:
        """Yield stacks, what waited, what was dead, and refs, in this order: refs are many."""
        yield from (self._row("stack", note) for note in self._state.stacks())
        yield from self._waiting()
        yield from self._dead()
        yield from (self._row("ref", note) for note in self._state.refs())

    def _row(self, what: str, note: Notification) -> Row:
        """Return a subject's newest notification, and whether the subject went back with it."""
        did = self._backs.did(note, Origin(note.origin), note.control_version)
        said = f"went back: {did}" if did else ""
        return Row(what, note, note.event_id, note.tenant_id, note.control_version, said)

    def _waiting(self) -> Iterator[Row]:
        """Yield what had begun by then, not so long before, and had not ended.

        The window begins so long before: what is older and waited all the same is not found. Nor is
        what ended so long after, if its entry is gone.
        """
        window = Window(max(0, self._at_us - self._around_us), self._at_us)
        later = Window(self._at_us + 1, self._at_us + self._around_us)
        gone = of_trimmed(self._history, later, window.first_entry)
        begun = (life for life in gone if life.begun_us)
        for one in chain(lives(self._history, window), begun):
            if one.was(self._at_us) is End.WAITING:
                yield Row("waiting", one.event, one.event_id, one.tenant_id, one.begun_us)

    def _dead(self) -> Iterator[Row]:
        """Yield the dead letters that had been written by then and not been redriven."""
        for one in dead_at(self._history, self._at_us):
            yield Row("dead", one.event, one.event_id, one.tenant_id, one.stopped_us, _why(one))


def _why(life: Life) -> str:
    if life.end is End.REDRIVEN and life.end_id:
        return Redrive.of_fields(life.fields or {}, life.end_id).died
    return ": ".join(filter(None, (life.reason, life.detail)))


def at(history: History, at_us: int, around_us: int) -> Moment:
    """Return what there was once the control_version `at_us` had been published.

    What waited is looked for among what came at most `around_us` microseconds before.
    """
    return Moment(history, at_us, around_us, state_at(history, at_us))

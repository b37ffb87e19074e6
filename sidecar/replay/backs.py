"""Which redrives by force set a subject back: every command says it of the events concerned.

What a redrive overrode is on its record; a record that names nothing newer set nothing back.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

from sidecar.history import History
from sidecar.history.redrives import Redrive, redrives_of
from sidecar.replay.timeline import End, by_origin
from sidecar.wire.event import Event
from sidecar.wire.ids import Origin
from sidecar.wire.subject import Change, followed, overtakes

MOST: Final = 200
"""So many are looked at, the newest."""


class Back(NamedTuple):
    """One subject that was set back."""

    record: Redrive
    event: Event
    change: Change
    ended_us: int
    """When it was published again."""

    @property
    def said(self) -> str:
        """What was done, for the event that it set back."""
        return f"by {self.event.event_id} ({self.event.whose}), {self.record.how}"


class Backs:
    """Those of a history. Raises as the history does, when they are first asked for."""

    def __init__(self, history: History) -> None:
        self._history = history

    @cached_property
    def _records(self) -> list[Redrive]:
        return list(redrives_of(self._history))

    @cached_property
    def by_entry(self) -> dict[str, Redrive]:
        """The records, by the entry that each became."""
        return {one.entry: one for one in self._records[::-1] if one.forced and one.overrode}

    @cached_property
    def _found(self) -> list[Back]:
        records = list(self.by_entry.values())[:MOST]
        return [back for one in records if (back := self._back(one))]

    def _back(self, record: Redrive) -> Back | None:
        for life in by_origin(self._history, record.entry):
            if life.end is End.PUBLISHED and life.event:
                change = Change.of(life.event, record.origin, life.ended_us // 1000)
                return Back(record, life.event, change, life.ended_us)
        return None

    def did(self, origin: str) -> str:
        """Say how the event of this entry set its subject back; empty where it did not."""
        record = self.by_entry.get(origin)
        return f"{record.how}, behind {record.overrode}" if record else ""

    def after(self, event: Event, origin: Origin, ended_us: int) -> Back | None:
        """Return what set a published event back, the first if more did."""
        originals: dict[str, Origin] = {one.entry: one.origin for one in self._records if one.entry}
        change = Change.of(event, followed(originals, origin), ended_us // 1000)
        found = [
            one for one in self._found
            if one.change.subject == change.subject and one.ended_us > ended_us
            and overtakes(change, one.change)
        ]  # fmt: skip
        return min(found, key=lambda one: one.ended_us, default=None)

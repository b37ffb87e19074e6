"""Which redrives and repairs set a subject back: every command says it of the events concerned.

What was published before tells, not what the record says: what was overridden may have died since,
and older releases noted nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from sidecar.history import About, History
from sidecar.history.redrives import Redrive, redrives_of
from sidecar.replay.timeline import End, Life, by_origin, published_back
from sidecar.wire.event import Event
from sidecar.wire.ids import Origin
from sidecar.wire.subject import CLOCK_SLACK_MS, Change, followed, sets_back

MOST: Final = 200
"""So many are looked at for what they set back, the newest."""


class Back(NamedTuple):
    """One subject that was set back, or may have been."""

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
    def _by_entry(self) -> dict[str, Redrive]:
        """The records, by the entry that each became, the newest first."""
        return {one.entry: one for one in [*redrives_of(self._history)][::-1] if one.entry}

    @cached_property
    def _originals(self) -> dict[str, Origin]:
        return {entry: one.origin for entry, one in self._by_entry.items()}

    @cached_property
    def _found(self) -> list[Back]:
        """What was redriven though something was against it, or may have been."""
        return list(islice(filter(None, map(self._back, self._unguarded())), MOST))

    def _unguarded(self) -> Iterator[Redrive]:
        return (one for one in self._by_entry.values() if not one.was_guarded)

    def _back(self, record: Redrive) -> Back | None:
        for life in by_origin(self._history, record.entry):
            if life.end is End.PUBLISHED and life.event:
                change = self._change(life.event, life.origin, life.ended_us)
                return Back(record, life.event, change, life.ended_us)
        return None

    def _change(self, event: Event, origin: Origin, ended_us: int) -> Change:
        return Change.of(event, followed(self._originals, origin), ended_us // 1000)

    def did(self, event: Event | None, origin: Origin, ended_us: int) -> str:
        """Say how a published event set its subject back; empty where it did not."""
        newer = self.behind(event, origin, ended_us)
        return f"{self._by_entry[origin].how}, behind {newer.event_id}" if newer else ""

    def behind(self, event: Event | None, origin: Origin, ended_us: int) -> Life | None:
        """Return what was published last of what this event set back when it was published.

        None where it set nothing back, and where no redrive or repair of it is on record: the
        events of a tenant are published in their order.
        """
        record = self._by_entry.get(origin)
        if record is None or event is None:
            return None
        own = self._change(event, origin, ended_us)
        about = About(artifact_ref="" if event.stack_id else event.artifact_ref,
                      tenant_id=event.tenant_id * bool(event.stack_id))  # fmt: skip
        since_us = self._since_us(record, own)
        for life in published_back(self._history, since_us, ended_us, about):
            if life.event and sets_back(self._change(life.event, life.origin, life.ended_us), own):
                return life
        return None

    def _since_us(self, record: Redrive, own: Change) -> int:
        """Return from when on what it set back may have been published."""
        if record.was_guarded:  # nothing newer was there when it was redriven
            return record.at_us - CLOCK_SLACK_MS * 1000
        begun_ms = own.begun(record.at_us // 1000).at_ms
        return 0 if begun_ms is None else (begun_ms - CLOCK_SLACK_MS) * 1000

    def after(self, event: Event, origin: Origin, ended_us: int) -> Back | None:
        """Return what set a published event back, the first if more did."""
        change = self._change(event, origin, ended_us)
        found = [
            one for one in self._found if one.ended_us > ended_us and sets_back(change, one.change)
        ]  # fmt: skip
        return min(found, key=lambda one: one.ended_us, default=None)

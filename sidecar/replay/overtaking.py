"""Which notification made which dead letter old news, by the rule that redrive goes by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from sidecar.history import ANY, About, History
from sidecar.redis.scan import origin_of, text
from sidecar.redis.source import Entry
from sidecar.replay.timeline import End, Life, decoded
from sidecar.wire.event import Event
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.subject import CLOCK_SLACK_MS, Change, followed, overtakes

LEAVE_IT: Final = "leave it dead: what came later has it; to redrive it would go back"
REMEMBERED: Final = 10_000
"""Of so many subjects and refs the newest notification is remembered, for what dies later."""


def first_overtaker(history: History, life: Life, event: Event) -> tuple[Event, Entry] | None:
    """Return the first notification that overtook a dead letter; None when none has.

    Raises as the history does.
    """
    names = history.streams
    records = history.entries(names.redriven)
    originals = {text(one.fields, "entry"): origin_of(one.fields) for one in records}
    change = _change(event, life.origin, originals, None).begun(life.ended_us // 1000)
    if not change.moves:
        return None
    begin_ms = 0 if change.at_ms is None else max(0, change.at_ms - CLOCK_SLACK_MS)
    for entry in history.entries(names.notifications, EntryId.of(begin_ms), about=_about(event)):
        other = decoded(entry.fields)
        origin = origin_of(entry.fields)
        if other and overtakes(_change(other, origin, originals, entry.id.ms), change):
            return other, entry
    return None


def _about(event: Event) -> About:
    """Return what every overtaker must mention; of a stack with a ref either would do."""
    if event.stack_id and event.artifact_ref:
        return ANY
    return About(artifact_ref=event.artifact_ref, tenant_id=event.tenant_id * bool(event.stack_id))


def _change(
    event: Event, origin: Origin, originals: dict[str, Origin], at_ms: int | None
) -> Change:
    return Change.of(event, followed(originals, origin), at_ms)


class _Letter(NamedTuple):
    row: int
    change: Change


class Overtaking:
    """Of each dead letter that is watched, the first notification that overtakes it.

    Lives come in the order of `lives`. A notification looks only at the letters of its own ref and
    subject, and a letter only at the newest notification of each that came before it died.
    """

    def __init__(self) -> None:
        self.of: dict[int, tuple[Life, int | None]] = {}
        """By the letter's row: what overtook it, and the row of that, where it has one."""
        self._letters: defaultdict[Hashable, list[_Letter]] = defaultdict(list)
        self._newest: dict[Hashable, tuple[Change, Life, int | None]] = {}
        self._originals: dict[str, Origin] = {}

    def watch(self, row: int, life: Life) -> None:
        """Look for what has overtaken this dead letter, or does from now on."""
        if life.event is None:
            return
        change = _change(life.event, life.origin, self._originals, None)
        letter = _Letter(row, change.begun(life.ended_us // 1000))
        for key in _keys(change):
            later, by, its_row = self._newest.get(key, (None, life, None))
            if row not in self.of and later and overtakes(later, letter.change):
                self.of[row] = by, its_row
            self._letters[key].append(letter)

    def see(self, life: Life, row: int | None) -> None:
        """Take in a life: a notification may overtake letters."""
        if life.end is End.REDRIVEN and life.fields:
            self._originals[text(life.fields, "entry")] = life.origin
        if life.end is not End.PUBLISHED or life.event is None:
            return
        change = _change(life.event, life.origin, self._originals, life.ended_us // 1000)
        by = replace(life, entry=None, fields=None)
        for key in _keys(change):
            if letters := self._letters.pop(key, None):
                self._letters[key] = [*self._left(letters, change, by, row)]
            self._remember(key, change, by, row)

    def _left(
        self, letters: list[_Letter], change: Change, by: Life, row: int | None
    ) -> Iterator[_Letter]:
        """Note which of the letters are overtaken; yield the others."""
        for letter in letters:
            if letter.row in self.of:
                continue
            if overtakes(change, letter.change):
                self.of[letter.row] = by, row
            else:
                yield letter

    def _remember(self, key: Hashable, change: Change, by: Life, row: int | None) -> None:
        before = self._newest.pop(key, None)
        stays = (
            before is not None
            and before[0].stream == change.stream
            and ((before[0].entry or FIRST) > (change.entry or FIRST))
        )
        self._newest[key] = before if before and stays else (change, by, row)
        if len(self._newest) > REMEMBERED:
            del self._newest[next(iter(self._newest))]


def _keys(change: Change) -> Iterator[Hashable]:
    if change.artifact_ref:
        yield change.artifact_ref
    if change.subject and change.subject.stack_id:
        yield change.subject

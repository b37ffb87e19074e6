"""Which notification made which dead letter old news."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import Final, NamedTuple

from sidecar.event import Event
from sidecar.replay.timeline import End, Life

LEAVE_IT: Final = "leave it dead: what came later has it; to re-drive it would go back"


def overtakes(later: Event, event: Event, event_id: str) -> bool:
    """Tell whether a later notification makes a dead letter of this event old news.

    It does with the same artifact_ref, and with the same stack in a version at least as high.
    """
    if later.event_id == event_id:
        return False
    if event.artifact_ref and later.artifact_ref == event.artifact_ref:
        return True
    newer = event.version > 0 and later.version >= event.version
    return bool(event.stack_id) and newer and _stack(later) == _stack(event)


class _Letter(NamedTuple):
    version: int
    row: int
    ended_us: int
    event_id: str
    event: Event


class Overtaking:
    """Of each dead letter that is watched, the first notification that overtakes it.

    Lives come in the order of `lives`. A notification looks only at the letters of its own ref,
    and at those of its own stack up to its own version.
    """

    def __init__(self) -> None:
        self.of: dict[int, tuple[Life, int | None]] = {}
        """By the letter's row: what overtook it, and the row of that, where it has one."""
        self._of_ref: defaultdict[str, list[_Letter]] = defaultdict(list)
        self._of_stack: defaultdict[tuple[str, str], list[_Letter]] = defaultdict(list)

    def watch(self, row: int, life: Life) -> None:
        """From now on look for what overtakes this dead letter."""
        if life.event is None:
            return
        event = life.event
        letter = _Letter(event.version, row, life.ended_us, life.event_id, event)
        if event.artifact_ref:
            self._of_ref[event.artifact_ref].append(letter)
        if event.stack_id and event.version > 0:
            heapq.heappush(self._of_stack[_stack(event)], letter)

    def see(self, life: Life, row: int | None) -> None:
        """Take in a life: a notification may overtake letters."""
        if life.end is not End.PUBLISHED or life.event is None:
            return
        if letters := self._of_ref.pop(life.event.artifact_ref, None):
            left = self._left(letters, life, row)
            self._of_ref[life.event.artifact_ref] = left
        older, stack = [], self._of_stack.get(_stack(life.event), [])
        while stack and stack[0].version <= life.event.version:
            older.append(heapq.heappop(stack))
        for letter in self._left(older, life, row):
            heapq.heappush(stack, letter)

    def _left(self, letters: list[_Letter], life: Life, row: int | None) -> list[_Letter]:
        """Note which of the letters are overtaken; return the others."""
        left = []
        for letter in letters:
            if letter.row in self.of:
                continue
            after = life.ended_us >= letter.ended_us
            if after and life.event and overtakes(life.event, letter.event, letter.event_id):
                self.of[letter.row] = life, row
            else:
                left.append(letter)
        return left


def _stack(event: Event) -> tuple[str, str]:
    return event.tenant_id, event.stack_id

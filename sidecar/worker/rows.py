"""Dead letters in a row: what a row ends with. Pure: no Redis.

A row ends with a new notification, and with nothing else. A duplicate of what is published says
nothing of what the producer sends now: a producer that sends one old event between bad ones again
and again must not keep its stream from being halted. Rows are counted in entry order, among what is
ready together: an event that was still at the store ends the row that there is when it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sidecar.worker.window import Item


class Row:
    """Told what becomes of events in entry order, it says which dead letter begins a new row."""

    def __init__(self) -> None:
        self._ended = False

    def event(self, *, is_new: bool) -> None:
        """Hear of an event; `is_new` unless it is a duplicate."""
        self._ended |= is_new

    def letter(self) -> bool:
        """Hear of a dead letter; tell whether it begins a row."""
        begins, self._ended = self._ended, False
        return begins


class Parted(NamedTuple):
    """What is ready, parted into what is buried and what is published, each in entry order."""

    letters: list[Item]
    events: list[Item]
    row_ends_from: int = 1
    """The last row ends when the event of this number, from 1, or a later one is published."""


def parted(ready: Iterable[Item]) -> Parted:
    """Part what is ready, and note in each dead letter whether it begins a row.

    Of several events with one event_id only the first is new.
    """
    letters: list[Item] = []
    events: list[Item] = []
    row, row_ends_from = Row(), 1
    came: set[bytes] = set()
    for item in ready:
        if item.bury:
            item.begins_row |= row.letter()
            letters.append(item)
            row_ends_from = len(events) + 1
        else:
            row.event(is_new=not item.known and item.identity[:16] not in came)
            came.add(item.identity[:16])
            events.append(item)
    return Parted(letters, events, row_ends_from)

"""Dead letters in a row: what a row ends with. Pure: no Redis.

A tenant's row ends with a new notification of that tenant, the stream's with one of anybody, and
with nothing else. A duplicate of what is published says
nothing of what the producer sends now: a producer that sends one old event between bad ones again
and again must not keep its stream from being halted. Rows are counted in entry order, among what is
ready together: an event that was still at the store ends the row that there is when it comes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sidecar.worker.window import Item


class Rows:
    """Hears what becomes of items, in entry order, and notes in dead letters which begin rows."""

    def __init__(self) -> None:
        self._ended = False
        self._ended_of: set[str] = set()

    def event(self, item: Item, *, is_new: bool) -> None:
        """Hear of an event; `is_new` unless it is a duplicate."""
        if is_new:
            self._ended = True
            self._ended_of.add(item.claimed)

    def letter(self, item: Item) -> None:
        """Hear of a dead letter."""
        item.begins_row |= self._ended
        item.begins_row_of_tenant |= item.claimed in self._ended_of
        self._ended = False
        self._ended_of.discard(item.claimed)


class Parted(NamedTuple):
    """What is ready, parted into what is buried and what is published, each in entry order."""

    letters: list[Item]
    events: list[Item]
    row_ends_from: int
    """The last row ends when the event of this number, from 1, or a later one is published."""
    tenants_rows: list[tuple[int, str]]
    """A tenant's last row ends when an event of one of these numbers is published."""


def parted(ready: Sequence[Item], rows: Collection[str]) -> Parted:
    """Part what is ready, and note in each dead letter whether it begins a row.

    `rows` are the tenants that may have a row. Of several events with one event_id only the first
    is new.
    """
    if not rows and not any(item.bury for item in ready):
        return Parted([], list(ready), 1, [])
    letters: list[Item] = []
    events: list[Item] = []
    heard, row_ends_from = Rows(), 1
    tenants_end_from = dict.fromkeys(rows, 1)
    came: set[bytes] = set()
    for item in ready:
        if item.bury:
            heard.letter(item)
            letters.append(item)
            row_ends_from = tenants_end_from[item.claimed] = len(events) + 1
        else:
            heard.event(item, is_new=not item.known and item.identity[:16] not in came)
            came.add(item.identity[:16])
            events.append(item)
    tenants_rows = [
        (number, item.claimed)
        for number, item in enumerate(events, 1)
        if item.claimed in tenants_end_from and number >= tenants_end_from[item.claimed]
    ]
    return Parted(letters, events, row_ends_from, tenants_rows)

"""What an event waited for: a halt of its control stream, or another of its tenant's events."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from sidecar.history import About, History
from sidecar.history.halts import halts_of
from sidecar.redis.scan import origin_of
from sidecar.redis.source import Entry
from sidecar.replay.timeline import BATCH, End, Life, decoded
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.moments import span

HELD_US: Final = 100_000
"""So long another event must have held one for that to be worth a line: a batch takes less."""
MAX_LOOKED_AT: Final = 100_000
"""So many entries before a waiting one are gone through for the one that holds it."""


class Wait(NamedTuple):
    """One thing that an event waited for."""

    name: str
    """`halt` or `held`."""
    at_us: int
    """From when on, in microseconds since the epoch."""
    detail: str


def waits(history: History, life: Life) -> Iterator[Wait]:
    """Yield what a life waited for, as far as that can be told. Raises as the history does."""
    if not life.begun_us or life.end not in (End.PUBLISHED, End.DEAD, End.WAITING):
        return
    for halt in halts_of(history, life.begun_us, life.ended_us or history.now_us()):
        if halt.stream == life.origin.stream and halt.tenant in (None, life.tenant_id):
            yield Wait("halt", max(halt.since_us, life.begun_us), str(halt))
    if life.event:
        yield from (_held_back_by if life.end is End.WAITING else _held_by)(history, life)


def _held_by(history: History, life: Life) -> Iterator[Wait]:
    """Yield the event that it waited for longest: its tenant's events end in entry order."""
    longest_us, longest = 0, None
    before_us = life.begun_us
    for end in _ends_before(history, life):
        ended_us = end.id.control_version
        if ended_us - before_us > longest_us:
            longest_us, longest = ended_us - before_us, end
        before_us = ended_us
    if longest and longest_us >= HELD_US:
        took, most = span((before_us - life.begun_us) / 1e6), span(longest_us / 1e6)
        what = f"what its tenant sent before, {most} of them by {_event_id(longest)}"
        yield Wait("held", life.begun_us, f"for {took} by {what}")


def _ends_before(history: History, life: Life) -> Iterator[Entry]:
    """Yield how its tenant's events before it ended, of those that had not when it came."""
    assert life.event  # noqa: S101 -- looked at before
    span_ = EntryId.of_version(life.begun_us), EntryId.of_version(life.ended_us).before
    about = About(tenant_id=life.event.tenant_id)
    names = history.streams
    ends = heapq.merge(
        *(history.entries(one, *span_, about=about) for one in (names.notifications, names.dead)),
        key=lambda entry: entry.id,
    )
    return (end for end in ends if _of_same_order(end, origin_of(end.fields), life))


def _of_same_order(entry: Entry, origin: Origin, life: Life) -> bool:
    """Tell whether an end is of an event that this life had to wait for."""
    assert life.event  # noqa: S101 -- looked at before
    one, two = origin.entry, life.origin.entry
    if origin.stream != life.origin.stream or not (one and two and one < two):
        return False
    raw = entry.fields.get(b"event", b"")
    if life.event.tenant_id.encode() not in raw and b"\\u" not in raw:
        return False  # spares decoding most
    event = decoded(entry.fields)
    return event is not None and event.tenant_id == life.event.tenant_id


def _held_back_by(history: History, life: Life) -> Iterator[Wait]:
    """Yield the oldest of its tenant's events that waits, too: that is what is being tried."""
    stream, back = life.origin.stream, _before(history, life)
    head: Entry | None = None
    while batch := list(islice(back, BATCH)):
        same = [e for e in batch if _of_same_order(e, Origin.of(stream, e.id), life)]
        waiting = history.waiting(stream, [entry.id for entry in same])
        head = next((e for e in reversed(same) if e.id in waiting), head)
        if len(waiting) < len(same):
            break  # what came before those is done
    if head:
        yield Wait("held", life.begun_us, f"behind {_event_id(head)}, which waits, too")


def _before(history: History, life: Life) -> Iterator[Entry]:
    """Return the entries before one that waits, the newest first, at most `MAX_LOOKED_AT`."""
    assert life.event  # noqa: S101 -- looked at before
    assert life.entry  # noqa: S101 -- it waits
    about = About(tenant_id=life.event.tenant_id)
    back = history.entries_back(life.origin.stream, life.entry.id.before, FIRST, about=about)
    return islice(back, MAX_LOOKED_AT)


def _event_id(entry: Entry) -> str:
    event = decoded(entry.fields)
    return event.event_id if event else "an event that cannot be read"

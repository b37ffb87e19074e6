"""What an event waited for: a halt of its control stream, or another of its tenant's events."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from sidecar.history import About, History
from sidecar.history.halts import halts_of
from sidecar.redis.scan import text
from sidecar.redis.source import Entry
from sidecar.replay.timeline import BATCH, End, Life, decoded
from sidecar.wire.ids import FIRST, control_version_of, entry_id_of, id_before, id_pair
from sidecar.wire.moments import span

HELD_US: Final = 100_000
"""So long another event must have held one for that to be worth telling: a batch takes less."""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
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
        if halt.stream == _stream_of(life.origin):
            yield Wait("halt", max(halt.since_us, life.begun_us), str(halt))
    if life.event:
        yield from (_held_back_by if life.end is End.WAITING else _held_by)(history, life)


def _held_by(history: History, life: Life) -> Iterator[Wait]:
    """Yield the event that it waited for longest: its tenant's events end in entry order."""
    longest_us, longest = 0, None
    before_us = life.begun_us
    for end in _ends_before(history, life):
        ended_us = control_version_of(end.id)
        if ended_us - before_us > longest_us:
            longest_us, longest = ended_us - before_us, end
        before_us = ended_us
    if longest and longest_us >= HELD_US:
        took = span((before_us - life.begun_us) / 1e6)
        most = span(longest_us / 1e6)
        yield Wait(
            "held", life.begun_us,
            f"for {took} by what its tenant sent before, {most} of them by {_event_id(longest)}",
        )  # fmt: skip


def _ends_before(history: History, life: Life) -> Iterator[Entry]:
    """Yield how its tenant's events before it ended, of those that had not when it came."""
    assert life.event  # noqa: S101 -- looked at before
    span_ = entry_id_of(life.begun_us), id_before(entry_id_of(life.ended_us))
    about = About(tenant_id=life.event.tenant_id)
    names = history.streams
    ends = heapq.merge(
        *(history.entries(one, *span_, about=about) for one in (names.notifications, names.dead)),
        key=lambda entry: id_pair(entry.id),
    )
    return (end for end in ends if _of_same_order(end, text(end.fields, "origin"), life))


def _of_same_order(entry: Entry, origin: str, life: Life) -> bool:
    """Tell whether an end is of an event that this life had to wait for."""
    assert life.event  # noqa: S101 -- looked at before
    if _stream_of(origin) != _stream_of(life.origin) or not _comes_before(origin, life.origin):
        return False
    raw = entry.fields.get(b"event", b"")
    if life.event.tenant_id.encode() not in raw and b"\\u" not in raw:
        return False  # spares decoding most
    event = decoded(entry.fields)
    return event is not None and event.tenant_id == life.event.tenant_id


def _held_back_by(history: History, life: Life) -> Iterator[Wait]:
    """Yield the oldest of its tenant's events that waits, too: that is what is being tried."""
    assert life.event  # noqa: S101 -- looked at before
    stream, _, entry_id = life.origin.rpartition("/")
    about = About(tenant_id=life.event.tenant_id)
    back = islice(history.entries_back(stream, id_before(entry_id), FIRST, about=about),
                  MAX_LOOKED_AT)  # fmt: skip
    head: Entry | None = None
    while batch := list(islice(back, BATCH)):
        same = [e for e in batch if _of_same_order(e, f"{stream}/{e.id}", life)]
        waiting = history.waiting(stream, [entry.id for entry in same])
        head = next((e for e in reversed(same) if e.id in waiting), head)
        if len(waiting) < len(same):
            break  # what came before those is done
    if head:
        yield Wait("held", life.begun_us, f"behind {_event_id(head)}, which waits, too")


def _event_id(entry: Entry) -> str:
    event = decoded(entry.fields)
    return event.event_id if event else "an event that cannot be read"


def _stream_of(origin: str) -> str:
    return origin.rpartition("/")[0]


def _comes_before(origin: str, other: str) -> bool:
    ids = [one.rpartition("/")[2] for one in (origin, other)]
    return all(map(_ENTRY_ID.fullmatch, ids)) and id_pair(ids[0]) < id_pair(ids[1])

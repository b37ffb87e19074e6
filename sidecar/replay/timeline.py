"""Each event's way on one line: the entry that caused it, and how it ended.

The ends lead, in the order in which they came: of each the entry is looked for, and what comes
before that in its control stream is held until its own end. What is still held when there are no
more ends in the window waits, is a duplicate, or ended later.

Memory stays constant: what has been held for long lies in a temporary SQLite file.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple

from sidecar.history import About, History
from sidecar.history.contract import get
from sidecar.history.halts import HaltPeriod, halts_of
from sidecar.history.rows import of_line, to_line
from sidecar.history.scratch import scratch
from sidecar.redis.scan import origin_of, text
from sidecar.redis.source import Entry
from sidecar.replay.window import Window
from sidecar.wire.event import Event, Rejected, decode, named
from sidecar.wire.ids import FIRST, HIGHEST, LAST, EntryId, Origin
from sidecar.wire.moments import rfc3339, span, time_us
from sidecar.wire.notification import Notification
from sidecar.wire.subject import CLOCK_SLACK_MS

HELD_IN_MEMORY: Final = 20_000
_MILLISECOND_US: Final = 1000
BATCH: Final = 500
LONGEST_WAIT_US: Final = 7 * 86_400_000_000
"""An entry's ID that lies further before its end is not taken for a time."""


class End(StrEnum):
    """How an entry of the control stream ended."""

    PUBLISHED = "published"
    DUPLICATE = "duplicate"
    DEAD = "dead"
    REDRIVEN = "redriven"
    """Was a dead letter, and has been redriven."""
    WAITING = "waiting"
    UNKNOWN = "unknown"
    """None of these: what would show it has expired, or it was lost."""


@dataclass(frozen=True, slots=True)
class Life:
    """One event from its entry to its end. Times are in microseconds since the epoch."""

    origin: Origin
    """`<control stream>/<entry id>`; of an entry that no sidecar wrote whatever stands there."""
    end: End
    entry: Entry | None
    """None when it cannot be read any more."""
    event: Event | None
    """None when it cannot be decoded."""
    event_id: str = ""
    tenant_id: str = ""
    """As far as they can be read, of a broken event, too."""
    ended_us: int = 0
    """When; 0 while it waits, or is not known."""
    end_id: EntryId | None = None
    """The ID of the notification (of a duplicate, the first's), the letter or the record."""
    fields: Mapping[bytes, bytes] | None = None
    """Of the notification, the letter or the record."""
    seen_us: int = 0
    """When it was looked at; 0 of what ended in the window that was asked for."""

    @property
    def begun_us(self) -> int:
        """When the entry was appended, by the clock of its server; 0 when nobody knows.

        Its ID is a position, and counts as a time only where its end, or now, agrees with that.
        """
        entry = self.origin.entry
        begun_us = entry.ms * 1000 if entry else 0
        is_ended = self.ended_us and self.end is not End.DUPLICATE
        latest_us = (self.ended_us if is_ended else self.seen_us) + CLOCK_SLACK_MS * 1000
        earliest_us = (self.ended_us or self.seen_us) - LONGEST_WAIT_US
        return begun_us if earliest_us <= begun_us <= latest_us else 0

    @property
    def stopped_us(self) -> int:
        """Since when it has not waited: of what was redriven, that is when it died."""
        letter = EntryId.parse(text(self.fields or {}, "letter"))
        return letter.control_version if letter and self.end is End.REDRIVEN else self.ended_us

    def was(self, us: int) -> End | None:
        """Return how it stood at an instant: as what it had ended, dead, or waiting.

        None before it began, and where nobody knows. Dead letters count in milliseconds.
        """
        if self.begun_us > us or self.end in (End.DUPLICATE, End.UNKNOWN):
            return None
        if self.end is End.WAITING:
            return End.WAITING
        if self.end is End.PUBLISHED:
            return self.end if self.ended_us <= us else End.WAITING
        if self.stopped_us // 1000 > us // 1000:
            return End.WAITING
        return End.DEAD if self.end is End.DEAD or us < self.ended_us else End.REDRIVEN

    @property
    def delay_s(self) -> float | None:
        """How long it took from the entry to the end; None when either is not known.

        Between two servers it is only as good as their clocks agree.
        """
        if not (self.begun_us and self.ended_us) or self.end is End.DUPLICATE:
            return None
        # An entry's time is cut to the millisecond.
        return max(0, self.ended_us - self.begun_us) / 1e6

    @property
    def clock_ahead_s(self) -> float:
        """How long after its entry the event says that it was made: nobody's clock but a wrong one.

        0 for less than a second, and when it says nothing.
        """
        made_us = time_us(self.event.created_at) if self.event else None
        ahead_s = (made_us - self.begun_us) / 1e6 if made_us and self.begun_us else 0.0
        return ahead_s if ahead_s > 1 else 0.0

    @property
    def control_version(self) -> int:
        """Of the notification, or of the one that it duplicates; 0 when there is none."""
        told = self.end in (End.PUBLISHED, End.DUPLICATE)
        return self.end_id.control_version if told and self.end_id else 0

    @property
    def reason(self) -> str:
        """Why it is dead."""
        return text(self.fields or {}, "reason") if self.end is End.DEAD else ""

    @property
    def detail(self) -> str:
        """What exactly was wrong, or why and as what it was redriven."""
        fields = self.fields or {}
        if self.end is End.REDRIVEN:
            return f"{text(fields, 'reason')} -> {text(fields, 'entry')}"
        return text(fields, "detail") if self.end is End.DEAD else ""

    @property
    def whose(self) -> str:
        """Tenant, stack and version, for a person."""
        return self.event.whose if self.event else self.tenant_id or "-"

    def words(self) -> Iterator[str]:
        """Yield what there is to say of its end, for a person."""
        if self.control_version:
            yield f"{'of ' if self.end is End.DUPLICATE else ''}{self.control_version}"
        if self.reason:
            yield f"{self.reason}: {self.detail}"
        elif self.detail:
            yield self.detail
        if self.end is End.UNKNOWN:
            yield "nothing shows how it ended: that has expired, or it was lost (sidecar audit)"
        if self.clock_ahead_s:
            yield f"the producer's clock is {span(self.clock_ahead_s)} ahead"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""
        event = self.event
        return {
            "end": self.end.value,
            "event_id": self.event_id or None,
            "tenant_id": self.tenant_id or None,
            "stack_id": (event and event.stack_id) or None,
            "version": (event and event.version) or None,
            "type": event and event.type,
            "artifact_ref": (event and event.artifact_ref) or None,
            "checksum": (event and event.checksum) or None,
            "manifest_checksum": (event and event.manifest_checksum) or None,
            "created_at": (event and event.created_at) or None,
            "origin": self.origin,
            "entry_at": rfc3339(self.begun_us) if self.begun_us else None,
            "entry_there": self.entry is not None,
            "ended_at": rfc3339(self.ended_us) if self.ended_us else None,
            "delay_s": self.delay_s,
            "control_version": self.control_version or None,
            "end_id": self.end_id or None,
            "reason": self.reason or None,
            "detail": self.detail or None,
        }


class _Effect(NamedTuple):
    at_us: int
    end: End
    id: EntryId
    fields: Mapping[bytes, bytes]

    @property
    def origin(self) -> Origin:
        return origin_of(self.fields)


def lives(history: History, window: Window) -> Iterator[Life]:
    """Yield the life of each event that began or ended in the window.

    In the order in which they ended; those without an end in the window come last, by control
    stream in entry order. Raises as the history does.
    """
    now_us = history.now_us()
    # IDs that lie ahead are no times: such entries may have ended at any.
    later = Window(min(window.until_us, now_us) if window.since_us <= now_us else 0)
    causes = {stream: _Causes(history, stream, window) for stream in history.streams.control}
    for effect in _effects(history, window):
        origin = effect.origin
        cause = causes.get(origin.stream)
        entry = cause.take(origin.entry) if cause and origin.entry else None
        yield _ended(effect, entry)
    for stream, rest in causes.items():
        entries = rest.drain()
        while batch := list(islice(entries, BATCH)):
            for life in _without_end(history, stream, batch, later):
                yield replace(life, seen_us=now_us)


def by_origin(history: History, origin: Origin) -> list[Life]:
    """Return the lives of one entry of a control stream: more than one if it was redriven."""
    if origin.entry is None:
        return []
    begin_us = origin.entry.ms * 1000
    window = Window(begin_us, begin_us + 999)
    found = [life for life in lives(history, window) if life.origin == origin]
    if found or origin.entry > _gone(history, origin.stream):
        return found
    after = Window(max(0, begin_us - CLOCK_SLACK_MS * 1000))
    ends = of_trimmed(history, after, origin.entry)
    return list(islice((one for one in ends if one.origin == origin), 1))


def dead_at(history: History, us: int) -> Iterator[Life]:
    """Yield the lives of what was dead at an instant, however long before it had died.

    The dead letter of what has been redriven since may be gone: the record of that stays.
    """
    names, last = history.streams, EntryId.of(us // 1000, HIGHEST)
    records = _ends(history, names.redriven, End.REDRIVEN, FIRST, LAST)
    redriven = {EntryId.parse(text(one.fields, "letter")): one for one in records}
    for letter in _ends(history, names.dead, End.DEAD, FIRST, last):
        record = redriven.pop(letter.id, None)
        if record is None or record.at_us > us:
            yield _ended(letter, None)
    since = (_ended(record, _appended(history, record)) for record in redriven.values())
    yield from (one for one in since if one.was(us) is End.DEAD)


def _appended(history: History, record: _Effect) -> Entry | None:
    """Return the entry that a redrive appended."""
    became = Origin(text(record.fields, "entry"))
    known = became.stream in history.streams.control
    return get(history, became.stream, became.entry) if known and became.entry else None


def of_trimmed(history: History, window: Window, since: EntryId) -> Iterator[Life]:
    """Yield the lives that ended in the window and whose entries, from `since` on, are gone."""
    gone = {stream: _gone(history, stream) for stream in history.streams.control}
    if all(last < since for last in gone.values()):
        return
    for effect in _effects(history, window):
        origin = effect.origin
        if origin.entry and since <= origin.entry <= gone.get(origin.stream, FIRST):
            yield _ended(effect, None)


def _gone(history: History, stream: str) -> EntryId:
    """Return up to which ID the entries of a control stream are gone."""
    reach = history.reach(stream)
    return reach.before if reach else FIRST


def published_back(history: History, since_us: int, before_us: int, about: About) -> Iterator[Life]:
    """Yield what was published in a time, the newest first, without the entries."""
    window = Window(max(0, since_us), before_us)
    stream = history.streams.notifications
    for one in history.entries_back(stream, window.last.before, window.first, about=about):
        yield _ended(_Effect(one.id.control_version, End.PUBLISHED, one.id, one.fields), None)


def with_halts(history: History, window: Window) -> Iterator[Life | HaltPeriod]:
    """Yield `lives`, and between them the halts of the window, in the order of time."""
    halts = deque(halts_of(history, window.since_us, window.until_us))
    for life in lives(history, window):
        # A halt comes after what ended in the same millisecond: that may have led to it.
        while halts and not 0 < life.ended_us < halts[0].since_us + _MILLISECOND_US:
            yield halts.popleft()
        yield life
    yield from halts


def _effects(history: History, window: Window) -> Iterator[_Effect]:
    notifications = history.streams.notifications
    return heapq.merge(
        _ends(history, notifications, End.PUBLISHED, window.first, window.last),
        _letters(history, window),
        key=lambda effect: effect.at_us,
    )


def _letters(history: History, window: Window) -> Iterator[_Effect]:
    names, span = history.streams, (window.first_entry, window.last_entry)
    return heapq.merge(
        _ends(history, names.dead, End.DEAD, *span),
        _ends(history, names.redriven, End.REDRIVEN, *span),
        key=lambda effect: effect.at_us,
    )


def _ends(
    history: History, stream: str, end: End, first: EntryId, last: EntryId
) -> Iterator[_Effect]:
    for entry in history.entries(stream, first, last):
        yield _Effect(entry.id.control_version, end, entry.id, entry.fields)


def _ended(effect: _Effect, entry: Entry | None) -> Life:
    event = _event_of(effect, entry)
    tenant, event_id = named(event, effect.fields)
    return Life(
        effect.origin, effect.end, entry, event, event_id, tenant, effect.at_us, effect.id,
        effect.fields,
    )  # fmt: skip


def _event_of(effect: _Effect, entry: Entry | None) -> Event | None:
    if effect.end is End.PUBLISHED:
        try:
            return Notification.of_entry(effect.fields)
        except (KeyError, ValueError):
            return None  # no sidecar wrote it
    return decoded(effect.fields) or (decoded(entry.fields) if entry else None)


def _without_end(
    history: History, stream: str, batch: list[Entry], later: Window
) -> Iterator[Life]:
    """Yield the lives of entries that did not end in the window; others may have, `later`."""
    waiting = history.waiting(stream, [entry.id for entry in batch])
    done = {Origin.of(stream, entry.id) for entry in batch if entry.id not in waiting}
    buried = {effect.origin: effect for effect in _letters(history, later) if effect.origin in done}
    events = {entry.id: decoded(entry.fields) for entry in batch}
    published = history.published(
        [event.event_id for id_, event in events.items() if event and id_ not in waiting]
    )
    repeated: set[str] = set()
    for entry in batch:
        event, origin = events[entry.id], Origin.of(stream, entry.id)
        tenant, event_id = named(event, entry.fields)
        if origin in buried:
            yield _ended(buried[origin], entry)
        elif entry.id in waiting:
            yield Life(origin, End.WAITING, entry, event, event_id, tenant)
        elif event_id not in published:
            yield Life(origin, End.UNKNOWN, entry, event, event_id, tenant)
        else:
            life = _published(history, origin, entry, event, published[event_id])
            yield replace(life, end=End.DUPLICATE) if event_id in repeated else life
            repeated.add(event_id)


def _published(
    history: History, origin: Origin, entry: Entry, event: Event | None, control_version: int
) -> Life:
    """Return the life of an entry whose event was published: after the window, or by another.

    Where the notification has expired, and so nothing tells of whom it was, it was of the first
    entry with that event_id.
    """
    end_id = EntryId.of_version(control_version)
    first = get(history, history.streams.notifications, end_id)
    fields = first.fields if first else None
    own = text(fields, "origin") == origin if fields else _came_by(entry, control_version)
    assert event  # noqa: S101 -- it has an event_id
    return Life(
        origin, End.PUBLISHED if own else End.DUPLICATE, entry, event, event.event_id,
        event.tenant_id, control_version, end_id, fields,
    )  # fmt: skip


def _came_by(entry: Entry, control_version: int) -> bool:
    return entry.id.ms <= control_version // 1000


def decoded(fields: Mapping[bytes, bytes]) -> Event | None:
    """Return the event of a control entry or dead letter; None when it cannot be decoded."""
    try:
        event = {name: fields[name] for name in (b"event",) if name in fields}
        return decode(event, recorded=True)[0]
    except Rejected:
        return None


class _Causes:
    """The entries of one control stream, given out by ID once each; the rest in order."""

    def __init__(self, history: History, stream: str, window: Window) -> None:
        self._history, self._stream, self._window = history, stream, window
        self._entries = history.entries(stream, window.first_entry, window.last_entry)
        self._reached = FIRST
        self._held: dict[str, Entry] = {}
        self._spilt: _Spilt | None = None
        reach = history.reach(stream)
        self._oldest = reach.first if reach else None

    def take(self, entry_id: EntryId) -> Entry | None:
        """Return this entry; None when there is none, or no more."""
        while self._reached < entry_id and (entry := next(self._entries, None)):
            self._reached = entry.id
            self._hold(entry)
        found = self._held.pop(entry_id, None)
        if found is None and self._spilt:
            found = self._spilt.take(entry_id)
        return found or self._from_before(entry_id)

    def drain(self) -> Iterator[Entry]:
        """Yield what was not taken, in order."""
        if self._spilt:
            yield from self._spilt.drain()
        yield from self._held.values()
        yield from self._entries

    def _hold(self, entry: Entry) -> None:
        self._held[entry.id] = entry
        if len(self._held) >= HELD_IN_MEMORY:
            self._spilt = self._spilt or _Spilt()
            self._spilt.put(self._held.values())
            self._held = {}

    def _from_before(self, entry_id: EntryId) -> Entry | None:
        """Return an entry that lies outside the window, or was given out already."""
        if self._oldest is None or entry_id < self._oldest:
            return None  # it expired: no need to ask
        return get(self._history, self._stream, entry_id)


class _Spilt:
    """Entries in a temporary file, in entry order."""

    def __init__(self) -> None:
        self._db = scratch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE held (n INTEGER PRIMARY KEY, entry TEXT UNIQUE, line BLOB);"
        )

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep entries that come after all that were kept before."""
        self._db.executemany(
            "INSERT OR IGNORE INTO held (entry, line) VALUES (?, ?)",
            [(entry.id, to_line(entry)) for entry in entries],
        )

    def take(self, entry_id: EntryId) -> Entry | None:
        """Return an entry and forget it; None when it is not here."""
        found = self._db.execute(
            "DELETE FROM held WHERE entry = ? RETURNING line", (entry_id,)
        ).fetchone()
        return of_line(found[0]) if found else None

    def drain(self) -> Iterator[Entry]:
        """Yield all that is here, in order."""
        for (line,) in self._db.execute("SELECT line FROM held ORDER BY n"):
            yield of_line(line)

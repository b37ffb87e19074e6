"""What is there, for an audit: read from streams that may be live, and held where it can be joined.

A live worker must never look like a culprit. It appends an event's end before it acknowledges the
entry. So what waits is read before ends are: an entry that was handed out and is not pending was
acknowledged, and its end lies among what is read after. Dead letters are read before the records
of redriving, for there a letter goes.

Memory stays constant: what must be joined lies in a temporary SQLite file, the rest comes in pages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import get
from sidecar.ops import endings, waiting
from sidecar.ops.endings import NOBODY, About, about_of
from sidecar.ops.extent import Extent
from sidecar.ops.waiting import EntryRange, Waiting
from sidecar.redis.client import Side, check_stream
from sidecar.redis.damage import trimmed_of, trimmed_streams
from sidecar.redis.errors import translated
from sidecar.redis.forgotten import MAX_RECORDS, Part, newest_records
from sidecar.redis.keys import Keys
from sidecar.redis.members import registered_workers
from sidecar.redis.pruning import memory_of
from sidecar.redis.scan import origin_of, pages, server_time_us, stream_info, text
from sidecar.redis.source import Entry
from sidecar.redis.times import streams_with_times
from sidecar.redis.trimmed import taken_by_hand
from sidecar.wire.event import Event, Rejected, decode
from sidecar.wire.expiring import Before, Horizon, Trimmed
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.incarnations import parse

PAGE: Final = 200
"""Entries read at a time: each may have 16 KiB."""
_DAY_S: Final = 86400

SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
CREATE TABLE entries (stream, entry, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
CREATE TABLE published (event, at, content, judged, PRIMARY KEY (event, at)) WITHOUT ROWID;
CREATE TABLE tenants (stream, tenant, entry, at, PRIMARY KEY (stream, tenant)) WITHOUT ROWID;
CREATE TABLE finished (stream, tenant, entry, at, PRIMARY KEY (stream, tenant, entry))
    WITHOUT ROWID;
CREATE TABLE events (event PRIMARY KEY, count) WITHOUT ROWID;
CREATE INDEX finished_in_order ON finished (stream, entry);
CREATE TABLE pins (ref, checksum, manifest, at, event_id,
                   PRIMARY KEY (ref, checksum, manifest, at)) WITHOUT ROWID;
"""


def _redriven(record: Mapping[bytes, bytes]) -> tuple[str, str, About]:
    """Return which end a record of a redrive stands for, and of what."""
    letter_id, event_id = text(record, "letter"), text(record, "event_id")
    # What was redriven without a dead letter was lost: the new entry stands for it.
    kind = "dead_letter" if letter_id else "duplicate"
    return kind, letter_id, About(identity_digest(event_id), b"") if event_id else NOBODY


class Evidence:
    """Reads what an audit needs. Every method raises `Unreachable` and `UsageError`."""

    def __init__(
        self, control: Side, notify: Side, keys: Sequence[Keys], window: EntryRange,
        db: sqlite3.Connection, archive: ArchiveHistory | None = None, before_s: float = 0,
    ) -> None:  # fmt: skip
        """With `archive`, what was trimmed is read from there; of outbound streams, from `before_s`
        seconds before the window on.
        """
        db.executescript(SCHEMA + endings.SCHEMA + waiting.SCHEMA)
        db.execute("BEGIN")  # never committed: each statement would write its pages by itself
        self._control, self._notify = control, notify
        self._window, self._db = window, db
        self._archive, self._before_s = archive, before_s
        self.keys = {each.control: each for each in keys}
        self.waiting = Waiting(control, notify, self.keys, window, db)
        self._one = keys[0]
        self._next: dict[str, EntryId] = {}
        self._oldest: dict[str, EntryId] = {}

    def check(self) -> None:
        """Raise `UsageError` when a stream's name belongs to something else."""
        for stream in self.keys:
            check_stream(self._control.at(stream), self._control.url, stream)
        for stream in (self._one.notifications, self._one.dead, self._one.redriven):
            check_stream(self._notify.client, self._notify.url, stream)

    # --- entries and ends ---------------------------------------------------------------------

    def judges(self, origin: Origin) -> bool:
        """Tell whether an entry lies in the window."""
        if origin.stream not in self.keys or origin.entry is None:
            return False
        return self._window.since <= origin.entry <= self.waiting.last[origin.stream]

    def entries(self, stream: str) -> Iterator[list[Entry]]:
        """Yield the entries in the window, in pages, and note that they are there."""
        for page in self._pages(
            self._control, stream, self._window.since, self.waiting.last[stream]
        ):
            self._db.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?)",
                [(stream, entry.id.key) for entry in page],
            )
            yield page

    def entry(self, stream: str, entry_id: EntryId) -> Entry | None:
        """Return one entry of a control stream; None when it is gone."""
        found = next(self._pages(self._control, stream, entry_id, entry_id), None)
        return found[0] if found else None

    def notification(self, notification_id: EntryId) -> Entry | None:
        """Return one notification; None when it is gone."""
        stream = self._one.notifications
        found = next(self._pages(self._notify, stream, notification_id, notification_id), None)
        return found[0] if found else None

    def archived(self, entry: Entry) -> Entry | None:
        """Return the notification of an entry's event that was trimmed, wherever it lay."""
        event = event_of(entry.fields)
        if self._archive is None or event is None:
            return None
        at = self._archive.published([event.event_id]).get(event.event_id)
        if at is None or self.is_in_redis(EntryId.of_version(at)):
            return None
        return get(self._archive, self._one.notifications, EntryId.of_version(at))

    def read_letters(self) -> None:
        """Note the dead letters and the records of what was redriven that came meanwhile."""
        for page in self._new(self._one.dead):
            for letter in page:
                is_cut = bool(text(letter.fields, "truncated"))
                about = NOBODY if is_cut else about_of(letter.fields)
                reason = text(letter.fields, "reason")
                self.note_end(letter.fields, "dead_letter", letter.id, about, reason)
        for page in self._new(self._one.redriven):
            for record in page:
                self.note_end(record.fields, *_redriven(record.fields))

    def notifications(self) -> Iterator[list[Entry]]:
        """Yield the notifications that came meanwhile, in pages."""
        return self._new(self._one.notifications)

    def is_in_redis(self, notification_id: EntryId) -> bool:
        """Tell whether a notification was in Redis when they were read first."""
        oldest = self._oldest.get(self._one.notifications)
        return oldest is not None and notification_id >= oldest

    def note_order(self, notification: Entry, tenant: str, stream: str, entry_id: EntryId) -> None:
        """Note when an entry of a control stream was published first, in the window or not."""
        self._db.execute(
            "INSERT OR IGNORE INTO finished VALUES (?, ?, ?, ?)",
            (stream, tenant, entry_id.key, notification.id.key),
        )

    def note_pin(self, notification: Entry, event: Event) -> None:
        """Note which artifact a notification names."""
        self._db.execute(
            "INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?, ?)",
            (event.artifact_ref, event.checksum, event.manifest_checksum, notification.id,
             event.event_id),
        )  # fmt: skip

    def before(self, stream: str, entry: Entry) -> Before:
        """Return what was published of the entries before one."""
        event, key = event_of(entry.fields), entry.id.key
        anyone = self._db.execute(
            "SELECT at FROM finished WHERE stream = ? AND entry < ? ORDER BY entry DESC LIMIT 1",
            (stream, key),
        ).fetchone()
        own = self._db.execute(
            "SELECT at FROM finished WHERE stream = ? AND tenant = ? AND entry < ?"
            " ORDER BY entry DESC LIMIT 1",
            (stream, event.tenant_id if event else None, key),
        ).fetchone()
        return Before(*(EntryId.of_key(at[0]) if at else FIRST for at in (own, anyone)))

    def may_repeat(self, entry: Entry) -> bool:
        """Tell whether an entry may be a duplicate: whether another one of its event_id is there,
        or may have been before something was trimmed.
        """
        identity, _ = identity_of(entry.fields)
        if not identity:
            return False
        reaches = [self.control_reach(stream) for stream in self.keys]
        if any(reach is not None and reach.begin != FIRST for reach in reaches):
            return True
        if self._is_elsewhere():
            return True
        self._count_events()
        found = self._db.execute("SELECT count FROM events WHERE event = ?", (identity,)).fetchone()
        return found is not None and found[0] > 1

    def _is_elsewhere(self) -> bool:
        """Tell whether events came by control streams that are not read here, as far as is known:
        by others, or by one of these before it was made anew.
        """
        client = self._notify.client
        published = self._db.execute("SELECT DISTINCT stream FROM finished")
        with translated(self._notify.url):
            served = {one for each in registered_workers(client, self._one) for one in each.serves}
            trimmed = trimmed_streams(client, self._one)
            lost = newest_records(client, list(self.keys.values()), MAX_RECORDS)
        streams = served | trimmed | {stream for (stream,) in published}
        audited = {*self.keys, self._one.notifications, self._one.dead}
        return not streams <= audited or any(one.lost == Part.CONTROL for one in lost)

    def _count_events(self) -> None:
        """Count by event_id what is in the control streams, unless that was done."""
        if self._db.execute("SELECT 1 FROM events LIMIT 1").fetchone():
            return
        for stream in self.keys:
            for page in self._pages(self._control, stream, FIRST, self.waiting.last[stream]):
                self._db.executemany(
                    "INSERT INTO events VALUES (?, 1)"
                    " ON CONFLICT (event) DO UPDATE SET count = count + 1",
                    [(identity_of(entry.fields)[0],) for entry in page],
                )

    def horizon(self, keys: Keys, window_s: float) -> Horizon:
        """Return up to where ends may be gone that an index of `window_s` seconds forgot."""
        reaches = [self.outbound_reach(one) for one in (keys.notifications, keys.dead)]
        trimmed = Trimmed(*(one.gone if one else FIRST for one in reaches))
        with translated(self._notify.url):
            now_us = server_time_us(self._notify.client)
            history: Any = self._notify.client.hget(keys.incarnations, "list")
            memory = memory_of(self._notify.client, keys, now_us, window_s)
        newest = self._next.get(keys.notifications, FIRST)
        return Horizon.of(trimmed, now_us // 1000, newest, window_s, parse(history), memory)

    def note_end(
        self, fields: Mapping[bytes, bytes], kind: str, at: str, about: About,
        reason: str = "", event_id: str = "",
    ) -> None:  # fmt: skip
        """Note how the entry that `fields` names as its origin ended, if it is in the window."""
        origin = origin_of(fields)
        if origin.entry and self.judges(origin):
            self._db.execute(
                "INSERT OR IGNORE INTO ends VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (origin.stream, origin.entry.key, kind, at, event_id, reason, *about),
            )

    def _new(self, stream: str) -> Iterator[list[Entry]]:
        """Yield what is in an outbound stream up to its end now and was not read before."""
        with translated(self._notify.url):
            info = stream_info(self._notify.client, stream)
        if info is None:
            return
        self._oldest.setdefault(stream, info.first_id or info.last_id.after)
        first = self._next.get(stream) or self._outbound_first(stream)
        yield from self._pages(self._notify, stream, first, info.last_id)
        self._next[stream] = info.last_id.after

    def _outbound_first(self, stream: str) -> EntryId:
        """Return from where an outbound stream is read: whole, but for archived notifications.

        An end comes after its entry, and what an event could repeat, not long before that. A day
        is for clocks that differ. What has its notification before that is looked for by event_id.
        Where entry IDs are no times all is read.
        """
        if self._archive is None or stream != self._one.notifications:
            return FIRST
        with translated(self._notify.url):
            if not self.keys.keys() <= streams_with_times(self._notify.client, self._one):
                return FIRST
        ms = self._window.since.ms - int(self._before_s + _DAY_S) * 1000
        return min(EntryId.of(max(ms, 0)), self._oldest[stream])

    # --- reading ------------------------------------------------------------------------------

    def _pages(
        self, side: Side, stream: str, first: EntryId, last: EntryId
    ) -> Iterator[list[Entry]]:
        """Yield the entries, in pages; what was trimmed, even while this reads, as archived."""
        with translated(side.url):
            for page in chain(pages(side.at(stream), stream, first, last, page=PAGE), ([],)):
                if self._archive:
                    info = stream_info(side.at(stream), stream)
                    ends = [page[0].id] if page else [last.after]
                    ends += [info.first_id or info.last_id.after] if info else []
                    yield from self._archived(stream, first, min(ends))
                if page:
                    yield page
                    first = page[-1].id.after

    def _archived(self, stream: str, first: EntryId, end: EntryId) -> Iterator[list[Entry]]:
        """Yield the entries from `first` to before `end` as archived."""
        if self._archive is None or end <= first:
            return
        self._archive.names(stream, anew=True)
        entries = self._archive.entries(stream, first, end.before)
        while page := list(islice(entries, PAGE)):
            yield page

    # --- how far back -------------------------------------------------------------------------

    def control_reach(self, stream: str) -> Extent | None:
        """Return how far back a control stream goes; None when there is none."""
        return self._reach(self._control, stream)

    def outbound_reach(self, stream: str) -> Extent | None:
        """Return how far back an outbound stream goes; None when there is none."""
        return self._reach(self._notify, stream)

    def _reach(self, side: Side, stream: str) -> Extent | None:
        with translated(side.url):
            info = stream_info(side.at(stream), stream)
        if info is None:
            return None
        with translated(self._notify.url):
            taken = taken_by_hand(self._notify.client, self._one, stream, info)
            noted = trimmed_of(self._notify.client, self._one, stream)
        return Extent(
            info.first_id or info.last_id.after,
            info.deleted,
            info.added == info.length,
            info.added is not None,
            noted or FIRST,
            self._archive.reach(stream) if self._archive else None,
            taken,
        )


def event_of(fields: Mapping[bytes, bytes]) -> Event | None:
    """Return the event of an entry; None when it cannot be decoded."""
    try:
        return decode(fields, recorded=True)[0]
    except Rejected:
        return None

"""What is there, for an audit: read from streams that may be live, and held where it can be joined.

A live worker must never look like a culprit. It appends an event's end before it acknowledges the
entry. So what waits is read before ends are: an entry that was handed out and is not pending was
acknowledged, and its end lies among what is read after. Dead letters are read before the records
of re-driving, for there a letter goes.

Memory stays constant: what must be joined lies in a temporary SQLite file, the rest comes in pages.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import redis

from sidecar.event import Event, Rejected, content_digest, decode
from sidecar.history import Reach as Archived
from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import get
from sidecar.redis.client import Side, check_stream, translated
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.scan import entry_id_of, pages, stream_info, text
from sidecar.redis.source import FIRST, Entry, id_after, id_before, id_of, id_pair, key_of

PAGE: Final = 200
"""Entries read at a time: each may have 16 KiB."""
_DAY_S: Final = 86400
_ENTRY_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
CREATE TABLE pending (stream, entry, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
CREATE TABLE entries (stream, entry, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
CREATE TABLE suspects (stream, entry, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
CREATE TABLE ends (stream, entry, kind, at, event_id, reason,
                   PRIMARY KEY (stream, entry, kind, at)) WITHOUT ROWID;
CREATE TABLE published (event, at, content, judged, PRIMARY KEY (event, at)) WITHOUT ROWID;
CREATE TABLE tenants (stream, tenant, entry, at, PRIMARY KEY (stream, tenant)) WITHOUT ROWID;
CREATE TABLE pins (ref, checksum, manifest, at, event_id,
                   PRIMARY KEY (ref, checksum, manifest, at)) WITHOUT ROWID;
"""


NOTHING: Final = f"{0:020}-{0:020}"
"""As `key_of` makes it, of the ID that lies before all."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which control entries are audited: from `since` to `until`, both inclusive."""

    since: str = FIRST
    until: str | None = None


class Reach(NamedTuple):
    """How far back a stream goes, and why not further. All IDs as `key_of` makes them."""

    first: str
    """The oldest entry in Redis; what comes next, when there is none."""
    deleted: str
    """The highest that was deleted by hand, as far as the server tells."""
    whole: bool
    """Whether nothing that it ever had is missing. Never, where the server does not tell."""
    tells: bool
    """Whether the server knows what was deleted: Redis 7.0 and newer, every Valkey."""
    noted: str
    """The highest that trimming took, as the trimmer noted."""
    archived: Archived | None = None
    """What of it the archive has, if that is read, too."""

    @property
    def begin(self) -> str:
        """From where on nothing was trimmed that is not archived."""
        if self.whole:
            return NOTHING
        archived = self.archived
        if archived is None or self._cut_behind(archived, NOTHING):
            return self.first
        lost = [key_of(id_after(gap.last)) for gap in archived.gaps]
        return max((key_of(archived.first or archived.last), *lost))

    def trimmed(self, at: str) -> bool:
        """Tell whether what had the ID `at` was trimmed, rather than deleted or never there."""
        by_hand = self.tells and not self.whole and self.deleted < at < self.first
        return (at <= self.noted or by_hand) and not self._archives(at)

    def cut(self, since: str) -> bool:
        """Tell whether something at or after `since` was trimmed."""
        archived = self.archived
        if archived is None:
            return self._cut(since)
        missing = archived.missing(id_of(since), archived.last)
        return bool(missing) or self._cut_behind(archived, since)

    def _cut_behind(self, archived: Archived, since: str) -> bool:
        """Tell whether something was trimmed that came after all that is archived."""
        if self.noted == key_of(archived.last):
            return False  # the trimmer took the last that is archived, and nothing since
        return self._cut(max(since, key_of(id_after(archived.last))))

    def _cut(self, since: str) -> bool:
        by_hand = self.tells and not self.whole and self.deleted < self.first
        noted = NOTHING < self.noted >= since
        return since < self.first and (noted or by_hand)

    def _archives(self, at: str) -> bool:
        archived = self.archived
        if archived is None or at > key_of(archived.last):
            return False
        return not archived.missing(id_of(at), id_of(at))


class Evidence:
    """Reads what an audit needs. Every method raises `Unreachable` and `UsageError`."""

    def __init__(
        self, control: Side, notify: Side, keys: Sequence[Keys], window: Window,
        db: sqlite3.Connection, archive: ArchiveHistory | None = None, before_s: float = 0,
    ) -> None:  # fmt: skip
        """With `archive`, what was trimmed is read from there; of outbound streams, from `before_s`
        seconds before the window on.
        """
        db.executescript(SCHEMA)
        db.execute("BEGIN")  # never committed: each statement would write its pages by itself
        self._control, self._notify = control, notify
        self._window, self._db = window, db
        self._archive, self._before_s = archive, before_s
        self.keys = {each.control: each for each in keys}
        self._one = keys[0]
        self._last: dict[str, str] = {}
        self._delivered: dict[str, str] = {}
        self._next: dict[str, str] = {}
        self._oldest: dict[str, str] = {}

    def check(self) -> None:
        """Raise `UsageError` when a stream's name belongs to something else."""
        for stream in self.keys:
            check_stream(self._control.at(stream), self._control.url, stream)
        for stream in (self._one.notifications, self._one.dead, self._one.redriven):
            check_stream(self._notify.client, self._notify.url, stream)

    # --- what waits ---------------------------------------------------------------------------

    def read_waiting(self) -> None:
        """Note of each stream where it ends, then what was handed out, then what is pending."""
        for stream, keys in self.keys.items():
            with translated(self._control.url):
                info = stream_info(self._control.at(stream), stream)
            last = info.last_id if info else FIRST
            self._last[stream] = min(last, self._window.until or last, key=id_pair)
            self._delivered[stream] = self._delivered_now(keys)
            self._read_pending(keys, self._window.since, self._last[stream])

    def read_waiting_again(self) -> None:
        """Note again what was handed out and what is pending, for the entries that look lost.

        A group that was lost and made again hands entries out again.
        """
        self._db.execute("DELETE FROM pending")
        found = self._db.execute(
            "SELECT stream, min(entry), max(entry) FROM suspects GROUP BY stream"
        ).fetchall()
        for stream, first, last in found:
            self._delivered[stream] = self._delivered_now(self.keys[stream])
            self._read_pending(self.keys[stream], id_of(first), id_of(last))

    def waits(self, stream: str, entry_id: str) -> bool:
        """Tell whether an entry was not handed out, or was pending."""
        if id_pair(entry_id) > id_pair(self._delivered[stream]):
            return True
        found = self._db.execute(
            "SELECT 1 FROM pending WHERE stream = ? AND entry = ?", (stream, key_of(entry_id))
        )
        return found.fetchone() is not None

    def _read_pending(self, keys: Keys, first: str, last: str) -> None:
        while True:
            ids = self._pending(keys, first, last)
            self._db.executemany(
                "INSERT OR IGNORE INTO pending VALUES (?, ?)",
                [(keys.control, key_of(entry_id)) for entry_id in ids],
            )
            if len(ids) < PAGE:
                return
            first = id_after(ids[-1])

    def _pending(self, keys: Keys, first: str, last: str) -> list[str]:
        with translated(self._control.url):
            try:
                page: Any = self._control.at(keys.control).xpending_range(
                    keys.control, keys.group, first, last, PAGE
                )
            except redis.ResponseError as error:
                if str(error).startswith("NOGROUP"):
                    return []  # lost, maybe since it was looked for: what looks lost is read again
                raise
        return [one["message_id"].decode() for one in page]

    def _delivered_now(self, keys: Keys) -> str:
        """Return up to where entries were handed out.

        A lost group begins at the lowest unfinished entry again.
        """
        with translated(self._control.url):
            client = self._control.at(keys.control)
            groups: Any = client.xinfo_groups(keys.control) if client.exists(keys.control) else ()
        for group in groups:
            if group["name"] == keys.group.encode():
                return str(group["last-delivered-id"].decode())
        with translated(self._notify.url):
            low: Any = self._notify.client.get(keys.low)
        return id_before(low.decode()) if low else FIRST

    # --- entries and ends ---------------------------------------------------------------------

    def judges(self, stream: str, entry_id: str) -> bool:
        """Tell whether an entry lies in the window."""
        if stream not in self.keys or not entry_id:
            return False
        return key_of(self._window.since) <= key_of(entry_id) <= key_of(self._last[stream])

    def entries(self, stream: str) -> Iterator[list[Entry]]:
        """Yield the entries in the window, in pages, and note that they are there."""
        for page in self._pages(self._control, stream, self._window.since, self._last[stream]):
            self._db.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?)",
                [(stream, key_of(entry.id)) for entry in page],
            )
            yield page

    def entry(self, stream: str, entry_id: str) -> Entry | None:
        """Return one entry of a control stream; None when it is gone."""
        found = next(self._pages(self._control, stream, entry_id, entry_id), None)
        return found[0] if found else None

    def archived(self, entry: Entry) -> Entry | None:
        """Return the notification of an entry's event that was trimmed, wherever it lay."""
        event = event_of(entry.fields)
        if self._archive is None or event is None:
            return None
        at = self._archive.published([event.event_id]).get(event.event_id)
        if at is None or self.is_in_redis(entry_id_of(at)):
            return None
        return get(self._archive, self._one.notifications, entry_id_of(at))

    def read_letters(self) -> None:
        """Note the dead letters and the records of what was put back that came meanwhile."""
        for page in self._new(self._one.dead):
            for letter in page:
                self.note_end(
                    letter.fields, "dead_letter", letter.id, text(letter.fields, "reason")
                )
        for page in self._new(self._one.redriven):
            for record in page:
                letter_id = text(record.fields, "letter")
                # What was put back without a letter was lost: the new entry stands for it.
                kind = "dead_letter" if letter_id else "duplicate"
                self.note_end(record.fields, kind, letter_id, "")

    def notifications(self) -> Iterator[list[Entry]]:
        """Yield the notifications that came meanwhile, in pages."""
        return self._new(self._one.notifications)

    def is_in_redis(self, notification_id: str) -> bool:
        """Tell whether a notification was in Redis when they were read first."""
        oldest = self._oldest.get(self._one.notifications)
        return oldest is not None and id_pair(notification_id) >= id_pair(oldest)

    def note_end(
        self, fields: Mapping[bytes, bytes], kind: str, at: str, reason: str, event_id: str = ""
    ) -> None:
        """Note how the entry that `fields` names as its origin ended, if it is in the window."""
        stream, entry_id = origin_of(fields)
        if self.judges(stream, entry_id):
            self._db.execute(
                "INSERT OR IGNORE INTO ends VALUES (?, ?, ?, ?, ?, ?)",
                (stream, key_of(entry_id), kind, at, event_id, reason),
            )

    def _new(self, stream: str) -> Iterator[list[Entry]]:
        """Yield what is in an outbound stream up to its end now and was not read before."""
        with translated(self._notify.url):
            info = stream_info(self._notify.client, stream)
        if info is None:
            return
        self._oldest.setdefault(stream, info.first_id or id_after(info.last_id))
        first = self._next.get(stream) or self._outbound_first(stream)
        yield from self._pages(self._notify, stream, first, info.last_id)
        self._next[stream] = id_after(info.last_id)

    def _outbound_first(self, stream: str) -> str:
        """Return from where an outbound stream is read: whole, but for what is archived.

        An end comes after its entry, and what an event could repeat, not long before that. A day
        is for clocks that differ.
        """
        if self._archive is None:
            return FIRST
        ms = id_pair(self._window.since)[0] - int(self._before_s + _DAY_S) * 1000
        return min(f"{max(ms, 0)}-0", self._oldest[stream], key=id_pair)

    # --- reading ------------------------------------------------------------------------------

    def _pages(self, side: Side, stream: str, first: str, last: str) -> Iterator[list[Entry]]:
        """Yield the entries, in pages; what was trimmed, even while this reads, as archived."""
        with translated(side.url):
            for page in chain(pages(side.at(stream), stream, first, last, page=PAGE), ([],)):
                if self._archive:
                    info = stream_info(side.at(stream), stream)
                    ends = [page[0].id] if page else [id_after(last)]
                    ends += [info.first_id or id_after(info.last_id)] if info else []
                    yield from self._archived(stream, first, min(ends, key=id_pair))
                if page:
                    yield page
                    first = id_after(page[-1].id)

    def _archived(self, stream: str, first: str, end: str) -> Iterator[list[Entry]]:
        """Yield the entries from `first` to before `end` as archived."""
        if self._archive is None or id_pair(end) <= id_pair(first):
            return
        self._archive.names(stream, anew=True)
        entries = self._archive.entries(stream, first, id_before(end))
        while page := list(islice(entries, PAGE)):
            yield page

    # --- how far back -------------------------------------------------------------------------

    def control_reach(self, stream: str) -> Reach | None:
        """Return how far back a control stream goes; None when there is none."""
        return self._reach(self._control, stream)

    def outbound_reach(self, stream: str) -> Reach | None:
        """Return how far back an outbound stream goes; None when there is none."""
        return self._reach(self._notify, stream)

    def _reach(self, side: Side, stream: str) -> Reach | None:
        with translated(side.url):
            info = stream_info(side.at(stream), stream)
            if info is None:
                return None
            raw: Any = side.at(stream).xinfo_stream(stream)
        with translated(self._notify.url):
            noted: Any = self._notify.client.hget(self._one.trimmed, stream)
        return Reach(
            key_of(info.first_id or id_after(info.last_id)),
            key_of(raw.get("max-deleted-entry-id", FIRST.encode()).decode()),
            info.added == info.length,
            info.added is not None,
            key_of(noted.decode()) if noted else NOTHING,
            self._archive.reach(stream) if self._archive else None,
        )


def origin_of(fields: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return control stream and entry ID; the latter is empty when it is none."""
    stream, _, entry_id = text(fields, "origin").rpartition("/")
    return stream, entry_id if _ENTRY_ID.fullmatch(entry_id) else ""


def identity_of(fields: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the digests of event_id and content, as the index has them; empty for no event."""
    try:
        event, body = decode(fields)
    except Rejected:
        return b"", b""
    return identity_digest(event.event_id), content_digest(body)


def event_of(fields: Mapping[bytes, bytes]) -> Event | None:
    """Return the event of an entry; None when it cannot be decoded."""
    try:
        return decode(fields)[0]
    except Rejected:
        return None

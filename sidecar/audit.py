"""The guarantees G1 to G4, checked from outside against streams that may be live.

A live worker must never look like a culprit. It appends an event's end before it acknowledges the
entry, so the order of reading is: each control stream's end; what was handed out; what is pending;
only then dead letters, records of re-driving and notifications, each up to its end at that time.
An entry that was handed out and is not pending was acknowledged before the ends were read, so its
end is among them. Letters come before records, as re-driving moves a letter to a record. What
still looks lost is looked up once more, after what came meanwhile has been read, too. That two
notifications are there, or in a wrong order, can only be told of what stays: streams only grow.

Memory stays constant: what must be joined lies in a temporary SQLite file, the rest comes in pages.
"""

from __future__ import annotations

import hashlib
import random
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from sidecar.event import Event, Rejected, content_digest, decode
from sidecar.redis.census import Side
from sidecar.redis.client import check_stream, translated
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.publisher import BURIED, origin_digest
from sidecar.redis.scan import entry_id_of, pages, server_time_us, stream_info, text
from sidecar.redis.source import FIRST, Entry, id_after, id_before, id_pair
from sidecar.stores import explained
from store import Capability, Corrupt, InvalidRef, NotFound, VersionedStore, capabilities

PAGE: Final = 200
"""Entries read at a time: each may have 16 KiB."""
CHUNK_BYTES: Final = 1 << 20
_ENTRY_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_LOST: Final = "entry_lost"

_SCHEMA: Final = """
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


class Culprit(NamedTuple):
    """What breaks a guarantee."""

    guarantee: str
    problem: str
    """lost, two_ends, no_entry, foreign, twice, out_of_order, or artifact."""
    stream: str
    """The control stream; the notification stream for what has no legible origin."""
    entry: str | None
    notification: str | None
    event_id: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Order:
    """What to audit: entries from `since` to `until`, both inclusive."""

    keys: Sequence[Keys]
    """One a control stream; they share the notification and the dead-letter stream."""
    since: str = FIRST
    until: str | None = None
    sample: int | None = None
    """How many artifacts to read; None is all."""
    seed: int = 0
    dedup_window_s: float = 7 * 86400.0


@dataclass(slots=True)
class Found:
    """What an audit has met so far."""

    entries: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Entries by how they ended: notification, duplicate, dead_letter, waiting, expired."""
    notifications: int = 0
    """Of entries in the window."""
    artifacts: int = 0
    size_bytes: int = 0
    culprits: Counter[str] = field(default_factory=Counter)
    covered: list[dict[str, str | bool | None]] = field(default_factory=list)


class _Reach(NamedTuple):
    """How far back a stream goes, and why not further. All IDs as `_key` makes them."""

    first: str
    deleted: str
    whole: bool
    noted: str

    def trimmed(self, at: str) -> bool:
        """Tell whether what had the ID `at` was trimmed, rather than deleted or never there."""
        return at <= self.noted or (not self.whole and self.deleted < at < self.first)


class Audit:
    """One audit. `run` it once; `found` tells how far it is."""

    def __init__(
        self, control: Side, notify: Side, fleet: VersionedStore, order: Order,
        show: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.found = Found()
        self._control, self._notify = control, notify
        self._fleet, self._order, self._show = fleet, order, show
        self._keys = {keys.control: keys for keys in order.keys}
        self._last: dict[str, str] = {}
        self._delivered: dict[str, str] = {}
        self._next: dict[str, str] = {}
        self._db: sqlite3.Connection

    def run(self) -> Iterator[Culprit]:
        """Yield each culprit. Raises `Unreachable` and `UsageError`."""
        with (
            tempfile.TemporaryDirectory(prefix="sidecar-audit-") as directory,
            closing(sqlite3.connect(Path(directory) / "index", isolation_level=None)) as self._db,
        ):
            self._db.executescript(_SCHEMA)
            for culprit in self._all():
                self.found.culprits[culprit.guarantee] += 1
                yield culprit

    def _all(self) -> Iterator[Culprit]:
        one = self._order.keys[0]
        for stream in self._keys:
            check_stream(self._control.client, self._control.url, stream)
        for stream in (one.notifications, one.dead, one.redriven):
            check_stream(self._notify.client, self._notify.url, stream)
        for keys in self._order.keys:
            self._read_pending(keys)
        yield from self._read_ends()
        for keys in self._order.keys:
            self._read_entries(keys)
        yield from self._read_ends()
        yield from self._lost()
        yield from self._two_ends()
        yield from self._without_entry()
        yield from self._unresolvable()

    # --- what is there ----------------------------------------------------------------------

    def _read_pending(self, keys: Keys) -> None:
        """Note where the stream ends, then what was handed out, then what of it is pending."""
        with translated(self._control.url):
            info = stream_info(self._control.client, keys.control)
        last = info.last_id if info else FIRST
        self._last[keys.control] = min(last, self._order.until or last, key=id_pair)
        self._delivered[keys.control] = self._delivered_now(keys)
        first = self._order.since
        with translated(self._control.url):
            if self._group(keys) is None:
                return
            while True:
                page: Any = self._control.client.xpending_range(
                    keys.control, keys.group, first, self._last[keys.control], PAGE
                )
                ids = [one["message_id"].decode() for one in page]
                self._db.executemany(
                    "INSERT OR IGNORE INTO pending VALUES (?, ?)",
                    [(keys.control, _key(entry_id)) for entry_id in ids],
                )
                if len(ids) < PAGE:
                    return
                first = id_after(ids[-1])

    def _group(self, keys: Keys) -> Mapping[str, Any] | None:
        if not self._control.client.exists(keys.control):
            return None
        groups: Any = self._control.client.xinfo_groups(keys.control)
        return next((g for g in groups if g["name"] == keys.group.encode()), None)

    def _delivered_now(self, keys: Keys) -> str:
        """Return up to where entries were handed out.

        A lost group begins at the lowest unfinished entry again.
        """
        with translated(self._control.url):
            group = self._group(keys)
        if group is not None:
            return str(group["last-delivered-id"].decode())
        with translated(self._notify.url):
            low: Any = self._notify.client.get(keys.low)
        return id_before(low.decode()) if low else FIRST

    def _new(self, stream: str) -> Iterator[list[Entry]]:
        """Yield what is in an outbound stream up to its end now and was not read before."""
        with translated(self._notify.url):
            info = stream_info(self._notify.client, stream)
            if info is None:
                return
            first = self._next.get(stream, "-")
            yield from pages(self._notify.client, stream, first, info.last_id, page=PAGE)
        self._next[stream] = id_after(info.last_id)

    def _read_ends(self) -> Iterator[Culprit]:
        keys = self._order.keys[0]
        for page in self._new(keys.dead):
            for letter in page:
                self._end(letter.fields, "dead_letter", letter.id, text(letter.fields, "reason"))
        for page in self._new(keys.redriven):
            for record in page:
                self._end(record.fields, "dead_letter", text(record.fields, "letter"), "")
        for page in self._new(keys.notifications):
            for entry in page:
                yield from self._notification(entry)
            self._show(f"{self.found.notifications:,} notifications read")

    def _end(
        self, fields: Mapping[bytes, bytes], kind: str, at: str, reason: str, event_id: str = ""
    ) -> None:
        stream, entry_id = _origin(fields)
        if self._judges(stream, entry_id):
            self._db.execute(
                "INSERT OR IGNORE INTO ends VALUES (?, ?, ?, ?, ?, ?)",
                (stream, _key(entry_id), kind, at, event_id, reason),
            )

    def _judges(self, stream: str, entry_id: str) -> bool:
        if stream not in self._keys or not entry_id:
            return False
        return _key(self._order.since) <= _key(entry_id) <= _key(self._last[stream])

    def _notification(self, entry: Entry) -> Iterator[Culprit]:
        stream, entry_id = _origin(entry.fields)
        try:
            event, body = decode(entry.fields)
        except Rejected as error:
            yield self._foreign(entry, str(error))
            return
        if not entry_id:
            yield self._foreign(entry, "its origin is no entry of a stream")
            return
        judged = self._judges(stream, entry_id)
        self._end(entry.fields, "notification", entry.id, "", event.event_id)
        yield from self._twice(entry, event, body, stream, entry_id, judged=judged)
        if not judged:
            return
        self.found.notifications += 1
        yield from self._out_of_order(entry, event, stream, entry_id)
        if event.artifact_ref:
            self._db.execute(
                "INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?, ?)",
                (event.artifact_ref, event.checksum, event.manifest_checksum, entry.id,
                 event.event_id),
            )  # fmt: skip

    def _foreign(self, entry: Entry, why: str) -> Culprit:
        stream = self._order.keys[0].notifications
        return Culprit("G3", "foreign", stream, None, entry.id, None,
                       f"no sidecar wrote this notification: {why}")  # fmt: skip

    # --- G2 and G4: as notifications are read -----------------------------------------------

    def _twice(
        self, entry: Entry, event: Event, body: Mapping[str, Any], stream: str, entry_id: str,
        *, judged: bool,
    ) -> Iterator[Culprit]:  # fmt: skip
        identity = identity_digest(event.event_id)
        before = self._db.execute(
            "SELECT at, judged FROM published WHERE event = ? ORDER BY at DESC LIMIT 1", (identity,)
        ).fetchone()
        self._db.execute(
            "INSERT OR IGNORE INTO published VALUES (?, ?, ?, ?)",
            (identity, _key(entry.id), content_digest(body), judged),
        )
        if before is None or not (judged or before[1]):
            return
        apart_ms = id_pair(entry.id)[0] - id_pair(before[0])[0]
        if apart_ms <= self._order.dedup_window_s * 1000:
            yield Culprit("G2", "twice", stream, entry_id, entry.id, event.event_id,
                          f"its event_id was published before as {_id(before[0])}")  # fmt: skip

    def _out_of_order(
        self, entry: Entry, event: Event, stream: str, entry_id: str
    ) -> Iterator[Culprit]:
        tenant, key = event.tenant_id, _key(entry_id)
        before = self._db.execute(
            "SELECT entry, at FROM tenants WHERE stream = ? AND tenant = ?", (stream, tenant)
        ).fetchone()
        if before is not None and key < before[0]:
            yield Culprit("G4", "out_of_order", stream, entry_id, entry.id, event.event_id,
                          f"tenant {tenant!r}: entry {_id(before[0])} came after it and was"
                          f" published before it, as {before[1]}")  # fmt: skip
            return
        self._db.execute(
            "INSERT OR REPLACE INTO tenants VALUES (?, ?, ?, ?)", (stream, tenant, key, entry.id)
        )

    # --- G3 ---------------------------------------------------------------------------------

    def _read_entries(self, keys: Keys) -> None:
        stream, last = keys.control, self._last[keys.control]
        first: str | None = None
        for page in self._pages(stream, self._order.since, last):
            first = first or page[0].id
            self._db.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?)",
                [(stream, _key(entry.id)) for entry in page],
            )
            for entry in page:
                self.found.entries += 1
                end = self._end_of(stream, entry)
                if end:
                    self.found.ends[end] += 1
                else:
                    self._db.execute("INSERT INTO suspects VALUES (?, ?)", (stream, _key(entry.id)))
            self._show(f"{self.found.entries:,} entries checked")
        reach = self._reach(self._control, stream)
        cut = reach is not None and not reach.whole and _key(self._order.since) < reach.first
        self.found.covered.append({
            "stream": stream, "first": first, "last": last if first else None, "trimmed": cut,
        })  # fmt: skip

    def _pages(self, stream: str, first: str, last: str) -> Iterator[list[Entry]]:
        with translated(self._control.url):
            yield from pages(self._control.client, stream, first, last, page=PAGE)

    def _end_of(self, stream: str, entry: Entry) -> str | None:
        key = _key(entry.id)
        end = self._db.execute(
            "SELECT kind FROM ends WHERE stream = ? AND entry = ? LIMIT 1", (stream, key)
        ).fetchone()
        if end:
            return str(end[0])
        identity, content = _identity(entry)
        if (
            identity
            and self._db.execute(
                "SELECT 1 FROM published WHERE event = ? AND content = ?", (identity, content)
            ).fetchone()
        ):
            return "duplicate"
        waits = (
            id_pair(entry.id) > id_pair(self._delivered[stream])
            or self._db.execute(
                "SELECT 1 FROM pending WHERE stream = ? AND entry = ?", (stream, key)
            ).fetchone()
        )
        return "waiting" if waits else None

    def _lost(self) -> Iterator[Culprit]:
        for stream in self._keys:  # a group that was made again hands entries out again
            self._delivered[stream] = self._delivered_now(self._keys[stream])
        for stream, key in self._db.execute("SELECT stream, entry FROM suspects"):
            keys, entry_id = self._keys[stream], _id(key)
            with translated(self._control.url):
                raw: Any = self._control.client.xrange(stream, entry_id, entry_id)
                pending: Any = self._group(keys) and self._control.client.xpending_range(
                    stream, keys.group, entry_id, entry_id, 1
                )
            if not raw:
                self.found.ends["expired"] += 1
                continue
            entry = Entry(entry_id, raw[0][1])
            end = "waiting" if pending else self._end_of(stream, entry)
            detail = "acknowledged, and nothing came of it"
            if not end:
                end, detail = self._remembered(keys, entry, detail)
            if end:
                self.found.ends[end] += 1
                continue
            yield Culprit("G3", "lost", stream, entry_id, None, _event_id(entry), detail)

    def _remembered(self, keys: Keys, entry: Entry, detail: str) -> tuple[str | None, str]:
        """Return `expired` when the end was trimmed, by what the deduplication index tells."""
        notifications = self._reach(self._notify, keys.notifications, f"{keys.prefix}:trimmed")
        letters = self._reach(self._notify, keys.dead)
        identity, content = _identity(entry)
        buried = self._known(keys, origin_digest(f"{keys.control}/{entry.id}"))
        known = self._known(keys, identity) if identity else None
        if buried and buried[0] == BURIED:
            at = _key(f"{buried[1] // 1000}-0")
            trimmed = letters is not None and letters.trimmed(at)
            return _expired(trimmed), "it had a dead letter, which was deleted"
        if known and known[0] == content:
            at = entry_id_of(known[1])
            trimmed = notifications is not None and notifications.trimmed(_key(at))
            return _expired(trimmed), f"it was published as {at}, which is not there any more"
        if known:
            return None, f"{detail}; its event_id has other content in {entry_id_of(known[1])}"
        with translated(self._notify.url):
            age_s = server_time_us(self._notify.client) / 1e6 - id_pair(entry.id)[0] / 1e3
        if age_s < self._order.dedup_window_s:
            return None, detail  # the index would know
        reaches = [one for one in (notifications, letters) if one]
        return _expired(any(one.trimmed(_key(entry.id)) for one in reaches)), detail

    def _known(self, keys: Keys, digest: bytes) -> tuple[bytes, int] | None:
        with translated(self._notify.url):
            known: Any = self._notify.client.hget(keys.seen(digest), digest[2:])
        return (known[:16], int(known[16:])) if known else None

    def _two_ends(self) -> Iterator[Culprit]:
        for stream, key, ends, at, event_id in self._db.execute(
            "SELECT stream, entry, group_concat(kind || ' ' || at, ', '),"
            " max(CASE kind WHEN 'notification' THEN at END), max(event_id)"
            " FROM ends GROUP BY stream, entry HAVING count(*) > 1"
        ):
            yield Culprit("G3", "two_ends", stream, _id(key), at, event_id or None,
                          f"it ended more than once: {ends.replace('_', ' ')}")  # fmt: skip

    def _without_entry(self) -> Iterator[Culprit]:
        """Yield ends of entries that the stream does not have, though it goes back that far."""
        for stream in self._keys:
            reach = self._reach(self._control, stream)
            oldest = max(reach.first, reach.deleted) if reach and not reach.whole else ""
            for key, kind, at, event_id in self._db.execute(
                "SELECT entry, kind, at, event_id FROM ends e WHERE stream = ? AND entry > ?"
                " AND reason != ? AND NOT EXISTS (SELECT 1 FROM entries"
                " WHERE stream = e.stream AND entry = e.entry)",
                (stream, oldest, _LOST),
            ):
                notification = at if kind == "notification" else None
                detail = f"{_end(kind)} {at} names an entry that is not there, nor was trimmed"
                yield Culprit(
                    "G3", "no_entry", stream, _id(key), notification, event_id or None, detail
                )

    def _reach(self, side: Side, stream: str, noted_key: str = "") -> _Reach | None:
        with translated(side.url):
            info = stream_info(side.client, stream)
            if info is None:
                return None
            raw: Any = side.client.xinfo_stream(stream)
            noted: Any = side.client.get(noted_key) if noted_key else None
        deleted = raw.get("max-deleted-entry-id", FIRST.encode())
        return _Reach(
            _key(info.first_id or id_after(info.last_id)), _key(deleted.decode()),
            info.added == info.length,
            _key(entry_id_of(int(noted)) if noted and noted.isdigit() else FIRST),
        )  # fmt: skip

    # --- G1 ---------------------------------------------------------------------------------

    def _unresolvable(self) -> Iterator[Culprit]:
        distinct = "SELECT DISTINCT ref, checksum, manifest FROM pins"
        count = sum(1 for _ in self._db.execute(distinct))
        chosen: set[int] | None = None
        if self._order.sample is not None and self._order.sample < count:
            chosen = set(random.Random(self._order.seed).sample(range(count), self._order.sample))  # noqa: S311 -- no secret
        for number, pin in enumerate(self._db.execute(distinct)):
            if chosen is not None and number not in chosen:
                continue
            wrong = self._wrong(*pin)
            self.found.artifacts += 1
            self._show(f"{self.found.artifacts:,} artifacts read")
            if wrong:
                yield from self._naming(pin, wrong)

    def _naming(self, pin: tuple[str, str, str], wrong: str) -> Iterator[Culprit]:
        """Yield the notifications that still pin it: what none names any more may be gone."""
        for at, event_id in self._db.execute(
            "SELECT at, event_id FROM pins WHERE ref = ? AND checksum = ? AND manifest = ?", pin
        ):
            stream = self._order.keys[0].notifications
            with translated(self._notify.url):
                raw: Any = self._notify.client.xrange(stream, at, at)
            if not raw:
                continue
            origin = _origin(raw[0][1])
            yield Culprit("G1", "artifact", *origin, at, event_id, f"{pin[0]}: {wrong}")

    def _wrong(self, ref: str, checksum: str, manifest_checksum: str) -> str | None:
        if not manifest_checksum:
            return "the notification names no manifest_checksum"
        with explained():
            try:
                read = self._digests(ref, checksum, manifest_checksum)
            except (NotFound, Corrupt, InvalidRef) as error:
                return str(error)
        same = read == (checksum, manifest_checksum)
        return None if same else f"the store returns {read[0]} with manifest {read[1]}"

    def _digests(self, ref: str, checksum: str, manifest_checksum: str) -> tuple[str, str]:
        """Read an artifact, in constant memory where the backend can; return what it hashes to."""
        pin = {"checksum": checksum, "manifest_checksum": manifest_checksum}
        hashed = hashlib.sha256()
        if Capability.STREAM not in capabilities(self._fleet):
            data, manifest = self._fleet.get(ref, **pin)
            hashed.update(data)
            self.found.size_bytes += len(data)
        else:
            with self._fleet.open(ref, **pin) as reader:
                manifest = reader.manifest
                while chunk := reader.read(CHUNK_BYTES):
                    hashed.update(chunk)
                    self.found.size_bytes += len(chunk)
        return "sha256:" + hashed.hexdigest(), "sha256:" + hashlib.sha256(manifest).hexdigest()


def _key(entry_id: str) -> str:
    """Return an ID so that SQLite compares it as Redis does."""
    ms, seq = id_pair(entry_id)
    return f"{ms:020}-{seq:020}"


def _id(key: str) -> str:
    ms, seq = id_pair(key)
    return f"{ms}-{seq}"


def _origin(fields: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return control stream and entry ID; the latter is empty when it is none."""
    stream, _, entry_id = text(fields, "origin").rpartition("/")
    return stream, entry_id if _ENTRY_ID.fullmatch(entry_id) else ""


def _identity(entry: Entry) -> tuple[bytes, bytes]:
    """Return the digests of event_id and content, as the index has them; empty for no event."""
    try:
        event, body = decode(entry.fields)
    except Rejected:
        return b"", b""
    return identity_digest(event.event_id), content_digest(body)


def _event_id(entry: Entry) -> str | None:
    try:
        return decode(entry.fields)[0].event_id
    except Rejected:
        return None


def _end(kind: str) -> str:
    return kind.replace("_", " ")


def _expired(trimmed: bool) -> str | None:  # noqa: FBT001 -- its one argument
    return "expired" if trimmed else None

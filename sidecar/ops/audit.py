"""The guarantees G1 to G4, judged from outside by what `evidence` reads; streams may be live.

Each entry is judged by what waited, and by the ends that were read after. What still looks lost is
judged once more in the same way, after a second reading of both. That two notifications are there,
or in a wrong order, can only be told of what stays: streams only grow.

The outbound streams are read whole, whatever the window. No bound would be sound: producers may
give IDs of their own, whatever the time, and the two servers have two clocks.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

from sidecar.errors import Incomplete
from sidecar.history import scratch
from sidecar.history.archive import ArchiveHistory
from sidecar.history.chain import faults_of
from sidecar.ops.endings import About, about_of, end_of, excluding
from sidecar.ops.evidence import Evidence, event_of
from sidecar.ops.waiting import EntryRange
from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.forgotten import MAX_RECORDS, Forgotten, newest_records
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Seen, is_dead, origin_digest, remembered
from sidecar.redis.scan import origin_of
from sidecar.redis.source import Entry
from sidecar.stores import explained, open_reader
from sidecar.wire.erasures import erasures_of
from sidecar.wire.event import Event, Rejected, content_digest, decode
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.trust import Trust, Untrusted
from store import (
    Capability,
    Corrupt,
    InvalidRef,
    NotFound,
    Pin,
    Store,
    TooLarge,
    capabilities,
    versioned,
)

CHUNK_BYTES: Final = 1 << 20
_LOST: Final = "entry_lost"
_WITHOUT_ENTRY: Final = """
    SELECT entry, kind, at, event_id FROM ends e WHERE stream = ? AND entry > ? AND reason != ?
    AND NOT EXISTS (SELECT 1 FROM entries WHERE stream = e.stream AND entry = e.entry)
"""
ENDS: Final = ("notification", "duplicate", "dead_letter", "waiting", "expired")
"""How entries end."""
GUARANTEES: Final = ("G1", "G2", "G3", "G4")
SIGNED: Final = "signed"
"""Stands beside them where keys to trust are given."""


class Culprit(NamedTuple):
    """What breaks a guarantee."""

    guarantee: str
    problem: str
    """lost, two_ends, no_entry, foreign, twice, out_of_order, overtaken, artifact; with keys
    untrusted, or archive."""
    stream: str
    """The control stream; the notification stream for what has no legible origin."""
    entry: EntryId | None
    notification: EntryId | None
    event_id: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class AuditOrder:
    """What to audit."""

    keys: Sequence[Keys]
    """One a control stream; they share the notification and the dead-letter stream."""
    window: EntryRange = field(default_factory=EntryRange)
    sample: int | None = None
    """How many artifacts to read; None is all."""
    seed: int = 0
    dedup_window_s: float = 7 * 86400.0
    archive: ArchiveHistory | None = None
    """Where the window's part is that was trimmed."""
    trust: Trust | None = None
    """Whom the notifications must be signed by that were published since the window begins."""

    @property
    def judged(self) -> Sequence[str]:
        """What culprits may be of."""
        return (*GUARANTEES, SIGNED) if self.trust else GUARANTEES

    def chosen(self, count: int) -> Container[int]:
        """Return which of `count` artifacts to read, by their numbers."""
        if self.sample is None or self.sample >= count:
            return range(count)
        return set(random.Random(self.seed).sample(range(count), self.sample))  # noqa: S311 -- no secret


def _unsealed(order: AuditOrder) -> Iterator[Culprit]:
    """Yield what nobody vouches for of the archive's notifications."""
    stream, archive, trust = order.keys[0].notifications, order.archive, order.trust
    for one in faults_of(archive, stream, trust) if archive and trust else ():
        said = f"{one.segment}: {one.detail}"
        yield Culprit(SIGNED, "archive", stream, None, None, None, said)


@dataclass(slots=True)
class Found:
    """What an audit has met so far."""

    entries: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Entries by how they ended: notification, duplicate, dead_letter, waiting, expired."""
    notifications: int = 0
    """Of entries in the window."""
    artifacts: int = 0
    erased: int = 0
    """Artifacts that went with all of their tenant, as is on record."""
    size_bytes: int = 0
    culprits: Counter[str] = field(default_factory=Counter)
    covered: list[dict[str, str | bool | None]] = field(default_factory=list)
    pending: dict[str, dict[str, int]] = field(default_factory=dict)
    """By control stream and consumer, the window's entries that are pending."""
    forgotten: list[Forgotten] = field(default_factory=list)
    """What Redis was found to have forgotten that may touch the window, newest first."""

    @property
    def may_miss(self) -> list[Forgotten]:
        """Of that, what entries or notifications may be gone with: nobody can judge these."""
        return [one for one in self.forgotten if one.loses_events]

    def verdict(self, *, complete: bool) -> str:
        """Return in words which guarantees hold, or are broken and how often."""
        broken = [f"{name} {self.culprits[name]:,}"
                  for name in (*GUARANTEES, SIGNED) if self.culprits[name]]  # fmt: skip
        if broken:
            return f"broken: {', '.join(broken)}"
        what = " for what is there, not for what Redis forgot" if self.may_miss else ""
        return f"G1 to G4 hold{'' if complete else ' so far'}{what}"

    def __bool__(self) -> bool:
        return bool(self.entries or self.notifications or self.culprits)

    def to_json(
        self, order: AuditOrder, repaired: Mapping[str, int] | None, *, complete: bool
    ) -> dict[str, Any]:
        """Return it for machines; `repaired` is how often which result came of a repair."""
        return {
            "entries": self.entries, **{f"{end}s": self.ends[end] for end in ENDS[:3]},
            **{end: self.ends[end] for end in ENDS[3:]}, "artifacts": self.artifacts,
            "erased": self.erased, "size_bytes": self.size_bytes,
            "sample_seed": None if order.sample is None else order.seed,
            "covered": self.covered, "pending": self.pending,
            "forgotten": [one.to_json() for one in self.forgotten],
            "culprits": {name: self.culprits[name] for name in order.judged},
            **({"repair": dict(repaired)} if repaired is not None else {}), "complete": complete,
        }  # fmt: skip


class Audit:
    """One audit. `run` it once; `found` tells how far it is."""

    def __init__(
        self, control: Side, notify: Side, fleet: Store, order: AuditOrder,
        show: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.found = Found()
        self._control, self._notify = control, notify
        self._fleet, self._order, self._show = fleet, order, show
        self._db: sqlite3.Connection
        self._evidence: Evidence

    @property
    def partly_expired(self) -> bool:
        """Whether part of the window that was asked for was trimmed, here or of its ends.

        Without --since the window is all there is, and that is there.
        """
        if self._order.window.since == FIRST:
            return False
        return bool(self.found.ends["expired"]) or any(one["trimmed"] for one in self.found.covered)

    def check_whole(self) -> None:
        """Raise `Incomplete` where a part of the window could not be judged."""
        if forgotten := self.found.may_miss:
            since = forgotten[0].noticed
            raise Incomplete(
                f"Redis forgot: {forgotten[0]}; --since {since} judges what came after"
            )
        if self.partly_expired:
            raise Incomplete("the window is partly expired: what was trimmed could not be judged")

    def run(self) -> Iterator[Culprit]:
        """Yield each culprit. Raises `Unreachable` and `UsageError`."""
        with (
            scratch.directory("sidecar-audit-") as directory,
            closing(sqlite3.connect(directory / "index", isolation_level=None)) as self._db,
        ):
            self._evidence = Evidence(
                self._control, self._notify, self._order.keys, self._order.window, self._db,
                self._order.archive, self._order.dedup_window_s,
            )  # fmt: skip
            for culprit in self._all():
                self.found.culprits[culprit.guarantee] += 1
                yield culprit

    def _all(self) -> Iterator[Culprit]:
        evidence = self._evidence
        evidence.check()
        evidence.waiting.read()
        self.found.pending = evidence.waiting.by_consumer()
        yield from self._read_ends()
        for stream in evidence.keys:
            self._judge_entries(stream)
        evidence.waiting.read_again()
        yield from self._read_ends()
        yield from chain(self._lost(), self._two_ends(), self._without_entry())
        yield from self._unresolvable()
        yield from _unsealed(self._order)
        self.found.forgotten = self._forgotten()

    def _forgotten(self) -> list[Forgotten]:
        window = self._order.window
        with translated(self._notify.url):
            found = newest_records(self._notify.client, self._order.keys, MAX_RECORDS)
        return [one for one in found if one.touches(window.since, window.until)]

    def _read_ends(self) -> Iterator[Culprit]:
        self._evidence.read_letters()
        for page in self._evidence.notifications():
            for entry in page:
                yield from self._untrusted(entry)
                yield from self._notification(entry)
            self._show(f"{self.found.notifications:,} notifications read")

    def _untrusted(self, entry: Entry) -> Iterator[Culprit]:
        trust, stream = self._order.trust, self._order.keys[0].notifications
        try:
            if trust and entry.id >= self._order.window.since:
                trust.check(stream, entry.id, entry.fields)
        except Untrusted as error:
            yield Culprit(SIGNED, "untrusted", stream, None, entry.id, None, str(error))

    def _notification(self, entry: Entry) -> Iterator[Culprit]:
        origin = origin_of(entry.fields)
        stream, entry_id = origin.stream, origin.entry
        try:
            event, body = decode(entry.fields, recorded=True)
        except Rejected as error:
            yield self._foreign(entry, str(error))
            return
        if not entry_id:
            yield self._foreign(entry, "its origin is no entry of a stream")
            return
        judged = self._evidence.judges(origin)
        yield from self._twice(entry, event, body, stream, entry_id, judged=judged)
        self._evidence.note_order(entry, event.tenant_id, stream, entry_id)
        if not judged:
            return
        about = About(identity_digest(event.event_id), content_digest(body))
        self._evidence.note_end(
            entry.fields, "notification", entry.id, about, event_id=event.event_id
        )
        self.found.notifications += 1
        yield from self._out_of_order(entry, event, stream, entry_id)
        if event.artifact_ref and self._evidence.is_in_redis(entry.id):
            self._evidence.note_pin(entry, event)

    def _foreign(self, entry: Entry, why: str) -> Culprit:
        stream = self._order.keys[0].notifications
        return Culprit("G3", "foreign", stream, None, entry.id, None,
                       f"no sidecar wrote this notification: {why}")  # fmt: skip

    # --- G2 and G4: as notifications are read -----------------------------------------------

    def _twice(
        self, entry: Entry, event: Event, body: Mapping[str, Any], stream: str, entry_id: EntryId,
        *, judged: bool,
    ) -> Iterator[Culprit]:  # fmt: skip
        identity = identity_digest(event.event_id)
        before = self._db.execute(
            "SELECT at, judged FROM published WHERE event = ? ORDER BY at DESC LIMIT 1", (identity,)
        ).fetchone()
        self._db.execute(
            "INSERT OR IGNORE INTO published VALUES (?, ?, ?, ?)",
            (identity, entry.id.key, content_digest(body), judged),
        )
        if before is None or not (judged or before[1]):
            return
        first = EntryId.of_key(before[0])
        apart_ms = entry.id.ms - first.ms
        if apart_ms <= self._order.dedup_window_s * 1000:
            detail = f"its event_id was published before as {first}"
            yield Culprit("G2", "twice", stream, entry_id, entry.id, event.event_id, detail)

    def _out_of_order(
        self, entry: Entry, event: Event, stream: str, entry_id: EntryId
    ) -> Iterator[Culprit]:
        tenant, key = event.tenant_id, entry_id.key
        before = self._db.execute(
            "SELECT entry, at FROM tenants WHERE stream = ? AND tenant = ?", (stream, tenant)
        ).fetchone()
        if before is not None and key < before[0] and not self._stood_before(stream, *before):
            yield Culprit("G4", "out_of_order", stream, entry_id, entry.id, event.event_id,
                          f"tenant {tenant!r}: entry {EntryId.of_key(before[0])} came after it and"
                          f" was published before it, as {before[1]}")  # fmt: skip
            return
        self._db.execute(
            "INSERT OR REPLACE INTO tenants VALUES (?, ?, ?, ?)", (stream, tenant, key, entry.id)
        )

    def _stood_before(self, stream: str, key: str, at: str) -> bool:
        """Tell whether a notification is of an entry in whose place another one is now."""
        entry = self._evidence.entry(stream, EntryId.of_key(key))
        there = self._evidence.notification(EntryId(at))
        if entry is None or there is None:
            return False
        return not about_of(entry.fields).may_be(about_of(there.fields))

    # --- G3 ---------------------------------------------------------------------------------

    def _judge_entries(self, stream: str) -> None:
        first = last = None
        for page in self._evidence.entries(stream):
            first, last = first or page[0].id, page[-1].id
            for entry in page:
                self.found.entries += 1
                end = self._end_of(stream, entry)
                if end and not (end == "waiting" and self._overtaker(stream, entry)):
                    self.found.ends[end] += 1
                else:
                    self._db.execute("INSERT INTO suspects VALUES (?, ?)", (stream, entry.id.key))
            self._show(f"{self.found.entries:,} entries checked")
        self.found.covered.append(
            {
                "stream": stream, "first": first, "last": last, "trimmed": self._cut(stream),
                "position_beyond_end": self._evidence.waiting.beyond_end.get(stream),
            }
        )  # fmt: skip

    def _cut(self, stream: str) -> bool:
        """Tell whether the control stream lacks a part of the window that was trimmed."""
        reach = self._evidence.control_reach(stream)
        if reach is None:
            return False
        if reach.tells or reach.cut(self._order.window.since):
            return reach.cut(self._order.window.since)
        older = self._db.execute(
            "SELECT 1 FROM ends WHERE stream = ? AND entry < ? LIMIT 1", (stream, reach.begin.key)
        )
        return older.fetchone() is not None

    def _end_of(self, stream: str, entry: Entry) -> str | None:
        about = about_of(entry.fields)
        own = end_of(self._db, stream, entry.id.key, about)
        if own:
            return own
        published = self._db.execute(
            "SELECT 1 FROM published WHERE event = ? AND content = ?", about
        )
        if about.event and published.fetchone():
            return "duplicate"
        return "waiting" if self._evidence.waiting.waits(stream, entry.id) else None

    def _lost(self) -> Iterator[Culprit]:
        # In entry order across streams: so a repair sends the older of two first.
        suspects = self._db.execute("SELECT stream, entry FROM suspects ORDER BY entry, stream")
        for stream, key in suspects:
            entry = self._evidence.entry(stream, EntryId.of_key(key))
            if entry is None:
                self.found.ends["expired"] += 1
                continue
            end, detail = self._end_of(stream, entry), ""
            if not end:
                end, detail = self._remembered(self._evidence.keys[stream], entry)
            event = event_of(entry.fields)
            event_id = event.event_id if event else None
            if end:
                self.found.ends[end] += 1
                overtaken = self._overtaken(stream, entry) if end == "waiting" else ""
                if overtaken:
                    yield Culprit("G4", "overtaken", stream, entry.id, None, event_id, overtaken)
                continue
            yield Culprit("G3", "lost", stream, entry.id, None, event_id, detail)

    def _overtaken(self, stream: str, entry: Entry) -> str:
        """Say what was published before an entry that waits and should have come after it."""
        overtaker = self._overtaker(stream, entry)
        if overtaker is None or self._remembered(self._evidence.keys[stream], entry)[0]:
            return ""
        consumer = self._evidence.waiting.consumer_of(stream, entry.id)
        waits = f"pending under consumer {consumer!r}" if consumer else "not read"
        return (
            f"it is {waits}, and entry {overtaker[0]} of its tenant is published as {overtaker[1]}"
        )

    def _overtaker(self, stream: str, entry: Entry) -> tuple[EntryId, str] | None:
        """Return the last published entry of an event's tenant that came after it, and as what.

        Of what will end as a conflict, nothing: a dead letter keeps no order.
        """
        event = event_of(entry.fields)
        if event is None:
            return None
        identity, content = identity_of(entry.fields)
        conflict = self._db.execute(
            "SELECT 1 FROM published WHERE event = ? AND content != ?", (identity, content)
        )
        before = self._db.execute(
            "SELECT entry, at FROM tenants WHERE stream = ? AND tenant = ? AND entry > ?",
            (stream, event.tenant_id, entry.id.key),
        ).fetchone()
        if before is None or conflict.fetchone():
            return None
        return EntryId.of_key(before[0]), before[1]

    def _remembered(self, keys: Keys, entry: Entry) -> tuple[str | None, str]:
        """Return `expired` when the end was trimmed, by what the deduplication index tells."""
        detail = "acknowledged, and nothing came of it"
        if keys.control in self._evidence.waiting.beyond_end:
            position = self._evidence.waiting.beyond_end[keys.control]
            detail = f"passed over: the group's position was set to {position}, beyond the end"
        identity, content = identity_of(entry.fields)
        first = self._evidence.archived(entry)
        if first and identity_of(first.fields) == (identity, content):
            own = origin_of(first.fields) == Origin.of(keys.control, entry.id)
            return "notification" if own else "duplicate", detail
        buried = self._known(keys, origin_digest(Origin.of(keys.control, entry.id)))
        known = self._known(keys, identity) if identity else None
        if buried and is_dead(buried, entry):
            at = EntryId.of(buried.control_version // 1000)
            reaches = map(self._evidence.outbound_reach, (keys.dead, keys.redriven))
            trimmed = any(one.trimmed(at) for one in reaches if one)
            return _expired(trimmed), "it had a dead letter, which was deleted"
        if known and known.content_digest == content:
            at = EntryId.of_version(known.control_version)
            reach = self._evidence.outbound_reach(keys.notifications)
            trimmed = reach is not None and reach.trimmed(at)
            return _expired(trimmed), f"it was published as {at}, which is not there any more"
        if known:
            at = EntryId.of_version(known.control_version)
            detail += f"; its event_id has other content in {at}"
        return _expired(self._may_be_hidden(keys, entry)), detail

    def _may_be_hidden(self, keys: Keys, entry: Entry) -> bool:
        """Tell whether an entry's end may be gone with nothing that remembers it."""
        horizon = self._evidence.horizon(keys, self._order.dedup_window_s)
        place = entry.id, self._evidence.before(keys.control, entry)
        if horizon.may_hide(*place) or horizon.may_hide_letter(*place):
            return True
        return horizon.may_hide_first(*place) and self._evidence.may_repeat(entry)

    def _known(self, keys: Keys, digest: bytes) -> Seen | None:
        with translated(self._notify.url):
            return remembered(self._notify.client, keys, [digest])[0]

    def _two_ends(self) -> Iterator[Culprit]:
        for stream, key, ends in excluding(self._db):
            at = next((EntryId(one.at) for one in ends if one.kind == "notification"), None)
            event_id = max(one.event_id for one in ends) or None
            detail = f"it ended more than once: {', '.join(map(str, ends))}"
            yield Culprit("G3", "two_ends", stream, EntryId.of_key(key), at, event_id, detail)

    def _without_entry(self) -> Iterator[Culprit]:
        """Yield ends of entries that the stream does not have, though it goes back that far."""
        for stream in self._evidence.keys:
            reach = self._evidence.control_reach(stream)
            oldest = max(reach.begin, reach.deleted).key if reach else ""
            for key, kind, at, event_id in self._db.execute(
                _WITHOUT_ENTRY, (stream, oldest, _LOST)
            ):
                notification = at if kind == "notification" else None
                detail = f"{_end(kind)} {at} names an entry that is not there, nor was trimmed"
                entry_id = EntryId.of_key(key)
                yield Culprit("G3", "no_entry", stream, entry_id, notification, event_id or None,
                              detail)  # fmt: skip

    # --- G1 ---------------------------------------------------------------------------------

    def _unresolvable(self) -> Iterator[Culprit]:
        distinct = "SELECT DISTINCT ref, checksum, manifest FROM pins"
        count = sum(1 for _ in self._db.execute(distinct))
        chosen = self._order.chosen(count)
        for number, row in enumerate(self._db.execute(distinct)):
            if number not in chosen:
                continue
            pin = Pin(*row)
            wrong, size_bytes = what_is_wrong(self._fleet, pin)
            self.found.artifacts += 1
            self.found.size_bytes += size_bytes
            self._show(f"{self.found.artifacts:,} artifacts read")
            if wrong and is_erased(self._fleet, pin):
                self.found.erased += 1
            elif wrong:
                yield from self._naming(pin, wrong)

    def _naming(self, pin: Pin, wrong: str) -> Iterator[Culprit]:
        """Yield the notifications that still pin it: what none names any more may be gone."""
        for at, event_id in self._db.execute(
            "SELECT at, event_id FROM pins WHERE ref = ? AND checksum = ? AND manifest = ?", pin
        ):
            stream = self._order.keys[0].notifications
            with translated(self._notify.url):
                raw: Any = self._notify.client.xrange(stream, at, at)
            if raw:
                origin = origin_of(raw[0][1])
                yield Culprit("G1", "artifact", origin.stream, origin.entry, at, event_id,
                              f"{pin.ref}: {wrong}")  # fmt: skip


def what_is_wrong(store: Store, pin: Pin) -> tuple[str, int]:
    """Read an artifact through; say why the store has not exactly that, and how much was read.

    In constant memory where the backend can. Raises `Unreachable`.
    """
    if not pin.manifest_checksum:
        return "the notification names no manifest_checksum", 0
    pinned = Capability.PINNED_GET in capabilities(store)
    checksums = {"checksum": pin.checksum, "manifest_checksum": pin.manifest_checksum}
    hashed, size_bytes = hashlib.sha256(), 0
    with explained():
        try:
            with open_reader(store, pin.ref, checksums if pinned else {}) as reader:
                manifest = reader.manifest
                while chunk := reader.read(CHUNK_BYTES):
                    hashed.update(chunk)
                    size_bytes += len(chunk)
        except (NotFound, Corrupt, InvalidRef, TooLarge) as error:
            return str(error), size_bytes
    data_is = f"sha256:{hashed.hexdigest()}"
    manifest_is = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    if (data_is, manifest_is) == (pin.checksum, pin.manifest_checksum):
        return "", size_bytes
    return f"the store returns {data_is} with manifest {manifest_is}", size_bytes


def is_erased(store: Store, pin: Pin) -> bool:
    """Tell whether an artifact is not there because its tenant was erased. Raises `Unreachable`."""
    with explained():
        erasure = erasures_of(store).find(pin.ref, pin.checksum)
        keeper = versioned(store, Capability.PINNED_GET) if erasure else None
        try:
            return bool(keeper and not keeper.exists(pin.ref, checksum=pin.checksum))
        except Corrupt:
            return False


def _end(kind: str) -> str:
    return kind.replace("_", " ")


def _expired(trimmed: bool) -> str | None:  # noqa: FBT001 -- its one argument
    return "expired" if trimmed else None

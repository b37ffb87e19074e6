"""What Redis and the store hold, read from outside, and the claims that rest on it.

Nothing here asks the sidecar: entries come from XRANGE, artifacts are hashed again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

import store
from sidecar.event import content_digest
from sidecar.notification import MAX_NOTIFICATION_BYTES
from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.source import id_pair

PAGE: Final = 1000
CULPRITS: Final = 3


class Entry(NamedTuple):
    """One entry of a stream, as Redis has it."""

    id: str
    fields: Mapping[str, bytes]

    @property
    def event(self) -> dict[str, Any]:
        """The event it holds; empty when that is no JSON object."""
        try:
            body = orjson.loads(self.fields.get("event", b""))
        except orjson.JSONDecodeError:
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def origin(self) -> str:
        """For a notification or a dead letter: the control entry it came of."""
        return self.fields.get("origin", b"").decode()

    @property
    def position(self) -> tuple[int, int]:
        """Its ID, as it compares."""
        return id_pair(self.id)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The three streams, raw, and what the consumer group has left."""

    stream: str
    control: Sequence[Entry]
    notifications: Sequence[Entry]
    letters: Sequence[Entry]
    pending: int
    unread: int

    def origin_of(self, entry: Entry) -> str:
        """Return how others name this control entry."""
        return f"{self.stream}/{entry.id}"

    def duplicates(self) -> list[Entry]:
        """Control entries that say once more what has a notification of another origin."""
        notified = {e.event.get("event_id"): e for e in self.notifications}
        ended = {e.origin for e in (*self.notifications, *self.letters)}
        return [
            entry
            for entry in self.control
            if self.origin_of(entry) not in ended
            and (twin := notified.get(entry.event.get("event_id"))) is not None
            and content_digest(twin.event) == content_digest(entry.event)
        ]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that should hold, and what was found."""

    name: str
    held: bool
    found: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def read(client: Client, keys: Keys) -> Evidence:
    """Read the streams from beginning to end."""
    control = _entries(client, keys.control)
    pending, last = 0, (0, 0)
    for group in client.xinfo_groups(keys.control):
        if group["name"] == keys.group.encode():
            pending = group["pending"]
            last = id_pair(group["last-delivered-id"].decode())
    return Evidence(
        stream=keys.control,
        control=control,
        notifications=_entries(client, keys.notifications),
        letters=_entries(client, keys.dead),
        pending=pending,
        unread=sum(1 for entry in control if entry.position > last),
    )


def conserved(evidence: Evidence, sent: int) -> Claim:
    """Hold that every entry that was sent ended as exactly one thing."""
    origins = Counter(e.origin for e in (*evidence.notifications, *evidence.letters))
    duplicates = {entry.id for entry in evidence.duplicates()}
    wrong = [
        entry.id
        for entry in evidence.control
        if origins[evidence.origin_of(entry)] + (entry.id in duplicates) != 1
    ]
    strange = origins.keys() - {evidence.origin_of(entry) for entry in evidence.control}
    entries, notified = len(evidence.control), len(evidence.notifications)
    letters, left = len(evidence.letters), evidence.pending + evidence.unread
    return Claim(
        "nothing lost",
        not wrong and not strange and not left and entries == sent,
        f"{sent:,} events sent = {notified:,} notifications + {len(duplicates)} duplicate"
        f" + {letters} dead letters; {left} left over"
        + _culprits("entries", wrong)
        + _culprits("unknown origins", strange),
        {
            "sent": sent,
            "entries": entries,
            "notifications": notified,
            "duplicates": len(duplicates),
            "dead_letters": letters,
            "pending": evidence.pending,
            "unread": evidence.unread,
        },
    )


def once(evidence: Evidence) -> Claim:
    """Hold that no event_id was published twice."""
    times = Counter(entry.event.get("event_id") for entry in evidence.notifications)
    twice = [str(event_id) for event_id, count in times.items() if count > 1]
    return Claim(
        "nothing twice",
        not twice,
        f"{len(evidence.notifications):,} notifications have {len(times):,} event_ids"
        + _culprits("published again", twice),
        {"notifications": len(evidence.notifications), "event_ids": len(times)},
    )


def ordered(evidence: Evidence) -> Claim:
    """Hold that each tenant's notifications come in the order of its entries."""
    latest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    late = []
    for entry in evidence.notifications:
        tenant_id = str(entry.event.get("tenant_id", ""))
        came = id_pair(entry.origin.rpartition("/")[2])
        if came <= latest[tenant_id]:
            late.append(str(entry.event.get("event_id")))
        latest[tenant_id] = max(came, latest[tenant_id])
    tenants = sum(1 for tenant_id in latest if tenant_id)
    return Claim(
        "each tenant's order kept",
        not late,
        f"{tenants} tenants, {len(late)} notifications out of place" + _culprits("late", late),
        {"tenants": tenants, "out_of_place": len(late)},
    )


def positions(evidence: Evidence) -> Claim:
    """Hold that control_version rises and is the entry's ID."""
    wrong, last = [], 0
    for entry in evidence.notifications:
        version = int(entry.event.get("control_version", 0))
        if version <= last or entry.id != f"{version // 1000}-{version % 1000}":
            wrong.append(entry.id)
        last = max(last, version)
    return Claim(
        "control_version is the entry ID",
        not wrong,
        f"{len(evidence.notifications):,} times, and it always rises, up to {last}"
        + _culprits("entries", wrong),
        {"last": last},
    )


def by_reference(evidence: Evidence, artifact_bytes: int) -> Claim:
    """Hold that notifications are references: small, whatever they point at."""
    sizes = [
        sum(len(name) + len(value) for name, value in entry.fields.items())
        for entry in evidence.notifications
    ]
    largest = max(sizes, default=0)
    return Claim(
        "references only",
        largest <= MAX_NOTIFICATION_BYTES,
        f"at most {largest:,} bytes a notification; all have {size(sum(sizes))}, their"
        f" artifacts {size(artifact_bytes)}",
        {"largest_bytes": largest, "total_bytes": sum(sizes), "artifact_bytes": artifact_bytes},
    )


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What the fleet's store holds of what the notifications pin."""

    claim: Claim
    total_bytes: int


def resolvable(evidence: Evidence, fleet: store.VersionedStore) -> Artifacts:
    """Hold that every pinned artifact is in the fleet's store, with the digests that pin it."""
    wrong, total_bytes, refs = [], 0, Counter[str]()
    for event in (entry.event for entry in evidence.notifications):
        ref = event.get("artifact_ref")
        if not ref:
            continue
        refs[ref] += 1
        pins = event["checksum"], event["manifest_checksum"]
        try:
            blobs = fleet.get(ref, checksum=pins[0], manifest_checksum=pins[1])
        except store.StoreError as error:
            wrong.append(f"{ref} {pins[0]}: {type(error).__name__}")
            continue
        if tuple(f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs) != pins:
            wrong.append(f"{ref} {pins[0]}: other content")
        total_bytes += sum(map(len, blobs))
    ref, most = max(refs.items(), key=lambda item: item[1], default=("", 0))
    claim = Claim(
        "every pinned artifact there",
        not wrong,
        f"{refs.total() - len(wrong):,} of {refs.total():,} resolved and hashed again,"
        f" {size(total_bytes)}; {ref} in {most} versions" + _culprits("not", wrong),
        {"artifacts": refs.total(), "bytes": total_bytes, "refs": len(refs), "wrong": len(wrong)},
    )
    return Artifacts(claim, total_bytes)


def set_aside(evidence: Evidence, reasons: Mapping[str, str]) -> Claim:
    """Hold that just these origins have a dead letter, with these reasons, and nothing else."""
    letters = [(e.origin, e.fields.get("reason", b"").decode()) for e in evidence.letters]
    published = sum(1 for entry in evidence.notifications if entry.origin in reasons)
    return Claim(
        "bad events set aside, with a reason",
        sorted(letters) == sorted(reasons.items()) and not published,
        f"{', '.join(sorted(reason for _, reason in letters))}; {published} of them published",
        {"letters": dict(letters), "published": published},
    )


def absorbed(evidence: Evidence, event_id: str) -> Claim:
    """Hold that what was sent twice was published once."""
    again = sum(1 for e in evidence.duplicates() if e.event.get("event_id") == event_id)
    published = sum(1 for e in evidence.notifications if e.event.get("event_id") == event_id)
    return Claim(
        "sent twice, published once",
        (again, published) == (1, 1),
        f"{event_id}: {again} duplicate, {published} notification",
        {"event_id": event_id, "duplicates": again, "notifications": published},
    )


def survived(evidence: Evidence, in_hand: Sequence[str]) -> Claim:
    """Hold that what the killed worker had in its hands was published, each once."""
    times = Counter(entry.origin for entry in evidence.notifications)
    wrong = [id_ for id_ in in_hand if times[f"{evidence.stream}/{id_}"] != 1]
    return Claim(
        "a killed worker's entries",
        not wrong,
        f"{len(in_hand) - len(wrong)} of {len(in_hand)} it had in its hands are published, once"
        + _culprits("not", wrong),
        {"in_hand": len(in_hand), "wrong": len(wrong)},
    )


def latencies_ms(evidence: Evidence, first: tuple[int, int], last: tuple[int, int]) -> list[float]:
    """Return, sorted, what passed from entry to notification, for entries of that span of IDs.

    Both times are Redis's own; an entry's is cut to whole milliseconds.
    """
    found = []
    for entry in evidence.notifications:
        origin = id_pair(entry.origin.rpartition("/")[2])
        if first <= origin <= last:
            found.append(entry.event["control_version"] / 1000 - origin[0])
    return sorted(found)


def size(size_bytes: float) -> str:
    """Write a size for a person."""
    if size_bytes < 1 << 10:
        return f"{size_bytes:.0f} bytes"
    if size_bytes < 1 << 20:
        return f"{size_bytes / (1 << 10):.0f} KiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _entries(client: Client, stream: str) -> list[Entry]:
    found: list[Entry] = []
    start = "-"
    while True:
        page: list[Any] = client.xrange(stream, start, "+", count=PAGE) or []
        if not page:
            return found
        found += (
            Entry(id_.decode(), {name.decode(): value for name, value in fields.items()})
            for id_, fields in page
        )
        start = f"({found[-1].id}"


def _culprits(word: str, culprits: Iterable[str]) -> str:
    found = sorted(culprits)
    if not found:
        return ""
    more = f" and {len(found) - CULPRITS} more" if len(found) > CULPRITS else ""
    return f"; {word}: {', '.join(found[:CULPRITS])}{more}"

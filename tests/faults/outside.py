"""Checks G1 to G5 from outside: raw Redis and raw files, nothing of the product's code.

What it knows is public: the wire format of the contract, and the layout of the file store as its
README shows it to people. Refs in these tests need no encoding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import redis

CONTROL, NOTIFICATIONS = "control:events", "control:notifications"
DEAD, GROUP = "{control:notifications}:dead", "sidecar:control:notifications"
PAGE = 1000
MAX_NOTIFICATION_BYTES = 8192
NOT_CONTENT = ("id", "created_at", "control_version", "manifest_checksum")
"""What does not count when two entries of one event_id are compared."""

Fields = dict[bytes, bytes]
Position = tuple[int, int]


def violations(client: Any, fleet: Path) -> list[str]:
    """Return what is wrong, one line each; an empty list when G1 to G5 hold."""
    return Checker(client, fleet).look()


class Asked(NamedTuple):
    """What the checker keeps of a control entry."""

    event_id: str | None
    """None for an entry that is no event."""
    content: bytes


class Checker:
    """Looks again and again, while workers run; each look reads only what is new since the last.

    The order of its reads is what lets it run beside the workers: the control stream first, then
    what is pending, then the notifications and letters. An entry that was neither unread nor
    pending was acknowledged by then, and so its end must be there to be read.
    """

    def __init__(self, client: Any, fleet: Path) -> None:
        self._client = client
        self.fleet = fleet
        self._at = dict.fromkeys((CONTROL, NOTIFICATIONS, DEAD), "0-0")
        self._read = dict.fromkeys((CONTROL, NOTIFICATIONS, DEAD), 0)
        self._open: dict[str, Asked] = {}
        """Entries whose end has not been seen."""
        self._ended: dict[str, tuple[str, bytes]] = {}
        """Entries that have ended, as what, and what of their content their end tells."""
        self._before: set[str] = set()
        """Entries whose end was seen before they were."""
        self._published: dict[str, bytes] = {}
        """The content that each event_id was published with."""
        self._tenants: dict[str, Position] = {}
        """The last entry of each tenant that was published."""
        self._last: Position = (0, 0)
        self.ends: Counter[str] = Counter()
        """How many entries ended as notified, duplicate or dead."""
        self.reasons: Counter[str] = Counter()
        """Of the dead letters."""
        self.dead_ids: list[str] = []
        """The event_ids of what ended as dead letters."""

    @property
    def published(self) -> frozenset[str]:
        """The event_ids that have a notification."""
        return frozenset(self._published)

    @property
    def entries(self) -> int:
        """How many entries of the control stream were read."""
        return self._read[CONTROL]

    def look(self) -> list[str]:
        """Return what is wrong with what is new, one line each."""
        found = []
        for entry, fields in self._new(CONTROL):
            found += self._ask(entry, fields)
        delivered, pending = self._delivered(), self._pending()
        for entry, fields in self._new(NOTIFICATIONS):
            found += self._notified(entry, fields)
        for _, fields in self._new(DEAD):
            found += self._buried(fields)
        return found + self._conserved(delivered, pending)

    def finish(self) -> list[str]:
        """Look a last time, after a drain: every entry has ended, and nothing is pending."""
        found = self.look()
        found += [f"G3: {entry} has not ended, after a drain" for entry in self._open]
        found += [f"G3: {entry} ended and is not there" for entry in self._before]
        if pending := self._pending():
            found.append(f"G3: {len(pending)} entries are pending after a drain")
        for stream, count in self._read.items():
            if self._client.xlen(stream) != count:
                found.append(f"G3: {stream} does not hold the {count} entries it was seen to hold")
        return found

    # --- what is new ---------------------------------------------------------------------------

    def _new(self, stream: str) -> Iterator[tuple[str, Fields]]:
        while page := self._client.xrange(stream, min=f"({self._at[stream]}", count=PAGE):
            for raw_id, fields in page:
                yield raw_id.decode(), fields
            self._at[stream] = page[-1][0].decode()
            self._read[stream] += len(page)

    def _delivered(self) -> Position:
        try:
            groups = self._client.xinfo_groups(CONTROL)
        except redis.ResponseError:
            return 0, 0  # nobody has emitted anything yet
        for group in groups:
            if group["name"].decode() == GROUP:
                return _position(group["last-delivered-id"].decode())
        return 0, 0

    def _pending(self) -> set[str]:
        try:
            summary = self._client.xpending_range(CONTROL, GROUP, "-", "+", 1_000_000)
        except redis.ResponseError:
            return set()  # no worker has begun yet
        return {entry["message_id"].decode() for entry in summary}

    # --- one entry -----------------------------------------------------------------------------

    def _ask(self, entry: str, fields: Fields) -> list[str]:
        event = _event(fields)
        if entry not in self._before:
            self._open[entry] = Asked(_event_id(event), _content(event))
            return []
        self._before.remove(entry)
        end, content = self._ended[entry]
        if end == "notified" and content != _content(event):
            return [f"G3: {entry} was published with other content"]
        return []

    def _end(self, entry: str, end: str, content: bytes) -> list[str]:
        """Note how an entry ended."""
        if entry in self._ended:
            return [f"G3: {entry} ends as {end} after it ended as {self._ended[entry][0]}"]
        self._ended[entry] = end, content
        self.ends[end] += 1
        asked = self._open.pop(entry, None)
        if asked is None:
            self._before.add(entry)
        elif end == "notified" and asked.content != content:
            return [f"G3: {entry} was published with other content"]
        return []

    def _notified(self, entry: str, fields: Fields) -> list[str]:
        event = json.loads(fields[b"event"])
        event_id, content, found = event["event_id"], _content(event), []
        if event_id in self._published:
            found.append(f"G2: {event_id} has more than one notification")
        self._published[event_id] = content
        origin = fields[b"origin"].decode().rpartition("/")[2]
        found += self._end(origin, "notified", content)
        found += [*self._ordered(entry, event, origin), *resolvable(event, self.fleet)]
        if sum(len(name) + len(value) for name, value in fields.items()) > MAX_NOTIFICATION_BYTES:
            found.append(f"G5: {entry} is larger than 8 KiB")
        return found

    def _ordered(self, entry: str, event: dict[str, Any], origin: str) -> list[str]:
        found, (ms, seq) = [], _position(entry)
        if event["control_version"] != ms * 1000 + seq or (ms, seq) <= self._last:
            found.append(f"G4: {entry} is out of step with {event['control_version']}")
        self._last = ms, seq
        tenant, asked_at = event.get("tenant_id", ""), _position(origin)
        if asked_at <= self._tenants.get(tenant, (0, 0)):
            found.append(f"G4: tenant {tenant} is out of order at {origin}")
        self._tenants[tenant] = asked_at
        return found

    def _buried(self, fields: Fields) -> list[str]:
        self.reasons[fields[b"reason"].decode()] += 1
        event = _event(fields)
        self.dead_ids.append(_event_id(event) or "")
        return self._end(fields[b"origin"].decode().rpartition("/")[2], "dead", b"")

    def _conserved(self, delivered: Position, pending: set[str]) -> list[str]:
        """Every entry is one of: notified, duplicate of a notification, dead, pending, unread."""
        found = []
        for entry, asked in list(self._open.items()):
            if _position(entry) > delivered or entry in pending:
                continue
            if self._published.get(asked.event_id or "") == asked.content:
                found += self._end(entry, "duplicate", asked.content)
            else:
                found.append(f"G3: {entry} ends as nothing")
                del self._open[entry]
        return found


def resolvable(event: dict[str, Any], fleet: Path) -> list[str]:
    """Return what is wrong with the artifact that a notification names; nothing if it is whole."""
    ref = event.get("artifact_ref")
    if not ref:
        return []
    data, manifest = (event.get(key, "")[7:] for key in ("checksum", "manifest_checksum"))
    record = fleet / "refs" / f"{ref}@{data}.{manifest}"
    try:
        whole = _digests(record, fleet, data) == (data, manifest)
    except FileNotFoundError as error:
        return [f"G1: {event['event_id']}: {error.filename} is not there"]
    return [] if whole else [f"G1: {event['event_id']}: {record} holds something else"]


def _digests(record: Path, fleet: Path, data_digest: str) -> tuple[str, str]:
    header, _, body = record.read_bytes().partition(b"\n\n")
    sizes = {
        line.split()[0]: int(line.split()[2])
        for line in header.decode().splitlines()
        if line.startswith(("data ", "manifest "))
    }
    manifest, data = body[: sizes["manifest"]], body[sizes["manifest"] :]
    if not data and sizes["data"]:
        data = (fleet / "objects" / "sha256" / data_digest[:2] / data_digest).read_bytes()
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(manifest).hexdigest()


def _event(fields: Fields) -> dict[str, Any]:
    """Return the event of an entry, an empty one when it is none."""
    try:
        event = json.loads(fields[b"event"])
    except (ValueError, KeyError):
        return {}
    return event if isinstance(event, dict) else {}


def _event_id(event: dict[str, Any]) -> str | None:
    return str(event["event_id"]) if "event_id" in event else None


def _content(event: dict[str, Any]) -> bytes:
    content = {name: value for name, value in event.items() if name not in NOT_CONTENT}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _position(entry_id: str) -> Position:
    ms, seq = entry_id.split("-")
    return int(ms), int(seq)

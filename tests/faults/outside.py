"""Checks G1 to G5 from outside: raw Redis and raw files, nothing of the product's code.

What it knows is public: the wire format of the contract, and the layout of the file store as its
README shows it to people. Refs in these tests need no encoding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

CONTROL, NOTIFICATIONS = "control:events", "control:notifications"
DEAD, GROUP = "{control:notifications}:dead", "sidecar:control:notifications"


def violations(client: Any, fleet: Path) -> list[str]:
    """Return what is wrong, one line each; an empty list when G1 to G5 hold."""
    notifications = [(_id(i), f) for i, f in client.xrange(NOTIFICATIONS)]
    events = [json.loads(fields[b"event"]) for _, fields in notifications]
    found = [*_resolvable(events, fleet), *_once(events), *_sizes(notifications)]
    found += _conserved(client, notifications, events)
    found += _ordered(notifications, events)
    return found


def _resolvable(events: list[dict[str, Any]], fleet: Path) -> list[str]:
    found = []
    for event in events:
        ref = event.get("artifact_ref")
        if not ref:
            continue
        data, manifest = (event[key][7:] for key in ("checksum", "manifest_checksum"))
        record = fleet / "refs" / f"{ref}@{data}.{manifest}"
        if not record.exists():
            found.append(f"G1: {event['event_id']}: {record} is not there")
        elif _digests(record, fleet, data) != (data, manifest):
            found.append(f"G1: {event['event_id']}: {record} holds something else")
    return found


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


def _once(events: list[dict[str, Any]]) -> list[str]:
    counts = Counter(event["event_id"] for event in events)
    return [f"G2: {id_} has {n} notifications" for id_, n in counts.items() if n > 1]


def _sizes(notifications: list[tuple[str, dict[bytes, bytes]]]) -> list[str]:
    return [
        f"G5: {id_} is larger than 8 KiB"
        for id_, fields in notifications
        if sum(len(name) + len(value) for name, value in fields.items()) > 8192
    ]


def _conserved(
    client: Any,
    notifications: list[tuple[str, dict[bytes, bytes]]],
    events: list[dict[str, Any]],
) -> list[str]:
    """Every entry is one of: notified, duplicate of a notification, dead, pending."""
    notified = {fields[b"origin"].decode().rpartition("/")[2] for _, fields in notifications}
    dead = Counter(f[b"origin"].decode().rpartition("/")[2] for _, f in client.xrange(DEAD))
    published = {event["event_id"] for event in events}
    pending = _pending(client)
    group = next(g for g in client.xinfo_groups(CONTROL) if g["name"].decode() == GROUP)
    delivered = _pair(_id(group["last-delivered-id"]))
    found = [f"G3: {id_} has {n} dead letters" for id_, n in dead.items() if n > 1]
    for raw_id, fields in client.xrange(CONTROL):
        entry = _id(raw_id)
        if _pair(entry) > delivered:
            continue  # pending still: nobody has read it
        ends = [
            name
            for name, ids in (("notified", notified), ("dead", dead), ("pending", pending))
            if entry in ids
        ]
        if not ends and _event_id(fields) in published:
            ends = ["duplicate"]
        # Published or buried, and not acknowledged yet: it will be, and nothing more happens.
        if len(ends) != 1 and not (len(ends) == 2 and ends[1] == "pending"):
            found.append(f"G3: {entry} ends as {ends or 'nothing'}")
    return found


def _ordered(
    notifications: list[tuple[str, dict[bytes, bytes]]], events: list[dict[str, Any]]
) -> list[str]:
    by_tenant: dict[str, list[tuple[int, int]]] = defaultdict(list)
    found, last = [], (0, 0)
    for (id_, fields), event in zip(notifications, events, strict=True):
        ms, seq = _pair(id_)
        if event["control_version"] != ms * 1000 + seq or (ms, seq) <= last:
            found.append(f"G4: {id_} is out of step with {event['control_version']}")
        last = (ms, seq)
        origin = fields[b"origin"].decode().rpartition("/")[2]
        by_tenant[event.get("tenant_id", "")].append(_pair(origin))
    found += [f"G4: tenant {t} is out of order" for t, o in by_tenant.items() if o != sorted(o)]
    return found


def _pending(client: Any) -> set[str]:
    summary = client.xpending_range(CONTROL, GROUP, "-", "+", 1_000_000)
    return {_id(entry["message_id"]) for entry in summary}


def _event_id(fields: dict[bytes, bytes]) -> str | None:
    try:
        event = json.loads(fields[b"event"])
        return str(event["event_id"])
    except (ValueError, KeyError, TypeError):
        return None


def _pair(entry_id: str) -> tuple[int, int]:
    ms, seq = entry_id.split("-")
    return int(ms), int(seq)


def _id(raw: bytes) -> str:
    return raw.decode()

"""From an entry that can never be published to its dead letter.

Its fields are public: docs/contract.md, "Dead letters".
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.redis.publisher import Letter, dead_mark
from sidecar.redis.source import Entry
from sidecar.wire.event import MAX_ENTRY_BYTES, Reason
from sidecar.wire.ids import Origin
from sidecar.wire.moments import rfc3339
from sidecar.worker.window import Item

MAX_TRACEPARENT_BYTES: Final = 1024


def letter(item: Item, now: str) -> Letter:
    """Return the dead letter of an item that ends as one; `now` is the time, RFC 3339."""
    assert item.bury  # noqa: S101 -- chosen for it
    fields = _said(item.entry) | {
        "reason": item.bury.reason.value,
        "detail": item.bury.detail.encode(errors="replace"),
        "origin": item.origin,
        "attempts": item.trouble.attempts,
        "first_seen": rfc3339(item.trouble.first_seen * 1e6),
        "dead_at": now,
    }
    identity = b"" if item.bury.reason is Reason.ID_CONFLICT else item.identity
    mark = dead_mark(item.entry)
    return Letter(
        Origin(item.origin), identity, fields, item.begins_row, item.counts, item.claimed,
        item.begins_row_of_tenant, mark,
    )  # fmt: skip


def _said(entry: Entry) -> dict[str, Any]:
    """Return what the producer wrote, as far as a dead letter holds it."""
    raw, traceparent = entry.raw_event, entry.fields.get(b"traceparent", b"")
    fields: dict[str, Any] = {"event": raw[:MAX_ENTRY_BYTES]}
    if traceparent:
        fields["traceparent"] = traceparent[:MAX_TRACEPARENT_BYTES]
    if len(raw) > MAX_ENTRY_BYTES or len(traceparent) > MAX_TRACEPARENT_BYTES:
        fields["truncated"] = 1
    return fields


def cut(entry: Entry) -> Entry:
    """Return what the dead letter needs of a giant, so that giants do not pile up in memory."""
    limits = {b"event": MAX_ENTRY_BYTES, b"traceparent": MAX_TRACEPARENT_BYTES}
    fields = {k: entry.fields[k][: limits[k] + 1] for k in limits if k in entry.fields}
    return entry._replace(fields=fields)

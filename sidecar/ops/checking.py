"""An event against the rules that a worker has, without Redis and without stores.

The rules are asked again and again: what they refuse is noted, and put right, until they let it
through. So each fault is named, and none of them is written down here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from sidecar.wire.event import FIELDS, KNOWN_TYPES, MAX_NAME_CHARS, Reason, Rejected
from sidecar.wire.reasons import explain
from sidecar.worker.pipeline import Pipeline, Rules
from store import checksum_of, open_url

ORIGIN: Final = "control:events/1791234567890-0"
"""As long as one is: the notification's size counts it."""
_GOOD: Final = {
    "event_id": "e", "type": "run.abort", "tenant_id": "t", "stack_id": "s", "version": 1,
    "artifact_ref": "a", "checksum": checksum_of(b""), "manifest_checksum": checksum_of(b""),
}  # fmt: skip
"""What takes the place of a wrong value; of other fields that is none."""
_CHECKSUM: Final = "`sha256:` and 64 lower-case hex digits"
_NAME: Final = f"a string of up to {MAX_NAME_CHARS} characters"
_INT64: Final = "an integer of 64 bits, without a point and without quotes"
WANTED: Final = {
    "id": _INT64, "event_id": f"1 to {MAX_NAME_CHARS} printable characters", "tenant_id": _NAME,
    "stack_id": _NAME, "base_version": _INT64, "control_version": "nothing: leave it out",
    "type": f"one of {', '.join(sorted(KNOWN_TYPES))}; --allow-type adds one",
    "version": f"{_INT64}; stack.activated wants one above 0",
    "artifact_ref": "segments joined by single '/', no '.' or '..', at most 1024 bytes",
    "checksum": f"{_CHECKSUM}, of the artifact's data",
    "manifest_checksum": f"{_CHECKSUM}, of its manifest",
    "created_at": "an RFC 3339 time with its zone, such as 2026-11-22T12:00:00Z",
}  # fmt: skip
"""What each field of an event takes."""
_OF_OPTIONS: Final = {Reason.FORBIDDEN_ID, Reason.FORBIDDEN_REF, Reason.UNKNOWN_TYPE}
"""Reasons whose fix may be an option of the workers."""


class Fault(NamedTuple):
    """One thing that is wrong with an event."""

    reason: Reason
    """That of the dead letter, were it the only one."""
    field: str
    """Empty where it is none of one field."""
    problem: str
    fix: str


def faults(raw: bytes, rules: Rules) -> list[Fault]:
    """Return what is wrong with the value of an entry's field `event`, in the order of the checks.

    The first is what the dead letter would say. None: a worker with these rules takes it, and its
    artifact is all that is left to be looked at.
    """
    return list(_faults(raw, rules))


def _faults(raw: bytes, rules: Rules) -> Iterator[Fault]:
    seen: set[tuple[Reason, str]] = set()
    while (rejected := _refusal(raw, rules)) is not None:
        fault = _fault(rejected)
        if (fault.reason, fault.field) in seen:
            return  # it cannot be put right here: what comes after it stays unknown
        seen.add((fault.reason, fault.field))
        yield fault
        if not fault.field:
            return
        rules, raw = _without(rules, fault.reason), _put_right(raw, fault.field)


def _refusal(raw: bytes, rules: Rules) -> Rejected | None:
    nowhere = open_url("memory:")
    try:
        Pipeline(nowhere, nowhere, rules).admit({b"event": raw}, ORIGIN)
    except Rejected as rejected:
        return rejected
    return None


def _fault(rejected: Rejected) -> Fault:
    name, colon, problem = rejected.detail.partition(": ")
    if not colon or name not in FIELDS:
        return Fault(rejected.reason, "", rejected.detail, explain(rejected.reason).fix)
    fix = f"give {name} {WANTED[name]}"
    if rejected.reason in _OF_OPTIONS:
        fix = explain(rejected.reason).fix
    return Fault(rejected.reason, name, problem, fix)


def _without(rules: Rules, reason: Reason) -> Rules:
    """Return the rules without the one that was broken, so that the next can be."""
    if reason is Reason.FORBIDDEN_ID:
        return replace(rules, event_id_scope=())
    if reason is Reason.FORBIDDEN_REF:
        return replace(rules, tenant_scope=())
    return rules


def _put_right(raw: bytes, field: str) -> bytes:
    """Return the event with a good value in one field, whichever way it was spelt."""
    body: dict[str, Any] = json.loads(raw)
    body = {key: value for key, value in body.items() if key.casefold() != field}
    body |= {field: _GOOD[field]} if field in _GOOD else {}
    return json.dumps(body, ensure_ascii=False).encode()

"""Halting a control stream by hand, and resuming it.

Each change is recorded in the stream `{N}:halts`, as `what` (halted, resumed), `stream`, `reason`
and `by`; the worker records there what it halts.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.scripts import run_for_people

FIELDS: Final = ("reason", "since", "by")
BY_ITSELF: Final = "sidecar"
"""Who halts a stream where dead letters come in a row (`bury.lua`)."""
MAX_HALT_RECORDS: Final = 10_000
"""So many records are kept, or a few more."""


class Halt(NamedTuple):
    """Why a control stream is halted, since when (RFC 3339), and who did it."""

    reason: str
    since: str
    by: str


class Change(NamedTuple):
    """What `pause` or `resume` did."""

    changed: bool
    """False when the stream was halted before it was to be paused, or not before resumed."""
    halt: Halt
    """The halt that is in force, or that was lifted; empty when there was none."""
    unrecorded: str
    """Why the change is not on record; empty when it is, or when nothing changed."""


def in_force(client: Client, keys: Keys) -> Halt | None:
    """Return the stream's halt; None while it is not halted."""
    values: Any = client.hmget(keys.halt, FIELDS)
    if values[0] is None:
        return None
    return Halt(*((value or b"").decode(errors="replace") for value in values))


def pause(client: Client, keys: Keys, *, reason: str, by: str, now: str) -> Change:
    """Halt the stream; a halt that is in force already keeps its reason."""
    return _run(client, "pause", keys, reason, now, by)


def resume(client: Client, keys: Keys, *, reason: str, by: str, now: str) -> Change:
    """Lift the halt, if there is one, and note in the same hash who did, when and why."""
    return _run(client, "resume", keys, reason, now, by)


def _run(client: Client, name: str, keys: Keys, *args: str) -> Change:
    answer: Any = run_for_people(
        client, name, [keys.halt, keys.halts], [*args, keys.control, str(MAX_HALT_RECORDS)]
    )
    changed, *texts = answer
    reason, since, who, unrecorded = (part.decode(errors="replace") for part in texts)
    return Change(bool(changed), Halt(reason, since, who), unrecorded)

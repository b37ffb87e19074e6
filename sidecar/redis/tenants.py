"""Pausing one tenant of a control stream, and resuming it. The others continue.

A worker does so where dead letters of one tenant come in a row (`bury.lua`), people do by
`sidecar pause --tenant`. Each change is recorded in the stream `{N}:halts`, as `what` (paused,
unpaused), `stream`, `tenant`, `reason` and `by`, and counted in the field `tenants` of
`{N}:halt:S`: nothing is published by a worker that does not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson

from sidecar.errors import UsageError
from sidecar.redis.bounded import TooMuch
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged
from sidecar.redis.halts import FIELDS, MAX_HALT_RECORDS, Change, Halt
from sidecar.redis.keys import Keys
from sidecar.redis.scripts import run_for_people, script_of

MOST_PAUSED: Final = 10_000
MOST_NOTED_BYTES: Final = 2048
"""So many tenants a worker learns of as paused, and so much of the name and the reason of each."""
MOST_ROWS: Final = 1000
"""So many tenants of a stream have rows of dead letters of their own. Who makes tenants up gets the
stream halted, and fills no memory."""


class Paused(NamedTuple):
    """Which tenants are paused, as of so many changes."""

    changes: bytes
    tenants: Mapping[str, Halt]


def read_paused(client: Client, keys: Keys) -> Paused:
    """Return which tenants are paused, and why. Raises `Damaged` for too many, and `RedisError`.

    The count is read first: what changes in between is seen as a change later.
    """
    changes: Any = client.hget(keys.halt, "tenants")
    try:
        found: Any = client.hgetall(keys.paused)
    except TooMuch:
        raise _too_many(keys, b"too many tenants") from None
    tenants = {tenant.decode(errors="replace"): halt_of(noted) for tenant, noted in found.items()}
    return Paused(changes or b"", tenants)


def all_paused(client: Client, keys: Keys) -> Paused:
    """Return the same for a worker, in bounded memory: who may pause may write there anything.

    Raises `Damaged` where that are more tenants than anybody pauses, and `RedisError`.
    """
    told: Any = script_of(client, "paused")(
        keys=[keys.halt, keys.paused], args=[MOST_PAUSED, MOST_NOTED_BYTES]
    )
    changes, count, *found = told
    if count > MOST_PAUSED:
        raise _too_many(keys, b"%d tenants" % count)
    noted = dict(zip(found[::2], found[1::2], strict=True))
    return Paused(
        changes, {who.decode(errors="replace"): halt_of(why) for who, why in noted.items()}
    )


def _too_many(keys: Keys, found: bytes) -> Damaged:
    fix = f"no more than {MOST_PAUSED:,} can be paused; DEL it, and pause whom you mean"
    return Damaged(keys.paused, found, fix)


def pause_tenant(
    client: Client, keys: Keys, *, tenant: str, reason: str, by: str, now: str
) -> Change:
    """Pause a tenant; one that is paused already keeps its reason. Raises `RedisError`."""
    noted = orjson.dumps(Halt(reason, now, by)._asdict())
    return _change(*run(client, "pause_tenant", keys, reason, now, by, tenant, noted, ""))


def resume_tenant(
    client: Client, keys: Keys, *, tenant: str, reason: str, by: str, now: str
) -> Change:
    """Let a tenant continue, and count its dead letters in a row anew.

    Raises `Held` for one that is being erased, and `RedisError`.
    """
    answer = run(client, "resume_tenant", keys, reason, now, by, tenant, "")
    if answer[0] < 0:
        raise Held(tenant, answer[1])
    return _change(*answer)


class Held(UsageError):
    """A tenant is being erased, so its pause is the erasure's."""

    def __init__(self, tenant: str, noted: bytes) -> None:
        """`noted` is what is noted of the pause."""
        said = holder_of(noted) or {}
        since, by = (str(said.get(name, "")) for name in ("since", "by"))
        super().__init__(
            f"the tenant {tenant!r} is being erased since {since} by {by}, and stays paused until"
            " that has ended: wait; if that run was killed, `sidecar tenant erase` with --continue"
            " does the rest"
        )


def holder_of(noted: bytes) -> dict[str, Any] | None:
    """Return what a pause's note says of the erasure that has it; None when none has."""
    with suppress(ValueError, TypeError, KeyError):
        said = orjson.loads(noted)["erasure"]
        return said if isinstance(said, dict) else {}
    return None


def run(
    client: Client, name: str, keys: Keys, reason: str, now: str, by: str, *args: str | bytes
) -> tuple[int, bytes, bytes]:
    """Run the script; return its answer: what changed, the note, why it is not on record."""
    answer: Any = run_for_people(
        client, name, [keys.halt, keys.halts, keys.paused, keys.rows],
        [reason, now, by, keys.control, str(MAX_HALT_RECORDS), *args],
    )  # fmt: skip
    changed, noted, unrecorded = answer
    return changed, noted, unrecorded


def _change(changed: int, noted: bytes, unrecorded: bytes) -> Change:
    return Change(bool(changed), halt_of(noted), unrecorded.decode(errors="replace"))


def halt_of(noted: bytes) -> Halt:
    """Return what is noted of a pause. What no sidecar wrote there pauses, too, and is shown."""
    try:
        said = orjson.loads(noted)
        return Halt(*(str(said[field]) for field in FIELDS))
    except (ValueError, TypeError, KeyError):
        return Halt(noted.decode(errors="replace"), "", "")

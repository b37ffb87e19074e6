"""Why an event of a control stream has not ended yet, for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from sidecar.redis.client import Client, Side
from sidecar.redis.damage import low_of, or_else
from sidecar.redis.groups import position_of
from sidecar.redis.halts import in_force
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held, Member, registered_workers
from sidecar.redis.scan import pages
from sidecar.redis.source import Entry
from sidecar.redis.tenants import read_paused
from sidecar.wire.event import Rejected, decode, named
from sidecar.wire.ids import FIRST, EntryId

MOST_SCANNED: Final = 10_000
"""So many unfinished entries are looked through."""

IsMeant = Callable[[Mapping[bytes, bytes]], bool]
"""Tells whether a control entry is of the event."""


def unfinished(
    control: Side, notify: Client, keys: Keys, is_meant: IsMeant, first: EntryId = FIRST
) -> Entry | None:
    """Return the entry of the event among those from `first` on that may be unfinished.

    Raises `RedisError`.
    """
    low = or_else(None, lambda: low_of(notify, keys)) or FIRST
    found = pages(control.at(keys.control), keys.control, max(low, first))
    entries = islice((entry for page in found for entry in page), MOST_SCANNED)
    return next((entry for entry in entries if is_meant(entry.fields)), None)


def held_up_by(
    control: Side, notify: Client, keys: Keys, is_meant: IsMeant, at: EntryId | None
) -> str:
    """Say what the event waits for; nothing when the control stream does not have it.

    `at` is its entry, if that is known. Raises `RedisError`.
    """
    entry = _entry(control, keys, at) if at else unfinished(control, notify, keys, is_meant)
    if entry is None:
        return ""
    return next(_reasons(control, notify, keys, entry))


def _entry(control: Side, keys: Keys, at: EntryId) -> Entry | None:
    for page in pages(control.at(keys.control), keys.control, at, at, page=1):
        return page[0]
    return None


def _reasons(control: Side, notify: Client, keys: Keys, entry: Entry) -> Iterator[str]:
    tenant, event_id = _names(entry)
    if halt := in_force(notify, keys):
        yield f"{keys.control} is halted since {halt.since} by {halt.by}: {halt.reason}"
    if paused := read_paused(notify, keys).tenants.get(tenant):
        since = f"since {paused.since} by {paused.by}"
        yield f"the tenant {tenant!r} is paused {since}: {paused.reason}"
    workers = [one for one in registered_workers(notify, keys) if keys.control in one.serves]
    if not workers:
        yield f"no worker serves {keys.control}"
    yield from map(_held, _holds(workers, keys, tenant, event_id))
    yield _place(control, keys, entry.id)


def _names(entry: Entry) -> tuple[str, str]:
    try:
        event = decode(entry.fields)[0]
    except Rejected:
        return named(None, entry.fields)
    return event.tenant_id, event.event_id


def _holds(workers: list[Member], keys: Keys, tenant: str, event_id: str) -> list[Held]:
    """Return what is held back of this tenant, the event itself first."""
    held = [one for worker in workers for one in worker.held if one.stream == keys.control]
    mine = [one for one in held if one.tenant_id == tenant]
    return sorted(mine, key=lambda one: one.event_id != event_id)


def _held(one: Held) -> str:
    again = "for as long as that lasts" if one.outage else f"and is tried again at {one.next_at}"
    return f"held back: {one.event_id} was tried {one.attempts} times, {again}: {one.error}"


def _place(control: Side, keys: Keys, entry: EntryId) -> str:
    client = control.at(keys.control)
    position = position_of(client, keys.control, keys.group) or FIRST
    if entry <= position:
        return "a worker has read it and works on it"
    ahead = client.xrange(keys.control, position.after, entry, count=MOST_SCANNED) or []
    count = f"{len(ahead) - 1:,}" if len(ahead) < MOST_SCANNED else f"{MOST_SCANNED:,} or more"
    return f"no worker has read it yet: {count} entries are before it in {keys.control}"

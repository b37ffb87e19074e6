"""Which events of a tenant have not ended yet, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from sidecar.ops.asking import Asked
from sidecar.ops.backlog import Backlog
from sidecar.redis.census import GROUP_PREFIX, text_of
from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.groups import delivered, groups_at
from sidecar.redis.holdups import held_up_by
from sidecar.redis.keys import Keys
from sidecar.redis.scan import pages
from sidecar.redis.source import Entry
from sidecar.wire.event import Rejected, decode, named
from sidecar.wire.ids import FIRST, Origin


class Relayed(NamedTuple):
    """A control stream, and where its events go."""

    control: Side
    notify: Side
    keys: Keys


class Unended(NamedTuple):
    """An event that has not ended."""

    origin: Origin
    event_id: str
    why: str


def relayed(asked: Sequence[Asked]) -> list[Relayed]:
    """Return every control stream that was found, with each notification stream that it leads to.

    Raises `Unreachable` and `UsageError`.
    """
    found: dict[tuple[str, str, str, str], Relayed] = {}
    for one in asked:
        census = one.registrar.take()
        for stream in sorted(census.control):
            for keys in _keys(one, stream, sorted(census.notifications)):
                place = (one.control.url, one.notify.url, keys.control, keys.notifications)
                found[place] = Relayed(one.control, _at(one.notify, keys), keys)
    return list(found.values())


def _at(notify: Side, keys: Keys) -> Side:
    return Side(notify.at(keys.notifications), notify.url)


def _keys(asked: Asked, stream: bytes, notifications: Sequence[bytes]) -> list[Keys]:
    with translated(asked.control.url):
        groups = groups_at(asked.control.at(stream), stream)
    names = [one["name"] for one in groups if one["name"].startswith(GROUP_PREFIX)]
    leads = {name.removeprefix(GROUP_PREFIX) for name in names}
    with translated(asked.notify.url):
        for name in notifications:
            fence = Keys.of(text_of(stream), text_of(name)).fence
            leads.update([name] if asked.notify.at(fence).exists(fence) else [])
    # What no worker has read yet waits for the next one.
    return [Keys.of(text_of(stream), text_of(one)) for one in sorted(leads or notifications[:1])]


def waiting(one: Relayed, tenant: str) -> Iterator[Unended]:
    """Yield the tenant's events that have not ended, each once. Raises `Unreachable`."""
    seen = set()
    for entry in _unfinished(one):
        whose, event_id = _names(entry)
        if whose == tenant and entry.id not in seen:
            seen.add(entry.id)
            with translated(one.notify.url):
                why = held_up_by(one.control, one.notify.client, one.keys, bool, entry.id)
            yield Unended(Origin.of(one.keys.control, entry.id), event_id, why)


def _unfinished(one: Relayed) -> Iterator[Entry]:
    control, stream = one.control.at(one.keys.control), one.keys.control
    after = delivered(one.control, one.notify, one.keys)
    with translated(one.control.url):
        backlog = Backlog(control, one.notify.client, one.keys, ())
        after = backlog.end if backlog.end != FIRST else after
        unread = pages(control, stream, after.after)
        yield from chain.from_iterable(chain(backlog.entries(), unread))


def _names(entry: Entry) -> tuple[str, str]:
    try:
        return named(decode(entry.fields)[0], entry.fields)
    except Rejected:
        return named(None, entry.fields)

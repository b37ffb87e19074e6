"""What is gathered from Redis and from disks. Each function costs a few commands or system calls.

Methods and functions raise `RedisError`, and what a store raises.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sidecar.lines import visible
from sidecar.redis.archived import archived_to
from sidecar.redis.client import Client
from sidecar.redis.damage import low_of, or_else
from sidecar.redis.groups import group_of
from sidecar.redis.keys import Keys
from sidecar.redis.lag import is_beyond, is_doubtful, lag_of
from sidecar.redis.memory import memories
from sidecar.redis.parts import sizes
from sidecar.redis.readers import Reader, swept
from sidecar.redis.room import no_room
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.times import age_s, contradicted
from sidecar.telemetry import catalogue as c
from sidecar.telemetry.added import added
from sidecar.telemetry.gathered import Sample
from sidecar.telemetry.growth import Growth
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.logbook import registered
from store import ConfigError, Store, VersionedStore
from store.urls import directory_of

MOST_READERS: Final = 20
"""So many readers have series of their own: those that are furthest behind."""
LOOK_AT_TIMES_S: Final = 60.0
"""So often it is looked whether a stream's IDs are times: that reads a hundred notifications."""


class Streams:
    """The streams of a deployment: what waits, and whether they take more."""

    def __init__(
        self, controls: Mapping[str, Client], notify: Client, keys: Sequence[Keys],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`controls` by control stream."""
        self._controls, self._notify, self._keys, self._clock = controls, notify, keys, clock
        self._untimed: set[str] = set()
        self._look_at = clock()

    def gather(self) -> Iterator[Sample]:
        """Yield what is to be known of every stream."""
        if self._clock() >= self._look_at:
            look = partial(contradicted, self._notify, self._keys[0])
            self._untimed = or_else(set(), look)
            self._look_at = self._clock() + LOOK_AT_TIMES_S
        for keys in self._keys:
            client = self._controls[keys.control]
            yield from _apart(_size(client, keys.control, "control"))
            yield from _apart(self._backlog(client, keys))
        one = self._keys[0]
        yield from _apart(_size(self._notify, one.notifications, "notifications"))
        yield from _apart(_size(self._notify, one.dead, "dead"))

    def _backlog(self, client: Client, keys: Keys) -> Iterator[Sample]:
        stream, group = keys.control, group_of(client, keys.control, keys.group)
        if group is None:
            return
        position = EntryId(group["last-delivered-id"].decode())
        pending: Any = client.xpending(stream, keys.group)
        oldest = EntryId(pending["min"].decode()) if pending["min"] else None
        yield Sample(c.PENDING, int(pending["pending"]), (stream,))
        lag = self._lag(client, keys, group, position, oldest)
        if lag is not None:
            yield Sample(c.LAG_ENTRIES, lag, (stream,))
        if stream not in self._untimed:
            now_us = server_time_us(client)
            unread = _first(client, stream, position.after)
            yield from _age(c.UNREAD_AGE, stream, unread, now_us)
            yield from _age(c.PENDING_AGE, stream, oldest, now_us)

    def _lag(
        self, client: Client, keys: Keys, group: Mapping[str, Any], position: EntryId,
        oldest: EntryId | None,
    ) -> int | None:  # fmt: skip
        info, low = stream_info(client, keys.control), low_of(self._notify, keys)
        if info is None or is_beyond(position, info.last_id):
            return None
        if low is not None and is_doubtful(client, keys.control, low, position, oldest):
            return None
        return lag_of(client, keys, group, info)


def _apart(samples: Iterator[Sample]) -> list[Sample]:
    """Return samples; none where a key is damaged: who needs it tells, and it hides no other."""
    return or_else([], partial(list[Sample], samples))


def _size(client: Client, stream: str, kind: str) -> Iterator[Sample]:
    yield Sample(c.STREAM_ENTRIES, int(client.xlen(stream)), (stream, kind))
    is_full = bool(no_room(client, stream, kind))
    yield Sample(c.NO_ROOM, is_full, (stream,))


def _first(client: Client, stream: str, since: EntryId) -> EntryId | None:
    """Return the ID of the first entry from `since` on."""
    found: Any = client.xrange(stream, since, LAST, count=1)
    return EntryId(found[0][0].decode()) if found else None


def _age(meter: c.Meter, label: str, entry_id: EntryId | None, now_us: int) -> Iterator[Sample]:
    """Yield the age of an entry, 0 of none; nothing where its ID is no time."""
    age = age_s(entry_id, now_us) if entry_id else 0.0
    if age is not None:
        yield Sample(meter, age, (label,))


class ReadersBehind:
    """How far registered readers are behind."""

    def __init__(self, notify: Client, keys: Keys) -> None:
        self._notify, self._keys = notify, keys
        self._growth = Growth()

    def gather(self) -> Iterator[Sample]:
        """Yield how many readers there are, and how far the last of them are behind."""
        readers = swept(self._notify, self._keys)
        alive = [one for one in readers.good if not one.expired]
        counts = {"good": len(alive) + readers.more, "expired": len(readers.good) - len(alive),
                  "damaged": len(readers.bad)}  # fmt: skip
        yield from (Sample(c.READERS, count, (state,)) for state, count in counts.items())
        info = stream_info(self._notify, self._keys.notifications)
        if info:
            self._growth.note(info)
        now_us = server_time_us(self._notify)
        for reader in sorted(alive, key=lambda one: one.control_version)[:MOST_READERS]:
            yield from self._lag(reader, now_us)

    def _lag(self, reader: Reader, now_us: int) -> Iterator[Sample]:
        after = EntryId.of_version(reader.control_version + 1)
        first = _first(self._notify, self._keys.notifications, after)
        name = visible(reader.name)
        yield from _age(c.READER_LAG, name, first, now_us)
        count = self._growth.since(reader.control_version) if first else 0
        if count is not None:
            yield Sample(c.READER_LAG_ENTRIES, count, (name,))


def servers(
    clients: Mapping[str, Client], wall_clock: Callable[[], float] = time.time
) -> Iterator[Sample]:
    """Yield memory and clock of each server, by what it is for."""
    for server, client in clients.items():
        before = wall_clock()
        at = server_time_us(client) / 1e6
        yield Sample(c.CLOCK, at - (before + wall_clock()) / 2, (server,))
        for memory in memories([(server, client)]):
            yield Sample(c.MEMORY_USED, memory.used_bytes, (server,))
            yield Sample(c.MEMORY_MAX, memory.max_bytes, (server,))


def parts(controls: Mapping[str, Client], notify: Client, keys: Sequence[Keys]) -> Iterator[Sample]:
    """Yield how much memory each part takes in Redis, if that may be asked."""
    found = sizes(controls, notify, keys)
    for name, size_bytes in (found.by_name if found else {}).items():
        yield Sample(c.MEMORY_PART, size_bytes, (name,))


def archive(
    controls: Mapping[str, Client], notify: Client, all_keys: Sequence[Keys], every_s: float
) -> Iterator[Sample]:
    """Yield how far the archive of each stream is behind; `every_s` is 0 without an archive."""
    yield Sample(c.ARCHIVE_INTERVAL, every_s)
    if not every_s:
        return
    streams = {keys.control: (controls[keys.control], keys) for keys in all_keys}
    one = all_keys[0]
    streams |= dict.fromkeys((one.notifications, one.dead), (notify, one))
    for stream, (client, keys) in streams.items():
        yield from _apart(_archived(client, notify, keys, stream))


def _archived(client: Client, notify: Client, keys: Keys, stream: str) -> Iterator[Sample]:
    mark = archived_to(client, notify, keys, stream)
    first = _first(client, stream, mark.after if mark else FIRST)
    yield from _age(c.ARCHIVE_LAG, stream, first, server_time_us(client))


def disks(urls: Mapping[str, str]) -> Iterator[Sample]:
    """Yield how much is free where file stores are; `urls` by what the store is for."""
    for name, url in urls.items():
        with suppress(ConfigError):
            yield from _disk(name, directory_of(url) if "file:" in url else "")


def _disk(name: str, directory: str) -> Iterator[Sample]:
    if not directory:
        return
    found = os.statvfs(directory)
    yield Sample(c.STORE_FREE, found.f_bavail * found.f_frsize, (name,))
    yield Sample(c.STORE_SIZE, found.f_blocks * found.f_frsize, (name,))
    if found.f_files:
        yield Sample(c.INODES_FREE, found.f_favail, (name,))
        yield Sample(c.INODES, found.f_files, (name,))


def growth(notify: Client, stream: str, fleet: Store, unkept: Sequence[str]) -> Iterator[Sample]:
    """Yield what a day adds to the stores `unkept`, for which no keep rule is followed."""
    found = added(notify, stream, fleet) if unkept else None
    if found is None:
        return
    for name in unkept:
        yield Sample(c.ADDED_REFS, found.refs, (name,))
        if found.size_bytes is not None:
            yield Sample(c.ADDED_BYTES, found.size_bytes, (name,))


def logs(fleet: VersionedStore | None) -> Iterator[Sample]:
    """Yield how many logs publish into the fleet store, if it can tell."""
    if fleet is not None:
        known = sum(1 for log in registered(fleet) if not log.forgotten)
        yield Sample(c.STORE_LOGS, known)

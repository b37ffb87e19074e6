"""Which artifacts someone may still need: those that any event in Redis names.

The streams are read in this order: dead letters, control streams, then what came to either
meanwhile, notifications last. For events move while they are read: from a control stream to the
notifications or to the dead letters, and by redriving from there back. Each move appends before
anything is removed, so an event is in one of the three at any time, and read in this order it is
met at least once, though it moves twice meanwhile. What is met twice, or done already, does no
harm: something that could have gone is kept a little longer.

Memory stays constant: pins are yielded as they are read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, NamedTuple

from sidecar.errors import UsageError
from sidecar.redis.census import Census, Registrar, bytes_of, text_of
from sidecar.redis.client import Client, Side
from sidecar.redis.errors import translated
from sidecar.redis.groups import groups_at
from sidecar.redis.keys import GROUP, Keys
from sidecar.redis.scan import pages, stream_info
from sidecar.wire.erasures import erasures_of
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.urls import redact
from store import Corrupt, InvalidRef, Pin, Store, VersionedStore, check_ref

PAGE: Final = 200
"""Entries read at a time: each may have 16 KiB, or more while nobody has buried it."""

_CHECKSUM: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Pins:
    """Call it for the pins of every event in Redis, as `VersionedStore.collect` takes them.

    Attributes:
        streams: how many streams the last call read.
        read: how many pins it has yielded so far.

    """

    def __init__(self, control: Side, notify: Side, registrar: Registrar) -> None:
        self._control = control
        self._notify = notify
        self._registrar = registrar
        self._next: dict[tuple[str, bytes], EntryId] = {}
        self.streams = 0
        self.read = 0

    def __call__(self) -> Iterator[Pin]:
        """Yield a pin for each artifact that an event names.

        Raises `Unreachable` when a server goes away or lost something meanwhile, and `UsageError`
        when it looks like the wrong one: it never just ends early.
        """
        self.read = 0
        for fields in self.events():
            for pin in pins_of(fields):
                self.read += 1
                yield pin

    def events(self) -> Iterator[Mapping[bytes, bytes]]:
        """Yield the fields of every entry. Raises as when it is called."""
        census = self._registrar.take()
        self.streams = len(census.control) + len(census.notifications) + len(census.dead)
        self._next.clear()
        for side, streams in self._rounds(census):
            for stream in sorted(streams):
                yield from self._entries(side, stream)
        self._registrar.confirm()

    def _rounds(self, census: Census) -> Iterator[tuple[Side, set[bytes]]]:
        """Yield which streams are read one after the other: see above."""
        for _ in range(2):
            yield self._notify, census.dead
            yield self._control, census.control
        yield self._notify, census.notifications

    def announced(self) -> Iterator[Announced]:
        """Yield what each notification announces, a stream after the other, oldest first.

        Raises as when it is called. What cannot be decoded announces nothing.
        """
        census = self._registrar.take()
        self._next.clear()
        for stream in sorted(census.notifications):
            for fields in self._entries(self._notify, stream):
                if found := announced(fields, stream):
                    yield found
        self._registrar.confirm()

    def now_s(self) -> float:
        """Return the earliest of the clocks of this host and of the servers with notifications.

        By INFO: who collects may send that, and not TIME. Raises `Unreachable`.
        """
        with translated(self._notify.url):
            infos: list[Any] = [node.info("server") for node in self._notify.nodes().values()]
        return min(time.time(), *(int(info["server_time_usec"]) / 1e6 for info in infos))

    def _entries(self, side: Side, stream: bytes) -> Iterator[Mapping[bytes, bytes]]:
        """Yield what is in the stream now and was not read before."""
        place = side.url, stream
        with translated(side.url):
            client = side.at(stream)
            info = stream_info(client, stream)
            if info is None:
                return  # `confirm` will tell
            first = self._next.get(place) or self._first(client, stream)
            for page in pages(client, stream, first, info.last_id, page=PAGE):
                for entry in page:
                    yield entry.fields
        self._next[place] = info.last_id.after

    def _first(self, client: Client, stream: bytes) -> EntryId:
        """Return from where on a stream is read."""
        del client, stream
        return FIRST


class UnfinishedPins(Pins):
    """Call it for the pins of what may be read at its source again: dead letters, and of control
    streams all from the lowest entry on that any worker's group has not finished.
    """

    _census = Census()

    def _rounds(self, census: Census) -> Iterator[tuple[Side, set[bytes]]]:
        self._census = census
        for _ in range(2):
            yield self._notify, census.dead
            yield self._control, census.control

    def _first(self, client: Client, stream: bytes) -> EntryId:
        """Return the lowest entry that is not finished; the oldest where a group does not tell."""
        if stream not in self._census.control:
            return FIRST
        lowest: list[EntryId] = []
        groups = groups_at(client, stream)
        if self._lacks_a_group(stream, {group["name"] for group in groups}):
            return FIRST
        for group in groups:
            if group["name"].startswith(GROUP.encode()):
                # Asked after the group's position, so that what is handed out meanwhile is above.
                pending: Any = client.xpending(stream, group["name"])
                lowest.append(EntryId(group["last-delivered-id"].decode()).after)
                lowest += [EntryId(pending["min"].decode())] if pending["min"] else []
        return min(lowest, default=FIRST)

    def _lacks_a_group(self, stream: bytes, there: set[bytes]) -> bool:
        """Tell whether a fleet's worker has held the stream whose group is lost."""
        keys = [Keys.of(text_of(stream), text_of(name)) for name in self._census.notifications]
        fences = [bytes_of(one.fence) for one in keys if bytes_of(one.group) not in there]
        return any(self._notify.at(fence).exists(fence) for fence in fences)


class Announced(NamedTuple):
    """What a notification says, as far as it tells what a ref is to its subject."""

    stream: bytes
    ref: str
    subject: tuple[str, str]
    """Tenant and stack; both are empty where the ref is a subject of its own."""
    version: int


def announced(fields: Mapping[bytes, bytes], stream: bytes) -> Announced | None:
    """Return what a notification announces; None when it names no ref, or cannot be decoded."""
    with suppress(ValueError, RecursionError):
        body = json.loads(fields.get(b"event", b""))
        if isinstance(body, dict) and isinstance(ref := body.get("artifact_ref"), str):
            tenant, stack, version = (body.get(n) for n in ("tenant_id", "stack_id", "version"))
            subject = (str(tenant or ""), str(stack)) if stack else ("", "")
            return Announced(stream, ref, subject, version if isinstance(version, int) else 0)
    return None


def pins_of(fields: Mapping[bytes, bytes]) -> list[Pin]:
    """Return what an entry of any of the streams names; nothing when it cannot be decoded.

    More leniently than any sidecar: an event that breaks a rule of this version, or names its
    artifacts in some deeper place, may be one that a newer version can do.
    """
    found: list[Pin] = []
    with suppress(ValueError, RecursionError):  # what was read so far is kept all the same
        json.loads(
            fields.get(b"event", b"").decode(errors="replace"),
            object_hook=lambda body: found.extend(_pin_of(body)),
        )
    return found


def _pin_of(body: Mapping[str, Any]) -> Iterator[Pin]:
    ref, checksum = body.get("artifact_ref"), _checksum_of(body, "checksum")
    if not isinstance(ref, str) or checksum is None:
        return
    try:
        check_ref(ref)
    except InvalidRef:
        return  # no store holds it
    yield Pin(ref, checksum, _checksum_of(body, "manifest_checksum"))


def _checksum_of(body: Mapping[str, Any], field: str) -> str | None:
    value = body.get(field)
    return value if isinstance(value, str) and _CHECKSUM.fullmatch(value) else None


class CheckedPins:
    """Pins of a log that is known to name this store; another fleet's Redis would pin nothing here.

    Call it as the pins that it wraps, of one log or several. Raises `UsageError` when there were
    some and the store has not one of them, and never had one that was erased since.
    """

    def __init__(
        self, store: VersionedStore, pins: Sequence[Pins], url: str,
        fleet: Callable[[], Store | None] = lambda: None,
    ) -> None:  # fmt: skip
        """`fleet` opens the fleet's store, which has the records of erasures."""
        self._store = store
        self._pins = pins
        self._url = url
        self._fleet = cache(fleet)

    def __call__(self) -> Iterable[Pin]:
        """Yield the pins; raise rather than end when none was for this store."""
        acquainted = False
        read = 0
        for pins in self._pins:
            for pin in pins():
                acquainted = acquainted or self._has(pin)
                yield pin
            read += pins.read
        if read and not acquainted:
            raise UsageError(
                f"the events on {redact(self._url)} name {read} artifacts, and this"
                " store has none of them: is that its fleet's Redis (--redis, --notify-redis)? what"
                " was erased with its tenant is on record in the fleet's store: name that, too"
                " (--fleet-store); if no log names this store any more, say --without-stream;"
                " nothing was removed"
            )

    def announced(self) -> Iterator[Announced]:
        """Yield what the notifications of all logs announce. Raises as the pins."""
        for pins in self._pins:
            yield from pins.announced()

    def now_s(self) -> float:
        """Return the earliest of the clocks of this host and of the servers."""
        return min(pins.now_s() for pins in self._pins)

    def _has(self, pin: Pin) -> bool:
        """Tell whether the store has it, or had it until its tenant was erased."""
        try:
            there = self._store.exists(pin.ref, checksum=pin.checksum)
        except Corrupt:
            return True
        return there or any(
            store and erasures_of(store).find(pin.ref, pin.checksum or "")
            for store in (self._store, self._fleet())
        )

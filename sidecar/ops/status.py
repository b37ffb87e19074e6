"""The state of a deployment, read from Redis. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.ops.growing import Growing
from sidecar.ops.missing import unknown
from sidecar.redis.client import Client, Side, check_stream
from sidecar.redis.damage import garbage, misplaced, or_else, trimmed_of
from sidecar.redis.errors import translated
from sidecar.redis.fleet import Noted, noted
from sidecar.redis.forgotten import Forgotten, newest_records
from sidecar.redis.groups import group_of
from sidecar.redis.halts import Halt, in_force
from sidecar.redis.keepers import Keeper, keepers
from sidecar.redis.keys import Keys, groups_of
from sidecar.redis.lag import is_beyond, is_doubtful, lag_of
from sidecar.redis.letters import DeadLetters
from sidecar.redis.members import Member, damaged_workers, holder, registered_workers
from sidecar.redis.memory import Memory, memories
from sidecar.redis.parts import Parts, sizes
from sidecar.redis.readers import Readers
from sidecar.redis.readers import registered as registered_readers
from sidecar.redis.room import without_room
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.takeovers import Takeover, newest_takeovers
from sidecar.redis.tenants import Paused, read_paused
from sidecar.redis.times import age_s, contradicted
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.urls import redact

MAX_LETTERS: Final = 10_000
PAGE_LETTERS: Final = 1000
"""Of these the reasons are counted where it is done every few seconds."""
MAX_FORGOTTEN: Final = 5
MAX_TAKEOVERS: Final = 10


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """One control stream. What is unknown, or is not there, is None."""

    stream: str
    exists: bool
    length: int
    last_id: EntryId | None
    ids_are_times: bool
    """Whether nothing speaks against it: a producer may give IDs of its own."""
    group: bool
    """Whether a worker has ever read it for this notification stream."""
    lag: int | None
    """Entries that nobody has read yet."""
    position_beyond_end: bool
    """Whether someone set the group's position where nothing is read, until a worker notices."""
    pending: int
    """Entries read, but not finished."""
    pending_by_consumer: dict[str, int]
    """All but those of `worker` were read by somebody else; a worker takes them over."""
    oldest_pending: str | None
    oldest_pending_age_s: float | None
    """Since that entry was appended; None where its ID tells no time (`redis.times`)."""
    lowest_unfinished: str | None
    owner: str | None
    """The worker that holds the fence, host:pid, as long as it tells of itself."""
    owner_alive: bool
    lease_remaining_ms: int | None
    halt: Halt | None
    paused: dict[str, Halt]
    """By tenant, why it alone is paused."""
    dead_in_a_row: int


@dataclass(frozen=True, slots=True)
class NotifyStatus:
    """The notification stream."""

    stream: str
    exists: bool
    length: int
    last_control_version: int | None
    last_age_s: float | None
    trimmed: int
    """The control_version up to which notifications have been trimmed; 0 is never."""


@dataclass(frozen=True, slots=True)
class DeadStatus:
    """The dead-letter stream."""

    stream: str
    length: int
    by_reason: dict[str, int]
    counted: int
    """How many of the newest letters `by_reason` has counted."""


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """One registered reader of the notifications."""

    name: str
    control_version: int
    """It needs nothing up to here."""
    silent_s: float
    """Since it was last heard of."""
    expired: bool
    """It protects nothing any more."""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that `sidecar status` shows."""

    streams: list[ControlStatus]
    notifications: NotifyStatus
    dead: DeadStatus
    readers: list[ReaderStatus]
    workers: list[Member]
    """The workers that registered of late."""
    takeovers: list[Takeover]
    """The newest, by which a worker that stood by serves a stream; the newest first."""
    fleet: Noted
    """Which store the notifications name."""
    forgotten: list[Forgotten]
    """What Redis was found to have forgotten, the newest first."""
    damaged: list[str]
    """Keys that hold what no sidecar wrote, and streams that take no more, each with its fix."""
    kept: list[Keeper]
    """Groups of others that keep streams from being trimmed."""
    unknown: list[str]
    """Which of the streams are not there, or not served, and what else there is."""
    memory: list[Memory]
    """Of each server, as far as it may be asked."""
    growing: Growing | None = None
    """What a day adds to the stores; None where that was not asked."""
    parts: Parts | None = None
    """Bytes in Redis by part, about; None where that was not asked, or may not be."""

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """What a person must not overlook: in a word, and in full."""
        forgotten = [("REDIS FORGOT", str(one)) for one in self.forgotten]
        full = [("REDIS IS FULL", str(one)) for one in self.memory if one.is_full]
        kept = [("NOT TRIMMED", str(one)) for one in self.kept]
        untimed = [("NO TIMES", _no_times(s.stream)) for s in self.streams if not s.ids_are_times]
        wrong = [("WRONG NAME?", one) for one in self.unknown]
        damaged = [("DAMAGED", one) for one in self.damaged]
        return [*wrong, *forgotten, *full, *untimed, *kept, *damaged]

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        found = asdict(self)
        for stream in found["streams"]:
            if stream["halt"] is not None:
                stream["halt"] = stream["halt"]._asdict()
            stream["paused"] = {who: why._asdict() for who, why in stream["paused"].items()}
        found["kept"] = [one._asdict() for one in self.kept]
        found["memory"] = [asdict(one) | {"full": one.is_full} for one in self.memory]
        found["forgotten"] = [one.to_json() for one in self.forgotten]
        for worker in found["workers"]:
            worker |= {"serves": sorted(worker["serves"]), "owns": sorted(worker["owns"])}
            worker["held"] = [one._asdict() for one in worker["held"]]
        return found


def _no_times(stream: str) -> str:
    return (
        f"the newest entry IDs of {stream} are not of the server's clock, for a producer gives its"
        " own (row numbers, seconds, microseconds): --trim-control age=… trims none of them; use"
        " length=…, or have the producer append with *"
    )


def collect(control: Side, notify: Side, keys: list[Keys], *, letters: int = MAX_LETTERS) -> Status:
    """Read the state of the streams in `keys`, which share one notification stream.

    Reasons are counted of the newest `letters`.

    Raises `Unreachable`, and `UsageError` for a key that is no stream.
    """
    for one in keys:
        check_stream(control.at(one.control), control.url, one.control)
    check_stream(notify.client, notify.url, keys[0].notifications)
    check_stream(notify.client, notify.url, keys[0].dead)
    with translated(control.url):
        now_us = server_time_us(control.client)
        reads = [_read_side(control.at(one.control), one, now_us) for one in keys]
    with translated(notify.url):
        workers, holders = _workers(notify.client, keys)
        sides = [_notify_side(notify.client, one, holders[one.control]) for one in keys]
        untimed = contradicted(notify.client, keys[0])
    with translated(control.url):
        for read, side, one in zip(reads, sides, keys, strict=True):
            _doubt_lag(control.at(one.control), read, side)
            if one.control in untimed:
                read["oldest_pending_age_s"], read["ids_are_times"] = None, False
    damaged = _damaged(control, notify, keys)
    with translated(notify.url):
        streams = [ControlStatus(**read, **side) for read, side in zip(reads, sides, strict=True)]
        readers = or_else(Readers([], []), partial(registered_readers, notify.client, keys[0]))
        return Status(
            streams, _notifications(notify.client, keys[0]), _dead(notify.client, keys[0], letters),
            _readers(notify.client, readers),
            workers,
            or_else([], partial(newest_takeovers, notify.client, keys, MAX_TAKEOVERS)),
            or_else(Noted(None, None, None), partial(noted, notify.client, keys[0])),
            newest_records(notify.client, keys, MAX_FORGOTTEN),
            [*damaged, *map(str, readers.bad), *_uncounted(readers)], _kept(control, notify, keys),
            unknown(control, notify, keys), _memories(control, notify, keys),
        )  # fmt: skip


def _kept(control: Side, notify: Side, keys: list[Keys]) -> list[Keeper]:
    with translated(control.url):
        found = [
            keeper
            for one in keys
            for keeper in keepers(control.at(one.control), one.control, groups_of(one))
        ]
    with translated(notify.url):
        for stream in (keys[0].notifications, keys[0].dead):
            found += keepers(notify.client, stream)
    return found


def memory_by_part(control: Side, notify: Side, keys: list[Keys]) -> Parts | None:
    """Return about how many bytes streams, index and other keys take in Redis; None if unknown.

    Raises `Unreachable`.
    """
    controls = {one.control: control.at(one.control) for one in keys}
    with translated(notify.url):
        return sizes(controls, notify.client, keys)


def _memories(control: Side, notify: Side, keys: list[Keys]) -> list[Memory]:
    controls = [(redact(control.url), control.at(one.control)) for one in keys]
    with translated(control.url):
        return memories([*controls, (redact(notify.url), notify.client)])


def _read_side(client: Client, keys: Keys, now_us: int) -> dict[str, Any]:
    info = stream_info(client, keys.control)
    group = group_of(client, keys.control, keys.group) if info else None
    found: dict[str, Any] = {
        "stream": keys.control, "exists": info is not None, "length": info.length if info else 0,
        "last_id": info.last_id if info else None,
        "ids_are_times": not (info and info.length) or age_s(info.last_id, now_us) is not None,
        "group": group is not None, "lag": None,
        "position_beyond_end": False, "pending": 0, "pending_by_consumer": {},
        "oldest_pending": None, "oldest_pending_age_s": None, "position": FIRST,
    }  # fmt: skip
    if group is None or info is None:
        return found
    found["position"] = position = EntryId(group["last-delivered-id"].decode())
    found["position_beyond_end"] = is_beyond(position, info.last_id)
    found["lag"] = None if found["position_beyond_end"] else lag_of(client, keys, group, info)
    return found | _pending(client, keys, now_us)


def _pending(client: Client, keys: Keys, now_us: int) -> dict[str, Any]:
    pending: Any = client.xpending(keys.control, keys.group)
    oldest = EntryId(pending["min"].decode()) if pending["min"] else None
    return {
        "pending": int(pending["pending"]),
        "pending_by_consumer": {
            one["name"].decode(errors="backslashreplace"): int(one["pending"])
            for one in pending["consumers"] or ()
        },
        "oldest_pending": oldest,
        "oldest_pending_age_s": oldest and age_s(oldest, now_us),
    }


def _doubt_lag(client: Client, read: dict[str, Any], side: dict[str, Any]) -> None:
    """Take back the lag where the group has passed the lowest unfinished entry."""
    low, position = EntryId.parse(side["lowest_unfinished"] or ""), read.pop("position")
    if read["lag"] is None or low is None:
        return
    if is_doubtful(client, read["stream"], low, position, read["oldest_pending"]):
        read["lag"] = None


def _workers(client: Client, keys: list[Keys]) -> tuple[list[Member], dict[str, Member | None]]:
    """Return the workers, and by control stream the one that holds its fence, if it is known.

    A worker that died, or gave a stream back, tells of what it owned yet: what another holds is
    left out.
    """
    nobody: list[Member] = []
    workers = or_else(nobody, partial(registered_workers, client, keys[0]))
    holders = {one.control: or_else(None, partial(holder, client, one, workers)) for one in keys}
    held = {stream: one.id for stream, one in holders.items() if one}
    return [
        replace(
            one, owns=frozenset(s for s in one.owns if held.get(s, one.id) == one.id),
            held=tuple(h for h in one.held if held.get(h.stream, one.id) == one.id),
        )
        for one in workers
    ], holders  # fmt: skip


def _notify_side(client: Client, keys: Keys, owner: Member | None) -> dict[str, Any]:
    lease: Any = client.pttl(keys.lease)
    lease_ms = int(lease)
    low: Any = or_else(None, partial(client.get, keys.low))
    in_a_row: Any = or_else(None, partial(client.hget, keys.halt, "dead_in_a_row")) or b""
    return {
        "lowest_unfinished": low.decode(errors="replace") if low else None,
        "owner": owner.name if owner else None,
        "owner_alive": lease_ms > 0,
        "lease_remaining_ms": lease_ms if lease_ms > 0 else None,
        "halt": or_else(None, partial(in_force, client, keys)),
        "paused": dict(or_else(Paused(b"", {}), partial(read_paused, client, keys)).tenants),
        "dead_in_a_row": int(in_a_row) if in_a_row.isdigit() else 0,
    }


def _notifications(client: Client, keys: Keys) -> NotifyStatus:
    info = stream_info(client, keys.notifications)
    mark = or_else(None, partial(trimmed_of, client, keys, keys.notifications))
    trimmed = (mark or FIRST).control_version
    last = info.last_id.control_version if info else 0
    if info is None or not last:
        return NotifyStatus(keys.notifications, info is not None, 0, None, None, trimmed)
    age_s = (server_time_us(client) - last) / 1e6
    return NotifyStatus(keys.notifications, True, info.length, last, age_s, trimmed)  # noqa: FBT003


def _damaged(control: Side, notify: Side, keys: list[Keys]) -> list[str]:
    """Say which keys hold what no sidecar wrote, and which streams take no more entries."""
    client, one, found = notify.client, keys[0], list[SidecarError]()
    with translated(notify.url):
        for each in keys:
            paused = partial(read_paused, client, each)
            found += [*misplaced(client, each), *garbage(client, each, paused)]
        found += or_else([], partial(damaged_workers, client, one))
    found += without_room(control, notify, keys)
    return list(dict.fromkeys(map(str, found)))


def _dead(client: Client, keys: Keys, limit: int) -> DeadStatus:
    letters = DeadLetters(client, keys)
    by_reason, counted = letters.by_reason(limit)
    return DeadStatus(keys.dead, len(letters), by_reason, counted)


def _uncounted(readers: Readers) -> Iterator[str]:
    if readers.more:
        yield (
            f"up to {readers.more:,} more readers are registered than are shown here: see whose ACL"
            " lets it register them, and DEL their keys"
        )


def _readers(client: Client, readers: Readers) -> list[ReaderStatus]:
    now_us = server_time_us(client)
    return [
        ReaderStatus(one.name, one.control_version, (now_us - one.seen_us) / 1e6, one.expired)
        for one in readers.good
    ]

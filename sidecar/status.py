"""The state of a deployment, read from Redis. Writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from sidecar.redis.client import Client, Side, check_stream, translated
from sidecar.redis.halts import Halt, in_force
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetters
from sidecar.redis.members import Member, registered_workers
from sidecar.redis.readers import registered as registered_readers
from sidecar.redis.scan import control_version_of, server_time_us, stream_info
from sidecar.redis.source import id_after, id_pair

MAX_COUNTED: Final = 100
"""So many waiting entries are counted one by one where the server does not know its lag."""
MAX_LETTERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """One control stream. What is unknown, or is not there, is None."""

    stream: str
    exists: bool
    length: int
    last_id: str | None
    group: bool
    """Whether a worker has ever read it for this notification stream."""
    lag: int | None
    """Entries that nobody has read yet."""
    pending: int
    """Entries read, but not finished."""
    oldest_pending: str | None
    oldest_pending_age_s: float | None
    """Since that entry was appended."""
    lowest_unfinished: str | None
    owner_alive: bool
    lease_remaining_ms: int | None
    halt: Halt | None
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
    """Everything that `sidecar status` tells."""

    streams: list[ControlStatus]
    notifications: NotifyStatus
    dead: DeadStatus
    readers: list[ReaderStatus]
    workers: list[Member]
    """The workers that told of themselves of late."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        found = asdict(self)
        for stream in found["streams"]:
            if stream["halt"] is not None:
                stream["halt"] = stream["halt"]._asdict()
        for worker in found["workers"]:
            worker |= {"serves": sorted(worker["serves"]), "owns": sorted(worker["owns"])}
        return found


def collect(control: Side, notify: Side, keys: list[Keys]) -> Status:
    """Read the state of the streams in `keys`, which share one notification stream.

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
        streams = [
            ControlStatus(**read, **_notify_side(notify.client, one))
            for read, one in zip(reads, keys, strict=True)
        ]
        return Status(
            streams, _notifications(notify.client, keys[0]), _dead(notify.client, keys[0]),
            _readers(notify.client, keys[0]), registered_workers(notify.client, keys[0]),
        )  # fmt: skip


def _read_side(client: Client, keys: Keys, now_us: int) -> dict[str, Any]:
    info = stream_info(client, keys.control)
    group = _group(client, keys) if info else None
    found: dict[str, Any] = {
        "stream": keys.control, "exists": info is not None, "length": info.length if info else 0,
        "last_id": info.last_id if info else None, "group": group is not None, "lag": None,
        "pending": 0, "oldest_pending": None, "oldest_pending_age_s": None,
    }  # fmt: skip
    if group is None:
        return found
    found["lag"] = _lag(client, keys, group)
    pending: Any = client.xpending(keys.control, keys.group)
    found["pending"] = int(pending["pending"])
    if pending["min"]:
        oldest = pending["min"].decode()
        found["oldest_pending"] = oldest
        found["oldest_pending_age_s"] = now_us / 1e6 - id_pair(oldest)[0] / 1e3
    return found


def _group(client: Client, keys: Keys) -> dict[str, Any] | None:
    groups: Any = client.xinfo_groups(keys.control)
    return next((dict(g) for g in groups if g["name"] == keys.group.encode()), None)


def _lag(client: Client, keys: Keys, group: dict[str, Any]) -> int | None:
    """Return how many entries wait unread; None when the server cannot say (Redis 6.2, or after
    deletes) and there are too many to count here.
    """
    if group.get("lag") is not None:
        return int(group["lag"])
    first = id_after(group["last-delivered-id"].decode())
    waiting: Any = client.xrange(keys.control, first, "+", count=MAX_COUNTED + 1)
    return len(waiting) if len(waiting) <= MAX_COUNTED else None


def _notify_side(client: Client, keys: Keys) -> dict[str, Any]:
    lease: Any = client.pttl(keys.lease)
    lease_ms = int(lease)
    low: Any = client.get(keys.low)
    in_a_row: Any = client.hget(keys.halt, "dead_in_a_row") or b""
    return {
        "lowest_unfinished": low.decode(errors="replace") if low else None,
        "owner_alive": lease_ms > 0,
        "lease_remaining_ms": lease_ms if lease_ms > 0 else None,
        "halt": in_force(client, keys),
        "dead_in_a_row": int(in_a_row) if in_a_row.isdigit() else 0,
    }


def _notifications(client: Client, keys: Keys) -> NotifyStatus:
    info = stream_info(client, keys.notifications)
    raw: Any = client.hget(keys.trimmed, keys.notifications)
    trimmed = control_version_of(raw.decode()) if raw else 0
    last = control_version_of(info.last_id) if info else 0
    if info is None or not last:
        return NotifyStatus(keys.notifications, info is not None, 0, None, None, trimmed)
    age_s = (server_time_us(client) - last) / 1e6
    return NotifyStatus(keys.notifications, True, info.length, last, age_s, trimmed)  # noqa: FBT003


def _dead(client: Client, keys: Keys) -> DeadStatus:
    letters = DeadLetters(client, keys)
    by_reason, counted = letters.by_reason(MAX_LETTERS)
    return DeadStatus(keys.dead, len(letters), by_reason, counted)


def _readers(client: Client, keys: Keys) -> list[ReaderStatus]:
    now_us = server_time_us(client)
    return [
        ReaderStatus(one.name, one.control_version, (now_us - one.seen_us) / 1e6, one.expired)
        for one in registered_readers(client, keys)
    ]

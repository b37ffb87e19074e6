"""What a stream has, held against what it is known to have had."""

from __future__ import annotations

from typing import Any, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.scripts import script_of
from sidecar.wire.ids import EntryId
from sidecar.wire.incarnations import Incarnation, parse


class Ends(NamedTuple):
    """A stream, held against an entry that it is known to have had. IDs; empty for none."""

    now_ms: int
    """The server's clock."""
    given: EntryId
    """The highest ID that the stream ever gave."""
    newest: EntryId
    oldest: EntryId
    deleted: EntryId
    """The highest that was deleted by hand; empty also before Redis 7.0."""
    has_known: bool
    below_known: EntryId
    """The highest entry below the known one."""
    published: EntryId = EntryId("")
    """Of a notification stream: what was published last, as noted."""
    incarnations: tuple[Incarnation, ...] = ()


def look(client: Client, stream: str, known: EntryId, incarnations: str | None = None) -> Ends:
    """Return what a stream has. `incarnations` is their key, of a notification stream.

    May raise `RedisError`.
    """
    keys = [stream, incarnations] if incarnations else [stream]
    answer: Any = script_of(client, "look")(keys=keys, args=[known])
    now, given, newest, oldest, deleted, has_known, below, published, noted = answer
    return Ends(
        int(now), _id(given), _id(newest), _id(oldest), _id(deleted), bool(has_known), _id(below),
        _id(published), tuple(parse(noted)),
    )  # fmt: skip


def _id(raw: bytes) -> EntryId:
    return EntryId(raw.decode(errors="replace"))

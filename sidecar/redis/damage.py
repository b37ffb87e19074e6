"""Keys of the sidecar's that hold what no sidecar wrote: each is named, with its fix."""

from __future__ import annotations

from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.wire.ids import EntryId

_LOW_FIX: Final = "delete it; then destroy the group, to have all read again"


class Damaged(SidecarError):
    """A key of the sidecar's holds what no sidecar wrote. Nothing rests on it until it is fixed."""

    def __init__(self, key: str, value: bytes, fix: str) -> None:
        super().__init__(f"the key {key} holds {value[:64]!r}, which no sidecar wrote: {fix}")


def low_of(client: Client, keys: Keys) -> EntryId | None:
    """Return the lowest entry that may be unfinished, as noted. Raises `Damaged`, `RedisError`."""
    low: Any = client.get(keys.low)
    return _entry_id(keys.low, low, _LOW_FIX)


def trimmed_of(client: Client, keys: Keys, stream: str) -> EntryId | None:
    """Return up to where the stream was trimmed, as noted. Raises `Damaged`, `RedisError`."""
    return trimmed_id(keys, stream, _mark(client, keys.trimmed, stream))


def trimmed_id(keys: Keys, stream: str, noted: bytes | None) -> EntryId | None:
    """Return what is noted of how far the stream was trimmed. Raises `Damaged`."""
    return _entry_id(keys.trimmed, noted, f"HDEL its field {stream}; trimming notes it again")


def check_archived(client: Client, keys: Keys, stream: str) -> None:
    """Raise `Damaged` unless up to where the stream is archived is an entry ID, or not noted."""
    fix = f"HDEL its field {stream}; the archive notes it again"
    _entry_id(keys.archived, _mark(client, keys.archived, stream), fix)


def _mark(client: Client, key: str, stream: str) -> bytes | None:
    noted: Any = client.hmget(key, stream)
    return None if noted[0] is None else bytes(noted[0])


def _entry_id(key: str, noted: bytes | None, fix: str) -> EntryId | None:
    if noted is None:
        return None
    entry_id = EntryId.read(noted)
    if entry_id is None:
        raise Damaged(key, noted, fix)
    return entry_id

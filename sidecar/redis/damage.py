"""Keys of the sidecar's that hold what no sidecar wrote: each is named, with its fix."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.redis.client import Client
from sidecar.redis.keys import Keys

_ENTRY_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_LOW_FIX: Final = "delete it; then destroy the group, to have all read again"


class Damaged(SidecarError):
    """A key of the sidecar's holds what no sidecar wrote. Nothing rests on it until it is fixed."""

    def __init__(self, key: str, value: bytes, fix: str) -> None:
        super().__init__(f"the key {key} holds {value[:64]!r}, which no sidecar wrote: {fix}")


def low_of(client: Client, keys: Keys) -> str | None:
    """Return the lowest entry that may be unfinished, as noted. Raises `Damaged`, redis-py's."""
    low: Any = client.get(keys.low)
    return _entry_id(keys.low, low, _LOW_FIX)


def trimmed_of(client: Client, keys: Keys, stream: str) -> str | None:
    """Return up to where the stream was trimmed, as noted. Raises `Damaged`, redis-py's."""
    return trimmed_id(keys, stream, _mark(client, keys.trimmed, stream))


def trimmed_streams(client: Client, keys: Keys) -> set[str]:
    """Return the streams of which something was trimmed, as noted. Raises redis-py's errors."""
    found: Any = client.hgetall(keys.trimmed)
    return {stream.decode(errors="backslashreplace") for stream in found}


def trimmed_id(keys: Keys, stream: str, noted: bytes | None) -> str | None:
    """Return what is noted of how far the stream was trimmed. Raises `Damaged`."""
    return _entry_id(keys.trimmed, noted, f"HDEL its field {stream}; trimming notes it again")


def check_archived(client: Client, keys: Keys, stream: str) -> None:
    """Raise `Damaged` unless up to where the stream is archived is an entry ID, or not noted."""
    fix = f"HDEL its field {stream}; the archive notes it again"
    _entry_id(keys.archived, _mark(client, keys.archived, stream), fix)


def _mark(client: Client, key: str, stream: str) -> bytes | None:
    noted: Any = client.hmget(key, stream)
    return None if noted[0] is None else bytes(noted[0])


def _entry_id(key: str, noted: bytes | None, fix: str) -> str | None:
    if noted is None:
        return None
    if not _ENTRY_ID.fullmatch(noted):
        raise Damaged(key, noted, fix)
    return str(noted, "ascii")

"""Registered readers of the notifications: what they have not passed is not trimmed.

`{N}:readers` is a hash. A field is a reader's name; its value three numbers in decimal, separated
by a space: the control_version up to which the reader needs nothing any more, when it was last
heard of (the server's clock, microseconds since the epoch), and after how many seconds of silence
it expires. An expired reader protects nothing; its line stays, so that it is seen.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us

DEFAULT_TTL_S: Final = 7 * 86400
_VALUE: Final = re.compile(rb"(\d{1,17}) (\d{1,17}) (\d{1,9})")


class Reader(NamedTuple):
    """One registered reader."""

    name: str
    control_version: int
    """It needs nothing up to here."""
    seen_us: int
    ttl_s: int
    expired: bool


def passed(client: Client, keys: Keys, name: str, control_version: int, ttl_s: int) -> None:
    """Register the reader `name`, or note that it has passed `control_version`.

    It expires after `ttl_s` seconds in which it is not heard of. Raises `RedisError`.
    """
    client.hset(keys.readers, name, value(control_version, server_time_us(client), ttl_s))


def value(control_version: int, now_us: int, ttl_s: int) -> str:
    """Return what stands in the hash for a reader that is heard of now."""
    return f"{control_version} {now_us} {ttl_s}"


def registered(client: Client, keys: Keys) -> list[Reader]:
    """Return all registered readers, by name. Raises `RedisError`."""
    found: Any = client.hgetall(keys.readers)
    now_us = server_time_us(client) if found else 0
    readers = []
    for name, value in sorted(found.items()):
        if match := _VALUE.fullmatch(value):
            position, seen_us, ttl_s = map(int, match.groups())
            expired = now_us > seen_us + ttl_s * 10**6
            readers.append(Reader(_name(name), position, seen_us, ttl_s, expired))
    return readers


def damaged_readers(client: Client, keys: Keys) -> list[Damaged]:
    """Return those of whom nobody can tell what they have passed. Raises `RedisError`."""
    found: Any = client.hgetall(keys.readers)
    return [
        Damaged(
            keys.readers, value,
            f"have the reader {_name(name)!r} tell of itself again, or HDEL its field if it needs"
            " nothing; until then no notification is trimmed",
        )
        for name, value in sorted(found.items())
        if not _VALUE.fullmatch(value)
    ]  # fmt: skip


def _name(name: bytes) -> str:
    return name.decode(errors="backslashreplace")

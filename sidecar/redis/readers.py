"""Registered readers of the notifications: what they have not passed is not trimmed.

Each reader has a key of its own, `{N}:reader:NAME`, which only it may write. It holds three numbers
in decimal, separated by a space: the control_version up to which the reader needs nothing any more,
when it was last heard of (the server's clock, microseconds since the epoch), and after how many
seconds of silence it expires. An expired reader protects nothing; its key stays, to be seen.

The set `{N}:registered` has the names, so that nobody need search for the keys. Every reader may
add to it and none remove: what it says is checked against the keys.

Nobody trusts what a reader wrote. What is no such line protects nothing and stops nothing. How long
a reader protects without being heard of is bounded, whatever it says.

Until this release `{N}:readers`, a hash that all of them wrote, had a line for each. What stands
there counts until it expires, or until the reader of that name has a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sidecar.errors import UsageError
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged
from sidecar.redis.errors import RedisError
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us
from sidecar.redis.scripts import script_of

DEFAULT_TTL_S: Final = 7 * 86400
LONGEST_TTL_S: Final = 30 * 86400
"""A reader that wrote more expires after this long."""
LONGEST_NAME: Final = 256
"""In bytes."""
AHEAD_US: Final = 86400 * 10**6
"""Who says to have been heard of further ahead of the server's clock than this is not believed."""
MOST_PAGES: Final = 1000
"""So many pages of names are read at a time, of a thousand each."""
_LONGEST_VALUE: Final = 64
_VALUE: Final = re.compile(rb"(\d{1,17}) (\d{1,17}) (\d{1,9})")


class Reader(NamedTuple):
    """One registered reader."""

    name: str
    control_version: int
    """It needs nothing up to here."""
    seen_us: int
    ttl_s: int
    expired: bool


class Readers(NamedTuple):
    """All that is registered."""

    good: list[Reader]
    """By name."""
    bad: list[Damaged]
    """Of whom nobody can tell what they have passed. They protect nothing."""


class _Line(NamedTuple):
    """What stands somewhere for a reader; no value: a key that is no string."""

    name: bytes
    key: str
    value: bytes | None
    fix: str


def check(name: str, ttl_s: int) -> None:
    """Raise `UsageError` for a name, or a time to live, that no reader may have."""
    if not 0 < len(name.encode(errors="surrogateescape")) <= LONGEST_NAME:
        raise UsageError(f"reader={name!r}: a name has 1 to {LONGEST_NAME} bytes")
    if not 0 < ttl_s <= LONGEST_TTL_S:
        raise UsageError(f"reader_ttl_s={ttl_s}: choose 1 s to {LONGEST_TTL_S} s (30 days)")


def passed(client: Client, keys: Keys, name: str, control_version: int, ttl_s: int) -> None:
    """Register the reader `name`, or note that it has passed `control_version`.

    It expires after `ttl_s` seconds in which it is not heard of. Raises `RedisError`.
    """
    line = value(control_version, server_time_us(client), ttl_s)
    with client.pipeline(transaction=False) as both:
        note(both, keys, name, line)
        both.execute()


def note(pipeline: Any, keys: Keys, name: str, line: str) -> None:  # noqa: ANN401 -- of either face
    """Put on a pipeline what registers the reader `name`.

    Both commands refuse a key of another type, so that the right to send them is none to write to
    the other keys that a controller reads. The name comes last: one without a key is swept away.
    """
    pipeline.getset(keys.reader(name), line)
    pipeline.sadd(keys.registered, name)


def value(control_version: int, now_us: int, ttl_s: int) -> str:
    """Return what stands for a reader that is heard of now."""
    return f"{control_version} {now_us} {ttl_s}"


def registered(client: Client, keys: Keys) -> Readers:
    """Return all readers, for a person's command, which may run no script. Raises `RedisError`."""
    lines = [*_old(client, keys), *_own(client, keys)]
    return _judged(lines, server_time_us(client) if lines else 0)


def swept(client: Client, keys: Keys) -> Readers:
    """Return all readers, for a worker, and sweep away names that are none.

    Nothing longer than a reader may write comes here. Raises `RedisError`, and `Damaged` when
    somebody adds names faster than they are swept.
    """
    script, cursor = script_of(client, "readers"), b"0"
    lines = list(_old(client, keys))
    for _ in range(MOST_PAGES):
        args: list[Any] = [cursor, keys.reader(""), LONGEST_NAME, _LONGEST_VALUE]
        cursor, *found = script(keys=[keys.registered], args=args)
        lines += [_line(keys, *pair) for pair in zip(found[::2], found[1::2], strict=True)]
        if cursor == b"0":
            return _judged(lines, server_time_us(client) if lines else 0)
    raise Damaged(keys.registered, b"more names than readers", "see whose ACL lets it add them")


def _own(client: Client, keys: Keys) -> Iterator[_Line]:
    names: list[bytes] = [name for name in client.sscan_iter(keys.registered, count=1000) if name]
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.exists(_key(keys, name))
            pipeline.getrange(_key(keys, name), 0, _LONGEST_VALUE)
        found = pipeline.execute(raise_on_error=False)
    for name, is_there, text in zip(names, found[::2], found[1::2], strict=True):
        if isinstance(text, RedisError) and not str(text).startswith("WRONGTYPE"):
            raise text
        if is_there:  # else a name alone, which says nothing
            yield _line(keys, name, text if isinstance(text, bytes) else None)


def _line(keys: Keys, name: bytes, text: bytes | None) -> _Line:
    fix = "have that reader register again, or DEL it"
    return _Line(name, _key(keys, name).decode(errors="backslashreplace"), text, fix)


def _key(keys: Keys, name: bytes) -> bytes:
    return keys.reader("").encode(errors="surrogateescape") + name


def _old(client: Client, keys: Keys) -> Iterator[_Line]:
    found: Any = client.hgetall(keys.readers)
    for name, text in found.items():
        fix = f"have the reader {_shown(name)!r} register again, and HDEL its field"
        yield _Line(name, keys.readers, text, fix)


def _judged(lines: list[_Line], now_us: int) -> Readers:
    good: dict[str, Reader] = {}
    bad: list[Damaged] = []
    for line in lines:  # those of the keys come last, and count in place of the hash's
        reader = _reader(line, now_us)
        if reader is not None:
            good[reader.name] = reader
        else:
            fix = f"{line.fix}; until then it protects nothing from trimming"
            bad.append(Damaged(line.key, line.value or b"no string", fix))
    return Readers(sorted(good.values()), sorted(bad, key=str))


def _reader(line: _Line, now_us: int) -> Reader | None:
    match = _VALUE.fullmatch(line.value or b"")
    if match is None:
        return None
    position, seen_us, ttl_s = map(int, match.groups())
    if seen_us > now_us + AHEAD_US:
        return None
    ttl_s = min(ttl_s, LONGEST_TTL_S)
    expired = now_us > seen_us + ttl_s * 10**6
    return Reader(_shown(line.name), position, seen_us, ttl_s, expired)


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")

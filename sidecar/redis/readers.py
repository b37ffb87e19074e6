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
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeVar

from sidecar.errors import UsageError
from sidecar.redis.client import Client
from sidecar.redis.damage import Damaged
from sidecar.redis.errors import RedisError
from sidecar.redis.keys import Keys
from sidecar.redis.scan import server_time_us
from sidecar.redis.scripts import script_of

K = TypeVar("K")
V = TypeVar("V")
DEFAULT_TTL_S: Final = 7 * 86400
LONGEST_TTL_S: Final = 30 * 86400
"""A reader that wrote more expires after this long."""
LONGEST_NAME: Final = 256
"""In bytes."""
AHEAD_US: Final = 86400 * 10**6
"""Who says to have been heard of further ahead of the server's clock than this is not believed."""
MOST_PAGES: Final = 1000
"""So many pages of names are read at a time, of a thousand each."""
MOST: Final = 1000
"""So many readers are told of by name: those that hold back most. Of the others, their number."""
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
    """All that is registered, but of each kind no more than `MOST`."""

    good: list[Reader]
    """By name. Where there are more, those that have passed least, expired ones last."""
    bad: list[Damaged]
    """Of whom nobody can tell what they have passed. They protect nothing."""
    more: int = 0
    """How many others are registered, at most: one with an old field and a key may count twice."""


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
    return _judged(chain(_old(client, keys), _own(client, keys)), server_time_us(client))


def swept(client: Client, keys: Keys) -> Readers:
    """Return all readers, for a worker, and sweep away names that are none.

    Nothing longer than a reader may write comes here. Raises `RedisError`, and `Damaged` when
    somebody adds names faster than they are swept.
    """
    return _judged(chain(_old(client, keys), _swept(client, keys)), server_time_us(client))


def _swept(client: Client, keys: Keys) -> Iterator[_Line]:
    script, cursor = script_of(client, "readers"), b"0"
    for _ in range(MOST_PAGES):
        args: list[Any] = [cursor, keys.reader(""), LONGEST_NAME, _LONGEST_VALUE]
        cursor, *found = script(keys=[keys.registered], args=args)
        yield from (_line(keys, *pair) for pair in zip(found[::2], found[1::2], strict=True))
        if cursor == b"0":
            return
    raise Damaged(keys.registered, b"more names than readers", "see whose ACL lets it add them")


def _own(client: Client, keys: Keys) -> Iterator[_Line]:
    names: Iterator[bytes] = filter(None, client.sscan_iter(keys.registered, count=1000))
    while page := list(islice(names, 1000)):
        yield from _lines_of(client, keys, page)


def _lines_of(client: Client, keys: Keys, names: list[bytes]) -> Iterator[_Line]:
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
    found: Iterable[tuple[bytes, bytes]] = client.hscan_iter(keys.readers, count=1000)
    for name, text in found:
        fix = f"have the reader {_shown(name)!r} register again, and HDEL its field"
        yield _Line(name, keys.readers, text, fix)


def _judged(lines: Iterable[_Line], now_us: int) -> Readers:
    """Judge what stands there, in memory for `MOST` of each kind."""
    good: dict[str, Reader] = {}
    bad: dict[bytes, Damaged] = {}
    more = 0
    for line in lines:  # those of the keys come last, and count in place of the hash's
        reader = _reader(line, now_us)
        if reader is None:
            bad[line.name] = _not_believed(line)
        else:
            good[reader.name] = reader
        if len(good) + len(bad) == 4 * MOST:
            more += _shed(good, _held_back) + _shed(bad, str)
    more += _shed(good, _held_back) + _shed(bad, str)
    return Readers(sorted(good.values()), sorted(bad.values(), key=str), more)


def _not_believed(line: _Line) -> Damaged:
    fix = f"{line.fix}; until then it protects nothing from trimming"
    return Damaged(line.key, line.value or b"no string", fix)


def _held_back(reader: Reader) -> tuple[bool, int]:
    """Return what sorts those first that hold back most."""
    return reader.expired, reader.control_version


def _shed(found: dict[K, V], key: Callable[[V], Any]) -> int:
    """Drop all but the first `MOST` by `key`; return how many went."""
    last = sorted(found.items(), key=lambda one: key(one[1]))[MOST:]
    for name, _ in last:
        del found[name]
    return len(last)


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

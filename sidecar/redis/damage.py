"""Keys of the sidecar's that hold what no sidecar wrote: each is named, with its fix."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from sidecar.errors import SidecarError
from sidecar.redis.client import Client
from sidecar.redis.errors import Refused, is_absent, is_misplaced
from sidecar.redis.keys import Keys, outbound_of, records_of
from sidecar.wire.ids import EntryId

_ENTRY_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_ANCHOR: Final = rb"[0-9]{1,20}-[0-9]{1,20} ([0-9a-f]{32}|-) [0-9]{1,17}"
_SEGMENT: Final = re.compile(rb"%b( [0-9]{1,17})?" % _ANCHOR)
_COUNT: Final = re.compile(rb"-?[0-9]{1,18}")
_TOKEN: Final = re.compile(rb"[0-9a-f]{32}")
_ANCHORS: Final = re.compile(rb"%b(\n%b)*" % ((_ANCHOR,) * 2))
_HISTORIES: Final = re.compile(rb"([0-9a-f]{1,40} [0-9]{1,20} [0-9]{1,20}\n)*")
PRUNED: Final = re.compile(rb"([0-9]{1,17})" + 3 * rb"(?: ([0-9]{1,17}))?")
_COUNTS: Final = ("tenants", "dead_in_a_row", "unclean", "alone_deaths", "yielded")
_LOW_FIX: Final = "delete it; then destroy the group, to have read again what may be unfinished"
_T = TypeVar("_T")


class Damaged(SidecarError):
    """A key of the sidecar's holds what no sidecar wrote. Nothing rests on it until it is fixed."""

    def __init__(self, key: str, value: bytes, fix: str) -> None:
        super().__init__(f"the key {key} holds {value[:64]!r}, which no sidecar wrote: {fix}")


class Misplaced(SidecarError):
    """A key of the sidecar's is another kind of key."""


class _Kind(NamedTuple):
    """What a key is, and what comes once another one in its place is removed."""

    kind: str
    then: str


def or_else(default: _T, read: Callable[[], _T]) -> _T:
    """Return what `read` returns; `default` where the key holds what no sidecar wrote."""
    try:
        return read()
    except Damaged:
        return default
    except Refused as error:
        if not is_misplaced(error):
            raise
        return default


# --- kinds -------------------------------------------------------------------------------------


def misplaced(client: Client, keys: Keys) -> Iterator[Misplaced]:
    """Yield what is another kind of key than the sidecar makes. Raises `RedisError`.

    Without the deduplication index: what meets one of its 65,536 keys names it.
    """
    wanted = _kinds(keys)
    pipeline = client.pipeline(transaction=False)
    for key in wanted:
        pipeline.type(key)
    for (key, (kind, then)), raw in zip(wanted.items(), pipeline.execute(), strict=True):
        found = raw.decode()
        if found not in (kind, "none"):
            yield Misplaced(
                f"the key {key} is a {found}, not a {kind}: RENAME it away, or DEL it; {then}"
            )


def _kinds(keys: Keys) -> dict[str, _Kind]:
    starts, archives = "a worker that starts notes it again", "the archive notes it again"
    takes, records = "a worker takes the stream anew", "what comes is recorded again"
    return {
        keys.notifications: _Kind("stream", "publishing begins a new history of it"),
        keys.dead: _Kind("stream", "what comes is written there again"),
        keys.stream: _Kind("string", starts),
        keys.fence: _Kind("string", takes),
        keys.lease: _Kind("string", takes),
        keys.low: _Kind(
            "string", "then destroy the group, to have read again what may be unfinished"
        ),
        keys.halt: _Kind("hash", "the stream is not halted then, and crashes are counted anew"),
        keys.paused: _Kind("hash", "no tenant is paused then; pause again those that were"),
        keys.rows: _Kind("hash", "dead letters in a row are counted anew"),
        **dict.fromkeys(records_of(keys), _Kind("stream", records)),
        keys.takeovers: _Kind("stream", records),
        keys.resent: _Kind("hash", "then audit: what a repair sent again is sent once more"),
        keys.workers: _Kind("hash", "workers register again"),
        keys.readers: _Kind("hash", "readers register again"),
        keys.registered: _Kind("set", "readers register again"),
        keys.trimmed: _Kind("hash", "trimming notes it again"),
        keys.archived: _Kind("hash", archives),
        keys.segments: _Kind("hash", archives),
        **{keys.archiving(stream): _Kind("string", archives) for stream in _archived(keys)},
        keys.anchors: _Kind("hash", starts),
        keys.incarnations: _Kind("hash", "publishing begins a new history of the notifications"),
        keys.fleet: _Kind("hash", starts),
        keys.pruned: _Kind("string", "pruning begins anew"),
    }


def _archived(keys: Keys) -> tuple[str, ...]:
    return (keys.control, *outbound_of(keys))


# --- values ------------------------------------------------------------------------------------


def _looks(client: Client, keys: Keys) -> Iterator[Callable[[], object]]:
    """Yield a look at each of the values."""
    for check in (
        low_of, _check_anchors, _check_strings, _check_expiry, _check_counts, _check_histories,
    ):  # fmt: skip
        yield partial(check, client, keys)
    for look in (trimmed_of, check_archived, _check_segment):
        yield from (partial(look, client, keys, stream) for stream in _archived(keys))


def garbage(client: Client, keys: Keys, *more: Callable[[], object]) -> Iterator[Damaged]:
    """Yield what no sidecar wrote into its keys, but for the registers of readers and workers.

    `more` are looks that raise `Damaged`, besides. Raises `RedisError`, but for keys that are
    `misplaced`.
    """
    for look in chain(_looks(client, keys), more):
        try:
            look()
        except Damaged as damaged:
            yield damaged
        except Refused as error:
            if not is_misplaced(error):
                raise


def low_of(client: Client, keys: Keys) -> EntryId | None:
    """Return the lowest entry that may be unfinished, as noted. Raises `Damaged`, `RedisError`."""
    low: Any = client.get(keys.low)
    return _entry_id(keys.low, low, _LOW_FIX)


def trimmed_of(client: Client, keys: Keys, stream: str) -> EntryId | None:
    """Return up to where the stream was trimmed, as noted. Raises `Damaged`, `RedisError`."""
    noted = _mark(client, keys.trimmed, stream)
    mark = trimmed_id(keys, stream, noted)
    if mark is None or noted is None or stream not in outbound_of(keys):
        return mark
    # The notes lie beside these streams, and are never ahead of them. Control streams are others':
    # one may be renamed, and begin anew with lower IDs.
    try:
        info: Any = client.xinfo_stream(stream)
    except Refused as error:
        if is_absent(error):
            return mark
        raise
    return trimmed_id(keys, stream, noted, last=EntryId(info["last-generated-id"].decode()))


def trimmed_streams(client: Client, keys: Keys) -> set[str]:
    """Return the streams of which something was trimmed, as noted. Raises `RedisError`."""
    found: Any = client.hgetall(keys.trimmed)
    names = {name.decode(errors="backslashreplace") for name in found if name}
    return {name for name in names if name.removeprefix("gone ") not in names - {name}}


def trimmed_id(
    keys: Keys, stream: str, noted: bytes | None, *, last: EntryId | None = None
) -> EntryId | None:
    """Return what is noted of how far the stream was trimmed. Raises `Damaged`.

    Where trimming can only be noted up to `last`, a note above is none.
    """
    fix = f"HDEL its field {shlex.quote(stream)}; trimming notes it again"
    mark = _entry_id(keys.trimmed, noted, fix)
    if mark and noted and last and mark > last:
        raise Damaged(keys.trimmed, noted, fix)
    return mark


def check_archived(client: Client, keys: Keys, stream: str) -> None:
    """Raise `Damaged` unless up to where the stream is archived is an entry ID, or not noted."""
    fix = f"HDEL its field {shlex.quote(stream)}; the archive notes it again"
    _entry_id(keys.archived, _mark(client, keys.archived, stream), fix)


def _check_segment(client: Client, keys: Keys, stream: str) -> None:
    fix = f"HDEL its field {shlex.quote(stream)}; the archive notes it again"
    _check(keys.segments, _mark(client, keys.segments, stream), _SEGMENT, fix)


def _check_anchors(client: Client, keys: Keys) -> None:
    noted = _mark(client, keys.anchors, keys.control)
    fix = f"HDEL its field {shlex.quote(keys.control)}; a worker that starts notes it again"
    _check(keys.anchors, noted, _ANCHORS, fix)


def _check_strings(client: Client, keys: Keys) -> None:
    owner: Any = or_else(None, partial(client.get, keys.stream))
    _check(keys.stream, owner, re.compile(re.escape(keys.notifications.encode())), "DEL it")
    token: Any = or_else(None, partial(client.get, keys.fence))
    _check(keys.fence, token, _TOKEN, "DEL it; a worker takes the stream anew")
    pruned: Any = or_else(None, partial(client.get, keys.pruned))
    _check(keys.pruned, pruned, PRUNED, "DEL it; pruning begins anew")


def _check_expiry(client: Client, keys: Keys) -> None:
    """Raise `Damaged` for a claim that never runs out: nobody could take it over."""
    for key in (keys.lease, *map(keys.archiving, _archived(keys))):
        value: Any = or_else(None, partial(client.get, key))
        ttl: Any = client.pttl(key)
        if value is not None and ttl == -1:
            raise Damaged(key, value, "it does not run out; DEL it")


def _check_counts(client: Client, keys: Keys) -> None:
    values: Any = client.hmget(keys.halt, _COUNTS)
    for name, value in zip(_COUNTS, values, strict=True):
        _check(keys.halt, value, _COUNT, f"HDEL its field {name}")


def _check_histories(client: Client, keys: Keys) -> None:
    values: Any = client.hmget(keys.incarnations, "last", "list")
    fix = "HDEL its field {}; publishing begins a new history of the notifications"
    _check(keys.incarnations, values[0], _ENTRY_ID, fix.format("last"))
    _check(keys.incarnations, values[1], _HISTORIES, fix.format("list"))


def _mark(client: Client, key: str, stream: str) -> bytes | None:
    noted: Any = client.hmget(key, stream)
    return None if noted[0] is None else bytes(noted[0])


def _entry_id(key: str, noted: bytes | None, fix: str) -> EntryId | None:
    _check(key, noted, _ENTRY_ID, fix)
    return None if noted is None else EntryId.read(noted)


def _check(key: str, value: bytes | None, legal: re.Pattern[bytes], fix: str) -> None:
    if value is not None and not legal.fullmatch(value):
        raise Damaged(key, value, fix)

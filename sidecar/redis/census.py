"""Which streams name artifacts: all that a deployment has, whether somebody named them or not.

To overlook a stream is to lose what only its entries name. So they are looked for: a control
stream by the group that a worker made on it, a notification stream by that group's name and by the
fence that its worker took, either kind of outbound stream by the fields of its entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.errors import Unreachable, UsageError
from sidecar.redis.client import Side, check_server, check_stream
from sidecar.redis.errors import translated
from sidecar.redis.fleet import LOG
from sidecar.redis.groups import groups_at
from sidecar.redis.keys import Keys, hash_tagged
from sidecar.redis.scan import stream_info
from sidecar.wire.ids import EntryId
from sidecar.wire.urls import redact

GROUP_PREFIX: Final = b"sidecar:"
FENCE: Final = ":fence:"
SCAN_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class Named:
    """The streams that an operator named: each must be there, but a dead-letter stream."""

    control: Sequence[str] = ()
    usual_control: str = ""
    """Read, too, where there is one."""
    notifications: Sequence[str] = ()
    dead: Sequence[str] = ()


@dataclass(slots=True)
class Census:
    """Every stream that names artifacts, by what it is for. Names are bytes, as Redis has them."""

    control: set[bytes] = field(default_factory=set)
    notifications: set[bytes] = field(default_factory=set)
    dead: set[bytes] = field(default_factory=set)


class Registrar:
    """Takes the census, and confirms that it held while the streams were read.

    Every method raises `Unreachable` and `UsageError`; nothing is written.
    """

    def __init__(self, control: Side, notify: Side, named: Named) -> None:
        self._control = control
        self._notify = notify
        self._named = named
        self._last_ids: dict[tuple[str, bytes], EntryId] = {}
        self._runs: dict[str, str] = {}

    def take(self) -> Census:
        """Find the streams. Raises `UsageError` where a server looks like the wrong one."""
        for side in (self._control, self._notify):
            _check_servers(side)
            self._runs[side.url] = _run(side)
        census = Census()
        pairs = self._control_streams(census)
        self._outbound_streams(census)
        self._by_groups(census, pairs)
        self._by_fences(census)
        self._dead_streams(census)
        if not census.notifications:
            raise UsageError(
                f"there is no notification stream on {redact(self._notify.url)}: is that the"
                " fleet's Redis (--redis, --notify-redis)? if no log names this store, say"
                " --without-stream"
            )
        self._remember(self._control, census.control)
        self._remember(self._notify, census.notifications | census.dead)
        return census

    def logs(self, census: Census) -> frozenset[str]:
        """Return the ids of the logs of notifications, as workers noted them."""
        keys = [bytes_of(Keys.of("", text_of(name)).fleet) for name in census.notifications]
        with translated(self._notify.url):
            found: list[Any] = [self._notify.at(key).hget(key, LOG) for key in keys]
        return frozenset(text_of(one) for one in found if one)

    def confirm(self) -> None:
        """Raise `Unreachable` when a server lost what it had at the census: entries may lack."""
        for side in (self._control, self._notify):
            if _run(side) != self._runs[side.url]:
                raise _lost(side, "was restarted, or another one took its place,")
        for (url, stream), last_id in self._last_ids.items():
            side = self._control if url == self._control.url else self._notify
            with translated(url):
                info = stream_info(side.at(stream), stream)
            if info is None or info.last_id < last_id:
                raise _lost(side, f"lost entries of {shown(stream)}")

    def _control_streams(self, census: Census) -> list[tuple[bytes, bytes]]:
        """Add the control streams; return those that have a worker's group, with its stream."""
        for stream in map(bytes_of, self._named.control):
            _check_named("--stream", self._control, stream, "or leave it out")
            census.control.add(stream)
        usual = bytes_of(self._named.usual_control)
        census.control.update({usual} if usual and _exists(self._control, usual) else ())
        pairs = []
        with translated(self._control.url):
            for stream in _streams(self._control):
                groups = groups_at(self._control.at(stream), stream)
                names = [g["name"] for g in groups if g["name"].startswith(GROUP_PREFIX)]
                pairs += [(stream, name.removeprefix(GROUP_PREFIX)) for name in names]
        census.control.update(stream for stream, _ in pairs)
        return pairs

    def _outbound_streams(self, census: Census) -> None:
        """Add the notification streams that were named, and what looks like either kind."""
        for name in map(bytes_of, self._named.notifications):
            _check_named("--keep-from-stream", self._notify, name, "or --redis and --notify-redis")
            census.notifications.add(name)
        with translated(self._notify.url):
            for stream in _streams(self._notify):
                oldest: Any = self._notify.at(stream).xrange(stream, count=1)
                fields = (oldest[0][1] or {}) if oldest else {}
                if {b"event", b"origin"} <= fields.keys():
                    kind = census.dead if b"reason" in fields else census.notifications
                    kind.add(stream)

    def _by_groups(self, census: Census, pairs: list[tuple[bytes, bytes]]) -> None:
        for stream, name in pairs:
            keys = Keys.of(text_of(stream), text_of(name))
            if _exists(self._notify, name):
                census.notifications.add(name)
            elif not self._holds(keys.fence):
                raise UsageError(
                    f"a worker publishes {shown(stream)} to {shown(name)}, and"
                    f" {redact(self._notify.url)} has neither that stream nor the worker's fence:"
                    " is --notify-redis right? if that fleet is gone for good, XGROUP DESTROY"
                    f" {shown(stream)} sidecar:{shown(name)}"
                )

    def _by_fences(self, census: Census) -> None:
        """Add what workers have held; their keys outlive them, and their groups."""
        with translated(self._notify.url):
            keys = list(_scan(self._notify, match=f"*{FENCE}*"))
        for key in keys:
            readings = list(_readings(text_of(key)))
            census.notifications.update(name for name, _ in readings if _exists(self._notify, name))
            control = [stream for _, stream in readings if _exists(self._control, stream)]
            census.control.update(control)
            if readings and not control:
                raise UsageError(
                    f"the key {shown(key)} on {redact(self._notify.url)} says that a worker reads"
                    f" a control stream that {redact(self._control.url)} does not have: is --redis"
                    " right? if that stream is gone for good, delete the key"
                )

    def _dead_streams(self, census: Census) -> None:
        prefixes = [hash_tagged(text_of(name)) for name in census.notifications]
        names = [*self._named.dead, *(f"{prefix}:dead" for prefix in prefixes)]
        census.dead.update(
            bytes_of(name) for name in names if _exists(self._notify, bytes_of(name))
        )

    def _holds(self, key: str) -> bool:
        with translated(self._notify.url):
            return bool(self._notify.at(key).exists(bytes_of(key)))

    def _remember(self, side: Side, streams: set[bytes]) -> None:
        for stream in sorted(streams):
            with translated(side.url):
                info = stream_info(side.at(stream), stream)
            if info is None:
                raise _lost(side, f"lost {shown(stream)}")
            self._last_ids[side.url, stream] = info.last_id


def shown(name: bytes) -> str:
    """Return the name of a key as a person may see it."""
    return repr(name.decode(errors="backslashreplace"))


def _readings(key: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield what a fence's key may say: notification stream and control stream.

    A name may contain `:fence:` itself, and `x` and `{x}` have the same prefix.
    """
    at = key.find(FENCE)
    while at >= 0:
        prefix, control = key[:at], key[at + len(FENCE) :]
        for name in (prefix, prefix.removeprefix("{").removesuffix("}")):
            if control and _is_prefix(prefix, name):
                yield bytes_of(name), bytes_of(control)
        at = key.find(FENCE, at + 1)


def _is_prefix(prefix: str, notifications: str) -> bool:
    try:
        return bool(notifications) and hash_tagged(notifications) == prefix
    except UsageError:
        return False


def _streams(side: Side) -> Iterator[bytes]:
    return _scan(side, _type="stream")


def _scan(side: Side, **only: str) -> Iterator[bytes]:
    for node in side.nodes().values():
        yield from node.scan_iter(count=SCAN_COUNT, **only)


def _exists(side: Side, stream: bytes) -> bool:
    """Tell whether there is such a stream. Raises `UsageError` when it is something else."""
    client = side.at(stream)
    check_stream(client, side.url, stream)
    with translated(side.url):
        return bool(client.exists(stream))


def _check_servers(side: Side) -> None:
    with translated(side.url):
        nodes = side.nodes()
    for node in nodes.values():
        check_server(node, side.url, writes=True)  # a replica may lag behind


def _check_named(option: str, side: Side, stream: bytes, otherwise: str) -> None:
    """Raise `UsageError` when there is no such stream: a wrong name would protect nothing."""
    if not _exists(side, stream):
        raise UsageError(
            f"{option} {shown(stream)}: there is none on {redact(side.url)}; correct the name,"
            f" {otherwise}"
        )


def _run(side: Side) -> str:
    """Return what tells this run of the server from others: on a Cluster, also who owns what."""
    with translated(side.url):
        nodes = side.nodes()
        infos: dict[str, Any] = {slots: node.info("server") for slots, node in nodes.items()}
    return " ".join(sorted(f"{slots}{info['run_id']}" for slots, info in infos.items()))


def _lost(side: Side, what: str) -> Unreachable:
    return Unreachable(
        f"{redact(side.url)} {what} while it was read; nothing was removed: try again"
    )


def text_of(name: bytes) -> str:
    """Return the name of a key as text, whatever bytes it has; `bytes_of` turns it back."""
    return name.decode(errors="surrogateescape")


def bytes_of(name: str) -> bytes:
    """Return the name of a key as Redis has it."""
    return name.encode(errors="surrogateescape")

"""Connections to Redis, and the checks that a server and a stream are what they are taken for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.crc import key_slot
from redis.retry import Retry

from sidecar.errors import UsageError
from sidecar.redis.errors import translated
from sidecar.redis.topology import Connects, SlotRoute, read_url
from sidecar.redis.topology_async import connection_class
from sidecar.redis.url_options import WrongOption
from sidecar.wire.secretfile import read_secret
from sidecar.wire.urls import FiledUrl, Unclear, redact

Client = redis.Redis
AsyncClient = redis.asyncio.Redis

TIMEOUT_S: Final = 5.0
"""Seconds without an answer after which a connection counts as broken."""
OLDEST: Final = (6, 2)

_FORMS: Final = (
    "write redis://[user:password@]host:port/db, rediss://… for TLS, unix:///path,"
    " redis+sentinel://host:port,host:port/MASTER or redis+cluster://host:port,host:port"
)
_WRONG: Final = {
    "must specify": "its scheme is not one of a Redis",
    "Port": "its port is no number up to 65535",
    "IPv6": "its host is no address",
}
"""By a sign in redis-py's words what was wrong: its words may repeat a part of a password."""


def url_of(given: str | Path) -> str:
    """Return a Redis URL; a path is that of a file that has it, where logins are read again.

    Raises `UsageError` for a file that cannot be read.
    """
    if isinstance(given, str):
        return given
    try:
        return FiledUrl(read_secret(given), given)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text, or has too much"
        raise UsageError(f"the file {given} with the Redis URL: {said}") from None


def connect(url: str, *, key: str | bytes | None = None, block_s: float = 0.0) -> Client:
    """Return a client for `url`. Nothing is sent yet.

    On a Cluster it is for the slot of `key` alone. `block_s` is how long its longest blocking
    command blocks: it is added to the socket's timeout (redis-py's own default of 5 s cuts longer
    reads off, docket#425), also to one that the URL gives. Commands are not retried here: their
    sender knows what may be sent twice. Raises `UsageError`.
    """
    return _client(url, None if key is None else _slot(key), block_s)


def connect_async(url: str, *, key: str | bytes | None = None, block_s: float = 0.0) -> AsyncClient:
    """Return what `connect` returns, for asyncio. Raises `UsageError`."""
    slot = None if key is None else _slot(key)
    with _explained(url):
        place = read_url(url, _defaults(), block_s=block_s)
        kind: Any = connection_class(place)
        options = place.options | {"retry": AsyncRetry(NoBackoff(), 0), "route": place.route(slot)}
        pool = redis.asyncio.ConnectionPool(kind, **options)
    return AsyncClient.from_pool(pool)


def check_url(url: str) -> None:
    """Raise `UsageError` for what is no URL of a Redis."""
    with _explained(url):
        read_url(url, _defaults())


def _client(url: str, slot: int | None, block_s: float = 0.0) -> Client:
    with _explained(url):
        place = read_url(url, _defaults(), block_s=block_s)
        options = place.options | {"route": place.route(slot), "connects": Connects()}
        pool: Any = ConnectionPool(place.connection_class, **options)
    return redis.Redis.from_pool(pool)


def connects(client: Client) -> int:
    """Return how often a connection of the client was made, those of a cut one included."""
    counted: Connects = client.connection_pool.connection_kwargs["connects"]
    return counted.count


def _defaults() -> dict[str, Any]:
    return {
        "protocol": 2, "socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S,
        "socket_keepalive": True, "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what redis-py says of a URL into `UsageError`, and repeat nothing of it."""
    try:
        yield
    except WrongOption as error:
        raise UsageError(f"the URL {redact(url)}: {error}") from None
    except Unclear as error:
        raise UsageError(f"{redact(url)!r} is no Redis URL: {error}; {_FORMS}") from None
    except (ValueError, redis.RedisError) as error:
        why = next((why for sign, why in _WRONG.items() if sign in str(error)), "it cannot be read")
        raise UsageError(f"{redact(url)!r} is no Redis URL: {why}; {_FORMS}") from None


def _slot(key: str | bytes) -> int:
    raw = key.encode(errors="surrogateescape") if isinstance(key, str) else key
    return int(key_slot(raw))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, for those who read several streams; its URL is for words, too.

    `client` is for what is in one slot only: the notification stream, or a single control stream.
    """

    client: Client
    url: str
    _by_slot: dict[int, Client] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, url: str, key: str | bytes) -> Side:
        """Return the server at `url`. Raises `UsageError`."""
        return cls(connect(url, key=key), url)

    def at(self, key: str | bytes) -> Client:
        """Return a client for the node that has `key`."""
        if _route(self.client) is None:
            return self.client
        slot = _slot(key)
        if slot not in self._by_slot:
            self._by_slot[slot] = _client(self.url, slot)
        return self._by_slot[slot]

    def nodes(self) -> dict[str, Client]:
        """Return a client for each node that has keys, by its address and what it owns.

        Raises `RedisError`.
        """
        route = _route(self.client)
        if route is None:
            return {"": self.client}
        return {
            f"{node.host}:{node.port} {slots}": _client(self.url, slots[0].start)
            for node, slots in route.owners().items()
        }


def _route(client: Client) -> SlotRoute | None:
    """Return the client's way on a Cluster, None elsewhere."""
    route = client.connection_pool.connection_kwargs.get("route")
    return route if isinstance(route, SlotRoute) else None


def check_server(client: Client, url: str, *, writes: bool) -> None:
    """Refuse a server that cannot keep the guarantees.

    Raises `UsageError` for the first of its `faults`; `Unreachable` when it does not answer.
    """
    with translated(url):
        info: dict[str, Any] = client.info()
    for _, said in faults(client, url, info, writes=writes):
        raise UsageError(said)


def faults(
    client: Client, url: str, info: Mapping[str, Any], *, writes: bool
) -> Iterator[tuple[str, str]]:
    """Yield why a server cannot keep the guarantees: the kind of fault, and in words.

    `unfit`: a Sentinel, a node of a Cluster that the URL does not call one, a version below 6.2;
    `eviction`: a policy that drops keys; `replica`, when `writes`. `info` is what INFO says.
    """
    if info.get("redis_mode") == "sentinel":
        said = f"{redact(url)} is a Sentinel; write redis+sentinel://host:port/MASTER"
        yield "unfit", said
    if info.get("cluster_enabled") and _route(client) is None:
        said = f"{redact(url)} is a node of a Cluster; write redis+cluster:// instead of redis://"
        yield "unfit", said
    yield from _age_faults(str(info["redis_version"]), url)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            "eviction",
            (
                f"{redact(url)} has maxmemory-policy {policy}, which drops keys that the guarantees"
                " rest on; set it to noeviction"
            ),
        )
    if writes and info.get("role") not in ("master", "sentinel", None):
        yield "replica", f"{redact(url)} is a replica, read-only; name the primary"


def _age_faults(version: str, url: str) -> Iterator[tuple[str, str]]:
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        said = f"{redact(url)} is Redis {version}; the sidecar needs 6.2 or newer, or Valkey 7.2 or"
        yield "unfit", f"{said} newer"


def check_stream(client: Client, url: str, stream: str | bytes) -> None:
    """Raise `UsageError` when the key `stream` holds something else than a stream.

    Also when, on a Cluster, it lies in another slot than the client's: a dead-letter stream must
    not, for its entries are written together with what belongs to the notification stream.
    """
    _check_slot(client, url, stream)
    with translated(url):
        found: Any = client.type(stream)
    kind = found.decode() if isinstance(found, bytes) else found
    if kind not in ("stream", "none"):
        raise UsageError(
            f"the key {stream!r} on {redact(url)} is a {kind}, not a stream; name another or"
            " remove it"
        )


def _check_slot(client: Client, url: str, stream: str | bytes) -> None:
    route = _route(client)
    if route is not None and _slot(stream) != route.slot:
        raise UsageError(
            f"{stream!r} lies in another slot of the Cluster {redact(url)} than the notification"
            " stream; put its name in braces, as in {control:notifications}:dead"
        )

"""Connections to Redis, and the one place where its errors get words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.crc import key_slot
from redis.exceptions import InvalidResponse, NoPermissionError
from redis.retry import Retry

from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.redis.topology import SlotRoute, WrongNode, WrongService, read_url
from sidecar.redis.topology_async import connection_class
from sidecar.wire.urls import redact

Client = redis.Redis
AsyncClient = redis.asyncio.Redis

TIMEOUT_S: Final = 5.0
"""Seconds without an answer after which a connection counts as broken."""
OLDEST: Final = (6, 2)

_FORMS: Final = (
    "write redis://[user:password@]host:port/db, rediss://… for TLS, unix:///path,"
    " redis+sentinel://host:port,host:port/MASTER or redis+cluster://host:port,host:port"
)
_CERTIFICATE_FIXES: Final = {
    "CERTIFICATE_VERIFY_FAILED": "name the authority that signed the server's certificate with"
    " ?ssl_ca_certs=/path/ca.pem, and the host as the certificate has it",
    "CERTIFICATE_REQUIRED": "the server wants a certificate: ?ssl_certfile=…&ssl_keyfile=…",
}

_CLOSED: Final = (
    "reset by peer", "closed by server", "Timeout connecting", "EOF occurred", "WRONG_VERSION",
)  # fmt: skip
"""How it looks when one side speaks TLS and the other does not, or a certificate lacks."""

FULL: Final = "Redis is full"
"""How a relay's state begins that waits for memory."""

Outage = (redis.ConnectionError, redis.TimeoutError, InvalidResponse)
"""What redis-py raises while a server is away, loading or replaced, or a proxy answers for it."""


def connect(url: str, *, key: str | bytes | None = None, block_s: float = 0.0) -> Client:
    """Return a client for `url`. Nothing is sent yet.

    On a Cluster it is for the slot of `key` alone. `block_s` is how long its longest blocking
    command blocks: the socket's timeout must lie above it (redis-py's own default of 5 s cuts
    longer reads off, docket#425). Commands are not retried here: whoever sends them knows what
    may be sent twice. Raises `UsageError`.
    """
    return _client(url, None if key is None else _slot(key), block_s)


def connect_async(url: str, *, key: str | bytes | None = None, block_s: float = 0.0) -> AsyncClient:
    """Return what `connect` returns, for asyncio. Raises `UsageError`."""
    slot = None if key is None else _slot(key)
    with _explained(url):
        place = read_url(url, _defaults(block_s))
        kind: Any = connection_class(place)
        options = place.options | {"retry": AsyncRetry(NoBackoff(), 0), "route": place.route(slot)}
        pool = redis.asyncio.ConnectionPool(kind, **options)
        kind(**pool.connection_kwargs)  # an option that does not exist shows here
    return AsyncClient.from_pool(pool)


def _client(url: str, slot: int | None, block_s: float = 0.0) -> Client:
    with _explained(url):
        place = read_url(url, _defaults(block_s))
        pool: Any = ConnectionPool(place.connection_class, **place.options, route=place.route(slot))
        pool.connection_class(**pool.connection_kwargs)  # an option that does not exist shows here
    return redis.Redis.from_pool(pool)


def _defaults(block_s: float) -> dict[str, Any]:
    return {
        "protocol": 2, "socket_timeout": TIMEOUT_S + block_s, "socket_connect_timeout": TIMEOUT_S,
        "socket_keepalive": True, "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what redis-py says of a URL into `UsageError`."""
    try:
        yield
    except (ValueError, redis.RedisError) as error:
        why, _, _ = str(error).partition(" as ")  # then comes what may be a part of the password
        raise UsageError(f"{redact(url)!r} is no Redis URL: {why}; {_FORMS}") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        option = str(error).rpartition(" ")[2]
        raise UsageError(f"{redact(url)!r}: there is no option {option}; {_FORMS}") from error


def _slot(key: str | bytes) -> int:
    raw = key.encode(errors="surrogateescape") if isinstance(key, str) else key
    return int(key_slot(raw))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, for whoever reads several streams; its URL is for words, too.

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
        """Return a client for each node that has keys, by what it owns.

        Raises redis-py's `ConnectionError`.
        """
        route = _route(self.client)
        if route is None:
            return {"": self.client}
        owners = route.owners()
        return {str(slots): _client(self.url, slots[0].start) for slots in owners.values()}


def _route(client: Client) -> SlotRoute | None:
    """Return the client's way on a Cluster, None elsewhere."""
    route = client.connection_pool.connection_kwargs.get("route")
    return route if isinstance(route, SlotRoute) else None


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into ours: `Unreachable` (exit 4) or `UsageError` (exit 2)."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise UsageError(f"{redact(url)} refuses the login: {error}") from error
    except NoPermissionError as error:
        raise UsageError(
            f"{redact(url)}: the user lacks a permission ({error}); deploy/redis/users.acl lists"
            " what the sidecar needs"
        ) from error
    except Outage as error:
        raise outage(url, error) from error
    except redis.ResponseError as error:
        if is_misplaced(error):
            raise UsageError(
                f"{redact(url)}: a key is not what its name says ({error}); `sidecar status` names"
                " it"
            ) from error
        raise SidecarError(f"{redact(url)} answers: {error}") from error


def outage(url: str, error: Exception) -> SidecarError:
    """Return what an outage means: to wait is no fix when the URL is wrong."""
    if isinstance(error, WrongNode):
        return UsageError(f"{redact(url)} {error}")
    if isinstance(error, WrongService):
        return UsageError(
            f"{redact(url)}: nobody there knows the way ({error}); are the hosts, their ports and"
            " the name right?"
        )
    for sign, fix in _CERTIFICATE_FIXES.items():
        if sign in str(error):
            return UsageError(f"{redact(url)}: {error}; {fix}")
    return Unreachable(
        f"{redact(url)} cannot be reached ({error}); is the server up and the URL right?"
        + (_tls_hint(url) if any(sign in str(error) for sign in _CLOSED) else "")
    )


def _tls_hint(url: str) -> str:
    if url.startswith("rediss"):
        return " it may be that the port speaks no TLS, or wants a certificate (?ssl_certfile=…)"
    return " it may be that the port wants TLS: rediss://"


def check_server(client: Client, url: str, *, writes: bool) -> None:
    """Refuse a server that cannot keep the guarantees.

    Raises `UsageError` for a version below 6.2, an eviction policy, a node of a Cluster that the
    URL does not call one and, when `writes`, a replica; `Unreachable` when it does not answer.
    """
    with translated(url):
        info: dict[str, Any] = client.info()
    if info.get("redis_mode") == "sentinel":
        raise UsageError(f"{redact(url)} is a Sentinel; write redis+sentinel://host:port/MASTER")
    if info.get("cluster_enabled") and _route(client) is None:
        raise UsageError(
            f"{redact(url)} is a node of a Cluster; write redis+cluster:// instead of redis://"
        )
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST:
        raise UsageError(
            f"{redact(url)} is Redis {info['redis_version']}; the sidecar needs 6.2 or newer,"
            " or Valkey 7.2 or newer"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise UsageError(
            f"{redact(url)} has maxmemory-policy {policy}, which drops keys that the guarantees"
            " rest on; set it to noeviction"
        )
    if writes and info.get("role") not in ("master", None):
        raise UsageError(f"{redact(url)} is a replica, read-only; name the primary")


def check_stream(client: Client, url: str, stream: str | bytes) -> None:
    """Raise `UsageError` when the key `stream` holds something else than a stream.

    Also when, on a Cluster, it lies in another slot than the client's: a dead-letter stream must
    not, for its letters are written together with what belongs to the notification stream.
    """
    route = _route(client)
    if route is not None and _slot(stream) != route.slot:
        raise UsageError(
            f"{stream!r} lies in another slot of the Cluster {redact(url)} than the notification"
            " stream; put its name in braces, as in {control:notifications}:dead"
        )
    with translated(url):
        kind = client.type(stream)
    if isinstance(kind, bytes):
        kind = kind.decode()
    if kind not in ("stream", "none"):
        raise UsageError(
            f"the key {stream!r} on {redact(url)} is a {kind}, not a stream; name another or"
            " remove it"
        )


FULL_FIX: Final = (
    "; nothing is lost; what is finished is trimmed by policy all the while; raise maxmemory, or"
    " shorten --trim-control, --trim-notifications or --trim-dead, and it continues"
)
_FIXES: Final = {
    "'maxmemory'": FULL_FIX.removeprefix("; "),
    "is a replica": "it continues as soon as the URL leads to the primary",
    "WRONGTYPE": "a key is not what its name says; `sidecar status` names it; remove it, and it"
    " continues",
    "no control_version can follow": "`sidecar status` names the fix",
    "exhausted the last possible ID": "`sidecar status` names the fix",
    "MISCONF": "the server cannot save to its disk; fix that, and it continues",
}


def is_full(error: Exception) -> bool:
    """Tell whether the server refused a write because it has no memory for it."""
    return "'maxmemory'" in str(error)


def is_misplaced(error: Exception) -> bool:
    """Tell whether a key is another kind of key than the command is for."""
    return "WRONGTYPE" in str(error)


def fix_of(error: Exception) -> str:
    """Return what a running worker's operator can do about `error`, to be put behind it."""
    return "".join(f"; {fix}" for words, fix in _FIXES.items() if words in str(error))

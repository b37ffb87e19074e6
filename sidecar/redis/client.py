"""Connections to Redis, and the one place where its errors get words for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, NoPermissionError
from redis.retry import Retry

from sidecar.errors import SidecarError, Unreachable, UsageError

Client = redis.Redis

TIMEOUT_S: Final = 5.0
"""Seconds without an answer after which a connection counts as broken."""
OLDEST: Final = (6, 2)

Outage = (redis.ConnectionError, redis.TimeoutError, InvalidResponse)
"""What redis-py raises while a server is away or loading, or a proxy answers in its place."""


def connect(url: str, *, block_s: float = 0.0) -> Client:
    """Return a client for `url`. Nothing is sent yet.

    `block_s` is how long its longest blocking command blocks: the socket's timeout must lie
    above it (redis-py's own default of 5 s cuts longer reads off, docket#425). Commands are not
    retried here: whoever sends them knows what may be sent twice. Raises `UsageError`.
    """
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=TIMEOUT_S + block_s,
            socket_connect_timeout=TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{redact(url)!r} is no Redis URL ({error}); write redis://[user:password@]host:port/db,"
            " rediss://… for TLS or unix:///path"
        ) from error


def redact(url: str) -> str:
    """Return `url` without its password, fit for a log."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    if not parts.password:
        return re.sub(r"(password=)[^&]*", r"\1***", url)
    return url.replace(f":{parts.password}@", ":***@")


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
        raise Unreachable(
            f"{redact(url)} cannot be reached ({error}); is the server up and the URL right?"
        ) from error
    except redis.ReadOnlyError as error:
        raise UsageError(f"{redact(url)} is a replica, read-only; name the primary") from error
    except redis.ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise UsageError(
                f"{redact(url)}: a key is not what its name says ({error}); name another stream"
            ) from error
        raise SidecarError(f"{redact(url)} answers: {error}") from error


def check_server(client: Client, url: str, *, writes: bool) -> None:
    """Refuse a server that cannot keep the guarantees.

    Raises `UsageError` for a version below 6.2, an eviction policy and, when `writes`, a
    replica; `Unreachable` when it does not answer.
    """
    with translated(url):
        info: dict[str, Any] = client.info()
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
    """Raise `UsageError` when the key `stream` holds something else than a stream."""
    with translated(url):
        kind = client.type(stream)
    if isinstance(kind, bytes):
        kind = kind.decode()
    if kind not in ("stream", "none"):
        raise UsageError(
            f"the key {stream!r} on {redact(url)} is a {kind}, not a stream; name another or"
            " remove it"
        )


_MENDS: Final = {
    "maxmemory": "nothing is lost; raise maxmemory, or trim streams, and it goes on",
    "read only replica": "it is a replica now; it goes on as soon as the URL leads to the primary",
    "WRONGTYPE": "a key is not what its name says; remove it, and it goes on",
    "MISCONF": "the server cannot save to its disk; mend that, and it goes on",
}


def mend_of(error: Exception) -> str:
    """Return what a running worker's operator can do about `error`, to be put behind it."""
    return "".join(f"; {mend}" for words, mend in _MENDS.items() if words in str(error))

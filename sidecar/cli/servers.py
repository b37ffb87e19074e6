"""Which servers, streams and stores the shared options mean."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.redis.keys import Keys


class Servers:
    """The two servers, found when they are first asked for.

    Without --redis it is the embedded server that runs under the data directory; without
    --notify-redis both are one. Raises `Unreachable` when none runs there.
    """

    def __init__(self, data_dir: Path, redis: str | None, notify_redis: str | None = None) -> None:
        self._data_dir = data_dir
        self._redis = redis
        self._notify_redis = notify_redis

    @property
    def control(self) -> str:
        """URL of the server with the control streams."""
        if not self._redis:
            from sidecar import embedded

            self._redis = embedded.find(self._data_dir)
        return self._redis

    @property
    def notify(self) -> str:
        """URL of the server with the notifications, dead letters and leases."""
        return self._notify_redis or self.control


def keys_of(streams: Sequence[str], notify_stream: str, dead_stream: str | None) -> list[Keys]:
    """Return the key names of each control stream, once each. Raises `UsageError`."""
    from sidecar.redis.keys import Keys

    names = list(dict.fromkeys(streams))
    if not all((*names, notify_stream)):
        raise UsageError("--stream and --notify-stream need a name")
    return [Keys.of(stream, notify_stream, dead_stream or None) for stream in names]


def utf8(option: str, value: str) -> str:
    """Return a value that will be stored. Raises `UsageError` when it is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"{option}: {value!a} is not UTF-8; set the locale, or type it again"
        raise UsageError(message) from None
    return value


def whoami() -> str:
    """Return user@host, for records of who did what."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user without a name
    return f"{user}@{socket.gethostname()}".encode(errors="replace").decode()


def now() -> str:
    """Return the time, RFC 3339."""
    from sidecar.moments import rfc3339

    return rfc3339(time.time() * 1e6)

"""A registered reader, as its feed keeps it: what to note of it in Redis, and when."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from sidecar.errors import UsageError
from sidecar.redis.errors import NotPermitted, Refused
from sidecar.redis.readers import check
from sidecar.wire.urls import redact

HEARTBEAT_S: Final = 60.0
_log: Final = logging.getLogger("sidecar.feed")


class Registration:
    """The reader of one feed, which may have no name: then nothing is noted of it."""

    def __init__(self, name: str | None, ttl_s: int) -> None:
        """It expires when nothing is heard of it for `ttl_s` seconds. Raises `UsageError` for a
        name or time that cannot be meant.
        """
        if name is not None:
            check(name, ttl_s)
        self.name, self.ttl_s = name or "", ttl_s
        self._passed: int | None = None
        self._told_at = -math.inf
        self._is_refused = False

    def owe(self, control_version: int) -> None:
        """Have the next heartbeat note that the reader needs nothing up to there."""
        if not self.name:
            raise UsageError("to register, the feed needs a name: Feed(…, reader='controller-1')")
        self._passed, self._told_at = control_version, -math.inf

    def due(self) -> int | None:
        """Return what to note of the reader, at first or lest it expires; None: nothing is due."""
        patience_s = min(HEARTBEAT_S, self.ttl_s / 3)
        return self._passed if time.monotonic() - self._told_at > patience_s else None

    def told(self, control_version: int, url: str) -> None:
        """Take in that Redis has noted it."""
        if self._is_refused:
            _log.info("%s has taken note of the reader %r", redact(url), self.name)
        self._is_refused = False
        if control_version == self._passed:  # else another task has passed more meanwhile
            self._told_at = time.monotonic()

    def refused(self, error: Refused, url: str) -> None:
        """Log that the note was refused, once until it is taken.

        It is tried again with each heartbeat. Raises what will be refused next time, too.
        """
        if is_lasting(error):
            raise error
        if not self._is_refused:
            _log.warning(
                "%s takes no note of the reader %r, so what it has not passed may be trimmed; it is"
                " tried again: %s", redact(url), self.name, error,
            )  # fmt: skip
        self._is_refused = True


def is_lasting(error: Refused) -> bool:
    """Tell whether a note about the reader will be refused next time, too.

    A server that takes no writes just now, a replica or one without memory, can be read.
    """
    return isinstance(error, NotPermitted) or str(error).startswith("WRONGTYPE")

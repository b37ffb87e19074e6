"""What kept an owner from serving, from when to when: noted, and put on record once it is over.

A history has no other sign of it: an event that waited for a store looks like any that waited.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sidecar.redis.tenures import Outage

STORE: Final = "store"
REDIS: Final = "redis"
WORTH_TELLING_S: Final = 3.0
MOST_UNTOLD: Final = 10


class Outages:
    """The outages of one control stream's owner. Not for use from several threads."""

    def __init__(
        self, put: Callable[[Outage], None], wall_clock: Callable[[], float] = time.time
    ) -> None:
        """`put` puts one on record, and may raise `RedisError`."""
        self._put, self._wall_clock = put, wall_clock
        self._going_on: dict[str, tuple[float, str]] = {}
        self._over: list[Outage] = []

    def began(self, of: str, detail: str) -> None:
        """Note that it cannot serve for want of `of`, unless that is known."""
        if of not in self._going_on:
            self._going_on[of] = (self._wall_clock(), detail)

    def ended(self, of: str) -> None:
        """Note that it can serve again. Costs nothing where nothing was wrong."""
        if of in self._going_on:
            since_s, detail = self._going_on.pop(of)
            until_s = self._wall_clock()
            if until_s - since_s >= WORTH_TELLING_S and len(self._over) < MOST_UNTOLD:
                self._over.append(Outage(of, since_s, until_s, detail))

    def forget(self, of: str) -> None:
        """Note that another serves, who has its own to tell."""
        self._going_on.pop(of, None)

    def tell(self) -> None:
        """Put on record what is over. Raises `RedisError`: it is told the next time."""
        while self._over:
            self._put(self._over[0])
            del self._over[0]

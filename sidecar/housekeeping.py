"""What a worker does beside relaying: it tells the other workers of itself, and trims."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import redis
from structlog.typing import FilteringBoundLogger

from sidecar.redis.client import Outage
from sidecar.redis.members import Members
from sidecar.redis.retention import Retention
from sidecar.share import Share

TRIM_EVERY_S: Final = 10.0


class Housekeeper:
    """Keeps house for the relays of one worker. Redis being away is the relays' to tell."""

    def __init__(
        self,
        members: Members,
        share: Share,
        retentions: Mapping[str, Retention],
        beat_s: float,
        log: FilteringBoundLogger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`retentions` by control stream; one is used while this worker owns its stream."""
        self._members = members
        self._share = share
        self._retentions = retentions
        self._beat_s = beat_s
        self._log = log
        self._clock = clock
        self._trim_at = clock()
        self._expired: set[str] = set()

    def work(self) -> None:
        """Do what is due. Call it every `beat_s` seconds, about."""
        try:
            self._share.see(self._members.beat(self._share.owned))
            if self._share.owned and self._clock() >= self._trim_at:
                self._trim()
                self._trim_at = self._clock() + TRIM_EVERY_S
        except (*Outage, redis.ResponseError) as error:
            self._log.debug("housekeeping waits for Redis", error=str(error))

    def leave(self) -> None:
        """Tell the others that this worker is gone."""
        try:
            self._members.leave()
        except (*Outage, redis.ResponseError) as error:
            self._log.debug("housekeeping waits for Redis", error=str(error))

    def _trim(self) -> None:
        """Trim, a round after the other, but not for longer than a beat."""
        ends_at = self._clock() + self._beat_s
        for stream in sorted(self._share.owned):
            retention, more = self._retentions[stream], True
            self._warn_of_expired(retention)
            while more and self._clock() < ends_at:
                trimmed = retention.trim()
                more = any(one.more for one in trimmed)
                for one in trimmed:
                    if one.removed:
                        self._log.debug("trimmed", stream=one.stream, removed=one.removed)

    def _warn_of_expired(self, retention: Retention) -> None:
        expired = {reader.name for reader in retention.readers() if reader.expired}
        for name in sorted(expired - self._expired):
            self._log.warning(
                "reader expired", reader=name,
                detail="silent for longer than its time: what it has not read may be trimmed",
            )  # fmt: skip
        self._expired = expired

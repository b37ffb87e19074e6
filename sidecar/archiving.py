"""The archive kept up beside the relays.

In a thread of its own: a slow store must not keep a worker from telling the others that it lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final

import redis
from structlog.typing import FilteringBoundLogger

from sidecar.errors import SidecarError
from sidecar.history.archiver import Archiver
from sidecar.redis.client import Outage
from sidecar.redis.keys import Keys
from sidecar.share import Share

LOOK_EVERY_S: Final = 10.0


class Archiving:
    """Archives what this worker is responsible for: the control streams that it owns, and of the
    others those that belong to the first of all.
    """

    def __init__(
        self,
        archivers: Mapping[str, Archiver],
        keys: Mapping[str, Keys],
        share: Share,
        every_s: float,
        log: FilteringBoundLogger,
    ) -> None:
        """Both by control stream. A segment is closed after `every_s` seconds at the latest."""
        self._archivers, self._keys, self._share = archivers, keys, share
        self._every_s, self._log = every_s, log
        self._rest_at = time.monotonic() + every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, once what is under way is through."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(LOOK_EVERY_S, self._every_s)):
            rest = time.monotonic() >= self._rest_at
            try:
                for control, stream in self._streams():
                    self._archive(control, stream, rest=rest)
            except (SidecarError, *Outage, redis.ResponseError) as error:
                self._log.warning("the archive waits", detail=str(error))
                continue
            if rest:
                self._rest_at = time.monotonic() + self._every_s

    def _streams(self) -> Iterator[tuple[str, str]]:
        """Yield the streams to archive, each with the control stream whose archiver does it."""
        for control in sorted(self._share.owned):
            yield control, control
        first = min(self._keys)
        if first in self._share.owned:
            keys = self._keys[first]
            for stream in (keys.notifications, keys.dead, keys.redriven, keys.halts):
                yield first, stream

    def _archive(self, control: str, stream: str, *, rest: bool) -> None:
        for one in self._archivers[control].archive(stream, rest=rest):
            self._log.info("archived", stream=stream, rows=one.rows, size_bytes=one.size_bytes)
            if self._stop.is_set():
                return

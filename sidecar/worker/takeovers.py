"""What a worker says when it has taken a stream over: in the log, and on record for `status`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from sidecar.redis.errors import Failed
from sidecar.worker.share import Share

MOST: Final = 20
"""So many are named one by one in `EVERY_S`: a worker may take thousands of streams at once."""
EVERY_S: Final = 60.0


class Takeovers:
    """Logs which streams this worker took over. Raises nothing; safe to use from all relays."""

    def __init__(
        self, share: Share, log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`share` knows the other workers' names. `clock` is in seconds."""
        self._share = share
        self._log = log
        self._clock = clock
        self._since = clock()
        self._named = self._more = 0
        self._lock = threading.Lock()

    def say(self, stream: str, record: Callable[[str], None], before: str) -> None:
        """Log it, and call `record` with the name of the worker whose id is `before`.

        What `record` raises of Redis is let pass: the stream is to be served.
        """
        name, more = self._share.name_of(before), dict[str, str]()
        try:
            record(name)
        except Failed as error:
            more = {"not_on_record": str(error)}
        with self._lock:
            if self._is_named():
                self._log.warning("took over", stream=stream, before=name or "unknown", **more)

    def _is_named(self) -> bool:
        """Tell whether this one has a line of its own, and log how many had none before."""
        if self._clock() - self._since >= EVERY_S:
            if self._more:
                self._log.warning("more takeovers; `sidecar status` has some", count=self._more)
            self._since, self._named, self._more = self._clock(), 0, 0
        if self._named == MOST:
            self._more += 1
            return False
        self._named += 1
        return True

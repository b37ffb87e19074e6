"""Which entries become dead letters, in the log: each by itself, or many in one line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from structlog.typing import FilteringBoundLogger

from sidecar.worker.outcomes import Finished

MOST: Final = 20
"""So many are named one by one in `EVERY_S`."""
EVERY_S: Final = 60.0


class Deaths:
    """Logs the dead letters of one control stream. Raises nothing."""

    def __init__(
        self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is in seconds."""
        self._log = log
        self._clock = clock
        self._since = clock()
        self._named = 0
        self._more: Counter[str] = Counter()

    def say(self, finished: Iterable[Finished]) -> None:
        """Log those whose dead letter was written."""
        if self._clock() - self._since >= EVERY_S:
            self.sum_up()
        for item, outcome in finished:
            if item.bury is None or outcome != item.bury.reason.value:
                continue  # it was published, or had its letter
            if self._named < MOST:
                self._named += 1
                self._log.warning("dead letter", reason=outcome, **item.described())
            else:
                self._more[outcome] += 1

    def sum_up(self) -> None:
        """Log how many were not named, and name those to come again."""
        if self._more:
            self._log.warning(
                "more dead letters; `sidecar dead ls` lists them", count=self._more.total(),
                reasons=dict(self._more),
            )  # fmt: skip
        self._since, self._named = self._clock(), 0
        self._more.clear()

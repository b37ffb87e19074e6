"""Which control_versions a run is to have: what is signed must have them before it is published.

Redis gives the highest of its time, the last one plus 1, and the worker's own highest plus 1
(docs/contract.md, "Notification"). So a worker that is a little ahead of all of them knows what
will be given. Where it was not enough (another worker published meanwhile, or Redis was busy) the
script does nothing, and the run is signed again, further ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.wire.signing import Signer

AHEAD_US: Final = 2_000
"""How far a worker is ahead of when Redis is expected to publish the run."""
EACH_US: Final = 10
"""So much more for each event."""
MOST_AHEAD_US: Final = 5_000_000
_CALMS: Final = 16
"""By such a part of it the distance shrinks with each run that is published."""


class Signing:
    """Signs the runs of one owner of a control stream."""

    def __init__(
        self, signer: Signer, stream: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stream` is the notification stream."""
        self._signer, self._stream, self._clock = signer, stream, clock
        self._ahead_us = AHEAD_US
        self._server_us: int | None = None
        """When Redis published the last run, by its time, less when that was begun, by the clock;
        None for unknown. It has what signing and sending take in it."""
        self._began_us = 0
        self._above = 0
        """Somebody was given this one, or nearly, while the run was on its way."""
        self._beyond_us = 0
        """How far above what others are given then: more each time that was not enough."""

    def signed(self, events: Sequence[tuple[str, bytes]], highest: int) -> tuple[int, list[bytes]]:
        """Return the control_version below the first event's, and a signature for each event.

        Events are origin and JSON up to the value of control_version; without JSON it is not
        signed. `highest` is the last that this worker knows of.
        """
        self._began_us = int(self._clock() * 1e6)
        now_us = 0 if self._server_us is None else self._began_us + self._server_us
        ahead_us = self._ahead_us + EACH_US * len(events)
        floor = max(highest, now_us + ahead_us, self._above)
        whole = [(origin.encode(), b"%b%d}" % (json, floor + number))
                 for number, (origin, json) in enumerate(events, 1) if json]  # fmt: skip
        signatures = iter(self._signer.signed(self._stream, whole))
        return floor, [next(signatures) if json else b"" for _, json in events]

    def overtaken(self, highest: int, now_us: int) -> None:
        """Note that a run was not published because `highest` is given; it is signed again.

        One that came late is farther ahead of the server's time from now on. One that another
        overtook is not: it is given what comes next. Two that outbid each other would have
        control_versions run away from time.
        """
        self._heard(now_us)
        self._above = highest + self._beyond_us
        self._beyond_us = min(2 * self._beyond_us + EACH_US, MOST_AHEAD_US)
        if highest < now_us:
            self._ahead_us = min(2 * self._ahead_us, MOST_AHEAD_US)

    def published(self, now_us: int) -> None:
        """Note the server's time after a run."""
        self._heard(now_us)
        self._above = self._beyond_us = 0
        self._ahead_us = max(AHEAD_US, self._ahead_us - self._ahead_us // _CALMS)

    def _heard(self, now_us: int) -> None:
        self._server_us = now_us - self._began_us

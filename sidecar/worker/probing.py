"""Whether a worker that stands by could serve: now and then it puts a few bytes into the store.

Its relays put nothing, so a fleet store that it cannot write would show at a takeover, when it is
needed. In a thread of its own: a disk that hangs keeps no worker from telling that it lives.
"""

from __future__ import annotations

import time
from typing import Final

from sidecar.stores import explained
from sidecar.worker.share import Share
from sidecar.worker.supervision import Supervisor
from sidecar.worker.threads import Beside
from store import Store

PROBE: Final = ".sidecar/probe"
EVERY_S: Final = 300.0
TICK_S: Final = 5.0
_CONTENT: Final = b"a worker looked whether it can write here\n"
"""Always the same: to put it again changes nothing, and is refused where it cannot be put."""


class Probing(Beside):
    """Probes the fleet's store until it is closed, while this worker owns no stream."""

    def __init__(self, fleet: Store, share: Share, supervisor: Supervisor) -> None:
        super().__init__("probe", TICK_S, self._look)
        self._fleet, self._share, self._supervisor = fleet, share, supervisor
        self._due = 0.0

    def _look(self) -> None:
        if self._share.owned:
            self._supervisor.only("probe", ())  # its relays tell
        elif time.monotonic() >= self._due and self._supervisor.attempt("probe", "", self._put):
            self._due = time.monotonic() + EVERY_S

    def _put(self) -> bool:
        with explained():
            self._fleet.put(PROBE, _CONTENT, b"")
        return True

"""Whether a worker that stands by could serve: now and then it puts a few bytes into the store.

Its relays put nothing, so a fleet store that it cannot write would show at a takeover, when it is
needed. In a thread of its own: a disk that hangs keeps no worker from telling that it lives.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from sidecar.stores import explained
from sidecar.worker.share import Share
from sidecar.worker.supervision import Supervisor
from store import Store

PROBE: Final = ".sidecar/probe"
EVERY_S: Final = 300.0
TICK_S: Final = 5.0
LEAVE_S: Final = 10.0
_CONTENT: Final = b"a worker looked whether it can write here\n"
"""Always the same: to put it again changes nothing, and is refused where it cannot be put."""


class Probing:
    """Probes the fleet's store until it is closed, while this worker owns no stream."""

    def __init__(self, fleet: Store, share: Share, supervisor: Supervisor) -> None:
        self._fleet, self._share, self._supervisor = fleet, share, supervisor
        self._due = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, without waiting long for what hangs."""
        self._stop.set()
        self._thread.join(LEAVE_S)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            if self._share.owned:
                self._supervisor.only("probe", ())  # its relays tell
            elif time.monotonic() >= self._due and self._supervisor.attempt("probe", "", self._put):
                self._due = time.monotonic() + EVERY_S

    def _put(self) -> bool:
        with explained():
            self._fleet.put(PROBE, _CONTENT, b"")
        return True

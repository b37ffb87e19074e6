"""A thread a relay, and what becomes of the process when one ends; threads beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from structlog.typing import FilteringBoundLogger

from sidecar.errors import SidecarError, Unreachable
from sidecar.worker.heartbeat import Heartbeats
from sidecar.worker.relay import Relay

LEAVE_S: Final = 10.0


class Beside:
    """Work beside the relays, in a thread of its own: a look every so often until it is closed."""

    def __init__(self, name: str, every_s: float, look: Callable[[], object]) -> None:
        """`look` raises nothing: nobody would see the thread end."""
        self._stopping = threading.Event()
        self._rest_s, self._do = every_s, look
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, without waiting long for what hangs."""
        self._stopping.set()
        self._thread.join(LEAVE_S)

    def _run(self) -> None:
        while not self._stopping.wait(self._rest_s):
            self._do()


class Threads:
    """Runs the relays. When one dies of a bug, all stop: a worker must not look healthy then."""

    def __init__(self, stop: threading.Event, log: FilteringBoundLogger) -> None:
        self._stop = stop
        self._log = log
        self._died = False
        self._refused: SidecarError | None = None
        self._ended = threading.Semaphore(0)
        self._relays: Sequence[Relay] = ()
        self._threads: list[threading.Thread] = []
        self._beats = Heartbeats()

    def start(self, relays: Sequence[Relay]) -> None:
        """Start a thread for each relay."""
        self._relays = relays
        self._threads = [
            threading.Thread(target=self._run, args=(relay,), name="relay") for relay in relays
        ]
        for thread in self._threads:
            thread.start()

    def running(self) -> bool:
        """Return whether a relay runs still."""
        return any(thread.is_alive() for thread in self._threads)

    def beat(self, stream: str) -> None:
        """Note that the relay of `stream` lives."""
        self._beats.beat(stream)

    def stuck(self) -> list[str]:
        """Name the relays that died, or are stuck."""
        return [*(["a relay died"] if self._died else []), *self._beats.stuck()]

    def wait(self, timeout_s: float) -> None:
        """Wait until a relay ends, or so long."""
        self._ended.acquire(timeout=timeout_s)

    def refuse(self, error: SidecarError | None) -> None:
        """Stop all, if there is an error that only another start fixes."""
        if error and not self._refused:
            self._refused = error
            self._log.error("stopping", detail=str(error))
            self._stop.set()

    def exit_code(self, *, drain: bool) -> int:
        """Return the exit code of the process."""
        if self._refused:
            return self._refused.exit_code
        if self._died:
            return SidecarError.exit_code
        if any(relay.unreachable for relay in self._relays):
            return Unreachable.exit_code
        incomplete = drain and not all(relay.complete for relay in self._relays)
        return 3 if incomplete else 0

    def _run(self, relay: Relay) -> None:
        self.beat(relay.stream)
        try:
            relay.run(self._stop)
        except Exception:  # noqa: BLE001 -- whatever it is, no relay may die unseen
            self._died = True
            self._stop.set()
            self._log.exception("a relay died; this is a bug, please report it")
        finally:
            self._beats.ended(relay.stream)
            self._ended.release()

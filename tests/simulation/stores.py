"""Memory stores that fail, stall and crash as the seed says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from store import ArtifactReader, Position, Readable, Unavailable
from store.memory import MemoryStore
from store.testing.wrappers import Wrapper
from tests.simulation.faults import STORE, Fault, Faults
from tests.simulation.schedule import Process, Schedule

T = TypeVar("T")
USUAL_S = 0.002
Pin = tuple[str, str, str]


class Shelf:
    """One storage: what is on it outlives every worker."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.away_until = 0.0
        self.durable: dict[Pin, Position] = {}
        """What was put and is there: ref, checksums of data and manifest; the latest position."""

    def note(self, pin: Pin, position: Position | None) -> None:
        """Remember what was put."""
        self.durable[pin] = max(position or (0, 0), self.durable.get(pin, (0, 0)))

    def holds(self, pin: Pin) -> bool:
        """Tell whether a version is there, and is what it says; knows nothing of the worker."""
        if pin not in self.durable:
            return False
        ref, checksum, manifest_checksum = pin
        data, manifest = self.inner.get(ref, checksum=checksum, manifest_checksum=manifest_checksum)
        return (sha256(data), sha256(manifest)) == (checksum, manifest_checksum)


class ShelfStore(Wrapper):
    """One worker's way to a shelf."""

    def __init__(
        self,
        shelf: Shelf,
        schedule: Schedule,
        faults: Faults,
        step: Callable[[Process], None],
        lease_s: float,
    ) -> None:
        super().__init__(shelf.inner)
        self._shelf = shelf
        self._schedule = schedule
        self._faults = faults
        self._step = step
        self._lease_s = lease_s

    def around(self, operation: Callable[[], T]) -> T:
        """Read, unless the store fails."""
        fault = self._begin()
        if fault is Fault.SOURCE_BEFORE:
            raise Unavailable("simulated: the store failed; try again")
        return operation()

    def open(self, ref: str, **pins: Any) -> ArtifactReader:
        """Open a version, unless the store fails."""
        return self.around(lambda: self.inner.open(ref, **pins))

    def put_from(
        self,
        ref: str,
        reader: Readable,
        manifest: bytes,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """Put, unless the store fails, before it is done or after."""
        fault = self._begin()
        if fault is Fault.FLEET_BEFORE:
            raise Unavailable("simulated: nothing was put; try again")
        found = self.inner.put_from(ref, reader, manifest, checksum=checksum, position=position)
        self._shelf.note((ref, found, sha256(manifest)), position)
        if fault is Fault.FLEET_AFTER:
            raise Unavailable("simulated: it was put, and the answer was lost; try again")
        self._step(self._schedule.current.process)
        self._schedule.wait(self._faults.chance.expovariate(1 / USUAL_S))
        return found

    def _begin(self) -> Fault | None:
        self._step(self._schedule.current.process)
        fault = self._faults.draw(STORE)
        delay_s = self._faults.chance.expovariate(1 / USUAL_S)
        if fault is Fault.STORE_SLOW:
            delay_s += self._faults.chance.uniform(0.0, 2 * self._lease_s)
        self._schedule.wait(delay_s)
        if self._schedule.now < self._shelf.away_until:
            raise Unavailable("simulated: the store is away; try again")
        return fault


def sha256(blob: bytes) -> str:
    """Return a checksum as the contract writes it."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()

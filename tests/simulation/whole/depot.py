"""Stores of a whole run: a shelf that remembers what it denied, and that can rot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from store import Artifact, Corrupt, NotFound, StoreError, checksum_of
from store.memory import MemoryStore
from tests.simulation.stores import Pin, Shelf, ShelfStore, sha256

if TYPE_CHECKING:
    import random

    from tests.simulation.whole.world import World

T = TypeVar("T")


class Depot(Shelf):
    """One storage of a whole run."""

    def __init__(self, name: str, put: Callable[[Depot, Pin], int] = lambda *_: 0) -> None:
        """`put` is told what was put, and says when that was."""
        super().__init__()
        self.name, self.put_at = name, dict[Pin, int]()
        self.inner = _Told(lambda pin: self.put_at.__setitem__(pin, put(self, pin)))
        self.inner.identity = name  # the same in each run
        self.absent: dict[tuple[str, ...], list[float]] = {}
        """When it said that it does not have a version, by ref and checksum."""
        self.hangs_until = 0.0

    def holds(self, pin: Pin) -> bool:
        """Tell whether a version is there, and is what it says; knows nothing of the worker."""
        ref, checksum, manifest_checksum = pin
        try:
            data, manifest = self.inner.get(
                ref, checksum=checksum, manifest_checksum=manifest_checksum
            )
        except StoreError:
            return False
        return (sha256(data), sha256(manifest)) == (checksum, manifest_checksum)

    def pins(self) -> set[Pin]:
        """Return all versions that are there."""
        return {(ref, *key) for ref, one in self.inner._entries.items() for key in one.versions}

    def rot(self, chance: random.Random) -> Pin | None:
        """Damage a version; return which."""
        found = [(ref, key) for ref, e in self.inner._entries.items() for key in e.versions]
        if not found:
            return None
        ref, key = chance.choice(found)
        stored = self.inner._entries[ref].versions[key]
        stored.artifact = Artifact(b"rot " + stored.artifact.data, stored.artifact.manifest)
        return ref, *key


class _Told(MemoryStore):
    """A memory store that tells what is put."""

    def __init__(self, tell: Callable[[Pin], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, ref: str, data: Any, manifest: Any, **how: Any) -> None:
        """See `VersionedStore.put`."""
        super().put(ref, data, manifest, **how)
        self._tell((ref, checksum_of(data), checksum_of(manifest)))


class DepotStore(ShelfStore):
    """One process's way to a depot."""

    def __init__(self, world: World, depot: Depot) -> None:
        super().__init__(depot, world.schedule, world.faults, world.step, world.plan.lease_s)
        self._depot = depot

    def around(self, operation: Callable[[], T]) -> T:
        """Read, unless the store fails or hangs."""
        self._wait_while_it_hangs()
        return super().around(operation)

    def open(self, ref: str, **pins: Any) -> Any:
        """Open a version; note when it is not there, or damaged."""
        try:
            return super().open(ref, **pins)
        except (NotFound, Corrupt):
            said = self._depot.absent.setdefault((ref, pins.get("checksum") or ""), [])
            said.append(self._schedule.now)
            raise

    def put_from(self, *args: Any, **options: Any) -> str:
        """Put, unless the store fails or hangs."""
        self._wait_while_it_hangs()
        return super().put_from(*args, **options)

    def _wait_while_it_hangs(self) -> None:
        while self._schedule.now < self._depot.hangs_until:
            self._schedule.wait(self._depot.hangs_until - self._schedule.now)

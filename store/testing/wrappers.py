"""Stores around a store: one that is slow, one that fails. Both as a seed or a script says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from store import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from store import (
        Artifact,
        ArtifactReader,
        Capability,
        Checked,
        Collected,
        Limit,
        Listed,
        Pin,
        Position,
        Readable,
        Retention,
        Version,
        VersionedStore,
    )
    from store.contract import Only

T = TypeVar("T")


class Wrapper:
    """A `VersionedStore` that hands every operation on to `inner`, by way of `around`."""

    def __init__(self, inner: VersionedStore) -> None:
        self.inner = inner

    def around(self, operation: Callable[[], T]) -> T:
        """Run one operation; of a listing, everything up to its end. Override it."""
        return operation()

    @property
    def name(self) -> str:
        """As `inner` has it, and so are its capabilities, its location and its identity."""
        return self.inner.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `VersionedStore.capabilities`."""
        return self.inner.capabilities

    @property
    def location(self) -> str:
        """See `VersionedStore.location`."""
        return self.inner.location

    @property
    def identity(self) -> str | None:
        """See `VersionedStore.identity`."""
        return self.inner.identity

    def put(
        self, ref: str, data: bytes, manifest: bytes, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`."""
        self.around(lambda: self.inner.put(ref, data, manifest, position=position))

    def get(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> Artifact:
        """See `VersionedStore.get`."""
        pin = {"checksum": checksum, "manifest_checksum": manifest_checksum}
        return self.around(lambda: self.inner.get(ref, **pin, limit=limit))

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`."""
        pin = {"checksum": checksum, "manifest_checksum": manifest_checksum}
        return self.around(lambda: self.inner.exists(ref, **pin))

    def put_from(
        self,
        ref: str,
        reader: Readable,
        manifest: bytes,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """See `VersionedStore.put_from`."""
        return self.around(
            lambda: self.inner.put_from(ref, reader, manifest, checksum=checksum, position=position)
        )

    def open(
        self,
        ref: str,
        *,
        checksum: str | None = None,
        manifest_checksum: str | None = None,
        limit: Limit | None = None,
    ) -> ArtifactReader:
        """See `VersionedStore.open`."""
        pin = {"checksum": checksum, "manifest_checksum": manifest_checksum}
        return self.around(lambda: self.inner.open(ref, **pin, limit=limit))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`."""
        return self._each(lambda: self.inner.list(prefix))

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`."""
        return self._each(lambda: self.inner.versions(ref))

    def verify(
        self, prefix: str = "", *, quarantine: bool = False, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Checked]:
        """See `VersionedStore.verify`."""
        return self._each(lambda: self.inner.verify(prefix, quarantine=quarantine, part=part))

    def collect(
        self, retention: Retention, pins: Callable[[], Iterable[Pin]], *, dry_run: bool = False
    ) -> Iterator[Collected]:
        """See `VersionedStore.collect`."""
        return self._each(lambda: self.inner.collect(retention, pins, dry_run=dry_run))

    def delete(self, ref: str, *, checksum: str | None = None, unused_s: float = 0.0) -> bool:
        """See `VersionedStore.delete`."""
        return self.around(lambda: self.inner.delete(ref, checksum=checksum, unused_s=unused_s))

    def versions_of(self, refs: Iterable[str]) -> Iterator[Listed]:
        """See `VersionedStore.versions_of`."""
        return self._each(lambda: self.inner.versions_of(refs))

    def delete_all(self, refs: Iterable[str], *, unused_s: float = 0.0) -> Iterator[str]:
        """See `VersionedStore.delete_all`."""
        return self._each(lambda: self.inner.delete_all(refs, unused_s=unused_s))

    def purge(
        self, refs: Iterable[str], *, only: Only = None, dry_run: bool = False,
    ) -> Iterator[Collected]:  # fmt: skip
        """See `VersionedStore.purge`."""
        return self._each(lambda: self.inner.purge(refs, only=only, dry_run=dry_run))

    def _each(self, operation: Callable[[], Iterator[T]]) -> Iterator[T]:
        yield from self.around(operation)


class Slow(Wrapper):
    """A store that takes its time: each operation waits before it begins.

    Args:
        inner: the store around which it is.
        latency_s: seconds to wait on average; each wait is between none and twice that.
        seed: of the waits; the same seed and the same order of calls wait alike.

    """

    def __init__(self, inner: VersionedStore, latency_s: float, *, seed: int = 0) -> None:
        super().__init__(inner)
        self._latency_s = latency_s
        self._random = random.Random(seed)  # noqa: S311 - to be foretold is what it is for

    def around(self, operation: Callable[[], T]) -> T:
        """Wait, then run it."""
        time.sleep(self._random.uniform(0, 2 * self._latency_s))
        return operation()


class Fault(StrEnum):
    """How an operation fails: with `Unavailable`, and one of these."""

    BEFORE = "before"
    """Nothing was done."""
    AFTER = "after"
    """It was done all the same; only the answer was lost."""


class Faulty(Wrapper):
    """A store that fails as it is told: each operation takes the next of `faults`.

    Args:
        inner: the store around which it is.
        faults: what happens to one operation after the other, None to those that succeed; after
            its end all do. A list is a script, `random_faults` goes by a seed.

    Attributes:
        raised: how many operations were made to fail.

    """

    def __init__(self, inner: VersionedStore, faults: Iterable[Fault | None]) -> None:
        super().__init__(inner)
        self.raised = 0
        self._faults = iter(faults)
        self._lock = threading.Lock()

    def around(self, operation: Callable[[], T]) -> T:
        """Run it, unless it fails before; raise `Unavailable` when it fails."""
        fault = self._next()
        if fault is Fault.BEFORE:
            raise Unavailable("a fault was injected: nothing was done; try again")
        result = operation()
        if fault is Fault.AFTER:
            raise Unavailable("a fault was injected: the answer was lost; try again")
        return result

    def _next(self) -> Fault | None:
        with self._lock:
            fault = next(self._faults, None)
            self.raised += fault is not None
            return fault


def random_faults(seed: int, rate: float) -> Iterator[Fault | None]:
    """Yield faults without end: one operation in 1/`rate` fails, before or after it is done."""
    chance = random.Random(seed)  # noqa: S311 - to be foretold is what it is for
    while True:
        yield chance.choice(list(Fault)) if chance.random() < rate else None

"""Garbage collection: what nobody needs goes, and nothing else does, whatever runs beside it."""

# ruff: noqa: S101, PLR2004 - assertions, with their figures, are what this package is for

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from store import (
    Capability,
    Collected,
    NotFound,
    Pin,
    Retention,
    Unavailable,
    VersionedStore,
    capabilities,
    checksum_of,
)
from store.testing.samples import ABSENT, REF, blob_of, needs, wait_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Pair = tuple[bytes, bytes]
HOUR_S = 3600.0

BIG = blob_of(100_000)
OLD, OLDER, CURRENT = (b"old", b"m"), (BIG, b"m"), (b"current", b"m")


class CollectConformance:
    """Old versions go by the retention that is asked for; what is needed stays."""

    capability: ClassVar[Capability | None] = Capability.COLLECT
    smallest_grace_s: ClassVar[float] = 0.0
    """The shortest grace that the backend permits, and can measure."""

    def collect(
        self,
        store: VersionedStore,
        pins: Iterable[Pin] = (),
        *,
        grace_s: float | None = None,
        keep_last: int = 1,
        keep_newer_s: float = 0.0,
        dry_run: bool = False,
    ) -> list[Collected]:
        """Collect once all that is out of use has outlived the shortest grace."""
        wait_out(self.smallest_grace_s)
        grace_s = self.smallest_grace_s if grace_s is None else grace_s
        retention = Retention(grace_s, keep_last, keep_newer_s)
        return list(store.collect(retention, lambda: pins, dry_run=dry_run))

    def asking(
        self, store: VersionedStore, pins: Callable[[], Iterable[Pin]]
    ) -> Iterator[Collected]:
        """Collect as `collect` does, step by step, and ask `pins` when it is time to."""
        wait_out(self.smallest_grace_s)
        return store.collect(Retention(self.smallest_grace_s), pins)

    def test_old_versions_go(self, store: VersionedStore) -> None:
        """Without a reason to stay, all versions go but the current ones."""
        put_all(store, REF, [OLDER, OLD, CURRENT])
        put_all(store, "other", [OLD])
        put_all(store, f"{REF}/below", [OLDER])
        gone = [each for each in self.collect(store) if each.kind == "version"]
        assert [each.ref for each in gone] == [REF, REF]
        assert len({each.where for each in gone}) == 2
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [CURRENT]
        assert store.get(REF) == CURRENT
        assert store.get("other") == OLD
        assert store.get(f"{REF}/below") == OLDER
        assert sorted(store.list()) == sorted([REF, "other", f"{REF}/below"])

    def test_nothing_is_collected_twice(self, store: VersionedStore) -> None:
        """Collecting ends: soon there is nothing left to remove, and what is stored is intact."""
        put_all(store, REF, [OLDER, OLD, CURRENT])
        assert [self.collect(store) for _ in range(3)][-1] == []
        if Capability.VERIFY in capabilities(store):
            checked = list(store.verify())
            assert [each.error for each in checked] == [None] * len(checked)
            assert sum(each.size_bytes for each in checked) < len(BIG), "its data is still there"

    def test_an_empty_store(self, store: VersionedStore) -> None:
        """Where nothing was put there is nothing to collect."""
        assert self.collect(store) == []

    def test_grace(self, store: VersionedStore) -> None:
        """What went out of use within the grace stays."""
        put_all(store, REF, [OLDER, OLD, CURRENT])
        assert self.collect(store, grace_s=HOUR_S) == []
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLDER, OLD, CURRENT]

    def test_grace_begins_when_the_ref_moves_on(self, store: VersionedStore) -> None:
        """A version that was current for long has its whole grace when another replaces it."""
        grace_s = 2 * self.smallest_grace_s + 1.3
        put_all(store, REF, [OLDER])
        wait_out(grace_s)
        replaced_at = time.time()
        put_all(store, REF, [CURRENT])
        gone = list(store.collect(Retention(grace_s), lambda: ()))
        # A service may tell times by the second; on a machine that stood still the grace is over.
        assert gone == [] or time.time() - replaced_at >= grace_s - 1

    @pytest.mark.parametrize("keep_last", [1, 2, 3, 9])
    def test_keep_last(self, store: VersionedStore, keep_last: int) -> None:
        """The newest versions of each ref stay, the current one counted."""
        pairs = [(b"1", b"m"), (b"2", b"m"), (BIG, b"m"), (b"2", b"n"), (b"1", b"m")]
        put_all(store, REF, pairs)
        put_all(store, "other", pairs[:2])
        self.collect(store, keep_last=keep_last)
        assert kept(store, REF, pairs[1:]) == pairs[1:][-keep_last:]
        assert kept(store, "other", pairs[:2]) == pairs[:2][-keep_last:]

    def test_current_is_not_always_newest(self, store: VersionedStore) -> None:
        """A ref that a later position holds stays there, though other versions are newer."""
        needs(store, Capability.POSITION)
        store.put(REF, *CURRENT, position=(9, 0))
        for i, pair in enumerate([OLDER, OLD]):
            store.put(REF, *pair, position=(i, 0))
        self.collect(store, keep_last=2)
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLD, CURRENT]
        self.collect(store)
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [CURRENT]
        assert store.get(REF) == CURRENT

    def test_keep_newer(self, store: VersionedStore) -> None:
        """What was stored within the time asked for stays."""
        put_all(store, REF, [OLDER, OLD, CURRENT])
        assert self.collect(store, keep_newer_s=HOUR_S) == []
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLDER, OLD, CURRENT]

    def test_pins_keep(self, store: VersionedStore) -> None:
        """A pin keeps its pair, or with the data's checksum alone every version with that data."""
        pairs = [(data, manifest) for data in (b"1", BIG, b"3") for manifest in (b"m", b"n")]
        put_all(store, REF, [*pairs, CURRENT])
        put_all(store, "other", [pairs[0], CURRENT])
        pins = [
            Pin(REF, checksum_of(b"1"), checksum_of(b"n")),
            Pin(REF, checksum_of(BIG)),
            Pin(REF, checksum_of(b"3"), ABSENT),
            Pin(REF, ABSENT),
            Pin("nowhere", checksum_of(b"3")),
        ]
        self.collect(store, iter(pins))
        assert kept(store, REF, pairs) == [(b"1", b"n"), (BIG, b"m"), (BIG, b"n")]
        assert kept(store, "other", [pairs[0], CURRENT]) == [CURRENT]

    def test_pins_that_are_no_refs(self, store: VersionedStore) -> None:
        """A pin of what cannot be stored, as hostile events have them, keeps nothing."""
        put_all(store, REF, [OLD, CURRENT])
        pins = [Pin(ref, checksum_of(OLD[0])) for ref in ("", "/", "../a", "\ud800", "s" * 300)]
        assert len(self.collect(store, pins)) == 1

    def test_pins_are_asked_last(self, store: VersionedStore) -> None:
        """What falls out of use after the candidates are known is none of them.

        So it is safe to name a version first and to move its ref then.
        """
        put_all(store, REF, [OLDER, OLD])

        def pins() -> Iterator[Pin]:
            store.put(REF, *CURRENT)
            yield from ()

        list(self.asking(store, pins))
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLD, CURRENT]

    @pytest.mark.parametrize("error", [OSError("no way"), Unavailable("Redis is away")])
    def test_pins_that_cannot_be_told(self, store: VersionedStore, error: Exception) -> None:
        """If the pins do not come to their end, nothing is removed, and the error comes through."""
        put_all(store, REF, [OLDER, OLD, CURRENT])

        def pins() -> Iterator[Pin]:
            yield Pin(REF, checksum_of(BIG))
            raise error

        removed: list[Collected] = []
        with pytest.raises(type(error)) as raised:
            removed.extend(self.asking(store, pins))
        assert raised.value is error
        assert removed == []
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLDER, OLD, CURRENT]

    def test_dry_run(self, store: VersionedStore) -> None:
        """A dry run tells what would go, and removes nothing."""
        put_all(store, REF, [OLDER, OLD, CURRENT])
        would_go = self.collect(store, dry_run=True)
        assert sum(each.kind == "version" for each in would_go) == 2
        assert kept(store, REF, [OLDER, OLD, CURRENT]) == [OLDER, OLD, CURRENT]
        assert sorted(self.collect(store)) == sorted(would_go)

    def test_shared_data(self, store: VersionedStore) -> None:
        """Data that another version still names stays, at whatever ref, with whatever manifest."""
        put_all(store, "a", [OLDER, CURRENT])
        put_all(store, "b", [OLDER])
        put_all(store, "c", [OLDER, (BIG, b"other")])
        self.collect(store)
        assert kept(store, "a", [OLDER, CURRENT]) == [CURRENT]
        assert store.get("b") == OLDER
        assert kept(store, "c", [OLDER, (BIG, b"other")]) == [(BIG, b"other")]

    @pytest.mark.parametrize("pair", [OLD, OLDER], ids=["small", "big"])
    @pytest.mark.parametrize("ref", [REF, "other"])
    def test_put_again_meanwhile(self, store: VersionedStore, ref: str, pair: Pair) -> None:
        """An old version that is put again while collecting stays, and so does its data."""
        put_all(store, REF, [OLDER, OLD, CURRENT])

        def pins() -> Iterator[Pin]:
            store.put(ref, *pair)
            yield from ()

        list(self.asking(store, pins))
        assert store.get(ref) == pair
        assert kept(store, ref, [pair]) == [pair]

    @pytest.mark.parametrize("pair", [OLD, OLDER], ids=["small", "big"])
    def test_stored_again_meanwhile(self, store: VersionedStore, pair: Pair) -> None:
        """So does one that is put again with a position that leaves the ref where it is."""
        needs(store, Capability.POSITION)
        put_all(store, REF, [OLDER, OLD])
        store.put(REF, *CURRENT, position=(9, 0))

        def pins() -> Iterator[Pin]:
            store.put(REF, *pair, position=(1, 0))
            yield from ()

        list(self.asking(store, pins))
        assert store.get(REF) == CURRENT
        assert kept(store, REF, [pair]) == [pair]

    @pytest.mark.parametrize("kind", ["version", "object"])
    def test_put_between_removals(self, store: VersionedStore, kind: str) -> None:
        """What is put while collecting continues stays, whichever removal it comes between."""
        pairs = [OLD, *((BIG[i:], b"m") for i in range(4)), (BIG, b"n")]
        put_all(store, REF, [*pairs, CURRENT])
        again = {REF: pairs[2]} | {f"again/{i}": pair for i, pair in enumerate(pairs)}
        put = False
        for each in self.asking(store, lambda: ()):
            # Only once: what the next removal takes too much would be healed otherwise.
            if each.kind == kind and not put:
                for ref, pair in again.items():
                    store.put(ref, *pair)
                put = True
        if not put and kind == "object":
            pytest.skip("this backend stores no data apart from its versions")
        assert put
        for ref, pair in again.items():
            assert store.get(ref) == pair

    def test_ending_early(self, store: VersionedStore) -> None:
        """A collection that stops halfway leaves a store in order."""
        put_all(store, REF, [OLDER, OLD, (BIG, b"n"), CURRENT])
        collecting = self.asking(store, lambda: ())
        next(collecting)
        del collecting
        assert store.get(REF) == CURRENT
        for pair in kept(store, REF, [OLDER, OLD, (BIG, b"n")]):
            assert store.get(REF, checksum=checksum_of(pair[0])).data == pair[0]
        put_all(store, REF, [OLDER])
        assert store.get(REF) == OLDER
        self.collect(store)
        assert store.get(REF) == OLDER

    def test_racing_writers_lose_nothing(self, store: VersionedStore) -> None:
        """While collectors run without a pause, every current pair and every pinned one reads."""
        pinned: dict[tuple[int, int], Pin] = {}
        done = threading.Event()

        def collect() -> int:
            removed = 0
            while not done.is_set():
                retention = Retention(self.smallest_grace_s)
                gone = store.collect(retention, lambda: list(pinned.values()))
                removed += sum(each.kind == "version" for each in gone)
            return removed

        def verify() -> None:
            while Capability.VERIFY in capabilities(store) and not done.is_set():
                assert [each for each in store.verify() if each.error] == []

        def write(writer: int) -> None:
            last = None
            for i in range(25):
                # New manifests, shared data: a version is pinned before anyone can see it.
                data, manifest = (b"small", BIG, BIG[1:])[i % 3], b"%d %d" % (writer, i)
                pin = Pin(f"own/{writer}", checksum_of(data), checksum_of(manifest))
                pinned[writer, i % 2] = pin
                store.put(pin.ref, data, manifest)
                assert store.get(pin.ref) == (data, manifest)
                assert last is None or kept(store, pin.ref, [last]) == [last]
                last = (data, manifest)
                # Old versions, put again and again, and kept by nothing but being current.
                again = (OLD, OLDER, CURRENT)[i % 3]
                store.put(f"again/{writer}", *again)
                assert kept(store, f"again/{writer}", [again]) == [again]

        with ThreadPoolExecutor(7) as pool:
            collectors = [pool.submit(collect) for _ in range(2)]
            verifier = pool.submit(verify)
            try:
                list(pool.map(write, range(4)))
            finally:
                done.set()
            verifier.result()
            removed = sum(collector.result() for collector in collectors)
        assert removed + len(self.collect(store, pinned.values())), "nothing was there to lose"
        for pin in pinned.values():
            manifest_checksum = pin.manifest_checksum
            assert store.get(pin.ref, checksum=pin.checksum, manifest_checksum=manifest_checksum)


def put_all(store: VersionedStore, ref: str, pairs: Iterable[Pair]) -> None:
    """Put one pair after the other at `ref`."""
    for pair in pairs:
        store.put(ref, *pair)


def kept(store: VersionedStore, ref: str, pairs: Iterable[Pair]) -> list[Pair]:
    """Return those of `pairs` that are still stored at `ref`, each read to be sure."""
    found = []
    for data, manifest in pairs:
        pin: dict[str, Any] = {
            "checksum": checksum_of(data),
            "manifest_checksum": checksum_of(manifest),
        }
        stored = store.exists(ref, **pin)
        if stored:
            assert store.get(ref, **pin) == (data, manifest)
            found.append((data, manifest))
        else:
            with pytest.raises(NotFound):
                store.get(ref, **pin)
    return found

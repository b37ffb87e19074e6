"""Purging: of what goes no byte is left, and nothing else goes."""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from store import Capability, Corrupt, NotFound, VersionedStore, capabilities, checksum_of
from store.testing.samples import REF, blob_of, illegal_refs_taken, needs
from store.testing.trouble import DamagingConformance

TAKEN = b"what must not be left"
BIG = blob_of(100_000)


class PurgeConformance(DamagingConformance):
    """Refs go with all that is left of them, wherever it lies."""

    capability: ClassVar[Capability | None] = Capability.PURGE

    def raw(self, store: VersionedStore) -> bytes:
        """Return all that the storage behind the store holds, and nothing of it twice."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [TAKEN, TAKEN + BIG], ids=["small", "big"])
    def test_purge(self, store: VersionedStore, data: bytes) -> None:
        """Nothing is left of a purged ref, of whatever size; those beside it stay."""
        beside = ["other", f"{REF}1", "stacks/t_123/web2"]
        for ref in beside:
            store.put(ref, BIG, b"m")
        store.put(REF, data, TAKEN)
        assert TAKEN in self.raw(store)
        assert {piece.ref for piece in store.purge([REF])} <= {REF, None}
        assert TAKEN not in self.raw(store)
        with pytest.raises(NotFound):
            store.get(REF)
        for ref in beside:
            assert store.get(ref) == (BIG, b"m")

    def test_purge_takes_every_version(self, store: VersionedStore) -> None:
        """Earlier versions go, and what earlier deletions left of large ones."""
        needs(store, Capability.PINNED_GET)
        store.put(REF, TAKEN + BIG, b"m")
        store.delete(REF)
        for number in range(3):
            store.put(REF, TAKEN + BIG + bytes([number]), b"m")
            store.put(REF, TAKEN + bytes([number]), b"m")
        list(store.purge([REF]))
        assert TAKEN not in self.raw(store)

    @pytest.mark.parametrize("data", [b"data", BIG], ids=["small", "big"])
    def test_purge_only_what_was_listed(self, store: VersionedStore, data: bytes) -> None:
        """With `only`, versions with other data stay whole; those of refs that are not in it go."""
        first, later = data + b"1", data + b"2"
        store.put(REF, TAKEN + first, b"m")
        listed = {REF: [checksum_of(TAKEN + first)]}
        store.put(REF, later, b"m2")
        store.put("other", TAKEN, b"m")
        told = list(store.purge([REF, "other"], only=listed, dry_run=True))
        assert list(store.purge([REF, "other"], only=listed)) == told
        assert TAKEN not in self.raw(store)
        assert store.get(REF) == (later, b"m2")
        assert not store.exists("other")
        assert list(store.purge([REF], only={REF: []})) == []
        assert store.get(REF) == (later, b"m2")
        list(store.purge([REF], only={REF: [checksum_of(later)]}))
        assert not store.exists(REF)

    def test_purge_leaves_shared_data(self, store: VersionedStore) -> None:
        """What another ref has, too, stays there, and goes with the last that has it."""
        for ref in ("a", "b"):
            store.put(ref, TAKEN + BIG, b"m")
        list(store.purge(["a"]))
        assert not store.exists("a")
        assert store.get("b") == (TAKEN + BIG, b"m")
        list(store.purge(["b"]))
        assert TAKEN not in self.raw(store)

    def test_purge_several(self, store: VersionedStore) -> None:
        """Refs that share data go together; one that is not there, or comes twice, is no error."""
        for ref in ("a", "b", "c"):
            store.put(ref, TAKEN + BIG, b"m")
        list(store.purge(["a", "nothing", "b", "a"]))
        assert [store.exists(ref) for ref in ("a", "b", "c")] == [False, False, True]
        list(store.purge(ref for ref in ("c",)))
        assert TAKEN not in self.raw(store)

    def test_purge_again(self, store: VersionedStore) -> None:
        """What is gone goes no second time."""
        store.put(REF, TAKEN + BIG, b"m")
        assert [piece.ref for piece in store.purge([REF])]
        assert list(store.purge([REF])) == []
        assert list(store.purge([])) == []

    def test_a_dry_purge(self, store: VersionedStore) -> None:
        """With `dry_run` all stays, and it tells what would go, each piece with its size."""
        pairs = {"a": (BIG, b"m"), "b": (b"data", b"manifest")}
        for ref, pair in pairs.items():
            store.put(ref, *pair)
        told = sorted(store.purge(pairs, dry_run=True))
        for ref, pair in pairs.items():
            assert store.get(ref) == pair
        assert told == sorted(store.purge(pairs))
        least = sum(map(len, (*pairs["a"], *pairs["b"])))
        assert least <= sum(piece.size_bytes for piece in told) < 1.5 * least + 5000
        assert list(store.purge(pairs, dry_run=True)) == []

    def test_purge_illegal_refs(self, store: VersionedStore) -> None:
        """An illegal ref raises `InvalidRef`, and nothing went."""
        store.put(REF, b"data", b"m")
        assert not illegal_refs_taken(lambda ref: list(store.purge([REF, ref])))
        assert store.get(REF) == (b"data", b"m")

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_purge_what_was_moved_aside(self, store: VersionedStore, size_bytes: int) -> None:
        """What was damaged goes, too, in its place or moved aside; that of others stays aside."""
        needs(store, Capability.VERIFY)
        for healed in (True, False):
            store.put(REF, TAKEN + blob_of(size_bytes), b"m")
            self.damage(store, REF)
            assert any(each.quarantined for each in store.verify(quarantine=True))
            if healed:
                store.put(REF, TAKEN + blob_of(size_bytes), b"m")
            assert TAKEN in self.raw(store)
            list(store.purge(["another"]))
            assert TAKEN in self.raw(store)
            list(store.purge([REF]))
            assert TAKEN not in self.raw(store)
        store.put(REF, TAKEN + blob_of(size_bytes), b"m")
        self.damage(store, REF)
        with pytest.raises(Corrupt):
            store.get(REF)
        list(store.purge([REF]))
        assert TAKEN not in self.raw(store)

    @pytest.mark.parametrize("data", [b"data", BIG], ids=["small", "big"])
    def test_purge_and_put_again(self, store: VersionedStore, data: bytes) -> None:
        """After it the same content can be put again, as if it had never been there."""
        for _ in range(2):
            store.put(REF, data, b"m")
            assert store.get(REF) == (data, b"m")
            list(store.purge([REF]))
            assert not store.exists(REF)

    def test_racing_purges_and_puts(self, store: VersionedStore) -> None:
        """What others put meanwhile stays whole, also with the data that goes."""
        done = threading.Event()

        def purge() -> None:
            while not done.is_set():
                store.put(REF, BIG, b"m")
                list(store.purge([REF]))

        with ThreadPoolExecutor(2) as pool:
            purging = pool.submit(purge)
            try:
                for turn in range(12):
                    store.put(f"other/{turn % 3}", BIG, bytes([turn]))
                    assert store.get(f"other/{turn % 3}") == (BIG, bytes([turn]))
            finally:
                done.set()
            purging.result()
        assert not store.exists(REF)
        for number in range(3):
            assert store.get(f"other/{number}") == (BIG, bytes([9 + number]))

    def test_readers_beside_a_purge(self, store: VersionedStore) -> None:
        """While a ref is put and purged, readers see whole pairs, or nothing."""
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                with contextlib.suppress(NotFound):
                    assert store.get(REF) == (BIG, b"m")

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            try:
                for _ in range(8):
                    store.put(REF, BIG, b"m")
                    list(store.purge([REF]))
            finally:
                done.set()
            reading.result()
        assert Capability.LIST not in capabilities(store) or list(store.list()) == []

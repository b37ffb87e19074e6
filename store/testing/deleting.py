"""Deleting: what is gone is gone for every reader, and nothing else is."""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from store import Capability, NotFound, VersionedStore, capabilities, checksum_of
from store.testing.samples import ABSENT, REF, blob_of, illegal_refs_taken, needs, wait_out

HOUR_S = 3600.0
BIG = blob_of(100_000)


class DeleteConformance:
    """A ref, or one version of it, goes at once and for good."""

    capability: ClassVar[Capability | None] = Capability.DELETE
    smallest_unused_s: ClassVar[float] = 0.1
    """The shortest time out of use that the backend permits, and can measure."""

    @pytest.mark.parametrize("data", [b"data", BIG], ids=["small", "big"])
    def test_delete(self, store: VersionedStore, data: bytes) -> None:
        """A deleted ref is absent; those beside it stay."""
        beside = ["other", f"{REF}1", "stacks/t_123/web2"]
        for ref in (REF, *beside):
            store.put(ref, data, b"m")
        assert store.delete(REF)
        assert not store.exists(REF)
        with pytest.raises(NotFound):
            store.get(REF)
        for ref in beside:
            assert store.get(ref) == (data, b"m")
        if Capability.LIST in capabilities(store):
            assert sorted(store.list()) == sorted(beside)
            with pytest.raises(NotFound):
                list(store.versions(REF))

    def test_delete_takes_every_version(self, store: VersionedStore) -> None:
        """No version of a deleted ref can be read by its checksum."""
        needs(store, Capability.PINNED_GET)
        pairs = [(b"1", b"m"), (BIG, b"m"), (b"1", b"n"), (b"3", b"m")]
        for pair in pairs:
            store.put(REF, *pair)
        assert store.delete(REF)
        for data, manifest in pairs:
            pin = {"checksum": checksum_of(data), "manifest_checksum": checksum_of(manifest)}
            assert not store.exists(REF, **pin)
            with pytest.raises(NotFound):
                store.get(REF, checksum=pin["checksum"])

    def test_delete_again(self, store: VersionedStore) -> None:
        """Deleting what is not there is no error, and says that nothing was removed."""
        assert not store.delete(REF)
        assert not store.delete(REF, checksum=ABSENT)
        store.put(REF, b"data", b"m")
        assert [store.delete(REF) for _ in range(3)] == [True, False, False]

    def test_delete_illegal_refs(self, store: VersionedStore) -> None:
        """An illegal ref raises `InvalidRef`."""
        assert not illegal_refs_taken(store.delete)

    def test_delete_by_checksum(self, store: VersionedStore) -> None:
        """With a checksum only that data goes; of another one nothing does."""
        store.put(REF, b"data", b"m")
        assert not store.delete(REF, checksum=ABSENT)
        assert store.get(REF) == (b"data", b"m")
        assert store.delete(REF, checksum=checksum_of(b"data"))
        with pytest.raises(NotFound):
            store.get(REF)
        with pytest.raises(ValueError, match="checksum"):
            store.delete(REF, checksum="md5:1")

    def test_delete_an_old_version(self, store: VersionedStore) -> None:
        """Deleting an old version, with all its manifests, leaves the ref where it points."""
        needs(store, Capability.PINNED_GET)
        for pair in [(b"1", b"m"), (b"1", b"n"), (BIG, b"m"), (b"3", b"m")]:
            store.put(REF, *pair)
        assert store.delete(REF, checksum=checksum_of(b"1"))
        assert not store.exists(REF, checksum=checksum_of(b"1"))
        assert store.get(REF) == (b"3", b"m")
        assert store.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")

    def test_delete_the_current_version(self, store: VersionedStore) -> None:
        """A ref whose current version went is absent: it does not move back to an older one."""
        needs(store, Capability.PINNED_GET)
        store.put(REF, BIG, b"m")
        store.put(REF, b"2", b"m")
        assert store.delete(REF, checksum=checksum_of(b"2"))
        assert not store.exists(REF)
        with pytest.raises(NotFound):
            store.get(REF)
        assert store.get(REF, checksum=checksum_of(BIG)) == (BIG, b"m")
        if Capability.LIST in capabilities(store):
            assert list(store.list()) == []
            assert [version.current for version in store.versions(REF)] == [False]

    @pytest.mark.parametrize("data", [b"data", BIG], ids=["small", "big"])
    def test_delete_and_put_again(self, store: VersionedStore, data: bytes) -> None:
        """After it the same content can be put again, and other content."""
        for put in (data, data, b"other", data):
            store.put(REF, put, b"m")
            assert store.get(REF) == (put, b"m")
            assert store.delete(REF)
        assert not store.exists(REF)

    def test_delete_forgets_the_position(self, store: VersionedStore) -> None:
        """A Put after it is the first one: no earlier position bars it."""
        needs(store, Capability.POSITION)
        store.put(REF, b"2", b"m", position=(2, 0))
        store.delete(REF)
        store.put(REF, b"1", b"m", position=(1, 0))
        assert store.get(REF) == (b"1", b"m")

    def test_delete_leaves_shared_data(self, store: VersionedStore) -> None:
        """What another ref has, too, stays there."""
        store.put("a", BIG, b"m")
        store.put("b", BIG, b"m")
        store.delete("a")
        assert store.get("b") == (BIG, b"m")

    def test_delete_under_an_open_reader(self, store: VersionedStore) -> None:
        """Who has opened the artifact before reads it to its end."""
        needs(store, Capability.STREAM)
        store.put(REF, BIG, b"m")
        with store.open(REF) as reader:
            begun = reader.read(10)
            store.delete(REF)
            assert begun + reader.read() == BIG

    def test_delete_what_is_out_of_use(self, store: VersionedStore) -> None:
        """With `unused_s` only what has lain so long goes."""
        store.put(REF, b"data", b"m")
        assert not store.delete(REF, unused_s=HOUR_S)
        assert store.get(REF) == (b"data", b"m")
        wait_out(2 * self.smallest_unused_s)
        assert store.delete(REF, unused_s=self.smallest_unused_s)
        assert not store.exists(REF)

    @pytest.mark.parametrize("data", [b"data", BIG], ids=["small", "big"])
    def test_the_same_put_is_use(self, store: VersionedStore, data: bytes) -> None:
        """Putting the same again is use, also where nothing had to be written."""
        store.put(REF, data, b"m")
        wait_out(2 * self.smallest_unused_s)
        since = time.time()
        wait_out(2 * self.smallest_unused_s)
        store.put(REF, data, b"m")
        assert not store.delete(REF, unused_s=time.time() - since)
        assert store.get(REF) == (data, b"m")

    def test_racing_readers_see_whole_pairs(self, store: VersionedStore) -> None:
        """While a ref is put and deleted without a pause, readers see whole pairs, or nothing."""
        pairs = [(BIG, b"big"), (b"small", b"small"), (BIG[1:], b"other"), (b"", b"")]
        done = threading.Event()

        def read() -> None:
            pins: list[dict[str, Any]] = [{}]
            if Capability.PINNED_GET in capabilities(store):
                pins.append({"checksum": checksum_of(BIG)})
            for pin in itertools.cycle(pins):
                if done.is_set():
                    return
                with contextlib.suppress(NotFound):
                    assert store.get(REF, **pin) in pairs

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for turn in range(24):
                    store.put(REF, *pairs[turn % 4])
                    assert store.get(REF) == pairs[turn % 4]
                    if turn % 3:
                        assert store.delete(REF)
                        assert not store.exists(REF)
            finally:
                done.set()
            for reader in readers:
                reader.result()

    def test_racing_deletes_and_puts(self, store: VersionedStore) -> None:
        """What is put once nobody deletes any more stays, whatever raced before."""
        pairs = [(BIG, b"big"), (b"small", b"small"), (BIG[1:], b"other")]

        def put(number: int) -> None:
            for turn in range(8):
                store.put(REF, *pairs[(number + turn) % 3])

        def delete(number: int) -> None:
            for turn in range(8):
                checksum = checksum_of(pairs[turn % 3][0]) if number else None
                store.delete(REF, checksum=checksum)

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(job, n) for job in (put, delete) for n in range(2)]:
                future.result()
        for pair in pairs:
            store.put(REF, *pair)
            assert store.get(REF) == pair
            if Capability.PINNED_GET in capabilities(store):
                assert store.get(REF, checksum=checksum_of(pair[0])) == pair
        store.delete(REF)
        assert not store.exists(REF)

"""Damage and outages: each told as what it is, and neither ever taken for absence."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import pytest

from store import (
    Capability,
    Checked,
    Corrupt,
    InvalidRef,
    Retention,
    Unavailable,
    VersionedStore,
    capabilities,
    checksum_of,
)
from store.testing.samples import REF, blob_of, needs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SIZES = [10, 100_000]


class DamagingConformance:
    """What the tests need that plant damage. Override `damage`."""

    def damage(self, store: VersionedStore, ref: str) -> None:
        """Flip a bit of the data stored at `ref`, behind the store's back."""
        raise NotImplementedError


class CorruptionConformance(DamagingConformance):
    """Damage in storage is told, and healed by the next Put. Override `damage`."""

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_damage_is_corrupt_until_put_again(
        self, store: VersionedStore, size_bytes: int
    ) -> None:
        """Damaged data raises `Corrupt`, neither absence nor an outage; a Put heals it."""
        data = blob_of(size_bytes)
        store.put(REF, data, b"manifest")
        self.damage(store, REF)
        check_corrupt(store, data)
        store.put(REF, data, b"manifest")
        check_intact(store, data)

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_damage_in_streams(self, store: VersionedStore, size_bytes: int) -> None:
        """Damaged data read in pieces is reported before its end; a stream heals it, too."""
        needs(store, Capability.STREAM)
        data = blob_of(size_bytes)
        store.put_from(REF, io.BytesIO(data), b"manifest")
        self.damage(store, REF)
        for size in (1000, 1 << 20, -1):
            with pytest.raises(Corrupt):
                read_in_pieces(store, size)
        store.put_from(REF, io.BytesIO(data), b"manifest")
        check_intact(store, data)
        assert read_in_pieces(store, 1000) == data

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_damage_is_not_copied(self, store: VersionedStore, size_bytes: int) -> None:
        """Damaged data that is put somewhere else as it is read is refused, not taken for new."""
        needs(store, Capability.STREAM)
        store.put(REF, blob_of(size_bytes), b"manifest")
        self.damage(store, REF)
        with pytest.raises(Corrupt):
            copy(store, REF, "copy")
        assert not store.exists("copy")


class VerifyConformance(DamagingConformance):
    """All that is stored can be read through, in parts. Override `damage`."""

    capability: ClassVar[Capability | None] = Capability.VERIFY

    def fill(self, store: VersionedStore) -> None:
        """Put a few refs, with several versions, of which some share their data."""
        for ref in ("a", "a/b", "a/b/c", "ab", "A"):
            for data in (b"small", blob_of(100_000), ref.encode()):
                store.put(ref, data, b"m")
        store.put("a", b"small", b"other")

    def test_intact(self, store: VersionedStore) -> None:
        """Of an intact store every version of every ref is read, and nothing is wrong."""
        self.fill(store)
        checked = list(store.verify(quarantine=True))
        assert [(each.error, each.quarantined) for each in checked] == [(None, None)] * len(checked)
        read = Counter(each.ref for each in checked)
        for ref, count in {"a": 4, "a/b": 3, "a/b/c": 3, "ab": 3, "A": 3}.items():
            assert read[ref] >= count
        assert sum(each.size_bytes for each in checked) > 100_000 + 16

    def test_empty(self, store: VersionedStore) -> None:
        """Where nothing was put there is nothing to read."""
        assert list(store.verify()) == []

    @pytest.mark.parametrize("prefix", ["a", "a/b", "ab", "nothing"])
    def test_under_a_prefix(self, store: VersionedStore, prefix: str) -> None:
        """A prefix is whole segments: what is read is its own and what lies under it."""
        self.fill(store)
        refs = {ref for ref in ("a", "a/b", "a/b/c", "ab", "A") if is_under(ref, prefix)}
        assert {each.ref for each in store.verify(prefix)} - {None} == refs

    def test_illegal_prefix_to_verify(self, store: VersionedStore) -> None:
        """A prefix obeys the rules for refs."""
        with pytest.raises(InvalidRef):
            list(store.verify("a/"))

    @pytest.mark.parametrize("parts", [1, 2, 3, 7])
    def test_parts_are_the_whole(self, store: VersionedStore, parts: int) -> None:
        """The parts together read everything once, shared data too."""
        self.fill(store)
        whole = [each.where for each in store.verify()]
        assert len(set(whole)) == len(whole)
        shares = [[each.where for each in store.verify(part=(i, parts))] for i in range(parts)]
        assert sorted(where for share in shares for where in share) == sorted(whole)

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_damage_is_told(self, store: VersionedStore, size_bytes: int) -> None:
        """What is damaged is told with where it lies, each time; the rest is intact."""
        data = self.damaged(store, size_bytes)
        for _ in range(2):
            errors = [each for each in store.verify() if each.error]
            assert errors
            for each in errors:
                assert each.where
                assert each.ref in (REF, None)
                assert each.quarantined is None
        check_corrupt(store, data)

    @pytest.mark.parametrize("parts", [2, 5])
    def test_one_part_tells_of_the_damage(self, store: VersionedStore, parts: int) -> None:
        """Damage is told by one part of the work, as by the whole."""
        self.damaged(store, 100_000)
        whole = [each for each in store.verify() if each.error]
        shares = [each for i in range(parts) for each in store.verify(part=(i, parts))]
        assert whole
        assert sorted(each for each in shares if each.error) == sorted(whole)

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_quarantine(self, store: VersionedStore, size_bytes: int) -> None:
        """Damage that was moved aside is still told, by Get and Verify, until a Put heals it."""
        data = self.damaged(store, size_bytes)
        errors = [each for each in store.verify(quarantine=True) if each.error]
        assert any(each.quarantined for each in errors)
        for _ in range(2):
            check_corrupt(store, data)
            assert any(each.error for each in store.verify())
            assert any(each.error for each in store.verify(quarantine=True))
        store.put(REF, data, b"manifest")
        check_intact(store, data)
        assert [each for each in store.verify() if each.error] == []

    def damaged(self, store: VersionedStore, size_bytes: int) -> bytes:
        """Put data and damage it, with an intact neighbour; return what was put."""
        data = blob_of(size_bytes)
        store.put("elsewhere", b"intact", b"manifest")
        store.put(REF, data, b"manifest")
        self.damage(store, REF)
        return data

    def test_verifying_while_others_put(self, store: VersionedStore) -> None:
        """What is replaced while it is read is not damaged."""
        done = threading.Event()
        pairs = [(data, b"%d" % i) for i in range(3) for data in (b"small", blob_of(100_000))]

        def verify() -> list[Checked]:
            errors = []
            while not done.is_set():
                errors += [each for each in store.verify(quarantine=True) if each.error]
            return errors

        def write(ref: str) -> None:
            for _ in range(5):
                for pair in pairs:
                    store.put(ref, *pair)

        with ThreadPoolExecutor(4) as pool:
            verifiers = [pool.submit(verify) for _ in range(2)]
            try:
                list(pool.map(write, [REF, REF]))
            finally:
                done.set()
            assert [verifier.result() for verifier in verifiers] == [[], []]


class OutageConformance:
    """An outage is told apart from absence. Override `outage`."""

    def outage(self, store: VersionedStore) -> AbstractContextManager[None]:
        """Make the storage unreachable for the block."""
        raise NotImplementedError

    def test_an_outage_is_unavailable(self, store: VersionedStore) -> None:
        """While storage is away every operation is `Unavailable`, also for absent refs."""
        store.put(REF, b"data", b"manifest")
        with self.outage(store):
            for ref in (REF, "absent"):
                with pytest.raises(Unavailable):
                    store.get(ref)
                with pytest.raises(Unavailable):
                    store.exists(ref)
                with pytest.raises(Unavailable):
                    store.put(ref, b"new", b"new")
        assert store.get(REF) == (b"data", b"manifest")
        assert not store.exists("absent")

    def test_an_outage_while_listing(self, store: VersionedStore) -> None:
        """A store that is away lists nothing: it is `Unavailable`, not empty."""
        needs(store, Capability.LIST)
        store.put(REF, b"data", b"manifest")
        with self.outage(store):
            for ref in (REF, "absent"):
                with pytest.raises(Unavailable):
                    list(store.versions(ref))
            for prefix in ("", REF, "absent"):
                with pytest.raises(Unavailable):
                    list(store.list(prefix))

    def test_an_outage_while_streaming(self, store: VersionedStore) -> None:
        """A stream that cannot be stored, or opened, is `Unavailable`, and changes nothing."""
        needs(store, Capability.STREAM)
        store.put(REF, b"data", b"manifest")
        with self.outage(store):
            for ref in (REF, "absent"):
                with pytest.raises(Unavailable):
                    store.open(ref)
                for data in (b"new", blob_of(3 << 20)):
                    with pytest.raises(Unavailable):
                        store.put_from(ref, io.BytesIO(data), b"new")
        assert store.get(REF) == (b"data", b"manifest")
        assert not store.exists("absent")

    def test_an_outage_while_verifying(self, store: VersionedStore) -> None:
        """A store that is away is neither intact nor damaged: Verify is `Unavailable`."""
        needs(store, Capability.VERIFY)
        store.put(REF, b"data", b"manifest")
        with self.outage(store), pytest.raises(Unavailable):
            list(store.verify(quarantine=True))
        assert store.get(REF) == (b"data", b"manifest")

    def test_an_outage_while_collecting(self, store: VersionedStore) -> None:
        """A store that is away has not been collected: Collect is `Unavailable`."""
        needs(store, Capability.COLLECT)
        for data in (b"old", b"data"):
            store.put(REF, data, b"manifest")
        with self.outage(store), pytest.raises(Unavailable):
            list(store.collect(Retention(3600.0), lambda: ()))
        assert store.get(REF, checksum=checksum_of(b"old")) == (b"old", b"manifest")


def read_in_pieces(store: VersionedStore, size_bytes: int) -> bytes:
    """Open REF and read it to its end."""
    with store.open(REF) as reader:
        return b"".join(iter(lambda: reader.read(size_bytes), b""))


def copy(store: VersionedStore, source: str, target: str) -> None:
    """Put what lies at `source` at `target`, as it is read."""
    with store.open(source) as reader:
        store.put_from(target, reader, reader.manifest)


def is_under(ref: str, prefix: str) -> bool:
    """Tell whether `ref` is `prefix` or lies under it."""
    return f"{ref}/".startswith(f"{prefix}/")


def check_corrupt(store: VersionedStore, data: bytes) -> None:
    """Assert that what lies at REF is told to be damaged, and not to be absent."""
    with pytest.raises(Corrupt):
        store.get(REF)
    with contextlib.suppress(Corrupt):
        assert store.exists(REF)
    if Capability.PINNED_GET in capabilities(store):
        with pytest.raises(Corrupt):
            store.get(REF, checksum=checksum_of(data))
        with contextlib.suppress(Corrupt):
            assert store.exists(REF, checksum=checksum_of(data))


def check_intact(store: VersionedStore, data: bytes) -> None:
    """Assert that this data lies at REF, whichever way it is read."""
    assert store.get(REF) == (data, b"manifest")
    if Capability.PINNED_GET in capabilities(store):
        assert store.get(REF, checksum=checksum_of(data)) == (data, b"manifest")

"""Earlier versions, positions, and listing them."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from store import Capability, InvalidRef, NotFound, Position, VersionedStore, checksum_of
from store.testing.conformance import RefusingConformance
from store.testing.samples import ABSENT, LONG, NEIGHBOURS, REF


class PinnedGetConformance:
    """Earlier versions stay readable by checksum."""

    capability: ClassVar[Capability | None] = Capability.PINNED_GET

    def test_pinned_by_data(self, store: VersionedStore) -> None:
        """A version stays readable by its data's checksum after the ref moved on."""
        for data in (b"1", b"2", b"3" * 100_000, b"4"):
            store.put(REF, data, b"of " + data[:1])
        for data in (b"1", b"2", b"3" * 100_000, b"4"):
            assert store.get(REF, checksum=checksum_of(data)) == (data, b"of " + data[:1])
            assert store.exists(REF, checksum=checksum_of(data))
        assert store.get(REF).data == b"4"

    def test_pinned_by_the_pair(self, store: VersionedStore) -> None:
        """With the manifest's checksum too, Get returns exactly that pair."""
        manifests = [b"m1", b"m2", b"m3"]
        for manifest in manifests:
            store.put(REF, b"data", manifest)
        store.put(REF, b"other", b"m1")
        for manifest in manifests:
            pin: dict[str, Any] = {
                "checksum": checksum_of(b"data"),
                "manifest_checksum": checksum_of(manifest),
            }
            assert store.get(REF, **pin) == (b"data", manifest)
            assert store.exists(REF, **pin)

    def test_newest_manifest_counts(self, store: VersionedStore) -> None:
        """Pinned by data alone, Get returns the manifest that was put last with it."""
        for manifest in (b"m1", b"m2", b"m1"):
            store.put(REF, b"data", manifest)
            assert store.get(REF, checksum=checksum_of(b"data")).manifest == manifest
        store.put(REF, b"other", b"m3")
        assert store.get(REF, checksum=checksum_of(b"data")) == (b"data", b"m1")

    def test_no_such_version(self, store: VersionedStore) -> None:
        """A version that was never put at this ref is `NotFound`, whatever lies elsewhere."""
        store.put(REF, b"data", b"manifest")
        store.put(REF, b"data 2", b"manifest 2")
        store.put("elsewhere", b"other", b"other")
        data, manifest = checksum_of(b"data"), checksum_of(b"manifest")
        pins = [
            (REF, ABSENT, None),
            (REF, ABSENT, manifest),
            (REF, data, ABSENT),
            (REF, data, checksum_of(b"manifest 2")),
            (REF, checksum_of(b"other"), None),
            ("nowhere", data, None),
        ]
        for ref, checksum, manifest_checksum in pins:
            assert not store.exists(ref, checksum=checksum, manifest_checksum=manifest_checksum)
            with pytest.raises(NotFound):
                store.get(ref, checksum=checksum, manifest_checksum=manifest_checksum)

    @pytest.mark.parametrize(
        "checksum",
        ["", "sha256:", "0" * 64, "sha256:" + "A" * 64, "sha1:" + "0" * 64, f"{ABSENT}\n"],
    )
    def test_malformed_checksum(self, store: VersionedStore, checksum: str) -> None:
        """A checksum of another form is the caller's mistake: ValueError, not absence."""
        store.put(REF, b"data", b"manifest")
        with pytest.raises(ValueError, match="sha256"):
            store.get(REF, checksum=checksum)
        with pytest.raises(ValueError, match="sha256"):
            store.exists(REF, checksum=ABSENT, manifest_checksum=checksum)

    def test_a_manifest_alone_pins_nothing(self, store: VersionedStore) -> None:
        """A manifest's checksum without the data's is the caller's mistake."""
        with pytest.raises(ValueError, match="checksum"):
            store.get(REF, manifest_checksum=ABSENT)

    def test_versions_survive_racing_writers(self, store: VersionedStore) -> None:
        """Every version that racing writers put at one ref is readable by its pair."""
        pairs = [(b"data %d" % (i % 5), b"manifest %d" % i) for i in range(40)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: store.put(REF, *pair), pairs))
        for data, manifest in pairs:
            found = store.get(
                REF, checksum=checksum_of(data), manifest_checksum=checksum_of(manifest)
            )
            assert found == (data, manifest)


class PositionConformance:
    """A Put may carry its position; a ref then never moves back."""

    capability: ClassVar[Capability | None] = Capability.POSITION

    def test_never_moves_back(self, store: VersionedStore) -> None:
        """An earlier position stores its version, and leaves the ref where it is."""
        store.put(REF, b"new", b"m", position=(5, 1))
        for position in ((5, 0), (4, 9), (0, 0)):
            store.put(REF, b"old", b"m", position=position)
            assert store.get(REF).data == b"new"
        assert store.get(REF, checksum=checksum_of(b"old")) == (b"old", b"m")

    def test_moves_forward(self, store: VersionedStore) -> None:
        """A later position moves the ref; positions compare as pairs of integers."""
        for position in ((9, 9), (10, 0), (10, 10), (int(time.time() * 1000), (1 << 64) - 1)):
            data = repr(position).encode()
            store.put(REF, data, b"m", position=position)
            assert store.get(REF).data == data

    def test_a_position_ahead_of_time_moves_a_ref_that_has_none(
        self, store: VersionedStore
    ) -> None:
        """Positions that are no times compare with each other as any do."""
        for position in ((1 << 53, 0), (1 << 53, 1), ((1 << 64) - 1, (1 << 64) - 1)):
            data = repr(position).encode()
            store.put(REF, data, b"m", position=position)
            assert store.get(REF).data == data
        last = store.get(REF)
        store.put(REF, b"old", b"m", position=(1 << 54, 0))
        assert store.get(REF) == last

    @pytest.mark.parametrize("ahead", [(1 << 53, 0), ((1 << 64) - 1, (1 << 64) - 1)])
    def test_a_position_ahead_of_time_holds_no_ref(
        self, store: VersionedStore, ahead: Position
    ) -> None:
        """It moves no ref that has a position of this time, and one that it has it loses."""
        store.put(REF, b"pinned", b"m", position=ahead)
        store.put(REF, b"sane", b"m", position=(5, 0))
        assert store.get(REF).data == b"sane"
        store.put(REF, b"again", b"m", position=ahead)
        assert store.get(REF).data == b"sane"
        assert store.get(REF, checksum=checksum_of(b"again")).data == b"again"
        store.put(REF, b"sane", b"m", position=ahead)  # the same content keeps its own position
        store.put(REF, b"newer", b"m", position=(6, 0))
        assert store.get(REF).data == b"newer"

    def test_same_position_again(self, store: VersionedStore) -> None:
        """The same Put delivered twice changes nothing; the ref stays there."""
        for _ in range(2):
            store.put(REF, b"data", b"m", position=(5, 0))
        assert store.get(REF) == (b"data", b"m")

    def test_without_a_position_it_always_moves(self, store: VersionedStore) -> None:
        """A Put without position moves the ref, and from there any position does."""
        store.put(REF, b"1", b"m", position=(5, 0))
        store.put(REF, b"2", b"m")
        assert store.get(REF).data == b"2"
        store.put(REF, b"3", b"m", position=(1, 0))
        assert store.get(REF).data == b"3"

    def test_same_content_moves_the_position(self, store: VersionedStore) -> None:
        """Identical content at a later position bars what lies between, for good."""
        store.put(REF, b"data", b"m", position=(1, 0))
        store.put(REF, b"data", b"m", position=(5, 0))
        store.put(REF, b"data", b"m", position=(2, 0))
        store.put(REF, b"data", b"m")
        store.put(REF, b"between", b"m", position=(3, 0))
        assert store.get(REF).data == b"data"

    def test_positions_of_two_refs_are_apart(self, store: VersionedStore) -> None:
        """A position bars its own ref only."""
        store.put("a", b"1", b"m", position=(9, 0))
        store.put("b", b"2", b"m", position=(1, 0))
        assert store.get("b").data == b"2"

    @pytest.mark.parametrize("position", [(-1, 0), (0, -1), (1 << 64, 0)])
    def test_malformed_position(self, store: VersionedStore, position: tuple[int, int]) -> None:
        """A position out of range is the caller's mistake, and nothing is stored."""
        with pytest.raises(ValueError, match="position"):
            store.put(REF, b"data", b"m", position=position)
        assert not store.exists(REF)

    def test_racing_writers_end_at_the_last_position(self, store: VersionedStore) -> None:
        """However writers race, the latest position wins, and no reader sees the ref go back."""
        store.put(REF, b"0", b"m", position=(0, 0))
        done = threading.Event()

        def read() -> None:
            last = 0
            while not done.is_set():
                seen = int(store.get(REF).data)
                assert seen >= last
                last = seen

        with ThreadPoolExecutor(9) as pool:
            reader = pool.submit(read)
            try:
                list(
                    pool.map(
                        lambda i: store.put(REF, b"%d" % i, b"m", position=(0, i)),
                        [(i * 37) % 100 + 1 for i in range(100)],
                    )
                )
            finally:
                done.set()
            reader.result()
        assert store.get(REF).data == b"100"


class ListConformance(RefusingConformance):
    """Refs and versions can be enumerated."""

    capability: ClassVar[Capability | None] = Capability.LIST

    def test_lists_every_ref_once(self, store: VersionedStore) -> None:
        """List yields each ref exactly, however hostile, and however often it was put."""
        hostile = {ref for pair in NEIGHBOURS for ref in pair} | set(LONG)
        refs = {ref for ref in hostile if self.is_put(store, ref, b"1", b"m")}
        for ref in refs:
            store.put(ref, b"2", b"m")
        assert sorted(store.list()) == sorted(refs)

    def test_lists_under_a_prefix(self, store: VersionedStore) -> None:
        """A prefix is whole segments: it yields itself and what lies under it."""
        hostile = ("a", "a/b", "a/b/c", "a/bc", "ab", "A/b", "a/" + "S" * 255 + "/d", "a@", "a@/b")
        refs = {ref for ref in hostile if self.is_put(store, ref, b"", b"")}
        for prefix in ("a", "a/b", "a/" + "S" * 255, "nothing/here"):
            under = {ref for ref in refs if f"{ref}/".startswith(f"{prefix}/")}
            assert sorted(store.list(prefix)) == sorted(under)

    def test_empty_store(self, store: VersionedStore) -> None:
        """A store in which nothing was put lists nothing."""
        assert list(store.list()) == []

    def test_illegal_prefix(self, store: VersionedStore) -> None:
        """A prefix obeys the rules for refs."""
        with pytest.raises(InvalidRef):
            list(store.list("a/"))

    def test_an_abandoned_list_lets_the_store_go_on(self, store: VersionedStore) -> None:
        """A caller may stop listing halfway, and put while listing."""
        for i in range(10):
            store.put(f"a/{i}/b", b"", b"")
        listing = store.list()
        first = next(listing)
        store.put("a/new", b"", b"")
        assert first in set(store.list())

    def test_versions_newest_first(self, store: VersionedStore) -> None:
        """Versions are listed once each, the one put last first, with sizes and the current one."""
        big = b"b" * 70_000
        for data in (b"1", big, b"1"):
            store.put(REF, data, b"m")
        newest, oldest = store.versions(REF)
        assert newest[:4] == (checksum_of(b"1"), checksum_of(b"m"), 1, 1)
        assert oldest[:4] == (checksum_of(big), checksum_of(b"m"), 70_000, 1)
        assert (newest.current, oldest.current) == (True, False)
        assert newest.stored_at >= oldest.stored_at

    def test_versions_of_nothing(self, store: VersionedStore) -> None:
        """Versions of an absent ref are `NotFound`, not an empty list."""
        store.put(REF, b"", b"")
        for absent in ("nothing", "stacks", f"{REF}/below"):
            with pytest.raises(NotFound):
                list(store.versions(absent))

"""Many refs at once: the same as one after the other."""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import time
from typing import ClassVar

import pytest

from store import Capability, InvalidRef, VersionedStore, checksum_of
from store.testing.samples import blob_of, wait_out

BIG = blob_of(100_000)
REFS = [f"stacks/t/web/{number}" for number in range(1, 41)]
"""More than a backend need do at once."""


class ManyConformance:
    """What is asked or deleted of many refs together is what it is of each."""

    capability: ClassVar[Capability | None] = Capability.MANY
    smallest_unused_s: ClassVar[float] = 0.1
    """The shortest time out of use that the backend permits, and can measure."""

    def test_versions_of_many(self, store: VersionedStore) -> None:
        """Of each ref all versions are listed, the newest first, as `versions` has them."""
        others = ["stacks/t/web", "stacks/t/web/1/below", "Stacks/T/web/1", "z"]
        for ref in (*REFS[:5], *others):
            store.put(ref, ref.encode(), b"m")
        store.put(REFS[1], BIG, b"m")
        store.put(REFS[1], BIG, b"n")
        store.put(REFS[2], b"2", b"m")
        store.delete(REFS[2], checksum=checksum_of(b"2"))
        asked = [*REFS[:4], *others, REFS[0]]
        found = {one.ref: one for one in store.versions_of(iter(asked))}
        assert found.keys() == set(asked)
        for ref, one in found.items():
            assert one.error is None
            assert list(one.versions) == list(store.versions(ref))
        assert len(found[REFS[1]].versions) == len([b"1", BIG, BIG])
        assert [one.current for one in found[REFS[2]].versions] == [False]

    def test_versions_of_what_is_absent(self, store: VersionedStore) -> None:
        """What is not there is left out."""
        store.put(REFS[0], b"1", b"m")
        asked = [REFS[1], "nothing", "stacks/t", f"{REFS[0]}/below", REFS[0]]
        assert [one.ref for one in store.versions_of(asked)] == [REFS[0]]
        assert list(store.versions_of([])) == []

    def test_delete_many(self, store: VersionedStore) -> None:
        """All of them go, with every version; what was there is told, and the others stay."""
        beside = ["stacks/t/web", "stacks/t/web/1/below", "stacks/t/we/1"]
        for ref in (*REFS, *beside):
            store.put(ref, b"1", b"m")
        store.put(REFS[3], BIG, b"m")
        gone = list(store.delete_all([*REFS, "nothing", REFS[0]]))
        assert sorted(gone) == sorted(REFS)
        assert sorted(store.list()) == sorted(beside)
        assert not store.exists(REFS[3], checksum=checksum_of(b"1"))
        assert list(store.delete_all(REFS)) == []
        assert list(store.delete_all([])) == []

    def test_delete_many_that_are_out_of_use(self, store: VersionedStore) -> None:
        """With `unused_s` each goes that has lain so long, and none that was used since."""
        for ref in REFS[:4]:
            store.put(ref, b"1", b"m")
        wait_out(2 * self.smallest_unused_s)
        since = time.time()
        wait_out(2 * self.smallest_unused_s)
        store.put(REFS[1], b"1", b"m")
        store.put(REFS[2], b"2", b"m")
        gone = list(store.delete_all(REFS[:4], unused_s=time.time() - since))
        assert sorted(gone) == [REFS[0], REFS[3]]
        assert sorted(store.list()) == [REFS[1], REFS[2]]
        assert store.get(REFS[2], checksum=checksum_of(b"1")).data == b"1"

    def test_illegal_refs_among_many(self, store: VersionedStore) -> None:
        """One that is illegal raises `InvalidRef`, and nothing goes."""
        store.put(REFS[0], b"1", b"m")
        for ask in (store.delete_all, store.versions_of):
            with pytest.raises(InvalidRef):
                list(ask([REFS[0], "a/"]))
        assert store.exists(REFS[0])

"""A Put heals what it finds damaged, wherever it leaves the ref, and moves no ref back by that."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from store import Capability, Corrupt, VersionedStore, capabilities, checksum_of
from store.testing.samples import REF, blob_of, needs

if TYPE_CHECKING:
    from store import Position

OLD: Position = (3, 0)
AT: Position = (5, 0)
PUTS: Mapping[str, Position | None] = {
    "lower": (1, 0),
    "equal": (5, 0),
    "higher": (7, 0),
    "none": None,
}
MANIFEST = b"manifest"
SIZES = (10, 100_000)


class HealingConformance:
    """Needs pinned reads and positions. Override `damages` and `plant`."""

    damages: ClassVar[Mapping[str, bool]] = {}
    """Each kind of damage that `plant` knows, and whether it leaves a trace of the position."""

    def plant(self, store: VersionedStore, ref: str, kind: str) -> None:
        """Do that damage to what is current at `ref`, behind the store's back."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that asks for a damage with each of them."""
        if "damage" in metafunc.fixturenames:
            metafunc.parametrize("damage", sorted(metafunc.cls.damages))

    def harmed(self, store: VersionedStore, ref: str, size_bytes: int, damage: str) -> bytes:
        """Put an older version, and then, at AT, the data that is returned; damage it."""
        data = ref.encode() + blob_of(size_bytes)
        store.put(ref, b"old", MANIFEST, position=OLD)
        store.put(ref, data, MANIFEST, position=AT)
        self.plant(store, ref, damage)
        return data

    def test_what_was_put_again_is_readable(self, store: VersionedStore, damage: str) -> None:
        """Whatever was damaged, and wherever it is put: afterwards it reads, pinned or not."""
        for at, size_bytes, way in product(PUTS, SIZES, ("put", "put_from")):
            ref = f"{REF}/{at}/{size_bytes}/{way}"
            data = self.harmed(store, ref, size_bytes, damage)
            put(store, way, ref, data, PUTS[at])
            check_readable(store, ref, data)
            assert store.get(ref) == (data, MANIFEST), ref
            assert store.get(ref, checksum=checksum_of(b"old")) == (b"old", MANIFEST), ref
        check_verified(store)

    def test_healing_bars_what_was_barred(self, store: VersionedStore, damage: str) -> None:
        """A healed ref goes back to nothing older: by its position, or what is left beside it."""
        for at in PUTS:
            ref = f"{REF}/{at}"
            data = self.harmed(store, ref, 10, damage)
            store.put(ref, data, MANIFEST, position=PUTS[at])
            store.put(ref, b"old", MANIFEST, position=OLD)
            assert store.get(ref).data == data, ref
            if self.damages[damage] or at in {"equal", "higher"}:
                store.put(ref, b"between", MANIFEST, position=(4, 0))
                assert store.get(ref).data == data, ref
            store.put(ref, b"new", MANIFEST, position=(8, 0))
            assert store.get(ref).data == b"new", ref
            check_readable(store, ref, data)

    def test_another_version_is_put(self, store: VersionedStore, damage: str) -> None:
        """What is put over damage reads by its checksum; the ref goes to nothing known as older."""
        positions: list[Position | None] = [(1, 0), OLD, (4, 0), (6, 0), None]
        for number, (at, size_bytes) in enumerate(product(positions, SIZES)):
            ref = f"{REF}/{number}"
            data = self.harmed(store, ref, size_bytes, damage)
            store.put(ref, b"other", MANIFEST, position=at)
            check_readable(store, ref, b"other")
            moved = at in {None, (6, 0)}
            if moved or at == (1, 0) or self.damages[damage]:
                assert (current(store, ref) == b"other") is moved, at
            assert current(store, ref) != b"old", at
            store.put(ref, data, MANIFEST, position=(9, 0))
            assert store.get(ref).data == data, ref
            check_readable(store, ref, data)
            check_readable(store, ref, b"other")

    def test_damage_that_was_moved_aside(self, store: VersionedStore, damage: str) -> None:
        """Quarantine forgets no position that could be read."""
        needs(store, Capability.VERIFY)
        data = self.harmed(store, REF, 10, damage)
        list(store.verify(quarantine=True))
        store.put(REF, b"between", MANIFEST, position=(4, 0))
        if self.damages[damage]:
            assert current(store, REF) != b"between"
        store.put(REF, data, MANIFEST, position=(4, 5))
        assert store.get(REF).data == data
        check_readable(store, REF, b"between")
        check_verified(store)


def put(store: VersionedStore, way: str, ref: str, data: bytes, position: Position | None) -> None:
    """Put `data`, in one of the two ways."""
    if way == "put" or Capability.STREAM not in capabilities(store):
        store.put(ref, data, MANIFEST, position=position)
    else:
        store.put_from(ref, io.BytesIO(data), MANIFEST, position=position)


def current(store: VersionedStore, ref: str) -> bytes | None:
    """Return the data that the ref points at, None when that is damaged."""
    with contextlib.suppress(Corrupt):
        return store.get(ref).data
    return None


def check_readable(store: VersionedStore, ref: str, data: bytes) -> None:
    """Assert that the version reads in every way that names it."""
    checksum, pair = checksum_of(data), {"manifest_checksum": checksum_of(MANIFEST)}
    pins: list[dict[str, Any]] = [{}, pair]
    for pin in pins:
        assert store.get(ref, checksum=checksum, **pin) == (data, MANIFEST), ref
        assert store.exists(ref, checksum=checksum, **pin), ref
        if Capability.STREAM in capabilities(store):
            with store.open(ref, checksum=checksum, **pin) as reader:
                assert reader.readall() == data, ref


def check_verified(store: VersionedStore) -> None:
    """Assert that nothing that is stored is damaged."""
    if Capability.VERIFY in capabilities(store):
        assert [each for each in store.verify() if each.error] == []

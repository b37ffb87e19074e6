"""A store with every capability, run against a dict by Hypothesis.

class MineModel(StoreModel):
    def open_store(self):
        return open_mine(...)      # empty, anew for each example

TestMineModel = MineModel.TestCase
"""

# ruff: noqa: S101 - assertions are what this package is for

from __future__ import annotations

import io
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from store import NotFound, Pin, Position, Retention, VersionedStore, checksum_of
from store.contract import rank
from store.testing.samples import wait_out

_REFS = st.sampled_from(["a", "A", "a/b", "a/b/c", "%41", "é", "e\u0301", "a@", "S" * 255])
_DATA = st.sampled_from([b"", b"1", b"2", b"b" * 65_537])
_MANIFESTS = st.sampled_from([b"", b"m", b"\n\n"])
_POSITIONS = st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3))

_Pair = tuple[bytes, bytes]


class StoreModel(RuleBasedStateMachine):
    """Puts, Gets, lists and collections in any order.

    Override `open_store`, and `teardown` if need be.
    """

    smallest_grace_s: ClassVar[float] = 0.0
    """As `CollectConformance` has it."""

    def open_store(self) -> VersionedStore:
        """Return an empty store with every capability."""
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        """Open the store and its model."""
        self.store = self.open_store()
        self.current: dict[str, _Pair] = {}
        self.positions: dict[str, Position | None] = {}
        self.versions: dict[str, list[_Pair]] = {}  # oldest first

    @rule(
        ref=_REFS,
        data=_DATA,
        manifest=_MANIFESTS,
        position=_POSITIONS,
        streamed=st.booleans(),
    )
    def put(
        self, ref: str, data: bytes, manifest: bytes, position: Position | None, *, streamed: bool
    ) -> None:
        """Put moves the ref, unless a later position did; so does Put from a reader."""
        pair = (data, manifest)
        if streamed:
            put = self.store.put_from(ref, io.BytesIO(data), manifest, position=position)
            assert put == checksum_of(data)
        else:
            self.store.put(ref, data, manifest, position=position)
        self._remember(ref, pair)
        here = self.positions.get(ref)
        if position is None:
            if self.current.get(ref) != pair:
                self.positions[ref] = None
            self.current[ref] = pair
        elif here is None or rank(position) >= rank(here):
            self.current[ref], self.positions[ref] = pair, position

    def _remember(self, ref: str, pair: _Pair) -> None:
        versions = self.versions.setdefault(ref, [])
        if pair in versions:
            versions.remove(pair)
        versions.append(pair)

    @rule(ref=_REFS)
    def get(self, ref: str) -> None:
        """Get returns the current pair, or `NotFound`; Open opens the same."""
        assert self.store.exists(ref) == (ref in self.current)
        if ref in self.current:
            assert self.store.get(ref) == self.current[ref]
            with self.store.open(ref) as reader:
                assert (reader.read(), reader.manifest) == self.current[ref]
        else:
            for read in (self.store.get, self.store.open):
                with pytest.raises(NotFound):
                    read(ref)

    @rule(ref=_REFS, data=_DATA, manifest=_MANIFESTS)
    def get_pair(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Every pair that was ever put is readable by its checksums, and no other."""
        pin: dict[str, Any] = {
            "checksum": checksum_of(data),
            "manifest_checksum": checksum_of(manifest),
        }
        stored = (data, manifest) in self.versions.get(ref, [])
        assert self.store.exists(ref, **pin) == stored
        if stored:
            assert self.store.get(ref, **pin) == (data, manifest)

    @rule(ref=_REFS, data=_DATA)
    def get_by_data(self, ref: str, data: bytes) -> None:
        """Pinned by data alone, the current pair comes first, then what was put last."""
        candidates = [pair for pair in self.versions.get(ref, []) if pair[0] == data]
        if self.current.get(ref) in candidates:
            candidates.append(self.current[ref])
        assert self.store.exists(ref, checksum=checksum_of(data)) == bool(candidates)
        if candidates:
            assert self.store.get(ref, checksum=checksum_of(data)) == candidates[-1]

    @rule(ref=_REFS)
    def list_versions(self, ref: str) -> None:
        """Versions lists every pair once and says which is current."""
        if ref not in self.versions:
            return
        listed = {
            (version.checksum, version.manifest_checksum): version.current
            for version in self.store.versions(ref)
        }
        assert listed == {
            (checksum_of(data), checksum_of(manifest)): (data, manifest) == self.current.get(ref)
            for data, manifest in self.versions[ref]
        }

    @rule(
        keep_last=st.integers(1, 3),
        ref=_REFS,
        data=_DATA,
        manifest=st.none() | _MANIFESTS,
        dry_run=st.booleans(),
    )
    def collect(
        self, keep_last: int, ref: str, data: bytes, manifest: bytes | None, *, dry_run: bool
    ) -> None:
        """Current, newest and pinned versions stay; all others go, unless it is only tried."""
        gone = [
            (each, pair)
            for each in self.versions
            for pair in self._old(each, keep_last)
            if (each, pair[0]) != (ref, data) or manifest not in (None, pair[1])
        ]
        pin = Pin(ref, checksum_of(data), None if manifest is None else checksum_of(manifest))
        retention = Retention(self.smallest_grace_s, keep_last)
        wait_out(self.smallest_grace_s)
        collected = list(self.store.collect(retention, lambda: [pin], dry_run=dry_run))
        versions = [each.ref or "" for each in collected if each.kind == "version"]
        assert sorted(versions) == sorted(each for each, _ in gone)
        if not dry_run:
            for each, pair in gone:
                self._forget(each, pair)

    def _old(self, ref: str, keep_last: int) -> list[_Pair]:
        """Return what is not among the newest, as the store lists them, the current counted."""
        pairs = {tuple(map(checksum_of, pair)): pair for pair in self.versions[ref]}
        others = [pairs[version[:2]] for version in self.store.versions(ref) if not version.current]
        return others[keep_last - 1 :]

    @rule(ref=_REFS, data=st.none() | _DATA)
    def delete(self, ref: str, data: bytes | None) -> None:
        """Delete takes the ref, or the versions with that data; the ref moves nowhere else."""
        gone = [pair for pair in self.versions.get(ref, []) if data in (None, pair[0])]
        checksum = None if data is None else checksum_of(data)
        assert self.store.delete(ref, checksum=checksum) == bool(gone)
        for pair in gone:
            self._forget(ref, pair)

    def _forget(self, ref: str, pair: _Pair) -> None:
        self.versions[ref].remove(pair)
        if not self.versions[ref]:
            del self.versions[ref]
        if self.current.get(ref) == pair:
            del self.current[ref], self.positions[ref]

    @rule()
    def verify(self) -> None:
        """All that is stored is intact, and every version is looked at."""
        checked = list(self.store.verify())
        assert [each.error for each in checked if each.error] == []
        for ref, pairs in self.versions.items():
            assert sum(each.ref == ref for each in checked) >= len(pairs)

    @invariant()
    def lists_what_was_put(self) -> None:
        """List yields every ref once."""
        assert sorted(self.store.list()) == sorted(self.current)

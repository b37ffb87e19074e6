"""A store's identity: which store this is, by whatever way it was reached."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from store import Capability, Retention, VersionedStore, capabilities
from store.testing.samples import REF


class IdentityConformance:
    """The store says which one it is. Override `another`, and `again` where storage is shared."""

    capability: ClassVar[Capability | None] = Capability.IDENTITY

    def another(self) -> VersionedStore:
        """Return an open store that is not the fixture's."""
        raise NotImplementedError

    def again(self, store: VersionedStore) -> VersionedStore:
        """Open the storage of `store` once more; itself where no second handle can show it."""
        return store

    def test_an_identity_is_32_hex_digits(self, store: VersionedStore) -> None:
        """It can be written down and compared as text."""
        assert re.fullmatch(r"[0-9a-f]{32}", store.identity or "")

    def test_every_handle_tells_the_same_identity(self, store: VersionedStore) -> None:
        """Handles opened before, after and at the same time agree, from the first answer on."""
        handles = [store, *(self.again(store) for _ in range(8))]
        with ThreadPoolExecutor(len(handles)) as pool:
            told = set(pool.map(lambda one: one.identity, handles))
        assert told == {self.again(store).identity}

    def test_two_stores_have_two_identities(self, store: VersionedStore) -> None:
        """Another store is never taken for this one."""
        assert self.another().identity != store.identity

    def test_use_keeps_the_identity(self, store: VersionedStore) -> None:
        """What is put, read and collected is none of its business."""
        before = store.identity
        for data in (b"1", b"2"):
            store.put(REF, data, b"m")
        if Capability.COLLECT in capabilities(store):
            list(store.collect(Retention(grace_s=7200.0), tuple))
        assert store.get(REF) == (b"2", b"m")
        assert self.again(store).identity == before

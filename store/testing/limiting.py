"""A reader says how much it takes, and nothing larger is read."""

# ruff: noqa: S101 - assertions, with their figures, are what this package is for

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from store import Capability, Limit, TooLarge, capabilities, checksum_of, versioned
from store.testing.samples import REF, blob_of, needs

if TYPE_CHECKING:
    from store import Store, VersionedStore

SIZES = [(10, 5), (10, 70_000), (70_000, 5), (300_000, 300_000)]
"""Of data and manifest: what lies in one piece, and what does not."""


def read(store: VersionedStore, limit: Limit, **pin: Any) -> None:  # noqa: ANN401 - both checksums
    """Read what lies at the ref, in every way that there is."""
    found = store.get(REF, limit=limit, **pin)
    if versioned(store, Capability.STREAM):
        with store.open(REF, limit=limit, **pin) as reader:
            assert (reader.read(), reader.manifest) == found


def refuses(store: VersionedStore, limit: Limit, **pin: Any) -> None:  # noqa: ANN401 - as above
    """Assert that every way of reading refuses."""
    with pytest.raises(TooLarge):
        store.get(REF, limit=limit, **pin)
    if versioned(store, Capability.STREAM):
        with pytest.raises(TooLarge):
            store.open(REF, limit=limit, **pin)


class LimitConformance:
    """Sizes are looked at before what has them is read."""

    capability: ClassVar[Capability | None] = Capability.LIMIT

    @pytest.mark.parametrize(("data_bytes", "manifest_bytes"), SIZES)
    def test_takes_what_fits(
        self, store: VersionedStore, data_bytes: int, manifest_bytes: int
    ) -> None:
        """What has exactly the limit's sizes is read; with a byte more it is refused."""
        store.put(REF, blob_of(data_bytes), blob_of(manifest_bytes))
        size_bytes = data_bytes + manifest_bytes
        read(store, Limit(size_bytes, manifest_bytes))
        refuses(store, Limit(size_bytes - 1, manifest_bytes))
        refuses(store, Limit(size_bytes, manifest_bytes - 1))

    def test_other_versions_do_not_matter(self, store: VersionedStore) -> None:
        """A version that fits is read beside one that does not, whichever is the current one."""
        needs(store, Capability.PINNED_GET)
        large, small = (blob_of(200_000), b"m1"), (b"small", b"m2")
        for pair in (small, large, small):
            store.put(REF, *pair)
            read(store, Limit(1000, 1000), checksum=checksum_of(b"small"))
        refuses(store, Limit(1000, 1000), checksum=checksum_of(large[0]))

    def test_what_is_refused_is_not_read(self, store: Store) -> None:
        """A large manifest that is refused, looked for, listed or verified is never in memory."""
        store.put(REF, b"data", blob_of(16 << 20))
        opened: Any = store
        tracemalloc.start()
        try:
            refuses(opened, Limit(1 << 20, 1 << 20))
            assert opened.exists(REF)
            if Capability.LIST in capabilities(store):
                assert list(opened.list()) == [REF]
                assert len(list(opened.versions(REF))) == 1
            if Capability.VERIFY in capabilities(store):
                assert not any(checked.error for checked in opened.verify())
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()

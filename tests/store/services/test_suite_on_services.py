"""The object backend keeps the contract on real servers: Ceph's radosgw, Azurite."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from store.testing import (
    CollectConformance,
    CorruptionConformance,
    HealingConformance,
    IdentityConformance,
    LimitConformance,
    ListConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    StoreConformance,
    StreamConformance,
    VerifyConformance,
)
from tests.store.buckets import InBucket
from tests.store.planted import BUCKET_DAMAGES, TELLING

if TYPE_CHECKING:
    from store import VersionedStore

pytestmark = pytest.mark.slow


class TestOnServices(
    InBucket,
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CollectConformance,
    IdentityConformance,
    LimitConformance,
    CorruptionConformance,
    HealingConformance,
    OutageConformance,
):
    """The whole exported suite, on each."""

    damages: ClassVar = {kind: BUCKET_DAMAGES[kind] for kind in TELLING}

    def test_racing_writers_lose_nothing(self, store: VersionedStore) -> None:  # noqa: ARG002
        """As in the suite, with a grace that is longer than a Put takes: it has to be."""
        self.smallest_grace_s = 10.0  # type: ignore[misc]
        super().test_racing_writers_lose_nothing(self.opened(shortest_grace_s=10.0))

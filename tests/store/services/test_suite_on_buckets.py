"""The object backend keeps the contract in buckets: moto's and each service's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from store.testing import (
    CollectConformance,
    CorruptionConformance,
    DeleteConformance,
    HealingConformance,
    IdentityConformance,
    LimitConformance,
    ListConformance,
    ManyConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    PurgeConformance,
    StoreConformance,
    StoreModel,
    StreamConformance,
    VerifyConformance,
)
from tests.store import object_server
from tests.store.buckets import InBucket, open_bucket
from tests.store.planted import BUCKET_DAMAGES, TELLING
from tests.store.services.conftest import MOTO, SERVICES, leading_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from store import VersionedStore
    from tests.store.buckets import Buckets


@pytest.fixture(params=[MOTO, *SERVICES])
def s3(
    request: pytest.FixtureRequest,
    started: Callable[[ModuleType], Buckets],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Buckets]:
    """Moto's server, and each service in turn."""
    with leading_to(started(request.param), monkeypatch) as service:
        yield service


class TestPairsInABucket(InBucket, StoreConformance, CorruptionConformance):
    """A sample of the suite, by moto alone."""

    damages: ClassVar = {kind: BUCKET_DAMAGES[kind] for kind in TELLING}
    test_tests_every_declared_capability = None  # type: ignore[assignment]  # the whole does

    @pytest.fixture
    def s3(
        self, started: Callable[[ModuleType], Buckets], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Buckets]:
        """Moto's server."""
        with leading_to(started(object_server), monkeypatch) as service:
            yield service


@pytest.mark.proof
class TestInBuckets(
    InBucket,
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    ManyConformance,
    StreamConformance,
    VerifyConformance,
    CollectConformance,
    DeleteConformance,
    PurgeConformance,
    IdentityConformance,
    LimitConformance,
    CorruptionConformance,
    HealingConformance,
    OutageConformance,
):
    """The whole exported suite, on each."""

    damages: ClassVar = {kind: BUCKET_DAMAGES[kind] for kind in TELLING}
    smallest_unused_s: ClassVar[float] = 1.5  # a service may tell times by the second

    @pytest.mark.slow
    def test_racing_writers_lose_nothing(self, store: VersionedStore) -> None:  # noqa: ARG002
        """As in the suite, with a grace that is longer than a Put takes: it has to be."""
        self.smallest_grace_s = 10.0  # type: ignore[misc]
        super().test_racing_writers_lose_nothing(self.opened(shortest_grace_s=10.0))


@pytest.mark.slow
class TestInBucketsUnderOtherDamage(InBucket, HealingConformance):
    """The kinds of damage that take other ways to the same end."""

    damages: ClassVar = {
        kind: known for kind, known in BUCKET_DAMAGES.items() if kind not in TELLING
    }


class BucketModel(StoreModel):
    """A bucket against a dict."""

    s3: ClassVar[Buckets]

    def open_store(self) -> VersionedStore:
        """Open a new bucket."""
        return open_bucket(self.s3.new_bucket(), scheme=self.s3.scheme, shortest_grace_s=0.0)


def test_model(s3: Buckets) -> None:
    """Whatever is put, read, listed and collected in whatever order, a dict would do the same."""
    BucketModel.s3 = s3
    few = settings(max_examples=5, stateful_step_count=16)
    run_state_machine_as_test(BucketModel, settings=few)

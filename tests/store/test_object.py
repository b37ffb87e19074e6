"""The object backend keeps the contract, on a real S3 server of moto's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

import store
from store.object import ObjectStore
from store.object_client import Bucket
from store.object_urls import location_of
from store.testing import (
    CollectConformance,
    CorruptionConformance,
    ListConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    StoreConformance,
    StreamConformance,
    VerifyConformance,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store import VersionedStore
    from tests.store.object_server import S3Server

REF = "stacks/t_1/web/42"
BIG = b"b" * 100_000


def open_bucket(bucket: str, *, timeout_s: float = 20.0, **options: float) -> ObjectStore:
    return ObjectStore(Bucket(location_of(f"s3://{bucket}/fleet"), timeout_s), **options)


def keys_of(s3: S3Server, bucket: str) -> list[str]:
    """Return every key of the store, without its prefix, as the service lists them."""
    return [key.removeprefix("fleet/") for key in s3.keys(bucket)]


class TestObject(
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CollectConformance,
    CorruptionConformance,
    OutageConformance,
):
    """The object backend against S3."""

    @pytest.fixture
    def store(self, s3: S3Server) -> store.Store:
        """Open a new bucket."""
        self.s3, self.bucket = s3, s3.new_bucket()
        return open_bucket(self.bucket, timeout_s=5.0, shortest_grace_s=0.0)

    def damage(self, store: VersionedStore, ref: str) -> None:  # noqa: ARG002 - the bucket is enough
        """Flip the last bit of the data, else of the records."""
        keys = [key for key in self.s3.keys(self.bucket) if f"/{ref}@" in key]
        objects = [key for key in keys if "/objects/" in key]
        for key in objects or keys:
            content = bytearray(self.s3.read(self.bucket, key))
            content[-1] ^= 1
            self.s3.write(self.bucket, key, bytes(content))

    @contextlib.contextmanager
    def outage(self, store: VersionedStore) -> Iterator[None]:  # noqa: ARG002
        """Remove the bucket and bring it back."""
        kept = {key: self.s3.read(self.bucket, key) for key in self.s3.keys(self.bucket)}
        for key in kept:
            self.s3.delete(self.bucket, key)
        self.s3.request("DELETE", self.bucket)
        yield
        self.s3.request("PUT", self.bucket)
        for key, content in kept.items():
            self.s3.write(self.bucket, key, content)

    def test_racing_writers_lose_nothing(self, store: VersionedStore) -> None:
        """As in the suite, with a grace that is longer than a Put takes: it has to be."""
        assert isinstance(store, ObjectStore)
        self.smallest_grace_s = 3.0  # type: ignore[misc]
        super().test_racing_writers_lose_nothing(open_bucket(self.bucket, shortest_grace_s=3.0))

"""What the tests of the object backend need to run on buckets of any service."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from store.object import ObjectStore
from store.object.client import Bucket
from store.object.urls import location_of
from tests.store.planted import plant_in_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    import store
    from store import VersionedStore


class Buckets(Protocol):
    """The way to a service's keys behind the store's back."""

    scheme: str

    @property
    def environment(self) -> dict[str, str]:
        """What leads the backend there."""
        ...

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        ...

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        ...

    def remove(self, bucket: str) -> None:
        """Remove a bucket, which is empty."""
        ...

    def keys(self, bucket: str) -> list[str]:
        """Return every key of a bucket."""
        ...

    def read(self, bucket: str, key: str) -> bytes:
        """Return what lies at a key."""
        ...

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write a key."""
        ...

    def delete(self, bucket: str, key: str) -> None:
        """Remove a key."""
        ...


def open_bucket(
    bucket: str, *, scheme: str = "s3", timeout_s: float = 20.0, **options: Any
) -> ObjectStore:
    """Open, or create, the store under `fleet/` of a bucket."""
    return ObjectStore(Bucket(location_of(f"{scheme}://{bucket}/fleet"), timeout_s), **options)


class InBucket:
    """What the exported suite needs to run on a bucket."""

    @pytest.fixture
    def store(self, s3: Buckets) -> store.Store:
        """Open a new bucket."""
        self.service, self.bucket = s3, s3.new_bucket()
        return self.opened(shortest_grace_s=0.0)

    def opened(self, bucket: str | None = None, **options: Any) -> ObjectStore:
        """Open a bucket, or the one again."""
        return open_bucket(bucket or self.bucket, scheme=self.service.scheme, **options)

    def another(self) -> VersionedStore:
        """Open another bucket."""
        return self.opened(self.service.new_bucket())

    def again(self, store: VersionedStore) -> VersionedStore:  # noqa: ARG002 - the bucket is it
        """Open the bucket once more."""
        return self.opened()

    def damage(self, store: VersionedStore, ref: str) -> None:  # noqa: ARG002 - the bucket is enough
        """Flip the last bit of the data, else of the records."""
        keys = [key for key in self.service.keys(self.bucket) if f"/{ref}@" in key]
        objects = [key for key in keys if "/objects/" in key]
        for key in objects or keys:
            content = bytearray(self.service.read(self.bucket, key))
            content[-1] ^= 1
            self.service.write(self.bucket, key, bytes(content))

    def raw(self, store: VersionedStore) -> bytes:  # noqa: ARG002 - the bucket is enough
        """Return what lies at all keys."""
        keys = self.service.keys(self.bucket)
        return b"".join(self.service.read(self.bucket, key) for key in keys)

    def plant(self, store: VersionedStore, ref: str, kind: str) -> None:  # noqa: ARG002 - as above
        """Harm the current record, the version's own, both, or the data."""
        plant_in_bucket(self.service, self.bucket, ref, kind)

    @contextlib.contextmanager
    def outage(self, store: VersionedStore) -> Iterator[None]:  # noqa: ARG002
        """Remove the bucket and bring it back."""
        kept = {key: self.service.read(self.bucket, key) for key in self.service.keys(self.bucket)}
        for key in kept:
            self.service.delete(self.bucket, key)
        self.service.remove(self.bucket)
        yield
        self.service.make(self.bucket)
        for key, content in kept.items():
            self.service.write(self.bucket, key, content)

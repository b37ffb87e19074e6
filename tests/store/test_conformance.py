"""Every backend keeps the contract: the exported suite, and its model."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import pytest
from hypothesis import settings

import store
from store.file.backend import FileStore
from store.memory import MemoryStore
from store.testing import (
    CollectConformance,
    CorruptionConformance,
    DeleteConformance,
    Faulty,
    HealingConformance,
    IdentityConformance,
    LimitConformance,
    ListConformance,
    ManyConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    PurgeConformance,
    Slow,
    StoreConformance,
    StoreModel,
    StreamConformance,
    VerifyConformance,
)
from tests.store.harness import flip, raw_files, raw_memory
from tests.store.planted import DAMAGES, plant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store import VersionedStore


class TestMemory(
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CorruptionConformance,
    HealingConformance,
    CollectConformance,
    DeleteConformance,
    ManyConformance,
    PurgeConformance,
    IdentityConformance,
    LimitConformance,
):
    """The memory backend."""

    @pytest.fixture
    def store(self) -> store.Store:
        """Open a new one."""
        return store.open("memory")

    def another(self) -> VersionedStore:
        """Open a new one."""
        return MemoryStore()

    def damage(self, store: VersionedStore, ref: str) -> None:
        """Flip the last bit of the current version's data."""
        flip(store, ref)

    def raw(self, store: VersionedStore) -> bytes:
        """Return all blobs."""
        return raw_memory(store)

    damages: ClassVar = {"flipped": True}

    def plant(self, store: VersionedStore, ref: str, kind: str) -> None:  # noqa: ARG002 - one kind
        """Flip it likewise."""
        flip(store, ref)


class TestWrapped(
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CorruptionConformance,
    CollectConformance,
    DeleteConformance,
    ManyConformance,
    PurgeConformance,
    IdentityConformance,
    LimitConformance,
):
    """A wrapper that neither waits nor fails is the store that it is around."""

    @pytest.fixture
    def store(self) -> store.Store:
        """Wrap a new one, twice."""
        self.inner = MemoryStore()
        return Slow(Faulty(self.inner, []), 0.0)

    def another(self) -> VersionedStore:
        """Wrap a new one."""
        return Slow(MemoryStore(), 0.0)

    def damage(self, store: VersionedStore, ref: str) -> None:  # noqa: ARG002 - the wrapped is it
        """Damage what is wrapped."""
        flip(self.inner, ref)

    def raw(self, store: VersionedStore) -> bytes:  # noqa: ARG002 - the wrapped is it
        """Return all blobs of what is wrapped."""
        return raw_memory(self.inner)


class TestFile(
    StoreConformance,
    PinnedGetConformance,
    PositionConformance,
    ListConformance,
    StreamConformance,
    VerifyConformance,
    CollectConformance,
    DeleteConformance,
    ManyConformance,
    PurgeConformance,
    IdentityConformance,
    LimitConformance,
    CorruptionConformance,
    HealingConformance,
    OutageConformance,
):
    """The file backend."""

    damages: ClassVar = DAMAGES

    @pytest.fixture
    def store(self, tmp_path: Path) -> store.Store:
        """Open a new directory."""
        self.root = tmp_path / "root"
        return store.open("file", store.StoreConfig(file_dir=self.root))

    def another(self) -> VersionedStore:
        """Open a directory beside it."""
        return FileStore(f"{self.root}-beside")

    def again(self, store: VersionedStore) -> VersionedStore:  # noqa: ARG002 - the directory is it
        """Open it by another path."""
        return FileStore(f"{self.root}/../{self.root.name}")

    def damage(self, store: VersionedStore, ref: str) -> None:  # noqa: ARG002 - the files are enough
        """Flip the last bit of the object, else of the record."""
        objects = [path for path in self.root.glob("objects/sha256/*/*") if path.is_file()]
        for path in objects or [self.root / "refs" / f"{ref}@"]:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(content)

    def raw(self, store: VersionedStore) -> bytes:  # noqa: ARG002 - the files are enough
        """Return the content of all files."""
        return raw_files(self.root)

    def plant(self, store: VersionedStore, ref: str, kind: str) -> None:  # noqa: ARG002 - as above
        """Harm the current record, all its names or only one, or the object."""
        plant(self.root, ref, kind)

    @contextlib.contextmanager
    def outage(self, store: VersionedStore) -> Iterator[None]:  # noqa: ARG002
        """Move the root away."""
        away = self.root.with_name("away")
        self.root.rename(away)
        yield
        away.rename(self.root)


class TestThirdParty(StoreConformance):
    """A backend in a package of its own has put, get, exists and name, and no keywords."""

    @pytest.fixture
    def store(self) -> store.Store:
        """Open a new one."""
        return Plain()


class Plain:
    """The least that is a store."""

    name = "plain"

    def __init__(self) -> None:
        self._inner = store.open("memory")

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Put as it is."""
        self._inner.put(ref, data, manifest)

    def get(self, ref: str) -> store.Artifact:
        """Get as it is."""
        return self._inner.get(ref)

    def exists(self, ref: str) -> bool:
        """Look as it is."""
        return self._inner.exists(ref)


class MemoryModel(StoreModel):
    """The memory backend against a dict."""

    def open_store(self) -> VersionedStore:
        """Open a new one."""
        return cast("VersionedStore", store.open("memory"))


class FileModel(StoreModel):
    """The file backend against a dict."""

    def open_store(self) -> VersionedStore:
        """Open a new directory."""
        self.root = tempfile.mkdtemp()
        return cast("VersionedStore", store.open("file", store.StoreConfig(file_dir=self.root)))

    def teardown(self) -> None:
        """Remove it."""
        shutil.rmtree(self.root, ignore_errors=True)


TestMemoryModel = MemoryModel.TestCase
TestFileModel = FileModel.TestCase
# No deadline: how long a flush takes says nothing about being right.
TestMemoryModel.settings = settings(max_examples=60, stateful_step_count=40)
TestFileModel.settings = settings(max_examples=25, stateful_step_count=25)

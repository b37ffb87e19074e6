"""Carrying an artifact from store to store: what streams, what is verified, whose error it is."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import store
from sidecar.wire.bounds import MAX_MANIFEST_BYTES
from sidecar.wire.event import Rejected
from sidecar.worker import inflight
from sidecar.worker.pipeline import Pipeline, Rules
from sidecar.worker.policy import Mismatch
from store import (
    Artifact,
    ArtifactReader,
    Capability,
    Corrupt,
    NotFound,
    StoreConfig,
    StoreError,
    Unavailable,
    checksum_of,
)
from store.memory import MemoryStore
from tests.sidecar.harness import SpyStore

if TYPE_CHECKING:
    from pathlib import Path

REF = "stacks/t_1/web/7"
BIG = b"b" * 3_000_000


class Plain:
    """A third party's store: put, get, exists and name, nothing else."""

    name = "plain"

    def __init__(self) -> None:
        self.pairs: dict[str, tuple[bytes, bytes]] = {}

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Put as the contract says."""
        self.pairs[ref] = (data, manifest)

    def get(self, ref: str) -> Artifact:
        """Get as the contract says."""
        if ref not in self.pairs:
            raise NotFound(ref)
        return Artifact(*self.pairs[ref])

    def exists(self, ref: str) -> bool:
        """Look as the contract says."""
        return ref in self.pairs


class Streaming(Plain):
    """A third party's store that streams, and says what it likes of what it has."""

    capabilities = frozenset({Capability.STREAM})
    failure: Exception | None = None
    claims: str | None = None

    def open(self, ref: str) -> ArtifactReader:
        """Open, failing half way if told to."""
        data, manifest = self.get(ref)
        return ArtifactReader(
            _Failing(data, self.failure) if self.failure else io.BytesIO(data),
            checksum=self.claims,
            size_bytes=len(data),
            manifest=manifest,
            where="streaming",
        )

    def put_from(self, *_args: Any, **_options: Any) -> str:
        """Fail: nothing is put here."""
        raise AssertionError("it is a source")


class _Failing(io.BytesIO):
    def __init__(self, data: bytes, failure: Exception) -> None:
        super().__init__(data)
        self._failure = failure

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 2_000_000:
            raise self._failure
        return super().read(size)


@pytest.fixture
def fleet(tmp_path: Path) -> store.Store:
    return store.open("file", StoreConfig(file_dir=tmp_path / "fleet"))


def carry(
    source: store.Store, fleet: store.Store, data: bytes, manifest: bytes = b"", **how: bool
) -> None:
    """Carry an event that names `data` at REF, and `manifest` if there is one."""
    event = {
        "event_id": "e",
        "type": "run.abort",
        "artifact_ref": REF,
        "checksum": checksum_of(data),
    }
    if manifest:
        event["manifest_checksum"] = checksum_of(manifest)
    pipeline = Pipeline(source, fleet, Rules(), **how)
    admitted = pipeline.admit({b"event": json.dumps(event).encode()}, "control/1-0")
    pipeline.carry(admitted, (1, 0))


@pytest.mark.parametrize(
    "source", [Plain(), Streaming(), store.open("memory")], ids=lambda s: s.name
)
@pytest.mark.parametrize("data", [b"", b"small", BIG], ids=len)
def test_carries_between_all_kinds_of_stores(
    source: store.Store, fleet: store.Store, data: bytes
) -> None:
    """Whatever the two stores can do, the pair arrives whole."""
    source.put(REF, data, b"manifest")
    for target in (fleet, Plain()):
        carry(source, target, data)
        assert target.get(REF) == (data, b"manifest")


@pytest.mark.parametrize("source", [Plain(), Streaming()], ids=["plain", "streaming"])
def test_other_data_is_a_mismatch(source: Plain, fleet: store.Store) -> None:
    """Data that the event does not name is never put, whatever the source claims of it."""
    source.put(REF, BIG, b"m")
    with pytest.raises(Mismatch, match="the producer's store has other data"):
        carry(source, fleet, b"what the event names")
    assert not fleet.exists(REF)


def test_other_data_is_a_mismatch_where_nothing_checks_but_the_pipeline() -> None:
    """Between two stores that verify nothing, and within one of them, other data is found out."""
    source, fleet = Plain(), Plain()
    source.put(REF, b"other", b"m")
    for target in (fleet, source):
        with pytest.raises(Mismatch, match="the producer's store has other data"):
            carry(source, target, b"what the event names")
    assert not fleet.exists(REF)


@pytest.mark.parametrize("source", [Plain(), Streaming()], ids=["plain", "streaming"])
def test_another_manifest_is_a_mismatch(source: Plain, fleet: store.Store) -> None:
    """The right data with a manifest that the event does not name is never put."""
    source.put(REF, b"1", b"other manifest")
    with pytest.raises(Mismatch, match="has another one at"):
        carry(source, fleet, b"1", b"manifest")
    assert not fleet.exists(REF)
    source.put(REF, b"1", b"manifest")
    carry(source, fleet, b"1", b"manifest")
    assert fleet.get(REF) == (b"1", b"manifest")


def test_a_source_that_lies_about_its_data(fleet: store.Store) -> None:
    """A source that claims the right checksum for other data is found out, and not put."""
    source = Streaming()
    source.claims = checksum_of(b"what the event names")
    source.put(REF, BIG, b"m")
    with pytest.raises(Corrupt, match="streaming"):
        carry(source, fleet, b"what the event names")
    assert not fleet.exists(REF)


@pytest.mark.parametrize("failure", [Unavailable("gone"), Corrupt("bad")], ids=repr)
def test_a_source_that_fails_half_way(fleet: store.Store, failure: StoreError) -> None:
    """The source's own error comes through, its corruption as well, and nothing was put."""
    source = Streaming()
    source.failure = failure
    source.put(REF, BIG, b"m")
    with pytest.raises(StoreError) as raised:
        carry(source, fleet, BIG)
    assert raised.value is failure
    assert not fleet.exists(REF)


def test_a_source_whose_disk_fails_half_way(fleet: store.Store) -> None:
    """An error of the operating system, while the source is read, is the source's outage."""
    source = Streaming()
    source.failure = OSError(5, "Input/output error")
    source.put(REF, BIG, b"m")
    with pytest.raises(Unavailable, match="cannot read streaming: Input/output error"):
        carry(source, fleet, BIG)
    assert not fleet.exists(REF)


def test_the_fleets_corruption_is_an_outage() -> None:
    """An error of the fleet's store is no verdict on the artifact: it is waited for."""

    class Damaged(Plain):
        def put(self, *_args: object) -> None:
            """Fail as no third party should."""
            raise Corrupt("a disk")

    source = Plain()
    source.put(REF, b"1", b"m")
    with pytest.raises(Unavailable, match="fleet's"):
        carry(source, Damaged(), b"1")


def test_one_store_is_read_through_and_not_put(tmp_path: Path) -> None:
    """Where source and fleet are one store the data is verified, and nothing is written."""
    source = store.versioned(store.open("file", StoreConfig(file_dir=tmp_path)))
    assert source
    source.put(REF, BIG, b"m")
    before = list(source.versions(REF))
    carry(source, store.open("file", StoreConfig(file_dir=tmp_path)), BIG)
    assert list(source.versions(REF)) == before
    digest = hashlib.sha256(BIG).hexdigest()
    damaged = tmp_path / "objects/sha256" / digest[:2] / digest
    damaged.chmod(0o644)
    damaged.write_bytes(BIG[:-1] + b"x")
    with pytest.raises(Corrupt):
        carry(source, source, BIG)


def test_a_damaged_source_is_not_copied(tmp_path: Path, fleet: store.Store) -> None:
    """Damage at a file source is told as such, though the kernel copies without looking."""
    source = store.open("file", StoreConfig(file_dir=tmp_path / "source"))
    source.put(REF, BIG, b"m")
    digest = hashlib.sha256(BIG).hexdigest()
    damaged = tmp_path / "source/objects/sha256" / digest[:2] / digest
    damaged.chmod(0o644)
    damaged.write_bytes(BIG[:-1] + b"x")
    with pytest.raises(Corrupt, match="source/objects"):
        carry(source, fleet, BIG)
    assert not fleet.exists(REF)


@pytest.mark.parametrize("backend", ["file", "chassis-file"])
def test_a_manifest_that_is_too_large_is_never_read(
    tmp_path: Path, fleet: store.Store, backend: str
) -> None:
    """A manifest over the limit is a verdict on the artifact, found by its size."""
    (tmp_path / "source").mkdir()
    source = store.open(backend, StoreConfig(file_dir=tmp_path / "source"))
    source.put(REF, b"data", bytes(MAX_MANIFEST_BYTES + 1))
    tracemalloc.start()
    try:
        with pytest.raises(Rejected, match="artifact_too_large"):
            carry(source, fleet, b"data")
        assert tracemalloc.get_traced_memory()[1] < MAX_MANIFEST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("backend", ["file", "chassis-file", "memory"])
def test_a_large_manifest_waits_for_room_before_it_is_read(
    tmp_path: Path, fleet: store.Store, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many large manifests come at once, only so many are in memory."""
    (tmp_path / "source").mkdir()
    source = store.open(backend, StoreConfig(file_dir=tmp_path / "source"))
    manifest = bytes(1 << 20)
    source.put(REF, b"data", manifest)
    held: list[int] = []

    @contextmanager
    def hold(_self: object, _tenant: str, size_bytes: int) -> Iterator[None]:
        held.append(size_bytes)
        assert tracemalloc.get_traced_memory()[1] < len(manifest) // 2
        yield

    monkeypatch.setattr(inflight.InFlight, "hold", hold)
    tracemalloc.start()
    try:
        carry(source, fleet, b"data")
    finally:
        tracemalloc.stop()
    assert held == [inflight.BUFFERED_BYTES]
    assert fleet.get(REF) == (b"data", manifest)


@pytest.mark.parametrize("manifest", [b"", b"another"])
def test_a_mismatch_tells_nothing_of_what_is_there(fleet: store.Store, manifest: bytes) -> None:
    """The dead letter of a ref that is another tenant's has no digest of that tenant's data."""
    source = Plain()
    source.put(REF, b"their data", b"their manifest")
    with pytest.raises(Mismatch) as caught:
        carry(source, fleet, b"their data" if manifest else b"ours", manifest)
    for blob in (b"their data", b"their manifest"):
        assert checksum_of(blob)[7:15] not in str(caught.value)


def test_what_the_source_lacks_is_waited_for_while_the_fleets_store_is_away() -> None:
    """It may have it: that is no absence, and the event is no dead letter."""

    class Away(MemoryStore):
        def open(self, ref: str, **_: Any) -> ArtifactReader:
            raise Unavailable(ref)

        def versions(self, ref: str) -> Iterator[store.Version]:
            raise Unavailable(ref)

    for manifest in (b"", b"m"):
        with pytest.raises(Unavailable):
            carry(store.open("memory"), Away(), b"data", manifest)


@pytest.mark.parametrize("lack", ["nothing", "other data", "damage"])
def test_what_the_source_lacks_is_put_from_the_fleets_store(lack: str) -> None:
    """Whatever the source has in its place; a pipeline that only looks puts nothing."""
    source, fleet = Streaming(), SpyStore()
    fleet.plant(REF, BIG, b"m")
    if lack != "nothing":
        source.put(REF, b"x" * len(BIG), b"m")
    source.failure = Corrupt("damaged") if lack == "damage" else None
    carry(source, fleet, BIG, only_looks=True)
    assert fleet.puts == []
    carry(source, fleet, BIG)
    assert fleet.puts == [REF]
    assert fleet.get(REF) == (BIG, b"m")


def test_a_fleets_store_without_versions_is_not_asked() -> None:
    """What lies there may be another's."""
    fleet = Plain()
    fleet.put(REF, b"data", b"m")
    with pytest.raises(NotFound):
        carry(Plain(), fleet, b"data")

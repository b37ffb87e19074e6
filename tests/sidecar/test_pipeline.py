"""What the pipeline makes up for in stores that have the plain contract only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.pipeline import Pipeline, Rules
from store import Unavailable, checksum_of
from store.memory import MemoryStore
from tests.sidecar.harness import PlainStore


def carry(pipeline: Pipeline, data: bytes, position: tuple[int, int], ref: str = "r") -> None:
    """Carry the artifact with this data at `ref`."""
    body = {
        "event_id": "e",
        "type": "run.abort",
        "artifact_ref": ref,
        "checksum": checksum_of(data),
    }
    admitted = pipeline.admit({b"event": json.dumps(body).encode()}, "control:events/1-0")
    pipeline.carry(admitted, position)


@pytest.fixture
def source() -> MemoryStore:
    source = MemoryStore()
    for data in (b"old", b"new"):
        source.put("r", data, b"m")
    return source


def test_a_plain_fleet_store_does_not_move_back(source: MemoryStore) -> None:
    """Threads carry a ref's artifacts in any order; the entry that came last stays."""
    fleet = PlainStore()
    pipeline = Pipeline(source, fleet, Rules())
    carry(pipeline, b"new", (2, 0))
    carry(pipeline, b"old", (1, 9))
    assert fleet.get("r").data == b"new"
    carry(pipeline, b"old", (3, 0))
    assert fleet.get("r").data == b"old"


def test_a_failed_put_bars_nothing(source: MemoryStore) -> None:
    """A later Put that failed does not keep an earlier one from the fleet's store."""

    class Failing(PlainStore):
        def put(self, ref: str, data: bytes, manifest: bytes) -> None:
            if data == b"new":
                raise Unavailable("full")
            super().put(ref, data, manifest)

    fleet = Failing()
    pipeline = Pipeline(source, fleet, Rules())
    with pytest.raises(Unavailable):
        carry(pipeline, b"new", (2, 0))
    carry(pipeline, b"old", (1, 0))
    assert fleet.get("r").data == b"old"


def test_refs_are_not_remembered_for_ever() -> None:
    """What is remembered of a plain fleet store's refs is bounded."""
    source, fleet = MemoryStore(), PlainStore()
    pipeline = Pipeline(source, fleet, Rules())
    for i in range(20_000):
        source.put(f"r/{i}", b"data", b"m")
        carry(pipeline, b"data", (i, 0), f"r/{i}")
    turns: Any = pipeline._turns
    assert len(fleet.pairs) == 20_000
    assert sum(map(len, turns._latest)) <= 64 * 256

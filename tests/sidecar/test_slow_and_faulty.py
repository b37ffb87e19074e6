"""The relay between stores that are slow or fail: it publishes what was put, and only then."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.redis.publisher import Publisher
from sidecar.wire.ids import EntryId
from store import Position
from store.testing import Fault, Faulty, Slow, random_faults
from tests.proofs import sampled
from tests.sidecar.harness import Rig, eventually, ref_of

_REF = re.compile(rb'"artifact_ref":"([^"]+)"')


class Noting(Faulty):
    """A store that fails as it is told, and notes the refs of which a Put succeeded."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.put_refs: set[str] = set()

    def put_from(
        self,
        ref: str,
        reader: Any,
        manifest: bytes,
        *,
        checksum: str | None = None,
        position: Position | None = None,
    ) -> str:
        """Put, and note that it was done."""
        done = super().put_from(ref, reader, manifest, checksum=checksum, position=position)
        self.put_refs.add(ref)
        return done


@pytest.mark.parametrize("seed", sampled(range(3), ["2"]))
def test_nothing_is_published_before_its_put_succeeded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """However both stores fail, what is published was put, durably, and nothing is buried."""
    ids = [f"e{i}" for i in range(16)]
    for i, event_id in enumerate(ids):
        rig.emit_artifact(event_id, tenant=f"t{i % 8}")
    sound = rig.fleet
    rig.source = Faulty(rig.source, random_faults(seed, 0.3))
    fleet = rig.fleet = Noting(sound, random_faults(seed + 100, 0.4))
    published: dict[str, bool] = {}
    begin = Publisher.begin

    def noting(self: Publisher, events: Any, low: str, **more: Any) -> None:
        for event in events:
            for ref in _REF.findall(event.json):
                published[ref.decode()] = ref.decode() in fleet.put_refs
        begin(self, events, EntryId(low), **more)

    monkeypatch.setattr(Publisher, "begin", noting)
    with rig.relay():
        eventually(lambda: len(rig.published()) >= len(ids))
    assert fleet.raised
    assert rig.source.raised
    assert published == dict.fromkeys(map(ref_of, ids), True)
    assert sorted(rig.published()) == sorted(ids)
    assert rig.reasons() == []
    rig.fleet = sound
    rig.audit()


def test_a_put_whose_answer_was_lost_is_put_again(rig: Rig) -> None:
    """A Put that was done, but said to have failed, is not published on: it is tried again."""
    rig.emit_artifact("e")
    sound = rig.fleet
    rig.fleet = Faulty(sound, [Fault.AFTER, Fault.BEFORE])
    with rig.relay() as run:
        eventually(rig.published)
    assert len(run.observer.retries) == 2
    assert sound.puts == [ref_of("e")] * 2
    assert rig.published() == ["e"]


def test_slow_stores_keep_the_order(rig: Rig) -> None:
    """Stores that take their time, each call another, change nothing about a tenant's order."""
    ids = [f"e{i}" for i in range(24)]
    for i, event_id in enumerate(ids):
        rig.emit_artifact(event_id, tenant=f"t{i % 2}")
    rig.source, rig.fleet = Slow(rig.source, 0.005, seed=1), Slow(rig.fleet, 0.005, seed=2)
    with rig.relay() as run:
        eventually(lambda: len(rig.published()) == len(ids))
        assert not run.observer.retries
    rig.audit()

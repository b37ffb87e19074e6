"""What a day adds to the stores, as the newest notifications tell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.redis.scan import server_time_us
from sidecar.telemetry import added as module
from sidecar.telemetry.added import Added, added
from store import Unavailable, checksum_of
from store.memory import MemoryStore
from tests.servers import counts_deletions
from tests.sidecar.harness import PlainStore, Rig

HOUR_MS = 3_600_000


def _notify(rig: Rig, number: int, hours_ago: float, fleet: MemoryStore | None = None) -> None:
    """Announce an artifact of 10 bytes with a manifest of 2."""
    ref, data = f"stacks/t/web/{number}", b"%010d" % number
    if fleet:
        fleet.put(ref, data, b"{}")
    at_ms = server_time_us(rig.client) // 1000 - round(hours_ago * HOUR_MS)
    body = {
        "event_id": ref, "type": "run.abort", "artifact_ref": ref, "control_version": at_ms * 1000,
        "checksum": checksum_of(data), "manifest_checksum": checksum_of(b"{}"),
    }  # fmt: skip
    fields: Any = {"event": json.dumps(body), "origin": f"{rig.control}/1-1"}
    rig.client.xadd(rig.notify, fields, id=f"{at_ms}-{number}")


def _announce(rig: Rig, fleet: MemoryStore, *hours_ago: float) -> None:
    for number, hours in enumerate(hours_ago):
        _notify(rig, number, hours, fleet)


def test_what_a_day_adds_is_counted(rig: Rig) -> None:
    """Each ref once, however often it is announced, and nothing that is older."""
    fleet = MemoryStore()
    assert added(rig.client, rig.notify, fleet) is None
    _announce(rig, fleet, 48, 12, 11, 1)
    _notify(rig, 3, 0.5)
    rig.client.xadd(rig.notify, {"event": "foreign"})
    assert added(rig.client, rig.notify, fleet) == Added(3, 36)


def test_of_a_busy_stream_the_newest_stand_for_the_day(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So few are read, and of fewer the size is looked up."""
    monkeypatch.setattr(module, "MOST", 6)
    monkeypatch.setattr(module, "MOST_SIZES", 2)
    fleet = MemoryStore()
    _announce(rig, fleet, 30, 20, 6, 5, 4, 3, 2, 1)
    assert added(rig.client, rig.notify, fleet) == Added(24, 288)


@counts_deletions
def test_what_was_trimmed_within_the_day_is_made_up_for(rig: Rig) -> None:
    """What is left stands for it; of nothing that is left nothing is said."""
    fleet = MemoryStore()
    _announce(rig, fleet, 20, 12, 6, 1)
    rig.client.xtrim(rig.notify, maxlen=2, approximate=False)
    assert added(rig.client, rig.notify, fleet) == Added(8, 96)
    rig.client.xtrim(rig.notify, maxlen=0, approximate=False)
    assert added(rig.client, rig.notify, fleet) is None


def test_what_is_unknown_is_said_to_be_unknown(rig: Rig) -> None:
    """Without a store, of one that lists nothing, is away, or has nothing of it."""

    class Away(MemoryStore):
        def versions(self, ref: str) -> Any:
            raise Unavailable(ref)

    _announce(rig, MemoryStore(), 1)
    for fleet in (None, PlainStore(), Away(), MemoryStore()):
        assert added(rig.client, rig.notify, fleet) == Added(1, None)

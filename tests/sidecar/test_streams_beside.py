"""Two groups on one control stream, one ref in two control streams: neither spoils the other."""

from __future__ import annotations

import pytest

from store import checksum_of
from tests.sidecar.harness import CONTROL, Rig, eventually, manifest_of

pytestmark = pytest.mark.server

REF = "rows/shared"


def test_a_lost_group_disturbs_no_other(rig: Rig) -> None:
    """Of two notification streams of one control stream, one loses its group: it alone recovers."""
    other = Rig(rig.url, rig.client, rig.source, rig.fleet, notify="other:notifications")
    with rig.relay() as mine, other.relay() as its:
        rig.emit_artifact("a")
        eventually(lambda: rig.published() == other.published() == ["a"])
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
        rig.emit_artifact("b")
        eventually(lambda: rig.published() == other.published() == ["a", "b"])
        eventually(lambda: "recovering" in [state for state, _ in mine.observer.states])
        eventually(lambda: rig.pending() == other.pending() == 0)
        assert [state for state, _ in its.observer.states] == ["active"]
        assert its.observer.read_count == 2
    rig.audit()
    other.audit()


@pytest.mark.parametrize("at", ["9999999999999-0", "1-0"])
def test_streams_with_other_entry_ids_share_a_ref(rig: Rig, at: str) -> None:
    """IDs that are no times, or far ahead, hold no ref, and never decide what is resolved.

    Each notification is resolved by its checksums, whichever version the ref points at.
    """
    custom = Rig(rig.url, rig.client, rig.source, rig.fleet, control="control:custom")
    rig.emit_artifact("a", ref=REF)
    rig.drain()
    rig.plant(REF, b"of the other")
    checksum = checksum_of(b"of the other")
    body = f'{{"event_id":"c","type":"run.abort","artifact_ref":"{REF}","checksum":"{checksum}"}}'
    rig.client.xadd(custom.control, {"event": body}, id=at)
    custom.drain()
    rig.emit_artifact("b", ref=REF)
    rig.drain()
    assert rig.published() == ["a", "c", "b"]
    assert rig.fleet.get(REF) == (b"data of b", manifest_of(b"data of b"))
    for note in rig.notifications():
        pinned = rig.fleet.get(
            REF, checksum=note["checksum"], manifest_checksum=note["manifest_checksum"]
        )
        assert checksum_of(pinned.data) == note["checksum"]

"""What the attack of 29 November found, each on a real server. Known to fail until it is fixed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.wire.identity import identity_digest
from tests.sidecar.harness import CONTROL, Rig, eventually

NOT_YET = pytest.mark.xfail(strict=True, reason="found by attack, not fixed yet")


@pytest.fixture
def forgetful(rig: Rig) -> Rig:
    """Return a rig whose index remembers for a second."""
    rig.dedup_window_s = 1.0
    return rig


def forgotten(rig: Rig, event_id: str) -> None:
    """Wait until the index has forgotten an event."""
    shard = rig.keys.seen(identity_digest(event_id))
    eventually(lambda: not rig.client.exists(shard), f"{event_id} is forgotten")


def given(rig: Rig, event_id: str, number: int) -> None:
    """Append an event under a producer's own ID."""
    body = json.dumps({"event_id": event_id, "type": "run.abort", "tenant_id": "t"})
    rig.client.xadd(rig.control, {"event": body}, id=f"{number}-0")


@NOT_YET
def test_a_stream_made_anew_is_read_though_its_first_page_is_known(rig: Rig) -> None:
    """More than a page of repeated events does not hide the new ones after it."""
    for number in range(1, 301):
        given(rig, f"old{number}", number)
    rig.drain()
    rig.client.delete(CONTROL)
    for number in range(1, 321):
        given(rig, f"old{number}" if number <= 200 else f"new{number}", number)
    rig.drain()
    new = [event_id for event_id in rig.published() if event_id.startswith("new")]
    assert new == [f"new{number}" for number in range(201, 321)]


@NOT_YET
def test_a_stream_made_anew_is_read_after_the_window(forgetful: Rig) -> None:
    """Its beginning is new, whatever its IDs repeat and the index has forgotten."""
    rig = forgetful
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    for number in range(1, 4):
        forgotten(rig, f"old{number}")
    rig.client.delete(CONTROL)
    for number in range(1, 6):
        given(rig, f"new{number}", number)
    rig.drain()
    assert rig.published()[3:] == [f"new{number}" for number in range(1, 6)]


@NOT_YET
def test_what_is_finished_and_forgotten_is_not_published_again_when_claimed(
    forgetful: Rig,
) -> None:
    """An entry below the lowest unfinished one is finished, though somebody makes it pending."""
    rig = forgetful
    first = rig.emit("v1")
    rig.drain()
    forgotten(rig, "v1")
    rig.emit("v2")
    rig.drain()
    client: Any = rig.client
    client.xclaim(CONTROL, rig.keys.group, "debug", 0, [first], force=True)
    rig.drain()
    assert rig.published() == ["v1", "v2"]


@NOT_YET
def test_a_lost_held_event_brings_back_no_older_one_of_another_tenant(forgetful: Rig) -> None:
    """What was published behind it and is forgotten, with a newer one since, is not sent again."""
    rig = forgetful
    with rig.relay(retry_budget_s=3600.0):
        rig.emit_artifact("held", tenant="h", put=False)
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v1"])
        forgotten(rig, "v1")
        rig.emit("v2")
        eventually(lambda: rig.published() == ["v1", "v2"])
    rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    with rig.relay(retry_budget_s=3600.0):
        rig.emit("last", tenant="z")
        eventually(lambda: "last" in rig.published())
    assert rig.published() == ["v1", "v2", "last"]

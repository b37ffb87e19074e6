"""What an attack found of recovery, each on a real server: streams made anew, and long holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.pruning import Pruning
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.scan import server_time_us
from sidecar.redis.source import ControlStream
from sidecar.wire.identity import identity_digest
from tests.servers import usual
from tests.sidecar.harness import CONTROL, Rig, data_of, eventually, ref_of


@pytest.fixture
def forgetful(rig: Rig) -> Rig:
    """Return a rig whose index remembers for a second."""
    rig.dedup_window_s = 1.0
    return rig


def pruned(rig: Rig) -> None:
    """Give each shard of the index its turn."""
    rig.client.delete(rig.keys.pruned)
    pruning = Pruning(rig.client, rig.keys, dedup_window_s=rig.dedup_window_s)
    with mock.patch("sidecar.redis.pruning.ROUND", SHARDS // 4):  # nobody else waits for Redis
        while pruning.prune():
            pass


def remembers(rig: Rig, event_id: str) -> bool:
    """Tell whether the index knows an event."""
    digest = identity_digest(event_id)
    field: Any = digest[2:]
    return bool(rig.client.hexists(rig.keys.seen(digest), field))


def forgotten(rig: Rig, *event_ids: str) -> None:
    """Let time go by on an idle stream, until the index has forgotten events."""

    def are_gone() -> bool:
        rig.drain()
        pruned(rig)
        return not any(remembers(rig, event_id) for event_id in event_ids)

    _outlast(rig)
    eventually(are_gone, f"{event_ids} are forgotten")


def outlast_the_window(rig: Rig) -> None:
    """Let all that was published or buried become older than the window, and have it pruned."""
    _outlast(rig)
    pruned(rig)


def _outlast(rig: Rig) -> None:
    ends_us = server_time_us(rig.client) + int(rig.dedup_window_s * 1e6)
    eventually(lambda: server_time_us(rig.client) > ends_us, "the window is over")


def given(rig: Rig, event_id: str, number: int) -> None:
    """Append an event under a producer's own ID."""
    body = json.dumps({"event_id": event_id, "type": "run.abort", "tenant_id": "t"})
    rig.client.xadd(rig.control, {"event": body}, id=f"{number}-0")


@contextmanager
def held(rig: Rig) -> Iterator[None]:
    """Hold the event `held` of the tenant `h` back in a live worker."""
    rig.emit_artifact("held", tenant="h", put=False)
    with rig.relay(retry_budget_s=3600.0) as run:
        eventually(lambda: run.observer.retries)
        yield


# --- a stream made anew --------------------------------------------------------------------------


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
    assert len(rig.published()) == 300 + len(new)


def test_a_stream_made_anew_is_read_after_the_window(forgetful: Rig) -> None:
    """Its beginning is new, whatever its IDs repeat and the index has forgotten."""
    rig = forgetful
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    forgotten(rig, "old1", "old2", "old3")
    rig.client.delete(CONTROL)
    for number in range(1, 6):
        given(rig, f"new{number}", number)
    rig.drain()
    assert rig.published()[3:] == [f"new{number}" for number in range(1, 6)]


@pytest.mark.parametrize("position", ["$", "2", "0"])
def test_a_stream_made_anew_with_a_group_is_read_from_its_beginning(
    rig: Rig, position: str
) -> None:
    """Wherever somebody lets the group of another stream with the same IDs begin."""
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    rig.drain()
    anew = rig.client.pipeline(transaction=True)
    anew.delete(CONTROL)
    for number in range(1, 5):
        body = json.dumps({"event_id": f"new{number}", "type": "run.abort", "tenant_id": "t"})
        anew.xadd(CONTROL, {"event": body}, id=f"{number}-0")
    anew.xgroup_create(CONTROL, rig.keys.group, position)
    anew.execute()
    rig.drain()
    assert rig.published()[3:] == [f"new{number}" for number in range(1, 5)]


def test_a_stream_made_anew_twice_between_two_looks(rig: Rig) -> None:
    """Two losses that nobody saw apart are found as one."""
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    rig.drain()
    for life in ("lost", "new"):
        rig.client.delete(CONTROL)
        for number in range(1, 5):
            given(rig, f"{life}{number}", number)
    rig.client.xgroup_create(CONTROL, rig.keys.group, "$")
    rig.drain()
    assert rig.published()[3:] == [f"new{number}" for number in range(1, 5)]


def test_a_stream_that_was_emptied_and_made_anew(rig: Rig) -> None:
    """Of a stream that was trimmed to nothing, too, another with lower IDs is read."""
    given(rig, "old", 7)
    rig.drain()
    rig.client.xtrim(CONTROL, maxlen=0)
    rig.drain()
    rig.client.delete(CONTROL)
    for number in range(5, 10):
        given(rig, f"new{number}", number)
    rig.drain()
    assert rig.published()[1:] == [f"new{number}" for number in range(5, 10)]


@pytest.mark.parametrize("group_too", [False, True])
def test_what_was_appended_in_place_of_a_lost_end_is_read(
    forgetful: Rig, *, group_too: bool
) -> None:
    """A stream that lost its end and went on is read from there; what is old is not sent again."""
    rig = forgetful
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    forgotten(rig, "old1", "old2", "old3")
    given(rig, "old4", 4)
    rig.drain()
    rig.client.delete(CONTROL)
    for number in (1, 2, 3):
        given(rig, f"old{number}", number)
    if not group_too:
        rig.client.xgroup_create(CONTROL, rig.keys.group, "3")
    for number in (4, 5, 6):
        given(rig, f"new{number}", number)
    rig.drain()
    assert rig.published() == ["old1", "old2", "old3", "old4", "new4", "new5", "new6"]


def test_an_anchor_deleted_by_hand_is_no_other_stream(forgetful: Rig) -> None:
    """Who deletes a finished entry, and the group, has nothing published again."""
    rig = forgetful
    ids = [rig.emit(event_id) for event_id in ("v1", "v2", "v3")]
    rig.drain()
    forgotten(rig, "v1", "v2", "v3")
    rig.emit("v4")
    rig.drain()
    rig.client.xdel(CONTROL, ids[-1])
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.emit("v5")
    rig.drain()
    again = ["v1", "v2"] if usual() == "redis-6.2" else []  # it does not tell what was deleted
    assert rig.published() == ["v1", "v2", "v3", "v4", *again, "v5"]


def test_another_stream_is_not_trimmed(rig: Rig) -> None:
    """What lies below the lowest unfinished entry of a stream before it is not finished."""
    for number in range(1, 4):
        given(rig, f"old{number}", number)
    rig.drain()
    rig.drain()
    rig.client.delete(CONTROL)
    for number in range(1, 5):
        given(rig, f"new{number}", number)
    rig.client.xgroup_create(CONTROL, rig.keys.group, "$")
    policies = {"control": Policy(0, 0), "notifications": Policy(), "dead": Policy()}
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=1)
    assert retention.trim_one("control").removed == 0
    rig.drain()
    assert rig.published()[3:] == [f"new{number}" for number in range(1, 5)]
    assert retention.trim_one("control").removed == 4


# --- what is finished, and long ago --------------------------------------------------------------


@pytest.mark.parametrize("how", ["claimed", "position"])
@pytest.mark.parametrize("alive", [False, True])
def test_what_is_finished_and_forgotten_is_not_published_again(
    forgetful: Rig, how: str, *, alive: bool
) -> None:
    """An entry below the lowest unfinished one is finished, though somebody makes it pending."""
    rig = forgetful
    first = rig.emit("v1")
    rig.drain()
    forgotten(rig, "v1")
    rig.emit("v2")
    rig.drain()
    client: Any = rig.client

    def make_pending() -> None:
        if how == "claimed":
            client.xclaim(CONTROL, rig.keys.group, "debug", 0, [first], force=True)
            return
        client.xgroup_setid(CONTROL, rig.keys.group, "0")
        client.xreadgroup(rig.keys.group, "debug", {CONTROL: ">"}, count=1)

    if alive:
        with rig.relay(lease_s=0.4) as run:
            rig.emit("v3")
            eventually(lambda: rig.published() == ["v1", "v2", "v3"])
            make_pending()
            eventually(lambda: rig.pending() == 0)
            rig.emit("v4")
            eventually(lambda: rig.published() == ["v1", "v2", "v3", "v4"])
            assert run.observer.count("recovering")
    else:
        make_pending()
        rig.drain()
        assert rig.published() == ["v1", "v2"]
    assert rig.pending() == 0
    assert not rig.letters()


@pytest.mark.parametrize("lose", ["consumer", "group"])
def test_a_lost_held_event_brings_back_no_older_one_of_another_tenant(
    forgetful: Rig, lose: str
) -> None:
    """What was published behind it is not sent again, however long ago, with a newer one since."""
    rig = forgetful
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v1"])
        outlast_the_window(rig)
        rig.emit("v2")
        eventually(lambda: rig.published()[-1] == "v2")
    if lose == "consumer":
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    else:
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.emit("last")
    rig.drain()
    assert [one for one in rig.published() if one != "held"] == ["v1", "v2", "last"]


def test_a_dead_letter_behind_a_held_event_is_not_written_again(forgetful: Rig) -> None:
    """Nor is one written a second time, once the window is over."""
    rig = forgetful
    with held(rig):
        rig.add("{")
        eventually(lambda: rig.reasons() == ["malformed"])
        outlast_the_window(rig)
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.reasons() == ["malformed"]


def test_a_window_made_longer_publishes_nothing_again(forgetful: Rig) -> None:
    """An index that was pruned by a shorter window proves as much with a longer one."""
    rig = forgetful
    rig.emit("early")
    rig.drain()
    forgotten(rig, "early")
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published() == ["early", "v1"])
        outlast_the_window(rig)
    rig.dedup_window_s = 3600.0
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["early", "v1", "held"]


def test_the_index_forgets_once_the_held_event_is_through(forgetful: Rig) -> None:
    """What it keeps for the sake of a held event goes with the next turns."""
    rig = forgetful
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v1"])
        outlast_the_window(rig)
        assert remembers(rig, "v1")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    forgotten(rig, "v1", "held")


def test_an_older_release_left_no_anchors(rig: Rig) -> None:
    """With only the lowest unfinished entry noted, a lost group begins there as it did."""
    for number in range(1, 4):
        given(rig, f"e{number}", number)
    rig.drain()
    keys: Keys = rig.keys
    rig.client.delete(keys.anchors)
    rig.client.xgroup_destroy(CONTROL, keys.group)
    given(rig, "e4", 4)
    rig.drain()
    assert rig.published() == ["e1", "e2", "e3", "e4"]
    assert rig.client.hexists(keys.anchors, CONTROL)
    rig.client.hset(keys.anchors, CONTROL, "garbage")
    given(rig, "e5", 5)
    rig.drain()
    assert rig.published()[-1] == "e5"


def test_notes_and_pending_list_lost_at_once(rig: Rig) -> None:
    """Who read an entry, and nobody since, has it delivered again though nothing tells of it."""
    read: list[str] = []

    class Robbed(ControlStream):
        def read_new(self, count: int, block_ms: int | None) -> list[Any]:
            found = super().read_new(count, block_ms)
            if found and not read:
                read.extend(entry.id for entry in found)
                keys = rig.keys
                rig.client.delete(keys.low, keys.anchors, keys.fence, keys.lease)
                rig.client.xgroup_delconsumer(CONTROL, keys.group, "worker")
            return found

    rig.stream_class = Robbed
    rig.emit("v1")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["v1"])
        rig.emit("v2")
        eventually(lambda: rig.published() == ["v1", "v2"])
        assert run.observer.count("recovering") or run.observer.count("standby")
    assert read == [rig.sent["v1"]]

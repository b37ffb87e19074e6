"""What a second attack found of anchors, each on a real server: streams put in place of another
under a live worker, notes that are gone, and what the index forgot meanwhile.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.redis.anchors import SHORTEST_HOLD_US, parse, written
from sidecar.redis.source import ControlStream, Entry
from sidecar.wire.ids import EntryId
from tests.sidecar.harness import CONTROL, Rig, data_of, eventually, ref_of
from tests.sidecar.test_attack import forgotten, given, held, outlast_the_window, remembers

pytestmark = pytest.mark.server


@pytest.fixture
def forgetful(rig: Rig) -> Rig:
    """Return a rig whose index remembers for a second."""
    rig.dedup_window_s = 1.0
    return rig


def put_in_place(rig: Rig, how: str) -> None:
    """Put another stream with the same IDs in place of the control stream, or set it back."""
    client: Any = rig.client
    bodies = [json.dumps({"event_id": f"new{n}", "type": "run.abort"}) for n in range(1, 5)]
    if how == "set back":
        together = client.pipeline(transaction=True)  # the worker comes not between
        together.xtrim(CONTROL, maxlen=0, approximate=False)
        together.execute_command("XSETID", CONTROL, "0-1")
        for number, body in enumerate(bodies):
            together.xadd(CONTROL, {"event": body}, id=f"{number}-5")
        together.execute()
        return
    for number, body in enumerate(bodies, 1):
        client.xadd("other", {"event": body}, id=f"{number}-0")
    client.xgroup_create("other", rig.keys.group, "4-0")
    client.rename("other", CONTROL)


@pytest.mark.parametrize("how", ["renamed", "set back"])
def test_another_stream_in_place_under_a_live_worker_is_read(rig: Rig, how: str) -> None:
    """Though its group stands where the other's stood: it has not the other's entries."""
    with rig.relay(lease_s=0.4) as run:
        for number in range(1, 5):
            given(rig, f"old{number}", number)
        eventually(lambda: anchored(rig, "4-0"))
        put_in_place(rig, how)
        eventually(lambda: rig.published()[4:] == [f"new{number}" for number in range(1, 5)])
        assert run.observer.count("recovering")
    assert len(rig.published()) == 8


@pytest.mark.parametrize("kind", ["run.abort", "not.a.type"])
def test_an_id_that_had_a_dead_letter_and_is_given_again_is_another_entry(
    rig: Rig, kind: str
) -> None:
    """A failover loses the end of the stream, and the producer, with IDs of its own, continues."""
    client: Any = rig.client
    given(rig, "first", 1)
    rig.drain()
    older = client.dump(CONTROL)
    client.xadd(CONTROL, {"event": "{"}, id="2-0")
    rig.drain()
    client.restore(CONTROL, 0, older, replace=True)
    raw = json.dumps({"event_id": "again" if kind == "run.abort" else 7, "type": kind})
    client.xadd(CONTROL, {"event": raw}, id="2-0")
    client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})  # who dies then
    rig.drain()
    client.xgroup_setid(CONTROL, rig.keys.group, "0-0")
    client.delete(rig.keys.anchors)
    rig.drain()
    lives = kind == "run.abort"
    assert rig.published() == ["first", *(["again"] if lives else [])]
    assert rig.reasons() == ["malformed", *([] if lives else ["invalid_event"])]


def anchored(rig: Rig, entry_id: str) -> bool:
    """Tell whether this entry is the newest anchor."""
    noted: Any = rig.client.hget(rig.keys.anchors, CONTROL)
    return bool(noted) and parse(noted)[0].id == entry_id


@pytest.mark.parametrize("lose", ["consumer", "group", ""])
def test_the_lowest_entry_is_noted_no_more(forgetful: Rig, lose: str) -> None:
    """The anchors tell where what may be unfinished begins: nothing is lost, or repeated."""
    rig = forgetful
    rig.emit("v0")
    rig.drain()
    forgotten(rig, "v0")
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v0", "v1"])
        eventually(lambda: rig.pending() == 1)
    rig.client.delete(rig.keys.low)
    if lose == "consumer":
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    elif lose == "group":
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["v0", "v1", "held"]
    assert rig.client.exists(rig.keys.low)


@pytest.mark.parametrize("before", ["look", "position"])
def test_a_stalled_workers_late_read_while_another_begins_loses_nothing(
    rig: Rig, before: str
) -> None:
    """What it takes between two looks of a tenure that begins is neither finished nor anchored."""
    late: list[str] = []
    rig.emit("v0")
    rig.drain()

    class Raced(ControlStream):
        def last_delivered(self) -> EntryId:
            if before == "position":
                self._read_late()
            last = super().last_delivered()
            if before == "look":
                self._read_late()
            return last

        def _read_late(self) -> None:
            if not late:
                late.append("worker")
                rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"}, count=1)

    rig.emit("v1")
    rig.emit("v2")
    rig.stream_class = Raced
    with rig.relay():
        eventually(lambda: rig.published() == ["v0", "v1", "v2"])
        eventually(lambda: rig.pending() == 0)


def test_the_first_anchor_is_of_the_stream_that_was_looked_at(rig: Rig) -> None:
    """A stream that comes while a worker without anchors stalls is read from its beginning."""
    client: Any = rig.client
    given(rig, "old", 9)
    rig.drain()
    client.delete(rig.keys.anchors)

    class Raced(ControlStream):
        def last_to(self, entry_id: EntryId) -> Entry | None:
            if client.exists(CONTROL) and not client.exists("aside"):
                client.rename(CONTROL, "aside")
                given(rig, "new", 1)
            return super().last_to(entry_id)

    rig.stream_class = Raced
    with rig.relay():
        eventually(lambda: rig.published() == ["old", "new"])


def stand_still(rig: Rig) -> None:
    """Let the stream stand still for longer than its anchors have a say, and have all pruned."""
    noted: Any = rig.client.hget(rig.keys.anchors, CONTROL)
    old = [one._replace(since_us=one.since_us - 2 * SHORTEST_HOLD_US) for one in parse(noted)]
    rig.client.hset(rig.keys.anchors, CONTROL, written(old))
    outlast_the_window(rig)


@pytest.mark.parametrize("lose", ["consumer", "group", ""])
def test_a_stream_that_stood_still_for_very_long_repeats_nothing(forgetful: Rig, lose: str) -> None:
    """What ended after its last anchor is forgotten, but lies below the lowest unfinished entry."""
    rig = forgetful
    with rig.relay():
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v1"] and rig.pending() == 0)
    stand_still(rig)
    assert not remembers(rig, "v1")
    if lose == "consumer":
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    elif lose == "group":
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.emit("v2")
    rig.drain()
    assert rig.published() == ["v1", "v2"]


@pytest.mark.parametrize("lost", [False, True])
def test_an_event_that_was_held_for_very_long_repeats_nothing_else(
    forgetful: Rig, *, lost: bool
) -> None:
    """While it is pending, what is not pending is finished; it is not lost if that is lost, too."""
    rig = forgetful
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published() == ["v1"])
        eventually(lambda: rig.pending() == 1)
        stand_still(rig)
        assert not remembers(rig, "v1")
    if lost:
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert sorted(rig.published()) == ["held", "v1", *(["v1"] if lost else [])]


def test_a_repeat_behind_a_held_event_is_absorbed_for_good(rig: Rig) -> None:
    """Its first event is remembered for as long as the repeat could be taken for unfinished."""
    with rig.relay(lease_s=0.4):
        rig.emit("first")
        eventually(lambda: anchored(rig, rig.sent["first"]))
    noted: Any = rig.client.hget(rig.keys.anchors, CONTROL)
    first_us = rig.notifications()[0]["control_version"]
    after = [one._replace(since_us=first_us + 1) for one in parse(noted)[:1]]
    rig.client.hset(rig.keys.anchors, CONTROL, written(after))
    with held(rig):
        rig.emit("first")
        rig.emit("v1")
        eventually(lambda: rig.published() == ["first", "v1"])
        eventually(lambda: rig.pending() == 1)
        rig.dedup_window_s = 1.0
        outlast_the_window(rig)
        assert remembers(rig, "first")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["first", "v1", "held"]


def older_copy(rig: Rig) -> Any:
    """Publish v0 and v1, and have both forgotten; return the anchors noted as v0 was begun."""
    rig.emit("v0")
    rig.drain(lease_s=60)  # at a third of that it would note an anchor after v0, too
    older: Any = rig.client.dump(rig.keys.anchors)
    rig.emit("v1")
    rig.drain()
    forgotten(rig, "v0", "v1")
    return older


def test_an_older_copy_of_the_anchors_brings_back_nothing(forgetful: Rig) -> None:
    """What ended after them, and was forgotten since, is finished all the same."""
    rig, key = forgetful, forgetful.keys.anchors
    older = older_copy(rig)
    rig.client.restore(key, 0, older, replace=True)
    rig.emit("v2")
    rig.drain()
    assert rig.published() == ["v0", "v1", "v2"]


@pytest.mark.parametrize("lose", ["consumer", "group", ""])
def test_an_older_copy_of_the_anchors_while_an_event_is_held(forgetful: Rig, lose: str) -> None:
    """The lowest unfinished entry is noted, and above it the index has forgotten nothing."""
    rig, key = forgetful, forgetful.keys.anchors
    older = older_copy(rig)
    with held(rig):
        rig.emit("v2")
        eventually(lambda: "v2" in rig.published())
        eventually(lambda: rig.pending() == 1)
        outlast_the_window(rig)
    rig.client.restore(key, 0, older, replace=True)
    if lose == "consumer":
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    elif lose == "group":
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["v0", "v1", "v2", "held"]


def test_an_older_copy_of_the_anchors_without_the_lowest_entry(forgetful: Rig) -> None:
    """Nothing tells then what is finished: it is published twice rather than never."""
    rig, key = forgetful, forgetful.keys.anchors
    older = older_copy(rig)
    with held(rig):
        pass
    rig.client.restore(key, 0, older, replace=True)
    rig.client.delete(rig.keys.low)
    rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["v0", "v1", "v0", "v1", "held"]


def test_a_server_that_went_back_to_before_any_note_is_read_from_its_position(rig: Rig) -> None:
    """A live worker's own knowledge moves no position ahead: what it finished may be lost, too."""
    with rig.relay(lease_s=0.4):
        for event_id in ("a", "b"):
            rig.emit(event_id)
        eventually(lambda: rig.published() == ["a", "b"] and rig.pending() == 0)
        kept = [CONTROL.encode()]
        pipeline: Any = rig.client.pipeline(transaction=True)
        pipeline.delete(*(key for key in rig.client.keys("*") if key not in kept))
        pipeline.xgroup_setid(CONTROL, rig.keys.group, "0-0")
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        pipeline.execute()
        rig.emit("c")
        eventually(lambda: rig.published() == ["a", "b", "c"], "all of it is published again")

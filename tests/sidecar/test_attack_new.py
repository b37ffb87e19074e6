"""What fresh eyes found of anchors, each on a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.redis.anchors import parse, written
from tests.sidecar.harness import CONTROL, Rig, data_of, eventually, ref_of
from tests.sidecar.test_attack import forgetful, forgotten, given, held, outlast_the_window, pruned, remembers  # noqa


def body(event_id: str) -> str:
    return json.dumps({"event_id": event_id, "type": "run.abort", "tenant_id": "t"})


# (1) a duplicate absorbed behind a held event; then restart only
def test_dup_behind_held_restart(forgetful: Rig) -> None:
    rig = forgetful
    rig.emit("x")
    rig.drain()
    with held(rig):
        rig.emit("y")
        eventually(lambda: rig.published()[-1] == "y")
        rig.emit("x")
        rig.emit("z")
        eventually(lambda: rig.published()[-1] == "z")
        eventually(lambda: rig.pending() == 1)
        dup_absorbed = rig.published().count("x") == 1
        outlast_the_window(rig)
        print("remembers x", remembers(rig, "x"))
    assert dup_absorbed
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["x", "y", "z", "held"]


# aged anchor
def aged(rig: Rig) -> None:
    """29 days go by."""
    back = 29 * 86400 * 10**6
    noted = parse(rig.client.hget(rig.keys.anchors, CONTROL))
    noted = [one._replace(since_us=one.since_us - back) for one in noted]
    rig.client.hset(rig.keys.anchors, CONTROL, written(noted))


def test_aged_held(forgetful: Rig) -> None:
    rig = forgetful
    with held(rig):
        rig.emit("y")
        rig.emit("z")
        eventually(lambda: rig.published() == ["y", "z"])
        eventually(lambda: rig.pending() == 1)
        aged(rig)
        outlast_the_window(rig)
        assert not remembers(rig, "y")
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["y", "z", "held"]


def test_aged_stopped(forgetful: Rig) -> None:
    rig = forgetful
    with rig.relay() as run:
        rig.emit("y")
        eventually(lambda: rig.published() == ["y"])
        eventually(lambda: rig.pending() == 0)
        rig.emit("z")
        eventually(lambda: rig.published() == ["y", "z"])
        eventually(lambda: rig.pending() == 0)
    aged(rig)
    outlast_the_window(rig)
    rig.drain()
    assert rig.published() == ["y", "z"]


@pytest.mark.parametrize("how", ["renamed", "emptied", "beyond"])
def test_live_stream_replaced(rig: Rig, how: str) -> None:
    client: Any = rig.client
    with rig.relay(lease_s=0.4) as run:
        for n in range(1, 5):
            given(rig, f"old{n}", n)
        eventually(lambda: len(rig.published()) == 4)
        n0 = client.hget(rig.keys.anchors, CONTROL)
        eventually(lambda: client.hget(rig.keys.anchors, CONTROL).startswith(b"4-0"))
        if how == "renamed":
            for n in range(1, 5):
                client.xadd("other", {"event": body(f"new{n}")}, id=f"{n}-0")
            client.xgroup_create("other", rig.keys.group, "4-0")
            client.rename("other", CONTROL)
        elif how == "beyond":
            p = client.pipeline(transaction=True)
            p.delete(CONTROL)
            for n in range(1, 5):
                p.xadd(CONTROL, {"event": body(f"new{n}")}, id=f"{n}-{0 if n < 4 else 0}")
            p.xgroup_create(CONTROL, rig.keys.group, "4-0")
            p.execute()
        else:
            client.xtrim(CONTROL, maxlen=0, approximate=False)
            client.execute_command("XSETID", CONTROL, "0-1")
            for n in range(1, 5):
                client.xadd(CONTROL, {"event": body(f"new{n}")}, id=f"{n-1}-5")
        k = run.observer.beats
        beats = run.observer.beats
        n1 = client.hget(rig.keys.anchors, CONTROL)
        import time
        t = time.monotonic() + 3
        while time.monotonic() < t and len(rig.published()) < 8: time.sleep(.02)
        print(rig.published(), run.observer.states, n1, client.hget(rig.keys.anchors, CONTROL), run.observer.forgotten)
        live = rig.published()[4:]
    rig.drain()
    print("after restart", rig.published())
    assert live == [f"new{n}" for n in range(1, 5)]
    assert rig.published()[4:] == [f"new{n}" for n in range(1, 5)]


@pytest.mark.parametrize("lose", ["consumer", "group", "nothing"])
def test_low_lost(forgetful: Rig, lose: str) -> None:
    """DEL low, and pending list."""
    rig = forgetful
    rig.emit("v0")
    rig.drain()
    forgotten(rig, "v0")
    with held(rig):
        rig.emit("v1")
        eventually(lambda: rig.published()[-1] == "v1")
        eventually(lambda: rig.pending() == 1)
    rig.client.delete(rig.keys.low)
    if lose == "consumer":
        rig.client.xgroup_delconsumer(CONTROL, rig.keys.group, "worker")
    elif lose == "group":
        rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.plant(ref_of("held"), data_of("held"))
    rig.drain()
    assert rig.published() == ["v0", "v1", "held"]

"""Heartbeats: of a clock by hand, and of relays in every state."""

from __future__ import annotations

import http.client
import threading
from typing import Any

import pytest

from sidecar.redis.source import ControlStream
from sidecar.worker import heartbeat
from sidecar.worker.heartbeat import SILENCE_S, Heartbeats
from tests import servers
from tests.sidecar.harness import Rig, Running, eventually
from tests.sidecar.test_app import worker


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.mark.unit
def test_what_is_silent_for_too_long_is_stuck() -> None:
    """A loop that is silent for too long is named, with how long, until it is heard again."""
    clock = Clock()
    beats = Heartbeats(clock=clock)
    assert beats.stuck() == []
    beats.beat("a")
    beats.beat("b")
    clock.now += SILENCE_S
    assert beats.stuck() == []
    beats.beat("b")
    clock.now += 1
    assert beats.stuck() == ["a: stuck for 61 s"]
    beats.beat("a")
    assert beats.stuck() == []


@pytest.mark.unit
def test_what_has_ended_has_no_heartbeat() -> None:
    """A loop that has ended is not stuck, however long ago that was."""
    clock = Clock()
    beats = Heartbeats(clock=clock)
    beats.beat("a")
    beats.ended("a")
    beats.ended("a")
    clock.now += 10 * SILENCE_S
    assert beats.stuck() == []


def goes_round(run: Running, state: str) -> None:
    """Wait until the relay is in this state, and has been heard of twice since."""
    eventually(lambda: run.observer.state_now == state)
    heard = run.observer.beats
    eventually(lambda: run.observer.beats > heard + 1)


def test_a_relay_is_heard_of_in_every_state(rig: Rig) -> None:
    """A relay is heard of while it is active and idle, on standby, halted, and without Redis."""
    with rig.relay(lease_s=3) as run:  # a busy machine lets nobody else have it
        goes_round(run, "active")
        with rig.relay() as other:
            goes_round(other, "standby")
        rig.client.hset(rig.keys.halt, "reason", "by hand")
        goes_round(run, "halted")
        rig.client.delete(rig.keys.halt)
        goes_round(run, "active")
        rig.client.delete(rig.notify)
        rig.client.set(rig.notify, "no stream")
        rig.emit("a")
        goes_round(run, "waiting")
        rig.client.delete(rig.notify)


def test_a_relay_whose_store_hangs_is_heard_of(rig: Rig) -> None:
    """A store that hangs is no reason to restart the worker: the relay goes round beside it."""
    held = threading.Event()
    rig.source.on_get = lambda _: held.wait(60)
    rig.emit_artifact("a")
    with rig.relay() as run:
        eventually(lambda: rig.source.gets)
        goes_round(run, "active")
        held.set()
        eventually(lambda: rig.published() == ["a"])


def test_livez_names_the_relay_that_is_stuck(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay whose thread hangs in a call to Redis makes /livez 503, by name, while it does."""
    monkeypatch.setattr(heartbeat, "SILENCE_S", 2.0)
    hang, go_on = threading.Event(), threading.Event()
    real = ControlStream.read_new

    def read_new(self: Any, *args: Any) -> Any:
        if hang.is_set() and self._stream == rig.control:
            go_on.wait(60)
        return real(self, *args)

    monkeypatch.setattr(ControlStream, "read_new", read_new)
    port = servers.free_port()
    other = Rig(rig.url, rig.client, control="control:other")
    streams = (rig.control, other.control)
    with worker(rig, stores, http=f"127.0.0.1:{port}", streams=streams):
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        eventually(lambda: livez(port) == (200, "ok\n"))
        hang.set()
        eventually(lambda: names_only(livez(port), rig.control))
        other.emit("b")
        eventually(lambda: "b" in rig.published())
        go_on.set()
        hang.clear()
        eventually(lambda: livez(port) == (200, "ok\n"))


def names_only(answer: tuple[int, str], stream: str) -> bool:
    """Tell whether this stream is stuck, by what /livez answers, and no other."""
    status, body = answer
    return status == 503 and body.startswith(f"{stream}: stuck for ") and body.count("\n") == 1


def livez(port: int) -> tuple[int, str]:
    """Return what /livez answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()

"""The pump where something fails: at each statement, each Put, each append."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import redis

import store
from sidecar.errors import SidecarError, Unreachable, UsageError
from sidecar.producer.outbox import Pump
from tests.outbox.places import Place
from tests.servers import PATIENCE_S

WANTED = ["a1", "b1", "a2", "b2", "a3"]


def staged(place: Place) -> None:
    """Stage events of two tenants, and a row that is dead."""
    for event_id in WANTED:
        place.stage(event_id, tenant=event_id[0], ref=event_id, data=event_id.encode())
        place.plant(b"{") if event_id == "b1" else None


def firsts(event_ids: list[str]) -> list[str]:
    """Return each event_id where it comes first: what comes again the worker absorbs."""
    return list(dict.fromkeys(event_ids))


class Failing:
    """Calls that fail once: the one with this number, before or after it was done."""

    def __init__(self, fail_at: int, *, after: bool, error: Exception) -> None:
        self._left, self._after, self._error = fail_at, after, error
        self.failed = False

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, as it fails."""

        def called(*args: Any, **more: Any) -> Any:
            self._left -= 1
            fails = self._left == 0
            if fails and not self._after:
                self.failed = True
                raise self._error
            answer = call(*args, **more)
            if fails:
                self.failed = True
                raise self._error
            return answer

        return called


@contextmanager
def failing(pump: Pump, place: Place, failure: Failing) -> Iterator[None]:
    """Let each statement of the pump's database, each Put and each append go through `failure`."""
    kind = type(place).database_class
    run, put, xadd = kind._run, place.store.put, pump._client.xadd
    with (
        mock.patch.object(kind, "_run", failure.around(run)),
        mock.patch.object(place.store, "put", failure.around(put)),
        mock.patch.object(pump._client, "xadd", failure.around(xadd)),
    ):
        yield


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.proof)])
@pytest.mark.parametrize("after", [False, True])
def test_what_fails_at_any_step_is_sent_in_order_by_the_next_try(
    place: Place, *, after: bool, every: int
) -> None:
    """None is lost, and none overtakes another, whichever call fails, done or not."""
    number, failed = 1 - every, True
    while failed:
        number += every
        place.forget_all()
        staged(place)
        failure = Failing(number, after=after, error=Unreachable("it is away"))
        pump = place.pump()
        with failing(pump, place, failure):
            try:
                pump.once()
            except Unreachable:
                assert failure.failed
        failed = failure.failed
        pump.once()
        pump.close()
        assert firsts(place.appended()) == WANTED, number
        assert all(place.store.exists(one) for one in WANTED)
        found = place.figures()
        assert (found.waiting, found.dead, found.done) == (0, 1, len(WANTED)), number
    assert number > 2 * len(WANTED)


@pytest.mark.parametrize(
    "error", [Unreachable("it is away"), store.Unavailable("away"), store.StoreError("odd")]
)
def test_a_running_pump_waits_for_what_is_away(place: Place, error: Exception) -> None:
    """It says so in one line, tries again, and needs no restart."""
    staged(place)
    stop, pump = threading.Event(), place.pump()
    failure = Failing(9, after=False, error=error)

    def run() -> None:
        with failing(pump, place, failure):
            pump.run(stop, poll_s=0.01)

    thread = threading.Thread(target=run)
    thread.start()
    place.until(lambda: firsts(place.appended()) == WANTED)
    stop.set()
    thread.join(PATIENCE_S)
    pump.close()
    assert sum(str(error) in one for one in place.told) == 1


@contextmanager
def replica(place: Place) -> Iterator[None]:
    """Let the server be a replica meanwhile, and every client find that out."""
    with redis.Redis.from_url(place.redis_url) as server:
        server.replicaof("127.0.0.1", 1)
        server.client_kill_filter(_type="normal", skipme=True)
        try:
            yield
        finally:
            server.replicaof("NO", "ONE")


def test_a_running_pump_waits_for_a_failover(place: Place) -> None:
    """While Redis is a replica nothing is sent; then all is, without a restart."""
    stop, pump = threading.Event(), place.pump()
    thread = threading.Thread(target=lambda: pump.run(stop, poll_s=0.01))
    thread.start()
    place.stage("a")
    place.until(lambda: place.appended() == ["a"] and pump._has_worked)
    with replica(place):
        place.stage("b")
        place.until(lambda: any("replica" in one for one in place.told))
    place.until(lambda: place.appended() == ["a", "b"])
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    pump.close()


def test_a_pump_that_begins_at_a_replica_ends(place: Place) -> None:
    """The URL may be wrong: a person has to look."""
    place.stage("a")
    with replica(place):
        pump = place.pump()
        with pytest.raises(UsageError, match="replica"):
            pump.run(threading.Event())
        pump.close()


def test_what_was_sent_before_an_outage_is_not_sent_again(place: Place) -> None:
    """Each row that came before the one that failed is marked."""
    place.stage("a", "b", "c")
    pump = place.pump()
    third = Failing(3, after=False, error=Unreachable("away"))
    with (
        mock.patch.object(pump._client, "xadd", third.around(pump._client.xadd)),
        pytest.raises(Unreachable),
    ):
        pump.once()
    assert pump.once() == 1
    pump.close()
    assert place.appended() == ["a", "b", "c"]


def test_a_pump_that_a_person_must_help_ends(place: Place) -> None:
    """A control stream that is no stream is told, and nothing is sent."""
    staged(place)
    pump = place.pump()
    pump._client.set("control:events", "x")
    with pytest.raises(SidecarError, match="not a stream"):
        pump.run(threading.Event())
    pump.close()
    assert place.figures().waiting == len(WANTED) + 1


def test_a_stalled_pump_changes_no_order(place: Place) -> None:
    """It lost its lock, and another sent the same rows and more: what it appends late is known."""
    place.stage("a", "b", "c")
    late = place.pump()
    rows = late._held().waiting(100)
    late._held().close()
    place.pumped()
    place.stage("d")
    place.pumped()
    with pytest.raises(SidecarError):
        late._send(late._held(), rows, threading.Event())
    late.close()
    assert place.appended() == ["a", "b", "c", "d", "a", "b", "c"]

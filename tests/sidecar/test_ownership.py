"""Who serves a stream, by itself: the ways into a tenure and out of it, on stand-ins for Redis."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Signal
from typing import Any

import pytest
import redis
import structlog

from sidecar.errors import SidecarError
from sidecar.redis.lease import Fenced
from sidecar.redis.publisher import NotReplicated
from sidecar.redis.tenures import Outage
from sidecar.worker import outages
from sidecar.worker.caution import Caution
from sidecar.worker.host import Host, Route
from sidecar.worker.outages import Outages
from sidecar.worker.ownership import LONGEST_BACK_S, Ownership
from sidecar.worker.settings import Options
from sidecar.worker.share import Share

FULL = redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'.")


class Redis:
    """Stands in for both sides of Redis, and notes what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.owner: int | None = 0
        self.owned_before: list[None] = []
        """Of the first tries to acquire: another has it."""
        self.room = [False, False, True]
        self.halted = ["by hand", ""]
        self.unreachable = False
        self.is_owned_by_another = False

    def __getattr__(self, name: str) -> Any:
        def ask(*_: object) -> Any:
            self.asked.append(name)
            if self.unreachable and name == "check":
                raise redis.ConnectionError("away")
            answers: dict[str, Callable[[], Any]] = {
                "acquire": lambda: self.owned_before.pop() if self.owned_before else self.owner,
                "has_room": lambda: self.room.pop(0),
                "is_anothers": lambda: self.is_owned_by_another, "other": lambda: "another",
                "renew": lambda: self.halted.pop(0),
                "yield_lease": lambda: True,
            }  # fmt: skip
            return answers[name]() if name in answers else None

        return ask


def stand_in() -> Any:
    """Return a stand-in for control stream and publisher."""
    return Redis()


class Watch:
    """Notes what it is told, and stops the worker at a state."""

    def __init__(self, stop: Signal, at: str = "") -> None:
        self.states: list[str] = []
        self.given_back = 0
        self._stop, self._at = stop, at

    def state(self, state: str, _detail: str) -> None:
        """As `States.state`."""
        self.states.append(state)
        if state == self._at:
            self._stop.set()

    def gave_back(self) -> None:
        """As `States.gave_back`."""
        self.given_back += 1


class Run:
    """One worker on these stand-ins."""

    def __init__(self, *, stop_at: str = "", **options: Any) -> None:
        self.redis = stand_in()
        self.stop = Signal()
        self.watch = Watch(self.stop, stop_at)
        self.beats = 0
        self.unfit: SidecarError | None = None
        self.connected = self.checked = 0
        self.taken_over: list[str] = []
        self.outages: list[Outage] = []
        self.served = 0
        host = Host(
            ThreadPoolExecutor(1), Share(["s"]), self._beat, self._check, self._took_over,
            connects=lambda: self.connected, outages=Outages(self.outages.append),
            gives_back=self.redis.put_end_on_record,
        )  # fmt: skip
        self.owner = Ownership(
            Route("s", self.redis, self.redis), host, Caution(self.redis),
            Options().model_copy(update={"lease_s": 0.03, **options}), self.watch,
            structlog.get_logger(),
        )  # fmt: skip

    def _beat(self) -> None:
        self.beats += 1

    def _took_over(self, before: str) -> None:
        self.taken_over.append(before)

    def _check(self) -> None:
        self.checked += 1
        if self.unfit is not None:
            raise self.unfit

    def serve(self, *ends: BaseException | None) -> None:
        """Run tenures that end so, one after the other, and stop with the last."""
        waiting = list(ends)

        def tenure() -> None:
            self.served += 1
            self.owner.begun()
            end = waiting.pop(0)
            if not waiting:
                self.stop.set()
            if end is not None:
                raise end

        self.owner.run(self.stop, tenure)


def test_a_tenure_that_ends_by_itself_is_the_end() -> None:
    """When serving returns, the lease is given back and the worker stops."""
    run = Run()
    run.serve(None)
    assert run.watch.states == ["active", "stopped"]
    assert run.redis.asked[-2:] == ["put_end_on_record", "release"]


def test_who_was_fenced_stands_by_and_tries_again() -> None:
    """Another's takeover ends the tenure, not the worker."""
    run = Run()
    run.serve(Fenced(), None)
    assert run.watch.states == ["active", "standby", "active", "stopped"]


def test_only_an_owner_puts_on_record_that_it_gives_the_stream_back() -> None:
    """Before it does; not who was fenced, nor who cannot serve: these end in no good order."""
    run = Run()
    run.serve(SidecarError("x"))
    assert run.redis.asked[-1] == "release"
    assert "put_end_on_record" not in run.redis.asked
    run = Run()
    run.serve(Fenced())
    assert "put_end_on_record" not in run.redis.asked


def test_a_takeover_is_told_once_it_serves() -> None:
    """By who stood by before; not by who found the stream free, nor before each try."""
    run = Run()
    run.serve(SidecarError("x"), None)
    assert run.taken_over == []
    run = Run()
    run.redis.owned_before = [None, None]
    run.serve(SidecarError("x"), None)
    assert run.taken_over == ["another"]


@pytest.mark.parametrize("error", [redis.ConnectionError("x"), SidecarError("x")])
def test_who_cannot_serve_gives_the_lease_back(error: Exception) -> None:
    """What only this worker may suffer from ends its lease, so that another can serve."""
    run = Run()
    run.serve(error, None)
    assert run.watch.given_back == 1
    assert run.watch.states == ["active", "waiting", "active", "stopped"]


def test_what_every_worker_suffers_from_keeps_the_lease() -> None:
    """Replicas that lag would lag for another worker, too."""
    run = Run()
    run.serve(NotReplicated("x"), None)
    assert run.watch.given_back == 0


def test_the_lease_is_not_taken_when_the_control_side_does_not_answer() -> None:
    """Both sides, and what else is needed, are looked at before the lease is taken."""
    run = Run(stop_at="waiting")
    run.redis.unreachable = True
    run.serve(None)
    assert "acquire" not in run.redis.asked
    run = Run(stop_at="waiting")
    run.unfit = SidecarError("the wrong policy")
    run.serve(None)
    assert "acquire" not in run.redis.asked


def test_it_is_alive_while_the_server_is_full() -> None:
    """A worker that waits for room keeps its lease, and its heart beats at every look."""
    run = Run()
    before = run.beats
    run.serve(FULL, None)
    assert run.redis.asked.count("has_room") == 3
    assert run.beats - before >= 3
    assert run.watch.given_back == 0
    assert run.watch.states == ["active", "waiting", "active", "stopped"]


@pytest.mark.parametrize("error", [redis.ConnectionError("away."), SidecarError("away"), FULL])
def test_what_kept_it_from_serving_is_told_once_it_serves(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before, and not where another has served meanwhile: that one tells its own."""
    monkeypatch.setattr(outages, "WORTH_TELLING_S", 0.0)
    run = Run()
    run.serve(error, None)
    run.owner._outages.tell()
    (told,) = run.outages
    assert (told.of, "away" in told.detail or "full" in told.detail) == ("redis", True)
    assert told.since_s <= told.until_s


def test_an_outage_after_which_another_served_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """That one has its own to tell."""
    monkeypatch.setattr(outages, "WORTH_TELLING_S", 0.0)
    run = Run()

    def lost() -> None:
        run.redis.owned_before = [None]
        raise redis.ConnectionError("away")

    run.owner.run(run.stop, _first(lost, run.stop.set, run.owner.begun))
    run.owner._outages.tell()
    assert run.watch.states == ["waiting", "standby", "active", "stopped"]
    assert not run.outages


def _first(first: Callable[[], None], *then: Callable[[], None]) -> Callable[[], None]:
    """Return what does the first the first time it is called, and the others the next."""
    waiting = [(first,), then]

    def call() -> None:
        for one in waiting.pop(0):
            one()

    return call


def test_a_drain_does_not_wait_for_the_owner_for_ever() -> None:
    """A drain beside another owner ends after two leases."""
    run = Run(drain=True)
    run.redis.owner = None
    run.serve(None)
    assert run.watch.states == ["standby", "stopped"]
    assert run.served == 0


def test_a_connection_made_anew_has_the_servers_looked_at() -> None:
    """Once for each time, at the next renewal; what is unfit by then ends the tenure."""
    run = Run(stop_at="waiting")
    run.redis.halted = ["", "", "", ""]

    def tenure() -> None:
        run.owner.begun()
        run.owner.renew()
        assert (run.checked, run.redis.asked.count("reconnect")) == (1, 0)
        run.connected = 1
        run.owner.renew()
        run.owner.renew()
        assert (run.checked, run.redis.asked.count("reconnect")) == (2, 2)
        run.connected, run.unfit = 2, SidecarError("the wrong policy")
        run.owner.renew()

    run.owner.run(run.stop, tenure)
    assert run.watch.states == ["active", "waiting", "stopped"]


@pytest.mark.parametrize(("lease_s", "longest_s"), [(0.03, LONGEST_BACK_S), (60.0, 60.0)])
def test_who_loses_every_tenure_for_a_day_stands_back_no_longer(
    lease_s: float, longest_s: float
) -> None:
    """A lease at first, then twice as long each time, to 10 s or a lease, however often."""
    run = Run(lease_s=lease_s)
    run.redis.is_owned_by_another = True
    run.owner._acquired_at, stood_back = run.owner._clock(), list[float]()
    for _ in range(2000):
        run.owner._lost()
        stood_back.append(run.owner._back_s)
    assert stood_back[:2] == [lease_s, min(2 * lease_s, longest_s)]
    assert set(stood_back[20:]) == {longest_s}
    run.owner.progressed()
    run.owner._lost()
    assert run.owner._back_s == lease_s


def test_a_halt_is_waited_for_with_the_lease() -> None:
    """A halted stream is kept until it is resumed; then its pending list is read again."""
    run = Run()

    def halted() -> None:
        run.served += 1
        run.owner.begun()
        if run.served == 2:
            run.stop.set()
            return
        run.owner.wait_while_halted()

    run.owner.run(run.stop, halted)
    assert run.watch.states == ["active", "halted", "recovering", "active", "stopped"]


def test_a_drain_ends_at_a_halt() -> None:
    """Nobody waits for a person in a drain."""
    run = Run(drain=True)

    def halted() -> None:
        run.owner.begun()
        run.owner.wait_while_halted()

    run.owner.run(run.stop, halted)
    assert run.watch.states == ["active", "halted", "stopped"]

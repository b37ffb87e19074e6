"""How many bytes of artifacts are on their way at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sidecar.worker.inflight import BUFFERED_BYTES, SMALL_BYTES, InFlight, most_bytes_each
from tests.sidecar.harness import eventually

LARGE = BUFFERED_BYTES
EIGHT = 8 * LARGE


class Holder:
    """A thread that has an artifact of a tenant's on its way until it is told to end."""

    def __init__(self, bytes_: InFlight, tenant: str, size: int) -> None:
        self.passed, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(bytes_, tenant, size))
        self._thread.start()

    def _hold(self, bytes_: InFlight, tenant: str, size: int) -> None:
        with bytes_.hold(tenant, size):
            self.passed.set()
            self._end.wait(60)

    def end(self) -> None:
        """Have it through."""
        self._end.set()
        self._thread.join(60)


def waits(bytes_: InFlight) -> Callable[[], bool]:
    """Return what tells whether a thread waits."""
    return lambda: bool(bytes_._line)


def test_what_is_too_much_waits_for_what_is_on_its_way() -> None:
    """An artifact that does not fit waits until another is through, and passes then."""
    bytes_ = InFlight(EIGHT)
    there = [Holder(bytes_, f"t{n}", LARGE) for n in range(8)]
    assert all(one.passed.wait(60) for one in there)
    late = Holder(bytes_, "late", LARGE)
    eventually(waits(bytes_))
    assert not late.passed.is_set()
    there.pop().end()
    assert late.passed.wait(60)
    for one in (*there, late):
        one.end()
    assert not bytes_._held


def test_one_tenant_leaves_a_quarter_to_the_others() -> None:
    """However many large artifacts one tenant has, another one's passes."""
    bytes_ = InFlight(EIGHT)
    slow = [Holder(bytes_, "slow", LARGE) for _ in range(7)]
    eventually(lambda: sum(one.passed.is_set() for one in slow) == 6 and len(bytes_._line) == 1)
    other = Holder(bytes_, "other", LARGE)
    assert other.passed.wait(60)
    other.end()
    first = [one for one in slow if one.passed.is_set()]
    for one in (*first, *(one for one in slow if one not in first)):
        one.end()


def test_a_large_one_is_not_passed_by_for_ever() -> None:
    """What came later waits for what waits for room, and not for what waits for its tenant."""
    bytes_ = InFlight(EIGHT)
    there = [Holder(bytes_, f"t{n}", LARGE) for n in range(7)]
    half = Holder(bytes_, "half", LARGE // 2)
    assert all(one.passed.wait(60) for one in (*there, half))
    large = Holder(bytes_, "large", LARGE)
    eventually(lambda: len(bytes_._line) == 1)
    later = Holder(bytes_, "later", LARGE // 2)  # it would fit
    eventually(lambda: len(bytes_._line) == 2)
    assert not later.passed.is_set()
    half.end()
    assert large.passed.wait(60)
    assert not later.passed.is_set()
    there.pop().end()
    assert later.passed.wait(60)
    for one in (*there, large, later):
        one.end()


def test_each_stream_has_room_for_what_is_let_pass() -> None:
    """However many streams there are, a tenant's largest artifact fits in its share of each."""
    for streams in (1, 2, 3, 1000):
        with InFlight(most_bytes_each(streams)).hold("t", 1 << 40):
            pass


def test_an_artifact_counts_as_what_is_held_of_it_and_a_small_one_passes() -> None:
    """One of any size passes alone; small ones do when there is no room at all."""
    bytes_ = InFlight(2 * LARGE)
    with (
        bytes_.hold("t", 1 << 40),
        bytes_.hold("u", LARGE - LARGE // 4),
        bytes_.hold("t", SMALL_BYTES),
    ):
        assert bytes_._held == {"t": LARGE, "u": LARGE - LARGE // 4}

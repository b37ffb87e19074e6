"""How many artifacts are carried at once, tried out against stores of several kinds."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from sidecar.worker.width import (
    MOST,
    STALL_S,
    STALL_WIDTH,
    Fixed,
    Tried,
    most_at_once,
    store_threads,
)

Takes = Callable[[int], float]


class Stores:
    """Stores in front of which there is always a line: each artifact takes what `takes` says."""

    def __init__(self, most: int = MOST) -> None:
        self.now = 0.0
        self.width = Tried(most, lambda: self.now)
        self._ends: list[float] = []

    def carry(
        self, seconds: float, takes: Takes, fails: Callable[[int], bool] = lambda _: False
    ) -> None:
        """Carry for so long; `takes` and `fails` are asked with how many are under way."""
        until = self.now + seconds
        while self.now < until:
            while len(self._ends) < self.width.at_once:
                heapq.heappush(self._ends, self.now + takes(len(self._ends) + 1))
            failed = fails(len(self._ends))
            self.now = heapq.heappop(self._ends)
            self.width.done(waiting=True, came_through=not failed)


def at_the_lock(under_way: int) -> float:
    """Each waits for all others: two are no faster than one."""
    return 0.001 * under_way


def over_a_network(_under_way: int) -> float:
    """Each takes its time, whatever the others do."""
    return 0.05


def with_sixteen_disks(under_way: int) -> float:
    """Sixteen at once go beside each other; more wait."""
    return 0.01 * max(1.0, under_way / 16)


@pytest.mark.parametrize(
    ("takes", "least", "most"),
    [(at_the_lock, 1, 2), (over_a_network, MOST, MOST), (with_sixteen_disks, 8, 32)],
)
def test_as_many_are_carried_as_make_it_faster(takes: Takes, least: int, most: int) -> None:
    """The width comes to what the stores can use, within seconds, and stays about there."""
    stores = Stores()
    stores.carry(5, takes)
    seen = set()
    for _ in range(100):
        stores.carry(0.1, takes)
        seen.add(stores.width._kept)
    assert least <= min(seen)
    assert max(seen) <= most


def test_the_width_follows_a_store_that_changes() -> None:
    """A store that turns slow gets more threads, and gives them back when it is quick again."""
    stores = Stores()
    stores.carry(5, at_the_lock)
    stores.carry(20, over_a_network)
    assert stores.width._kept == MOST
    stores.carry(60, at_the_lock)
    assert stores.width._kept <= 2


def test_a_store_that_says_slow_down_gets_what_it_takes() -> None:
    """Where more at once only fail, the width ends at the rate that the store allows."""
    stores = Stores()
    stores.carry(20, over_a_network, fails=lambda under_way: under_way > 20)
    assert 8 <= stores.width._kept <= 32


def test_a_store_that_is_away_is_asked_by_one() -> None:
    """An outage brings the width down, however wide it was."""
    stores = Stores()
    stores.carry(5, over_a_network)
    stores.carry(60, over_a_network, fails=lambda _: True)
    assert stores.width._kept == 1
    stores.carry(10, over_a_network)
    assert stores.width._kept == MOST


def test_an_outage_makes_the_width_no_wider() -> None:
    """While nothing comes through, no lap looks better than another."""
    stores = Stores()
    widest = 0
    for _ in range(100):
        stores.carry(0.5, over_a_network, fails=lambda _: True)
        widest = max(widest, stores.width.at_once)
    assert widest == 1


def test_nothing_is_tried_while_nothing_waits() -> None:
    """A stream that is not behind keeps its width: its rate says nothing of the stores."""
    stores = Stores()
    stores.carry(5, with_sixteen_disks)
    kept = stores.width._kept
    for _ in range(1000):
        stores.now += 0.01
        stores.width.done(waiting=False, came_through=True)
        assert stores.width.at_once == kept


def test_what_hangs_leaves_threads_to_the_rest() -> None:
    """When nothing comes through for a second, as many may begin as a fixed width would have."""
    stores = Stores()
    stores.now += STALL_S
    stores.width.begins()
    assert not stores.width.stalled()
    stores.now += STALL_S
    assert stores.width.stalled()
    assert stores.width.at_once == STALL_WIDTH
    stores.now += STALL_S
    assert not stores.width.stalled()


def test_a_fixed_width_stays() -> None:
    """A number that the operator chose is kept."""
    width = Fixed(3)
    width.done(waiting=True, came_through=False)
    assert not width.stalled()
    assert width.at_once == 3


@pytest.mark.parametrize("wrong", ["", "1", "257", "-3", "8.5", "many", "AUTO", "٣"])
def test_what_is_no_number_of_threads_is_refused(wrong: str) -> None:
    """The refusal says what may be written."""
    with pytest.raises(ValueError, match="write auto, or a number from 2 to 256"):
        store_threads(wrong)


def test_streams_share_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many streams together carry no more at once than there are descriptors for."""
    for soft, streams, most in ((4096, 1, 256), (1024, 1, 170), (1024, 10, 17), (256, 10, 8)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_at_once("auto", streams, streaming=True) == most
    assert most_at_once("auto", 1, streaming=False) == STALL_WIDTH
    assert most_at_once(5, 1000, streaming=False) == 5

"""The whole system, simulated: whatever befalls it, the guarantees hold, and any seed replays."""

from __future__ import annotations

import pytest

from sidecar.worker.width import Tried
from tests.proofs import sampled
from tests.simulation.whole.plan import WIDE, scene_of
from tests.simulation.whole.world import run_lean

SEEDS = [range(4), range(4, 10), range(10, 16)]


@pytest.mark.parametrize("seeds", sampled(SEEDS, ["range(0, 4)"]))
def test_the_guarantees_hold_under_whole_seeds(seeds: range) -> None:
    """Fleets, people, operators and controllers together break no guarantee."""
    for seed in seeds:
        result = run_lean(seed)
        assert not result.violation, result.story()


def test_the_guarantees_hold_while_the_width_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every eighth seed as many artifacts are carried at once as make it faster: up to eight."""
    widths, done = set(), Tried.done

    def recorded(tried: Tried, *, waiting: bool, came_through: bool) -> None:
        done(tried, waiting=waiting, came_through=came_through)
        widths.add(tried.at_once)

    monkeypatch.setattr(Tried, "done", recorded)
    for seed in (55, 63):
        assert scene_of(seed) == WIDE
        result = run_lean(seed)
        assert not result.violation, result.story()
    assert {1, 2, 4} <= widths

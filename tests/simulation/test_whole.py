"""The whole system, simulated: whatever befalls it, the guarantees hold, and any seed replays."""

from __future__ import annotations

import pytest

from tests.proofs import sampled
from tests.simulation.whole.world import run_lean

SEEDS = [range(4), range(4, 10), range(10, 16)]


@pytest.mark.parametrize("seeds", sampled(SEEDS, ["range(0, 4)"]))
def test_the_guarantees_hold_under_whole_seeds(seeds: range) -> None:
    """Fleets, people, operators and controllers together break no guarantee."""
    for seed in seeds:
        result = run_lean(seed)
        assert not result.violation, result.story()

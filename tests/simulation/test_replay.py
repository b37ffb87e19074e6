"""A seed is all that a run depends on."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

WORLDS = {"tests.simulation.world": (3, 11), "tests.simulation.whole.world": (6, 528112)}


@pytest.mark.parametrize(("world", "seeds"), WORLDS.items())
def test_a_seed_replays_exactly(world: str, seeds: Sequence[int]) -> None:
    """It gives the same steps, one for one, in this process and under another hash seed."""
    simulate = importlib.import_module(world).simulate
    here = [simulate(seed).digest() for seed in seeds]
    assert [simulate(seed).digest() for seed in seeds] == here
    assert len(set(here)) == len(seeds)
    program = f"from {world} import simulate\nprint(*[simulate(s).digest() for s in {seeds}])"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": "1"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.split() == here

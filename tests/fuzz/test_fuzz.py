"""A slice of each fuzzer; `make fuzz` runs them for as long as you like."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import FUZZERS
from tests.fuzz.running import Totals, run_batch

DRAWN = {
    "entries": 60,
    "refs": 150,
    "urls": 30,
    "roots": 12,
    "faces": 40,
    "screens": 2,
    "bundles": 6,
}


SLOW = {"screens"}
"""Each input is looked at with twenty commands."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else []) for one in FUZZERS],
)
def test_hostile_inputs_are_refused_in_words(name: str) -> None:
    """No input of a fresh batch makes anything fail but in words, nor shows a secret."""
    totals = Totals()
    run_batch(FUZZERS[name], 0, totals, DRAWN[name])
    assert totals.inputs

"""The whole simulation is worth what it catches: breaks of the product, one at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pytest

from sidecar.redis.client import connect
from sidecar.redis.scripts import script_of
from tests.simulation.whole.hunt import meets, violation_of, violation_without
from tests.simulation.whole.mutants import MUTANTS, SOUGHT, Area, Mutant, broken

SAMPLE: Final = frozenset({"feed_moves_its_cursor_to_the_end", "nothing_is_given_back"})
QUICK: Final = frozenset({
    "feed_moves_its_cursor_to_the_end",
    "trims_what_the_relay_needs",
    "archive_is_noted_and_not_written",
    "redrive_newest_first",
    "audit_takes_what_was_trimmed_for_lost",
    "gc_asks_one_log_of_two",
    "keep_deletes_before_the_record",
    "nothing_is_given_back",
    "publishes_of_the_paused",
    "erases_what_is_not_paused",
})  # fmt: skip
"""Proofs, one of each area; a sample of them is in `make test`."""
FEW: Final = 40
"""On so many seeds, from its own on, a break is looked for: other code has other timing."""
LEAST: Final = 24
"""So many breaks are caught, at the least; of each area some."""


def _marked(mutant: Mutant) -> object:
    proof = pytest.mark.proof if mutant.name in QUICK else pytest.mark.slow
    marks = () if mutant.name in SAMPLE else (proof,)
    return pytest.param(mutant, id=mutant.name, marks=marks)


@pytest.mark.parametrize("mutant", [_marked(mutant) for mutant in MUTANTS])
def test_the_whole_simulation_catches(mutant: Mutant) -> None:
    """A break of the product is reported on its seed or soon after, and without it nothing is."""
    seeds = range(mutant.seed, mutant.seed + FEW)
    seed = next((one for one in seeds if meets(mutant, one) and violation_of(mutant, one)), None)
    assert seed is not None, "not caught: look for another seed (--hunt)"
    assert not violation_without(mutant, seed)


def test_every_area_has_breaks_that_are_caught() -> None:
    """At least 24 breaks are caught, of feed, trimming, archive, redrive, repair, gc, spreading,
    pausing, and erasing.
    """
    assert len(MUTANTS) >= LEAST
    assert set(Counter(mutant.area for mutant in MUTANTS)) == set(Area)
    assert {mutant.area for mutant in MUTANTS if mutant.name in QUICK} == set(Area)


def test_a_break_of_a_script_is_what_is_sent() -> None:
    """For as long as it is broken, wherever scripts are kept."""
    mutant = next(one for one in MUTANTS if one.name == "trims_what_is_pending")
    client = connect("redis://localhost")
    sent: Any = script_of(client, mutant.where).script
    with broken(mutant):
        broken_one: Any = script_of(client, mutant.where).script
    assert broken_one == sent.replace(mutant.old, mutant.new)
    assert script_of(client, mutant.where).script == sent


@pytest.mark.parametrize("mutant", SOUGHT, ids=lambda mutant: mutant.name)
def test_what_is_sought_still_fits(mutant: Mutant) -> None:
    """A break that no seed shows yet is one of today's code."""
    with broken(mutant):
        pass

"""Years in service: what is kept stays as much, and what is needed stays."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from tests.simulation.years import QUARTER_DAYS, YEAR, Measure, Years, growth

MOST_GROWTH = 0.1
MONTH_DAYS = 35


@pytest.mark.proof
def test_a_month_loses_nothing_that_is_needed() -> None:
    """Readers resolve what they read, and old versions go."""
    month = Years(1, subjects=5, events_a_day=16)
    month.run(MONTH_DAYS)
    month.judge()
    assert month.violations == []
    assert 0 < month.measure().refs < sum(month.versions.values())


def test_what_retention_takes_too_much_of_is_seen() -> None:
    """A store that loses the newest of a subject is judged."""
    month = Years(1, subjects=5, events_a_day=16)
    month.run(3)
    ref, *_ = next(iter(month.fleet.newest.values()))
    month.fleet_store.delete(ref)
    month.judge()
    assert any(ref in one for one in month.violations)


def test_what_grows_is_seen() -> None:
    """By the mean of a year, of each thing that is counted."""
    flat = Measure(*range(100, 100 + len(astuple(Measure(*[0] * 7)))))
    assert set(growth([flat] * 2 * YEAR).values()) == {0.0}
    grown = [replace(flat, refs=100 + 10 * n) for n in range(2 * YEAR)]
    found = growth(grown)
    assert found["refs"] > MOST_GROWTH
    assert found["entries"] == 0.0


@pytest.mark.slow
def test_three_years_later_nothing_has_grown() -> None:
    """Stores, archive, streams and index are flat over the last two years, within a tenth."""
    service = Years(2, subjects=40, events_a_day=24)
    service.run(3 * YEAR * QUARTER_DAYS)
    assert service.violations == []
    assert {
        name: more for name, more in growth(service.measures).items() if abs(more) > MOST_GROWTH
    } == {}

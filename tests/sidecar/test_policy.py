"""What follows from a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.event import Reason, Rejected
from sidecar.worker.policy import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    Budget,
    Bury,
    Mismatch,
    Retry,
    attempted,
    decide,
)
from store import ConfigError, Corrupt, InvalidRef, NotFound, StoreError, Unavailable

OUTAGES: list[Exception] = [
    Unavailable("x"), StoreError("x"), ConfigError("x"), OSError(5, "x"), KeyError("x"),
    ConnectionError(), TimeoutError(), MemoryError(), RuntimeError(), ValueError("x"),
    AssertionError(), RecursionError(), UnicodeDecodeError("utf-8", b"", 0, 0, ""),
]  # fmt: skip
BUDGETED: list[tuple[Exception, Reason]] = [
    (NotFound("x"), Reason.ARTIFACT_MISSING),
    (Mismatch("x"), Reason.CHECKSUM_MISMATCH),
    (Corrupt("x"), Reason.CHECKSUM_MISMATCH),
]
FINAL: list[tuple[Exception, Reason]] = [
    (InvalidRef("x"), Reason.BAD_REF),
    *[(Rejected(reason, "x"), reason) for reason in Reason],
]

attempt_counts = st.integers(1, 10**6)
times_s = st.floats(0, 1e9)


@pytest.mark.parametrize(("error", "reason"), FINAL, ids=str)
def test_what_cannot_succeed_is_buried_at_once(error: Exception, reason: Reason) -> None:
    """What trying again cannot fix is buried at the first attempt, with its own reason."""
    verdict = decide(error, 1, 0.0, 1e9)
    assert isinstance(verdict, Bury)
    assert verdict.reason is reason
    assert verdict.detail


@pytest.mark.parametrize(("error", "reason"), BUDGETED, ids=str)
def test_what_may_still_come_has_a_budget(error: Exception, reason: Reason) -> None:
    """What may still appear is tried again until the budget is spent, then buried."""
    assert decide(error, 1, 0.0, 60.0) == Retry(FIRST_DELAY_S, outage=False)
    assert decide(error, 2, 1.0, 60.0) == Retry(2 * FIRST_DELAY_S, outage=False)
    assert decide(error, 9, 59.5, 60.0) == Retry(0.5, outage=False)
    for elapsed_s, budget_s in ((60.0, 60.0), (61.0, 60.0), (0.0, 0.0)):
        verdict = decide(error, 3, elapsed_s, budget_s)
        assert isinstance(verdict, Bury)
        assert verdict.reason is reason
        assert "3" in verdict.detail


@given(st.sampled_from(OUTAGES), attempt_counts, times_s, times_s)
def test_an_outage_is_never_buried(
    error: Exception, attempts: int, elapsed_s: float, budget_s: float
) -> None:
    """An outage is waited for, however long it lasts, with a bounded delay above zero."""
    verdict = decide(error, attempts, elapsed_s, budget_s)
    assert isinstance(verdict, Retry)
    assert verdict.outage
    assert 0 < verdict.delay_s <= MAX_DELAY_S


@given(st.sampled_from(BUDGETED), attempt_counts, times_s, times_s)
def test_the_budget_is_kept(
    case: tuple[Exception, Reason], attempts: int, elapsed_s: float, budget_s: float
) -> None:
    """After the budget it is always buried; before it never, and the delay does not exceed it."""
    error, reason = case
    verdict = decide(error, attempts, elapsed_s, budget_s)
    if elapsed_s >= budget_s:
        assert isinstance(verdict, Bury)
        assert verdict.reason is reason
    else:
        assert isinstance(verdict, Retry)
        assert not verdict.outage
        assert 0 < verdict.delay_s <= min(MAX_DELAY_S, budget_s - elapsed_s)


@given(st.sampled_from(OUTAGES), st.integers(1, 50))
def test_delays_do_not_shrink(error: Exception, attempts: int) -> None:
    """Each delay is at least as long as the one before."""
    first, second = (decide(error, n, 0.0, 1.0) for n in (attempts, attempts + 1))
    assert isinstance(first, Retry)
    assert isinstance(second, Retry)
    assert first.delay_s <= second.delay_s


LIMIT_S = 10.0
ABSENT, AWAY, STOP = NotFound("x"), Unavailable("x"), None


@pytest.mark.parametrize(
    ("story", "spent_s"),
    [
        ([(0, ABSENT)], 0.0),
        ([(13, ABSENT)], 0.0),
        ([(0, AWAY), (13, ABSENT)], 0.0),
        ([(0, ABSENT), (0.1, ABSENT)], 0.1),
        ([(0, ABSENT), (0.1, ABSENT), (0.3, ABSENT)], 0.3),
        ([(0, ABSENT), (13, ABSENT)], 0.1),
        ([(0, ABSENT), (0.1, AWAY), (13, ABSENT)], 0.0),
        ([(0, ABSENT), (0.1, AWAY), (13, ABSENT), (13.4, ABSENT)], 0.4),
        ([(0, ABSENT), (0.04, STOP), (13, ABSENT)], 0.04),
        ([(0, ABSENT), (13, STOP), (26, STOP), (39, ABSENT)], 0.1),
        ([(0, STOP), (13, AWAY), (14, STOP), (15, ABSENT)], 0.0),
    ],
    ids=[
        "the first answer", "a late first answer", "away at first", "absent twice",
        "absent on and on", "a stall", "away in between", "away, and absent on and on",
        "a halt", "a stall, then standby", "away over a tenure's end",
    ],
)  # fmt: skip
def test_what_spends_the_budget(
    story: list[tuple[float, Exception | None]], spent_s: float
) -> None:
    """Only waits between two answers that nothing is there count, as long as they were meant."""
    budget, attempts = Budget(), 0
    for at_s, error in story:
        if error is None:
            budget.count(at_s)
            continue
        attempts += 1
        verdict = attempted(error, attempts, budget, limit_s=LIMIT_S, now=at_s)
        assert isinstance(verdict, Retry)
    assert budget.spent_s == pytest.approx(spent_s)


@given(st.lists(st.tuples(st.floats(0.0, 60.0), st.sampled_from([ABSENT, ABSENT, AWAY, STOP]))))
def test_the_whole_budget_is_given(story: list[tuple[float, Exception | None]]) -> None:
    """Whatever else continues, an absent artifact is waited for as long as the budget says."""
    budget, attempts, now, absent_s = Budget(), 0, 0.0, 0.0
    verdict: Retry | Bury | None = None
    before: Exception | None = None
    for late_s, error in story:
        waited_s = late_s + (verdict.delay_s if isinstance(verdict, Retry) else 0.0)
        now += waited_s
        absent_s += waited_s if before is ABSENT else 0.0
        before = error
        if error is None:
            budget.count(now)
            verdict = None
            continue
        attempts += 1
        verdict = attempted(error, attempts, budget, limit_s=LIMIT_S, now=now)
        if isinstance(verdict, Bury):
            assert absent_s >= LIMIT_S - 1e-6
            return


def test_the_budget_is_spent_in_the_end() -> None:
    """A source that says on and on that nothing is there has its event buried."""
    budget, now = Budget(), 0.0
    for attempts in range(1, 30):
        verdict = attempted(ABSENT, attempts, budget, limit_s=LIMIT_S, now=now)
        if isinstance(verdict, Bury):
            assert now == pytest.approx(LIMIT_S)
            return
        now += verdict.delay_s
    pytest.fail("it was never buried")

"""What to do about a failed attempt. Pure: no clock, no store, no Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.wire.event import Reason, Rejected
from store import Corrupt, InvalidRef, NotFound

FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 5.0


class Mismatch(Exception):
    """The source holds nothing at the ref with the checksum that the event names."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`; meanwhile the tenant's later events wait."""

    delay_s: float
    outage: bool
    """Whether it waits for a store to come back, and so has no budget that could run out."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Write a dead letter."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class Budget:
    """How much of its retry budget one event has spent.

    Spent is the wait from one answer that the source holds nothing right to the next, and of it
    no more than was meant. An outage, a halt, standby, a worker that stalls or a store that is
    slow make the budget last longer, never shorter.
    """

    spent_s: float = 0.0
    _since: float = 0.0
    _meant_s: float = 0.0

    def wait(self, now: float, meant_s: float) -> None:
        """Begin to wait for the next attempt: the source has just said that it holds nothing."""
        self._since, self._meant_s = now, meant_s

    def count(self, now: float) -> None:
        """Count the wait that is under way, if one is, and end it."""
        self.spent_s += min(now - self._since, self._meant_s)
        self._meant_s = 0.0

    def forget(self) -> None:
        """End the wait that is under way, and do not count it: the source cannot be asked."""
        self._meant_s = 0.0


def attempted(
    error: BaseException, attempts: int, budget: Budget, *, limit_s: float, now: float
) -> Retry | Bury:
    """Say what follows from `error` at the `attempts`-th attempt, as `decide`; keep `budget`."""
    if _reason(error) is None:
        budget.forget()
    else:
        budget.count(now)
    verdict = decide(error, attempts, budget.spent_s, limit_s)
    if isinstance(verdict, Retry) and not verdict.outage:
        budget.wait(now, verdict.delay_s)
    return verdict


def decide(error: BaseException, attempts: int, spent_s: float, budget_s: float) -> Retry | Bury:
    """Say what follows from `error` at the `attempts`-th attempt (from 1) of one event.

    What can never succeed is buried at once; what may still appear at the source is tried
    again until `spent_s`, as `Budget` counts it, has reached `budget_s`; everything else is an
    outage, which is no reason to bury anything, however long it lasts.
    """
    final = _final(error)
    if final is not None:
        return final
    reason = _reason(error)
    if reason is not None and spent_s >= budget_s:
        return Bury(reason, f"{error} (tried {attempts} times in {spent_s:.1f} s)")
    delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempts - 1, 16))
    if reason is not None:
        delay_s = min(delay_s, max(budget_s - spent_s, 0.0))
    return Retry(delay_s, outage=reason is None)


def _final(error: BaseException) -> Bury | None:
    if isinstance(error, Rejected):
        return Bury(error.reason, error.detail)
    if isinstance(error, InvalidRef):
        return Bury(Reason.BAD_REF, f"artifact_ref: {error}")
    return None


def _reason(error: BaseException) -> Reason | None:
    if isinstance(error, NotFound):
        return Reason.ARTIFACT_MISSING
    if isinstance(error, (Mismatch, Corrupt)):
        return Reason.CHECKSUM_MISMATCH
    return None

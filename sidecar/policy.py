"""What to do about a failed attempt. Pure: no clock, no store, no Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.event import Reason, Rejected
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


def decide(error: BaseException, attempts: int, elapsed_s: float, budget_s: float) -> Retry | Bury:
    """Say what follows from `error` at the `attempts`-th attempt (from 1) of one event.

    What can never succeed is buried at once; what may still appear at the source is tried
    again until `budget_s` seconds have passed since the first attempt; everything else is an
    outage, which is no reason to bury anything, however long it lasts.
    """
    final = _final(error)
    if final is not None:
        return final
    reason = _reason(error)
    if reason is not None and elapsed_s >= budget_s:
        return Bury(reason, f"{error} (tried {attempts} times in {elapsed_s:.1f} s)")
    delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempts - 1, 16))
    if reason is not None:
        delay_s = min(delay_s, max(budget_s - elapsed_s, 0.0))
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

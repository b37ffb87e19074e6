"""What is sent of an item, and what became of it by the answer. Pure: no Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sidecar.redis.publisher import Buried, Outbound, Outcome, Verdict
from sidecar.worker.rows import Rows
from sidecar.worker.window import Item

DEAD_ALREADY = "dead already"
PUBLISHED, DUPLICATE = Outcome.PUBLISHED.value, Outcome.DUPLICATE.value


Finished = tuple[Item, str]
"""An item that has its end, and which."""


class Published(NamedTuple):
    """What became of a run of events."""

    finished: list[Finished]
    forgotten: bool
    """Whether the index has forgotten one: the rest keep their place behind it."""
    repeated: int = 0
    """The lowest control_version that a duplicate among them is of; 0 without any."""


def outbound(item: Item) -> Outbound:
    """Return what is sent of an event; of one that is known, only what is looked up again."""
    assert item.admitted or item.known  # noqa: S101 -- the rest is buried
    if item.known or not item.admitted:
        return Outbound(item.known or item.identity, b"", item.origin, b"")
    admitted = item.admitted
    return Outbound(item.identity, admitted.unstamped, item.origin, admitted.traceparent)


def published(run: Sequence[Item], verdicts: Iterable[Verdict]) -> Published:
    """Say what became of a run that was published; a conflict stays, to end as a dead letter."""
    finished: list[Finished] = []
    repeated: list[int] = []
    rows, new = Rows(), Outcome.PUBLISHED
    for item, (outcome, control_version) in zip(run, verdicts, strict=False):
        if outcome is new:
            rows.event(item, is_new=True)
            finished.append((item, PUBLISHED))
        elif outcome is Outcome.DUPLICATE:
            repeated.append(control_version)
            already = item.known not in (b"", item.identity)  # its origin is known
            finished.append((item, DEAD_ALREADY if already else DUPLICATE))
        elif outcome is Outcome.CONFLICT:
            item.conflicts()
            rows.letter(item)
        else:
            return Published(finished, forgotten=True, repeated=min(repeated, default=0))
    return Published(finished, forgotten=False, repeated=min(repeated, default=0))


def buried(run: Sequence[Item], answers: Iterable[Buried]) -> list[Finished]:
    """Say what became of dead letters; there are fewer answers when the stream was halted.

    Those of a tenant that was paused on the way have not ended.
    """
    finished = []
    for item, answer in zip(run, answers, strict=False):
        if answer is Buried.NOT_NOW:
            continue
        if answer is Buried.PUBLISHED:
            outcome = DUPLICATE
        elif answer is Buried.ALREADY or item.bury is None:
            outcome = DEAD_ALREADY
        else:
            outcome = item.bury.reason.value
        finished.append((item, outcome))
    return finished

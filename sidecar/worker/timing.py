"""How long the events of a run took from their append on. Pure: no clock, no Redis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.redis.publisher import Outcome, Verdict
from sidecar.redis.times import is_wait
from sidecar.worker.window import Item


@dataclass(slots=True)
class Took:
    """What the published events of a run took, in seconds. Of IDs that are no times nothing."""

    waits_s: list[float] = field(default_factory=list)
    """Until the worker took them up, by its clock."""
    deliveries_s: list[float] = field(default_factory=list)
    """Until their notifications, by Redis's clock."""
    published: int = 0
    last: int = 0
    """The highest control_version."""


def took(items: Iterable[Item], verdicts: Iterable[Verdict]) -> Took:
    """Return what a run took."""
    found = Took()
    published, waits_s, deliveries_s = Outcome.PUBLISHED, found.waits_s, found.deliveries_s
    for item, (outcome, version) in zip(items, verdicts, strict=False):
        if outcome is published:
            found.published += 1
            found.last = version
            appended_ms = int(item.id.partition("-")[0])  # `item.id.ms`, without a call
            delivery_ms = version / 1000 - appended_ms
            if is_wait(delivery_ms):
                deliveries_s.append(delivery_ms / 1000)
                waits_s.append(item.trouble.first_seen - appended_ms / 1000)
    return found

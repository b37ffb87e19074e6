"""Whose event has the event_id of one that ends as a conflict.

A tenant that claims the ids of another before it does makes the other's events conflicts. So a
conflict between tenants is reported as one, and says nothing of what the producer of the stream
sends: it counts in no row of dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from sidecar.redis.publisher import Publisher
from sidecar.wire.event import Reason
from sidecar.worker.window import Item


class Conflict(NamedTuple):
    """An item whose event_id is another tenant's."""

    item: Item
    tenant: str
    """Whose event was published first."""


class Conflicts:
    """Finds conflicts between tenants. Methods raise `RedisError`, and `Damaged`."""

    def __init__(
        self, publisher: Publisher, count: Callable[[int], None], log: FilteringBoundLogger
    ) -> None:
        """`count` is called with how many were found."""
        self._publisher = publisher
        self._count = count
        self._log = log

    def mark(self, letters: Sequence[Item]) -> None:
        """Note in each dead letter whose event_id it is, if it is another tenant's."""
        found = self._between_tenants(letters)
        for item, tenant in found:
            item.conflicts_with(tenant)
        if found:
            self._count(len(found))
            first = found[0]
            self._log.warning(
                "conflict between tenants", count=len(found), published_by=first.tenant,
                **first.item.described(),
            )  # fmt: skip

    def _between_tenants(self, letters: Sequence[Item]) -> list[Conflict]:
        suspects = [
            item
            for item in letters
            if item.bury and item.bury.reason is Reason.ID_CONFLICT and item.counts
        ]
        if not suspects:
            return []
        tenants = self._publisher.tenants_of([item.identity[:16] for item in suspects])
        return [
            Conflict(item, tenant)
            for item, tenant in zip(suspects, tenants, strict=True)
            if tenant is not None and tenant != item.tenant
        ]

"""Tenants that are paused: what waits for `sidecar resume --tenant`, while the others continue.

A paused tenant is held back as one whose artifact is missing is, but until it is resumed: its first
entry is remembered, and what follows waits in Redis's pending list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from sidecar.redis.halts import Halt
from sidecar.redis.publisher import Publisher
from sidecar.worker.holds import Holds
from sidecar.worker.reading import Reading
from sidecar.worker.window import Item, Window


class Pausing:
    """Keeps what one tenure holds back in step with what Redis says of tenants.

    Methods raise `RedisError`.
    """

    def __init__(
        self, publisher: Publisher, count: Callable[[int], None], log: FilteringBoundLogger
    ) -> None:
        """`count` is called with how many tenants are paused, whenever that was looked at."""
        self._publisher = publisher
        self._count = count
        self._log = log
        self._known: Mapping[str, Halt] = {}

    def begin(self, holds: Holds) -> None:
        """Learn who is paused as a tenure begins, of which nothing is read yet."""
        self._learn()
        holds.paused.update(self._known)

    def look(self, window: Window, holds: Holds, reading: Reading) -> None:
        """Put off all that is read of those that were paused; read back those that were resumed."""
        self._learn()
        new: dict[str, list[Item]] = {tenant: [] for tenant in self._known.keys() - holds.paused}
        for item in list(window) if new else ():
            if item.claimed in new:
                window.drop(item)
                new[item.claimed].append(item)
        for tenant, items in new.items():
            holds.pause(tenant, [item.id for item in items])
        for tenant in holds.paused - self._known.keys():
            waits_from = holds.resume(tenant)
            if waits_from is not None:
                reading.go_back_to(waits_from.before)

    def _learn(self) -> None:
        before, self._known = self._known, self._publisher.paused()
        for tenant in self._known.keys() - before:
            self._log.warning("tenant paused", tenant_id=tenant, **self._known[tenant]._asdict())
        for tenant in before.keys() - self._known:
            self._log.info("tenant resumed", tenant_id=tenant)
        self._count(len(self._known))

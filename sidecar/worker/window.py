"""The window: what is read and not yet committed, by entry ID. Pure: no thread, no clock, no Redis.

No two events with one event_id are stored at the same time: the later one waits until the index
tells what the earlier one became.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import Any

from sidecar.redis.source import Entry
from sidecar.wire.event import Reason, event_of, named, type_and_ref
from sidecar.wire.ids import EntryId
from sidecar.worker.claims import Claims
from sidecar.worker.pipeline import Admitted
from sidecar.worker.policy import Budget, Bury, Retry, attempted


@dataclass(slots=True)
class Trouble:
    """What failed attempts at an entry leave behind. Outlives a tenure: budgets do not restart."""

    first_seen: float
    """Seconds since the epoch."""
    since: float = 0.0
    """The first attempt, by the relay's clock: a drain waits for a store only so long from then."""
    attempts: int = 0
    budget: Budget | None = None
    """From the first verdict on."""

    def attempted(self, began: float) -> None:
        """Count an attempt that began then."""
        if not self.attempts:
            self.since = began
        self.attempts += 1

    def verdict(self, error: BaseException, now: float, limit_s: float) -> Retry | Bury:
        """Say what follows from the attempt, which has failed; `limit_s` is the retry budget."""
        self.budget = self.budget or Budget()
        return attempted(error, self.attempts, self.budget, limit_s=limit_s, now=now)


@dataclass(slots=True, eq=False)
class Item:
    """One entry in the window."""

    entry: Entry
    id: EntryId
    """The entry's ID."""
    origin: str
    """An `Origin`, as bare text: to make one for each entry took 0.7 of the relay's 15 µs here."""
    trouble: Trouble
    tenant: str | None = None
    """The tenant whose order it keeps; None for an entry that is no event."""
    claimed: str = ""
    """The tenant that it names, also where it is no event; empty of nobody, and of poison."""
    admitted: Admitted | None = None
    ref: str = ""
    """Where its artifact lies; empty where there is nothing to store."""
    identity: bytes = b""
    """Digest of the event_id and of the content, as the index has them; empty of no event."""
    known: bytes = b""
    """An identity that the index says is finished: look again under the fence, store nothing."""
    reread: bool = False
    """It may have been finished before: its origin may have a dead letter."""
    ready: bool = False
    """Nothing is left but to publish it or to write its dead letter."""
    bury: Bury | None = None
    begins_row: bool = False
    """Of a dead letter: something was published between it and the one before."""
    begins_row_of_tenant: bool = False
    """Of a dead letter: something of its tenant was published between it and the tenant's before.
    """
    counts: bool = True
    """Of a dead letter: it is one more in a row."""
    error: BaseException | None = None
    began: float = 0.0
    dropped: bool = False
    """It is in no window any more: to store it would be in vain. Another thread reads it."""

    def end(self, reason: Reason, detail: str) -> None:
        """Let it end as a dead letter."""
        self.bury, self.ready = Bury(reason, detail), True

    def conflicts(self, control_version: int = 0) -> None:
        """Let it end as another content of an event_id that is published, as `control_version`."""
        detail = "event_id: published before with other content"
        if control_version:
            detail += f", as control_version {control_version}"
        self.end(Reason.ID_CONFLICT, detail)

    def conflicts_with(self, tenant: str) -> None:
        """Let the conflict be one with another tenant's event: no sign of what is sent here."""
        assert self.bury  # noqa: S101 -- it conflicts
        self.end(self.bury.reason, f"{self.bury.detail}, by tenant {tenant!r}")
        self.counts = False

    def described(self) -> dict[str, Any]:
        """Return what the log says of it."""
        event = event_of(self.admitted.body) if self.admitted else None
        tenant, event_id = named(event, self.entry.fields)
        type_, ref = type_and_ref(event, self.entry.fields)
        return {
            "entry": self.id, "attempts": self.trouble.attempts,
            "event_id": event_id or None, "type": type_ or None,
            "tenant_id": tenant if event or tenant else None,
            "artifact_ref": ref if event or ref else None,
            "detail": self.bury and self.bury.detail,
        }  # fmt: skip


class Window:
    """The items of one tenure."""

    def __init__(self, *, keeps_refs: bool = False) -> None:
        """With `keeps_refs`, a ref is not stored at again before what is there is published.

        So it must be for a store that keeps one version of each.
        """
        self._keeps_refs = keeps_refs
        self._items: dict[EntryId, Item] = {}
        self._in_order = True
        self._claims = Claims[Item]()
        self.taken = 0
        """How many items came so far."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __contains__(self, entry_id: EntryId) -> bool:
        return entry_id in self._items

    def holds(self, item: Item) -> bool:
        """Tell whether this very item is in the window: its entry may have been read again."""
        return self._items.get(item.id) is item

    def add(self, item: Item) -> None:
        """Take an item in, behind all others."""
        self._items[item.id] = item
        self.taken += 1

    def drop(self, item: Item) -> None:
        """Take an item out, and free what it claims."""
        del self._items[item.id]
        item.dropped = True
        if item.ref:
            self._claims.release(item)
        if not self._items:
            self._in_order = True

    def break_order(self) -> None:
        """Note that what is added from now on may be older than what is there."""
        self._in_order = False

    def ready(self) -> Iterator[Item]:
        """Yield items that are ready, with none of their tenant before them that is not."""
        blocked = set()
        for item in self._items.values():
            tenant = item.tenant
            if tenant is not None and tenant in blocked:
                continue
            if item.ready:
                yield item
            elif tenant is not None:
                blocked.add(tenant)

    def followers(self, item: Item) -> list[Item]:
        """Return the items of its tenant behind `item`."""
        behind = dropwhile(lambda other: other is not item, self._items.values())
        return [other for other in islice(behind, 1, None) if other.tenant == item.tenant]

    def lowest_without(self, run: Iterable[Item]) -> EntryId | None:
        """Return the lowest entry ID that is left once `run` is finished; None for none."""
        finished = {item.id for item in run}
        remaining = (id_ for id_ in self._items if id_ not in finished)
        if self._in_order:
            return next(remaining, None)
        return min(remaining, default=None)

    # --- claims --------------------------------------------------------------------------------

    def claim(self, item: Item) -> bool:
        """Claim what an item with an artifact needs, unless it has; False: it must wait for it."""
        event_id = item.identity[:16]
        return self._claims.claim(item, (event_id, item.ref) if self._keeps_refs else (event_id,))

    def freed(self) -> list[Item]:
        """Return, once, the items whose turn it is to claim."""
        return self._claims.freed()

"""Tenants held back or paused, and whose turn it is meanwhile. Pure: no thread, no clock, no Redis.

An event that has to be tried again is *held*: it leaves the window, and with it whatever of its
tenant stands behind it. These wait in Redis's pending list, not here: one `Held` a tenant is
remembered. Once the held event is through its tenant is *behind*, until the pending list has been
read back, in order, from the held event on.

Of a *paused* tenant the first entry that comes is held, and is due when the tenant is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from sidecar.wire.ids import EntryId


@dataclass(slots=True)
class Held:
    """A tenant's event that is tried again when it is due."""

    id: EntryId
    due: float
    """By the relay's clock; infinite while its tenant is paused."""
    outage: bool
    """Whether it waits for a store to come back, however long that takes."""
    followed: bool = False
    """Whether later entries of the tenant wait for it in the pending list."""
    number: int = 0
    """Of all that one tenure held back: two may be of one entry, and due at one moment."""

    @property
    def is_paused(self) -> bool:
        """Whether it waits for somebody to resume its tenant."""
        return self.due == math.inf


class Holds:
    """What one tenure holds back."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._due: list[tuple[float, EntryId, int, str]] = []
        """A heap of when which entry of which tenant is tried again. Some are out of date."""
        self._numbers = count(1)
        self._behind: set[str] = set()
        self.paused: set[str] = set()
        """Tenants of which nothing may be published or dead-lettered."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    @property
    def any_behind(self) -> bool:
        """Whether the pending list is read back for a tenant."""
        return bool(self._behind)

    def lowest_without(self, entry_ids: Collection[str]) -> EntryId | None:
        """Return the lowest entry that is held, or waits behind one, once these are finished.

        What waits behind a held one has a higher ID: which, only the pending list tells.
        """
        held = (
            one.id.after if one.id in entry_ids else one.id
            for one in self._held.values()
            if one.followed or one.id not in entry_ids
        )  # fmt: skip
        return min(held, default=None)

    @property
    def next_due(self) -> float:
        """When something may be due next, by the relay's clock; infinite for never."""
        return self._due[0][0] if self._due else math.inf

    def hold(
        self, tenant: str, entry_id: EntryId, *, due: float, outage: bool, followed: bool
    ) -> None:
        """Hold a tenant's entry back until it is `due`; `followed` when others come behind it."""
        before = self._held.get(tenant)
        followed |= tenant in self._behind
        followed |= before is not None and (before.followed or before.id != entry_id)
        self._behind.discard(tenant)
        held = self._held[tenant] = Held(entry_id, due, outage, followed, next(self._numbers))
        if due < math.inf:
            heappush(self._due, (due, entry_id, held.number, tenant))

    def pause(self, tenant: str, entry_ids: Collection[EntryId]) -> None:
        """Pause a tenant of which these entries were in the window, and are no more."""
        self.paused.add(tenant)
        known = {*entry_ids, *(one.id for one in [self._held.get(tenant)] if one)}
        if known:
            self._hold_paused(tenant, min(known), followed=len(known) > 1)

    def resume(self, tenant: str) -> EntryId | None:
        """Resume a tenant; return from which entry on the pending list is to be read back for it.

        None when nothing of it has come.
        """
        self.paused.remove(tenant)
        held = self._held.pop(tenant, None)
        if held is None:
            return None
        self._behind.add(tenant)
        return held.id

    def _hold_paused(self, tenant: str, entry_id: EntryId, *, followed: bool) -> None:
        self.hold(tenant, entry_id, due=math.inf, outage=False, followed=followed)

    def take_due(self, now: float, most: int) -> list[tuple[str, EntryId]]:
        """Return tenants with the held entries that are due, `most` at most.

        They stay held until they are through.
        """
        found: list[tuple[str, EntryId]] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            _, entry_id, number, tenant = heappop(self._due)
            held = self._held.get(tenant)
            if held is not None and held.number == number:
                found.append((tenant, entry_id))
        return found

    def through(self, tenant: str | None, entry_id: EntryId) -> bool:
        """Let a held event go, if this is one; tell whether its tenant is behind now."""
        held = self._held.get(tenant) if tenant is not None else None
        if held is None or tenant is None or held.id != entry_id:
            return False
        del self._held[tenant]
        if held.followed:
            self._behind.add(tenant)
        return held.followed

    def is_turn_of(
        self, tenant: str | None, entry_id: EntryId, *, back: bool, everyone: bool
    ) -> bool:
        """Tell whether a tenant's entry may be admitted now; else it waits for its turn.

        `back` when it was read back from the pending list; `everyone` when that is done for all.
        """
        if tenant is None:
            return True
        if tenant in self._held:
            self._held[tenant].followed = True
            return False
        is_turn = everyone or tenant in self._behind if back else tenant not in self._behind
        if is_turn and tenant in self.paused:
            self._hold_paused(tenant, entry_id, followed=False)
            return False
        return is_turn

    def caught_up(self) -> None:
        """Note that the pending list has been read back to its end: no tenant is behind."""
        self._behind.clear()

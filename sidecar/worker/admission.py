"""From an entry to an item of the window: what it says, and what the index knows of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sidecar.redis.members import MOST_HELD, Held
from sidecar.redis.publisher import Publisher, is_dead, origin_digest
from sidecar.redis.source import Entry
from sidecar.wire.event import MAX_ENTRY_BYTES, MAX_NAME_CHARS, Reason, Rejected, named
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.moments import rfc3339
from sidecar.worker.caution import DEATHS_ALONE
from sidecar.worker.host import Host
from sidecar.worker.letter import cut
from sidecar.worker.outages import STORE
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.policy import Retry
from sidecar.worker.window import Item, Trouble

MOST_SAID: Final = 300
"""Characters of an error that are kept for people."""
_TENANT: Final = re.compile(rb'"tenant_id"\s*:\s*"([^"\\]+)"')


class Admission:
    """Admits one control stream's entries, and remembers what failed attempts left behind."""

    def __init__(self, stream: str, pipeline: Pipeline, publisher: Publisher, host: Host) -> None:
        self._origins_begin = str(Origin.of(stream, ""))
        self._pipeline = pipeline
        self._publisher = publisher
        self._wall_clock, self._outages = host.wall_clock, host.outages
        self._troubles: dict[str, Trouble] = {}
        self._held: Mapping[str, Held] = {}
        """By entry ID, what people may know of it. Never changed, but replaced: another thread
        reads it."""

    def item(self, entry: Entry, *, reread: bool) -> Item:
        """Return the entry's item, which ends as a dead letter when it is no event."""
        item = self._bare(entry, reread=reread)
        try:
            admitted = self._pipeline.admit(entry.fields, item.origin, entry.size_bytes)
            body, item.admitted = admitted.body, admitted
            item.tenant = item.claimed = body.get("tenant_id", "")
            item.ref = body.get("artifact_ref", "")
            item.identity = identity_digest(body["event_id"]) + admitted.content_digest
        except Rejected as rejected:
            item.end(rejected.reason, rejected.detail)
            item.claimed = _claimed(entry)
            if rejected.reason is not Reason.MALFORMED:
                # Under the rules of another release, or other options, it may have been published.
                item.identity = b"".join(identity_of(entry.fields))
            # Who claims the ids of others must not halt the stream for them.
            item.counts = rejected.reason is not Reason.FORBIDDEN_ID
            if rejected.reason is Reason.TOO_LARGE:
                item.entry = cut(entry)
        return item

    def poison(self, entry: Entry, died: int) -> Item:
        """Return the item of an entry that took `died` workers with it; it may be published.

        Unless to look at it is what kills: that is given up after as many deaths again.
        """
        is_read = died < 2 * DEATHS_ALONE
        item = self.item(entry, reread=True) if is_read else self._bare(entry, reread=False)
        item.tenant, item.claimed = None, ""
        item.end(Reason.POISON, f"{DEATHS_ALONE} workers in a row died while it ran alone")
        return item

    def look_up(self, items: Sequence[Item]) -> None:
        """Note in each item what the index knows of its event_id and its origin."""
        digests = [
            digest for item in items for digest in (origin_digest(item.origin), item.identity[:16])
        ]
        seen = self._publisher.seen(digests) if digests else []
        for item, origin, event in zip(items, seen[::2], seen[1::2], strict=True):
            if origin and is_dead(origin, item.entry):
                item.known, item.bury = origin_digest(item.origin) + origin.content_digest, None
            elif event and event.content_digest == item.identity[16:]:
                item.known, item.bury = item.identity, None
            elif event and not item.bury:
                item.conflicts(event.control_version)

    # --- troubles ------------------------------------------------------------------------------

    def trouble_of(self, entry_id: EntryId) -> Trouble:
        """Return what failed attempts at a held entry left behind."""
        return self._troubles[entry_id]

    def longest_known_s(self, held: Collection[str]) -> float:
        """Return how long the first of these held entries is known, in seconds; 0 without any."""
        known = (self._troubles[one].first_seen for one in held if one in self._troubles)
        now = self._wall_clock()
        return now - min(known, default=now)

    def remember(self, item: Item, retry: Retry) -> None:
        """Keep what failed attempts at an item left behind, while it is held."""
        self._troubles[item.id] = item.trouble
        if retry.outage:
            self._outages.began(STORE, str(item.error))
        if item.id in self._held or len(self._held) < MOST_HELD:
            self._held = {**self._held, item.id: self._as_held(item, retry)}

    def _as_held(self, item: Item, retry: Retry) -> Held:
        next_at = self._wall_clock() + retry.delay_s
        return Held(
            item.origin, item.tenant or "", item.admitted.body["event_id"] if item.admitted else "",
            f"{type(item.error).__name__}: {item.error}"[:MOST_SAID], item.trouble.attempts,
            rfc3339(item.trouble.first_seen * 1e6), rfc3339(next_at * 1e6), retry.outage,
        )  # fmt: skip

    @property
    def held(self) -> list[Held]:
        """Some of what is held back, `MOST_HELD` at most. May be asked by any thread."""
        return list(self._held.values())

    def forget(self, items: Iterable[Item]) -> None:
        """Forget items that are finished."""
        for item in items:
            self._troubles.pop(item.id, None)
            if item.began and item.error is None:  # it came through both stores
                self._outages.ended(STORE)
            if item.id in self._held:
                self._held = {id_: one for id_, one in self._held.items() if id_ != item.id}

    def forget_all_but(self, entry_ids: Collection[str]) -> None:
        """Forget entries that are not pending any more."""
        self._troubles = {id_: self._troubles[id_] for id_ in self._troubles if id_ in entry_ids}
        self._held = {id_: one for id_, one in self._held.items() if id_ in entry_ids}

    def stop_budgets(self, now: float) -> None:
        """Let no retry budget run on while nothing is tried."""
        for trouble in self._troubles.values():
            if trouble.budget:
                trouble.budget.count(now)

    def _bare(self, entry: Entry, *, reread: bool) -> Item:
        trouble = self._troubles.get(entry.id) or Trouble(self._wall_clock())
        return Item(entry, entry.id, self._origins_begin + entry.id, trouble, reread=reread)


def _claimed(entry: Entry) -> str:
    """Return the tenant that an entry names, which is no event; empty where it names none.

    A giant is not parsed for it.
    """
    raw = entry.raw_event
    if len(raw) > MAX_ENTRY_BYTES:
        found = _TENANT.search(raw, 0, MAX_ENTRY_BYTES)
        tenant = found[1].decode(errors="replace") if found else ""
    else:
        tenant, _ = named(None, entry.fields)
    return tenant if len(tenant) <= MAX_NAME_CHARS else ""

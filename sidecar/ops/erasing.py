"""A tenant leaves: all of its artifacts go, from the fleet's store and from the producer's.

In this order, each step of which may be the last one before a crash; done again it does the rest:

1. The tenant is paused wherever its events may come from: nothing of it is published from then on.
2. Its events must have ended, or nothing goes: a notification would name what is not there.
3. Its refs are found. All streams and archives are read, and the stores' corner of the tenant.
4. What goes is put on record in the fleet's store, for good: a reader that resolves it is told.
5. The producer's store is emptied, then the fleet's: in the other order an event that comes again
   would find its artifact.
6. Both are looked at again: what came meanwhile goes the same way. The end is put on record, and
   the tenant continues.

The pause is the erasure's own (`sidecar.redis.holding`): no second one begins beside it, and no
resume lifts it. If Redis forgets it all the same, nothing more goes. Who was killed leaves the
tenant paused, until the next run is told to continue.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from sidecar.errors import Incomplete, SidecarError, UsageError
from sidecar.history.archive import ArchiveHistory, archive_in
from sidecar.history.contract import Streams
from sidecar.history.rows import of_line
from sidecar.ops.asking import Asked, check_all_asked, to_ask
from sidecar.ops.claims import Claims
from sidecar.ops.underway import Unended, relayed, waiting
from sidecar.redis.census import text_of
from sidecar.redis.errors import translated
from sidecar.redis.holding import Hold
from sidecar.redis.keys import Keys
from sidecar.stores import CHUNK_BYTES, explained, open_reader
from sidecar.wire.erasures import Erasure, Gone, announce, announced, conclude, erasures
from sidecar.wire.ids import LAST
from sidecar.wire.logbook import keeper_of, registered
from sidecar.wire.moments import rfc3339
from sidecar.wire.scope import Scope
from store import (
    Capability,
    Collected,
    Corrupt,
    InvalidRef,
    Listed,
    NotFound,
    VersionedStore,
    capabilities,
    checksum_of,
    versions_of,
)

MOST_SHOWN: Final = 5
ROUNDS: Final = 3
"""So often what came meanwhile is put on record and purged, too."""
_LOOK_EVERY_S: Final = 1.0
"""So old becomes what is known of the pause while anything goes."""


@dataclass(frozen=True, slots=True)
class EraseOrder:
    """What the operator asked for."""

    tenant: str
    reason: str
    by: str
    asked: Sequence[Asked]
    """All servers whose events name the stores."""
    fleet: VersionedStore
    others: Mapping[str, VersionedStore]
    """The further stores to empty, by their URLs without secrets."""
    fleet_url: str
    scope: Scope = field(default_factory=lambda: Scope(()))
    tell: Callable[[str], None] = lambda _: None
    over: bool = False
    """Whether to continue one that was killed."""

    @property
    def stores(self) -> dict[str, VersionedStore]:
        """The stores to empty in this order: the fleet's last."""
        return {**self.others, self.fleet_url: self.fleet}


class Plan(NamedTuple):
    """What goes, and what does not."""

    gone: dict[str, list[Gone]]
    """The versions of each ref that there are in any store."""
    refs: list[str]
    """What is purged: also what has no version any more, and may have left something."""
    claims: Claims
    """Whose the refs are; those that stay, and why."""
    before: Erasure | None
    """One that did not come to its end, and is continued."""


class Erasing:
    """Erases one tenant. Every method raises `SidecarError`."""

    def __init__(self, order: EraseOrder) -> None:
        self._order = order
        for store in order.stores.values():
            with explained():
                check_all_asked(to_ask(store, ()), order.asked)
        self._relayed = relayed(order.asked)
        self._holds: list[tuple[Hold, str]] = []

    def waiting(self) -> list[Unended]:
        """Return some of the tenant's events that have not ended."""
        found = chain.from_iterable(waiting(one, self._order.tenant) for one in self._relayed)
        return list(islice(found, MOST_SHOWN))

    def plan(self) -> Plan:
        """Find what there is of the tenant. Raises `SidecarError` where nothing ever was."""
        order = self._order
        claims = Claims(order.tenant, order.scope)
        with explained():
            records = [one for one in erasures(order.fleet) if one.tenant == order.tenant]
            begun = [one for one in records if not one.complete]
            # One that names a store which is not given stays on record as not come to its end.
            given = order.stores.keys()
            before = next((one for one in begun[::-1] if given >= {*one.stores}), None)
            for each in begun:
                claims.refs.update(one.ref for one in announced(order.fleet, each))
            archives = list(self._archives())
            order.tell("reading what the tenant's events name")
            claims.add_named(lambda: self._events(archives))
            order.tell("looking at the tenant's corner of the stores")
            self._add_orphans(claims)
            order.tell("reading what others' events name")
            claims.spare(lambda: self._events(archives))
            plan = self._there(claims, before)
        if not (claims.refs or claims.kept or records):
            raise SidecarError(
                f"no event and no ref that is known here is of the tenant {order.tenant!r}: check"
                " its name; with --tenant-scope what was put and never announced is found, too"
            )
        return plan

    def run(self) -> tuple[Plan, Erasure]:
        """Erase the tenant; return what went. Raises `Incomplete` where something is left."""
        with self._paused():
            if found := self.waiting():
                raise UsageError(under_way(self._order.tenant, found))
            plan = self.plan()
            erasure = plan.before or self._begun()
            # Of what was deleted before there is no version any more; its data may still be there.
            if plan.gone or plan.before or any(self.pieces(plan, dry_run=True)):
                with explained():
                    plan = self._erase(plan, erasure)
            return plan, erasure

    def pieces(self, plan: Plan, *, dry_run: bool) -> Iterator[Collected]:
        """Purge the stores of what is planned, of no version besides; yield each piece."""
        only = {ref: {one.checksum for one in plan.gone.get(ref, ())} for ref in plan.refs}
        # Of what is damaged nothing tells which versions it has.
        only = {ref: checksums for ref, checksums in only.items() if "" not in checksums}
        for url, store in self._order.stores.items():
            self._order.tell(f"emptying {url}")
            yield from store.purge(plan.refs, only=only, dry_run=dry_run)

    # --- steps --------------------------------------------------------------------------------

    def _begun(self) -> Erasure:
        order = self._order
        at = rfc3339(time.time_ns() // 1000)
        return Erasure(at, order.by, order.tenant, order.reason, list(order.stores))

    def _erase(self, plan: Plan, erasure: Erasure) -> Plan:
        """Erase what is planned, and what comes meanwhile; return all that went."""
        fleet = self._order.fleet
        known = dict.fromkeys(announced(fleet, erasure) if plan.before else ())
        went, left = dict[str, list[Gone]](), list[Collected]()
        for _ in range(ROUNDS):
            self._check_held()
            new = [one for rows in plan.gone.values() for one in rows]
            announce(fleet, erasure, (one for one in new if one not in known))
            for one in new:
                known[one] = None
                went.setdefault(one.ref, []).append(one)
            left = self._purge(plan, erasure, known)
            if not left:
                self._conclude(erasure, known)
                return plan._replace(gone=went)
            plan = self._there(plan.claims, plan.before)
        raise Incomplete(
            f"{len(left):,} pieces came while the tenant {self._order.tenant!r} was erased, the"
            f" first {left[0].where}: have its producers stop, and run it again"
        )

    def _conclude(self, erasure: Erasure, known: Iterable[Gone]) -> None:
        self._check_held()
        erasure.refs, erasure.complete = len({one.ref for one in known}), True
        conclude(self._order.fleet, erasure)

    def _purge(self, plan: Plan, erasure: Erasure, known: Iterable[Gone]) -> list[Collected]:
        """Purge what is planned; return what is left of the tenant then."""
        looked = time.monotonic()
        for piece in self.pieces(plan, dry_run=False):
            erasure.counts[piece.kind] = erasure.counts.get(piece.kind, 0) + 1
            erasure.size_bytes += piece.size_bytes
            if time.monotonic() - looked > _LOOK_EVERY_S:
                self._check_held()
                looked = time.monotonic()
        return self._left(plan.claims, known)

    def _left(self, claims: Claims, known: Iterable[Gone]) -> list[Collected]:
        self._add_orphans(claims)
        claims.refs -= claims.kept.keys()
        digests = {one.checksum.partition(":")[2] for one in known}
        pieces = (
            piece
            for store in self._order.stores.values()
            for piece in store.purge(claims.refs, dry_run=True)
        )
        return [one for one in pieces if one.ref in claims.refs or one.where[-64:] in digests]

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Hold the tenant for the block. Raises `Held` where another erasure does."""
        order = self._order
        with ExitStack() as held:
            for one in self._relayed:
                hold = Hold(
                    one.notify.client, one.keys, order.tenant, reason=order.reason, by=order.by
                )
                held.enter_context(_taken(hold, one.notify.url, over=order.over))
                self._holds.append((hold, one.notify.url))
            yield

    def _check_held(self) -> None:
        """Raise `Incomplete` where the tenant is not held any more: its events are published."""
        for hold, url in self._holds:
            with translated(url):
                if not hold.is_kept():
                    raise Incomplete(
                        f"the tenant {self._order.tenant!r} is held by this run no longer: another"
                        " run has continued it, or Redis lost its pause; not all is said to be"
                        " erased: run it again"
                    )

    # --- what there is ------------------------------------------------------------------------

    def _events(self, archives: Iterable[ArchiveHistory]) -> Iterator[Mapping[bytes, bytes]]:
        """Yield the fields of every entry, live ones and archived ones."""
        for one in self._order.asked:
            yield from one.pins.events()
        for archive in archives:
            for stream in (archive.streams.notifications, archive.streams.dead):
                for entry in archive.entries(stream):
                    yield entry.fields
            newest = archive.checkpoint(LAST)
            yield from (of_line(one.line).fields for one in (newest.keyed() if newest else ()))

    def _archives(self) -> Iterator[ArchiveHistory]:
        """Yield all archives in the fleet's store, also of logs that are gone."""
        census = [one.registrar.take() for one in self._order.asked]
        names = {text_of(name) for one in census for name in one.notifications}
        keeper = keeper_of(self._order.fleet)
        names.update(log.stream for log in (registered(keeper) if keeper else ()))
        for name in sorted(names):
            streams = Streams.of([Keys.of("", name)])._replace(control=())
            archive = archive_in(self._order.fleet, streams)
            if archive:
                yield archive

    def _add_orphans(self, claims: Claims) -> None:
        for store in self._order.stores.values():
            if Capability.LIST in capabilities(store):
                claims.add_orphans(store)

    def _there(self, claims: Claims, before: Erasure | None) -> Plan:
        gone = {ref: dict[Gone, None]() for ref in sorted(claims.refs)}
        for store in self._order.stores.values():
            for one in _versions(store, gone, claims):
                gone[one.ref][one] = None
        refs = [ref for ref in gone if ref not in claims.kept]
        return Plan({ref: list(gone[ref]) for ref in refs if gone[ref]}, refs, claims, before)


def _versions(store: VersionedStore, refs: Iterable[str], claims: Claims) -> Iterator[Gone]:
    """Yield the versions of refs; what the store cannot tell from another ref is kept."""
    if Capability.MANY in capabilities(store):
        for one in versions_of(store, refs):
            yield from _gone_of(one)
        return
    for ref in refs:
        try:
            yield from versions_at(store, ref)
        except InvalidRef as error:
            claims.kept[ref] = str(error)


def _gone_of(one: Listed) -> list[Gone]:
    if one.error:
        return [Gone(one.ref, "", "", 0)]
    return [Gone(one.ref, *version[:2], sum(version[2:4])) for version in one.versions]


@contextmanager
def _taken(hold: Hold, url: str, *, over: bool) -> Iterator[None]:
    with translated(url):
        hold.take(over=over)
    try:
        yield
    finally:
        with translated(url):
            hold.release()


def versions_at(store: VersionedStore, ref: str) -> list[Gone]:
    """Return the versions of a ref, none where it is absent.

    Raises `store.InvalidRef` where the store cannot tell it from another, and `store.StoreError`.
    """
    try:
        if Capability.LIST in capabilities(store):
            return _gone_of(Listed(ref, tuple(store.versions(ref))))
        if not list(store.purge([ref], dry_run=True)):
            return []
        with open_reader(store, ref, {}) as reader:
            digest, size = hashlib.sha256(), len(reader.manifest)
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
            checksum = f"sha256:{digest.hexdigest()}"
            return [Gone(ref, checksum, checksum_of(reader.manifest), size)]
    except NotFound:
        return []
    except Corrupt:
        return [Gone(ref, "", "", 0)]


def under_way(tenant: str, found: Sequence[Unended]) -> str:
    """Say which events have not ended, and how to wait."""
    first = found[0]
    count = f"{len(found)} events" if len(found) < MOST_SHOWN else f"{MOST_SHOWN} events or more"
    return (
        f"{count} of the tenant {tenant!r} have not ended, first {first.event_id!r}"
        f" ({first.origin}): {first.why}; wait (`sidecar wait`, `sidecar status`), and run it again"
    )

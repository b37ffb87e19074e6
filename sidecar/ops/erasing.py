"""A tenant leaves: all of its artifacts go, from the fleet's store and from the producer's.

In this order, each step of which may be the last one before a crash; done again it does the rest:

1. The tenant is paused wherever its events may come from: nothing of it is published from then on.
2. Its events must have ended, or nothing goes: a notification would name what is not there.
3. Its refs are found. All streams and archives are read, and the stores' corner of the tenant.
4. What goes is put on record in the fleet's store, for good: a reader that resolves it is told.
5. The producer's store is emptied, then the fleet's: in the other order an event that comes again
   would find its artifact.
6. Both are looked at again; the end is put on record, and the tenant continues.

Who was killed leaves the tenant paused, by a reason that the next run knows as its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from sidecar.errors import Incomplete, SidecarError, UsageError
from sidecar.history.archive import ArchiveHistory, archive_in
from sidecar.history.contract import Streams
from sidecar.history.rows import of_line
from sidecar.ops.asking import Asked, check_all_asked, to_ask
from sidecar.ops.claims import Claims
from sidecar.ops.underway import Relayed, Unended, relayed, waiting
from sidecar.redis.census import text_of
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys
from sidecar.redis.tenants import pause_tenant, read_paused, resume_tenant
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
    NotFound,
    VersionedStore,
    capabilities,
    checksum_of,
)

OURS: Final = "erase: "
"""How the reason begins by which an erasure pauses a tenant."""
MOST_SHOWN: Final = 5


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
    kept: dict[str, str]
    """Refs that stay, and why."""
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
            for store in order.stores.values():
                if Capability.LIST in capabilities(store):
                    order.tell("looking at the tenant's corner of the stores")
                    claims.add_orphans(store)
            order.tell("reading what others' events name")
            claims.spare(lambda: self._events(archives))
            gone = {ref: list(self._versions(ref, claims)) for ref in sorted(claims.refs)}
        if not (claims.refs or claims.kept or records):
            raise SidecarError(
                f"no event and no ref that is known here is of the tenant {order.tenant!r}: check"
                " its name; with --tenant-scope what was put and never announced is found, too"
            )
        refs = [ref for ref in gone if ref not in claims.kept]
        return Plan({ref: gone[ref] for ref in refs if gone[ref]}, refs, claims.kept, before)

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
                    self._erase(plan, erasure)
            return plan, erasure

    def pieces(self, plan: Plan, *, dry_run: bool) -> Iterator[Collected]:
        """Purge the stores; yield each piece."""
        for url, store in self._order.stores.items():
            self._order.tell(f"emptying {url}")
            yield from store.purge(plan.refs, dry_run=dry_run)

    # --- steps --------------------------------------------------------------------------------

    def _begun(self) -> Erasure:
        order = self._order
        at = rfc3339(time.time_ns() // 1000)
        return Erasure(at, order.by, order.tenant, order.reason, list(order.stores))

    def _erase(self, plan: Plan, erasure: Erasure) -> None:
        fleet = self._order.fleet
        known = set(announced(fleet, erasure)) if plan.before else set()
        new = (one for rows in plan.gone.values() for one in rows if one not in known)
        announce(fleet, erasure, new)
        for piece in self.pieces(plan, dry_run=False):
            erasure.counts[piece.kind] = erasure.counts.get(piece.kind, 0) + 1
            erasure.size_bytes += piece.size_bytes
        self._check_gone(plan)
        erasure.refs = len({one.ref for one in announced(fleet, erasure)})
        erasure.complete = True
        conclude(fleet, erasure)

    def _check_gone(self, plan: Plan) -> None:
        """Look at the stores again. Raises `Incomplete` where anything of the tenant is left."""
        refs = set(plan.refs)
        digests = {one.checksum.partition(":")[2] for rows in plan.gone.values() for one in rows}
        left = [
            piece
            for piece in self.pieces(plan, dry_run=True)
            if piece.ref in refs or piece.where[-64:] in digests
        ]
        if left:
            raise Incomplete(
                f"{len(left):,} pieces came while the tenant {self._order.tenant!r} was erased, the"
                f" first {left[0].where}: have its producers stop, and run it again"
            )

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Pause the tenant for the block, unless a person has."""
        tenant, why = self._order.tenant, f"{OURS}{self._order.reason}"
        ours: list[Relayed] = []
        try:
            for one in self._relayed:
                with translated(one.notify.url):
                    paused = read_paused(one.notify.client, one.keys).tenants.get(tenant)
                    if paused is None or paused.reason.startswith(OURS):
                        ours.append(one)
                        pause_tenant(one.notify.client, one.keys, tenant=tenant, reason=why,
                                     by=self._order.by, now=_now())  # fmt: skip
            yield
        finally:
            for one in ours:
                with translated(one.notify.url):
                    resume_tenant(one.notify.client, one.keys, tenant=tenant, reason=why,
                                  by=self._order.by, now=_now())  # fmt: skip

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
            yield from (of_line(row).fields for _, row in (newest.keyed() if newest else ()))

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

    def _versions(self, ref: str, claims: Claims) -> Iterator[Gone]:
        """Yield the versions of a ref in all stores, each once."""
        found: dict[Gone, None] = {}
        for store in self._order.stores.values():
            try:
                found.update(dict.fromkeys(versions_of(store, ref)))
            except InvalidRef as error:
                claims.kept[ref] = str(error)
        yield from found


def versions_of(store: VersionedStore, ref: str) -> list[Gone]:
    """Return the versions of a ref, none where it is absent.

    Raises `store.InvalidRef` where the store cannot tell it from another, and `store.StoreError`.
    """
    try:
        if Capability.LIST in capabilities(store):
            return [Gone(ref, *version[:2], sum(version[2:4])) for version in store.versions(ref)]
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


def _now() -> str:
    return rfc3339(time.time_ns() // 1000)

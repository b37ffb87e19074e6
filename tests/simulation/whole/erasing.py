"""Tenants that are erased in a whole run: by the real command's room, and what must hold of it.

The stores tell each version that goes, at the moment that it does; nothing here is the product's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.ops.erasing import EraseOrder, Erasing
from sidecar.redis.holding import OURS
from sidecar.wire.erasures import ROOT, Erasures
from sidecar.wire.event import RESERVED
from sidecar.wire.scope import Scope
from tests.simulation.invariants import Violation
from tests.simulation.whole.depot import DepotStore
from tests.simulation.whole.kinds import FORGETTING
from tests.simulation.whole.plan import LONG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.ops.asking import Asked
    from tests.simulation.schedule import Process
    from tests.simulation.stores import Pin
    from tests.simulation.whole.depot import Depot
    from tests.simulation.whole.truth import Entry, Note
    from tests.simulation.whole.world import Fleet, World

SCOPE: Final = ("rows/{tenant}/*", "stacks/{tenant}/*")
DIES: Final = 0.3
"""So many runs are killed, at any of their steps."""
TRIES: Final = 3
"""So often a run that was killed is continued before a person lifts its pause by force."""
MARK: Final = b'"erasure":'
"""Is in what is noted of a pause that an erasure has."""


def tenant_of(ref: str) -> str:
    """Return whose a ref is, as producers here name them; empty of nobody's."""
    kind, _, rest = ref.partition("/")
    return rest.partition("/")[0] if kind in ("rows", "stacks") else ""


class Erased:
    """What was erased, and what must hold of it. Its checks raise `Violation`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gone: dict[tuple[Depot, Pin], tuple[int, int]] = {}
        """When its erasure had planned, and when the version went; the last time."""
        self._done: dict[tuple[Depot, str], int] = {}
        """When the tenant was said to be erased last, by the fleet's store."""
        self.tries: dict[tuple[bytes, bytes], int] = {}
        """How often a pause that was left was taken over, by key and tenant."""

    def went(self, order: Order, depot: Depot, pins: set[Pin]) -> None:
        """Look at versions that a step of a purge took."""
        number = self._world.oracle.truth.tick()
        on_record = Erasures(cast("Any", order.fleet.store.inner))
        for pin in pins:
            _expect(tenant_of(pin[0]) == order.tenant, "G9", f"{pin} went with {order.tenant!r}")
            told = on_record.find(pin[0], pin[1]) is not None
            _expect(told, "G10", f"{pin} goes, and no record says so")
            self._gone[depot, pin] = order.planned, number

    def said_done(self, order: Order) -> None:
        """Nothing of a tenant is left, but what came after the last look."""
        for depot in (order.fleet.store, *(one.source for one in order.fleets)):
            looked = order.looked.get(depot, order.planned)
            for pin in depot.pins():
                if tenant_of(pin[0]) == order.tenant and depot.put_at[pin] < looked:
                    _expect(
                        not order.scope and not self._is_named(order, pin),
                        "erased", f"{order.tenant!r} is said to be, and {depot.name} has {pin}",
                    )  # fmt: skip
        self._done[order.fleet.store, order.tenant] = self._world.oracle.truth.tick()

    def _is_named(self, order: Order, pin: Pin) -> bool:
        """Tell whether an entry named a ref when the erasure planned, and does now."""
        truth, streams = self._world.oracle.truth, order.streams()
        found: list[Any] = [*truth.entries, *truth.letters, *truth.notes]
        return any(
            one.present and one.number < order.planned and one.place[0] in streams
            and getattr(one, "raw", True)  # the letter of a lost entry names nothing
            and (entry := getattr(one, "entry", one)) and entry.sent.pin
            and entry.sent.pin[0] == pin[0] and entry.sent.tenant == order.tenant
            for one in found
        )  # fmt: skip

    def came(self, depot: Depot, pin: Pin) -> None:
        """An artifact comes back to a fleet only for an event that had not ended."""
        done = self._done.get((depot, tenant_of(pin[0])))
        if done is None:
            return
        truth = self._world.oracle.truth
        naming = (one for one in truth.entries if one.sent.pin == pin)
        ends = ([end.number for end in truth.ends_of(one)] for one in naming)
        _expect(
            any(not ended or min(ended) > done for ended in ends) or self._is_repeated(),
            "erased", f"{pin} is back in {depot.name}, and no event of it waited",
        )  # fmt: skip

    def _is_repeated(self) -> bool:
        """Tell whether what has ended may be read again, or held by nobody: others made it so."""
        world = self._world
        forgets = not FORGETTING.isdisjoint(world.faults.did)
        return forgets or world.plan.dedup_window_s < LONG_S

    def excuses(self, note: Note) -> bool:
        """Tell whether a notification's artifact went with its tenant, and that is on record."""
        pin = note.entry.sent.pin if note.entry else None
        depot = self._world.oracle.fleets[note.place[0]].store
        planned, went = self._gone.get((depot, pin), (0, 0)) if pin else (0, 0)
        if pin is None or note.number > went:
            return False
        told = Erasures(cast("Any", depot.inner)).find(pin[0], pin[1]) is not None
        return told and (note.number < planned or not FORGETTING.isdisjoint(self._world.faults.did))

    def took(self, depot: Depot, pin: Pin) -> bool:
        """Tell whether a version went with its tenant at any time."""
        return (depot, pin) in self._gone

    def may_lack(self, fleet: Fleet, entry: Entry) -> bool:
        """Tell whether an event may die for its artifact: it came after its tenant was paused."""
        pin = entry.sent.pin
        planned, _ = self._gone.get((fleet.source, pin), (0, 0)) if pin else (0, 0)
        return bool(planned) and (entry.number > planned or self._is_repeated())

    def lifted(self, erasing: Erasing, order: Order) -> None:
        """The pause of a run that is over is gone."""
        for hold, _ in erasing._holds:
            noted = order.fleet.notify.server.data.get(hold._keys.paused.encode()) or {}
            found = noted.get(order.tenant.encode(), b"") if type(noted) is dict else b""
            left = MARK not in found and OURS.encode() in found  # as if a person had paused it
            _expect(
                not left and hold._id.encode() not in found,
                "pause",
                f"{order.tenant!r} was erased, and is paused: {found!r}",
            )


def _expect(holds: bool, guarantee: str, otherwise: str) -> None:
    if not holds:
        raise Violation(f"{guarantee}: {otherwise}")


class Order:
    """One run of the command, as the oracle follows it."""

    def __init__(self, world: World, fleets: Sequence[Fleet], tenant: str, *, scope: bool) -> None:
        """`scope`: whether it is told which refs are a tenant's."""
        self._world, self.fleets, self.tenant, self.scope = world, fleets, tenant, scope
        self.planned = 0
        """When it began to plan, its tenant paused."""
        self.looked: dict[Depot, int] = {}
        """When it looked last at what is left, by store."""

    @property
    def fleet(self) -> Fleet:
        """The fleet whose store has the record."""
        return self.fleets[0]

    def streams(self) -> set[bytes]:
        """Return all streams that are asked."""
        asked = self.fleets
        return {key for one in asked for key in (*one.control_streams, one.notifications, one.dead)}

    def listed(self, depot: Depot, prefix: str) -> None:
        """Note that it asked what there is."""
        number = self._world.oracle.truth.tick()
        if prefix == ROOT:
            self.planned = self.planned or number
        elif not prefix.startswith(RESERVED):
            self.looked[depot] = number


class Emptied:
    """A store as an erasure has it. What only reads never waits: archives are read in threads."""

    def __init__(self, world: World, depot: Depot, order: Order) -> None:
        self._world, self._depot, self._order = world, depot, order
        self._way = DepotStore(world, depot)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._depot.inner, name)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`."""
        self._order.listed(self._depot, prefix)
        return self._depot.inner.list(prefix)

    def put(self, ref: str, data: bytes, manifest: bytes) -> None:
        """Put a record."""
        is_end = ref.count("/") == ROOT.count("/") + 1 and not ref.endswith("~begun")
        self._way.around(lambda: None)
        if is_end:
            self._world.guarded(self._world.oracle.erased.said_done)(self._order)
        self._depot.inner.put(ref, data, manifest)

    def delete(self, ref: str, **how: Any) -> bool:
        """Delete a record."""
        return self._way.around(lambda: self._depot.inner.delete(ref, **how))

    def purge(self, refs: Iterable[str], *, only: Any = None, dry_run: bool = False) -> Any:
        """Purge, a step at a time."""
        world, depot = self._world, self._depot
        if dry_run and not self._order.scope:
            self._order.listed(depot, "")
        pieces = depot.inner.purge(list(refs), only=only, dry_run=dry_run)
        while True:
            self._way.around(lambda: None)
            before = depot.pins()
            piece = next(pieces, None)
            world.guarded(world.oracle.erased.went)(self._order, depot, before - depot.pins())
            if piece is None:
                return
            yield piece


def erase(
    world: World, fleets: Sequence[Fleet], process: Process, asked: Sequence[Asked], tenant: str,
    *, over: bool,
) -> None:  # fmt: skip
    """Erase a tenant as `sidecar tenant erase` does. Raises as that does."""
    order = Order(world, fleets, tenant, scope=world.chance.random() < 0.6)
    emptied = partial(Emptied, world, order=order)
    others = {f"source{n}:": cast("Any", emptied(one.source)) for n, one in enumerate(fleets)}
    erasing = Erasing(EraseOrder(
        tenant, "it left", process.name, asked, cast("Any", emptied(order.fleet.store)), others,
        "fleet:", Scope(SCOPE if order.scope else ()), over=over,
    ))  # fmt: skip
    if world.faults.on and world.chance.random() < DIES:
        world.dying[process] = world.chance.randint(0, 120)
    world.note("erases", process.name, tenant, order.scope, over)
    plan, erasure = erasing.run()
    world.note("erased", process.name, tenant, sorted(plan.gone), erasure.counts)
    world.guarded(world.oracle.erased.lifted)(erasing, order)


def some_tenant(world: World) -> str:
    """Return a tenant that has sent something."""
    sent = [one.sent.tenant for one in world.oracle.truth.entries if one.sent.tenant]
    return world.chance.choice(sent or ["t"])


def left_paused(fleet: Fleet) -> Iterator[tuple[bytes, bytes]]:
    """Yield each pause that an erasure has: its key, and the tenant."""
    for keys in fleet.keys:
        noted = fleet.notify.server.data.get(keys.paused.encode()) or {}
        for tenant, note in list(noted.items()) if type(noted) is dict else ():
            if MARK in note:
                yield keys.paused.encode(), tenant

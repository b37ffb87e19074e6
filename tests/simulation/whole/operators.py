"""Operators: the real commands' rooms, at any moment, against servers that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import redis

from sidecar.errors import SidecarError
from sidecar.history.archive import ArchiveHistory
from sidecar.ops.asking import Asked, check_all_asked, to_ask
from sidecar.ops.audit import Audit, AuditOrder, Culprit
from sidecar.ops.pins import CheckedPins, Pins
from sidecar.ops.predictions import Predictions
from sidecar.ops.redrive import RedriveOrder, Redriver
from sidecar.ops.redrive import Result as Redriven
from sidecar.ops.repair import Repair, RepairOrder
from sidecar.ops.status import collect
from sidecar.ops.sweeping import sweep
from sidecar.redis import halts, tenants
from sidecar.redis.census import Named, Registrar
from sidecar.redis.client import Side
from sidecar.redis.letters import ALL
from sidecar.wire.event import RESERVED
from sidecar.wire.keeping import KeepRule, Published
from sidecar.wire.removals import removals
from sidecar.worker.pipeline import Rules
from sidecar.worker.retaining import Place, SweepOrder
from store import Retention, StoreError
from store.many import delete_each
from tests.simulation.schedule import Process
from tests.simulation.streams import parse_id
from tests.simulation.whole.depot import Depot, DepotStore
from tests.simulation.whole.erasing import erase, some_tenant
from tests.simulation.whole.kinds import Deed

from typing import TYPE_CHECKING, Any, cast  # isort: skip

if TYPE_CHECKING:
    from tests.simulation.whole.world import Fleet, World

    Does = Callable[[World, Fleet, Process], None]

EXPECTED = (SidecarError, redis.RedisError, StoreError)
"""What an operator's command may end with: it says what is wrong, and changes nothing more."""


class Operators:
    """Does now and then what the seed lets operators do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def run(self) -> None:
        """Do it until the faults end."""
        world = self._world
        deeds = [deed for deed in _DOES if deed in world.faults.deeds]
        while deeds and world.faults.on:
            world.schedule.wait(world.chance.expovariate(1 / 0.8))
            if world.faults.on:
                self.begin(world.chance.choice(deeds))

    def begin(self, deed: Deed, does: Does | None = None) -> None:
        """Let an operator begin; he continues when the faults have ended."""
        world = self._world
        self._count += 1
        process = Process(f"{deed.name.lower()}{self._count}")
        fleet = world.chance.choice(world.fleets)
        world.faults.count(deed)
        world.note("deed", deed.name)

        def body() -> None:
            world.acting[process] = world.schedule.now
            try:
                (does or _DOES[deed])(world, fleet, process)
            except EXPECTED as error:
                world.note("operator", process.name, str(error))
            finally:
                world.acting.pop(process, None)

        world.schedule.spawn(process, body)


def sides(world: World, fleet: Fleet, process: Process) -> tuple[Side, Side]:
    """Return a way to both of a fleet's servers."""
    control = Side(world.client(fleet.control, process), f"redis://{fleet.control.name}")
    return control, Side(world.client(fleet.notify, process), f"redis://{fleet.notify.name}")


def audit(
    world: World, fleet: Fleet, process: Process, sample: int | None = None
) -> tuple[list[Culprit], Audit]:
    """Audit a fleet as `sidecar audit` does."""
    control, notify = sides(world, fleet, process)
    store = cast("Any", DepotStore(world, fleet.store))
    order = AuditOrder(fleet.keys, sample=sample, dedup_window_s=world.plan.dedup_window_s)
    auditing = Audit(control, notify, store, order)
    return list(auditing.run()), auditing


def _pause(world: World, fleet: Fleet, process: Process) -> None:
    client, keys = world.client(fleet.notify, process), world.chance.choice(fleet.keys)
    halts.pause(client, keys, reason="by hand", by="op", now="now")
    world.schedule.wait(world.chance.uniform(0.0, 2.0))
    halts.resume(client, keys, reason="continue", by="op", now="now")


def _pause_tenant(world: World, fleet: Fleet, process: Process) -> None:
    client, keys = world.client(fleet.notify, process), world.chance.choice(fleet.keys)
    sent = [one.sent.tenant for one in world.oracle.truth.entries if one.sent.tenant]
    tenant = world.chance.choice(sent or ["t"])
    tenants.pause_tenant(client, keys, tenant=tenant, reason="by hand", by="op", now="now")
    world.schedule.wait(world.chance.uniform(0.0, 4.0))
    tenants.resume_tenant(client, keys, tenant=tenant, reason="continue", by="op", now="now")


def _redrive(world: World, fleet: Fleet, process: Process) -> None:
    control, notify = sides(world, fleet, process)
    source = cast("Any", DepotStore(world, fleet.source))
    predictions = Predictions(
        notify.client,
        fleet.keys[0],
        source,
        Rules(),
        fleet=cast("Any", DepotStore(world, fleet.store)),
    )
    order = RedriveOrder([keys.control for keys in fleet.keys], "again", "op", ALL)
    redriver = Redriver(
        control, notify.client, fleet.keys[0], order, predictions,
        archive=lambda: _archive(world, fleet), clock=world.time.monotonic, sleep=world.time.sleep,
    )  # fmt: skip
    for outcome in redriver.all():
        world.note("redriven", outcome.letter, outcome.result.value, outcome.detail)
        if outcome.result is Redriven.REDRIVEN:
            world.guarded(world.oracle.settled)(fleet, outcome.letter)


def _archive(world: World, fleet: Fleet) -> ArchiveHistory | None:
    """Return what was archived. It is read ahead, in a thread, so by a store that never waits."""
    return ArchiveHistory(fleet.store.inner, fleet.streams()) if world.plan.archive else None


def _repair(world: World, fleet: Fleet, process: Process) -> None:
    began = world.oracle.truth.tick()
    did, waited = dict(world.faults.did), world.oracle.waiting(fleet)
    culprits, auditing = audit(world, fleet, process)
    if did == world.faults.did and not auditing.found.forgotten:
        world.guarded(world.oracle.accused)(fleet, waited, culprits)
    control, notify = sides(world, fleet, process)
    source = cast("Any", DepotStore(world, fleet.source))
    store = cast("Any", DepotStore(world, fleet.store))
    order = RepairOrder("audit", "op", archive=_archive(world, fleet))
    repair = Repair(control, notify, fleet.keys, source, store, order)
    for culprit, outcome in repair.of(culprits):
        world.note("repaired", culprit, outcome)
        if outcome.entry:
            stream, _, entry_id = outcome.entry.encode().rpartition(b"/")
            world.repaired.append(((stream, parse_id(entry_id)), began))


def _status(world: World, fleet: Fleet, process: Process) -> None:
    collect(*sides(world, fleet, process), list(fleet.keys))


def collect_garbage(
    world: World, fleets: Sequence[Fleet], process: Process, grace_s: float
) -> None:
    """Collect the store's garbage as `sidecar store gc` does, with the Redis of these fleets.

    It removes nothing unless every log that names the store is among them.
    """
    asked = [_asked(world, fleet, process) for fleet in fleets]
    store = fleets[0].store.inner
    check_all_asked(to_ask(store, ()), asked)
    pins = CheckedPins(cast("Any", store), [one.pins for one in asked], "redis://notify")
    for piece in store.collect(Retention(grace_s=grace_s), pins):
        world.note("collected", piece.ref, piece.where)
        world.guarded(world.oracle.resolvable)()
        world.guarded(world.oracle.current)(fleets[0].store)


def _asked(world: World, fleet: Fleet, process: Process) -> Asked:
    control, notify = sides(world, fleet, process)
    registrar = Registrar(control, notify, Named())
    pins = Pins(control, notify, registrar)
    return Asked(control, notify, registrar, pins, registrar.logs(registrar.take()))


def _collect(world: World, fleet: Fleet, process: Process) -> None:
    if not world.steady:
        return  # a Put may take longer than any grace that a run has time for
    fleets = world.chance.choice(([fleet], world.fleets))
    collect_garbage(world, fleets, process, grace_s=1.0)


class _Recorded:
    """A store from which nothing may go that is not announced."""

    def __init__(self, world: World, depot: Depot) -> None:
        self._world, self._depot = world, depot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._depot.inner, name)

    def delete(self, ref: str, **how: Any) -> bool:
        """Delete, once it is on record."""
        inner = self._depot.inner
        if not ref.startswith(RESERVED):
            begun = sum(not one.complete for one in removals(cast("Any", inner)))
            self._world.guarded(self._world.oracle.on_record)(ref, begun)
        return inner.delete(ref, **how)

    def delete_all(self, refs: Iterable[str], **how: Any) -> Iterator[str]:
        """Delete each, once it is on record."""
        return delete_each(cast("Any", self), refs, unused_s=how.get("unused_s", 0.0))


def _keep(world: World, fleet: Fleet, process: Process) -> None:
    """Follow keep rules in both stores, as a worker does."""
    if not world.steady:
        return  # as for a collection
    control, notify = sides(world, fleet, process)
    rules: dict[str, Any] = {"fleet": [KeepRule.parse("last=1")], "source": Published(1.0, 3.0)}
    for name, depot in (("fleet", fleet.store), ("source", fleet.source)):
        place = Place(name, cast("Any", _Recorded(world, depot)), rules[name], fleet.store.inner)
        needed = world.oracle.needed(fleet, is_source=depot is fleet.source)
        before = {pin for pin in needed if depot.holds(pin)}
        done = sweep(SweepOrder(
            place, control, notify, fleet.keys, 1.0, 10_000, "", process.name, False, lambda: None,
        ))  # fmt: skip
        world.note("retired", name, done)
        world.guarded(world.oracle.kept)(fleet, depot, before)


def _erase(world: World, fleet: Fleet, process: Process) -> None:
    fleets = world.chance.choice(([fleet], [fleet, *(one for one in world.fleets if one != fleet)]))
    asked = [_asked(world, one, process) for one in fleets]
    tenant, over = some_tenant(world), world.chance.random() < 0.5
    erase(world, fleets, process, asked, tenant, over=over)


def erase_again(world: World, fleet: Fleet, tenant: str) -> None:
    """Continue an erasure that was killed, with all fleets."""
    fleets = [fleet, *(one for one in world.fleets if one != fleet)]

    def does(world: World, _: Fleet, process: Process) -> None:
        asked = [_asked(world, one, process) for one in fleets]
        erase(world, fleets, process, asked, tenant, over=True)

    Operators(world).begin(Deed.ERASE, does)


_DOES = {
    Deed.PAUSE: _pause,
    Deed.PAUSE_TENANT: _pause_tenant,
    Deed.REDRIVE: _redrive,
    Deed.REPAIR: _repair,
    Deed.STATUS: _status,
    Deed.COLLECT: _collect,
    Deed.KEEP: _keep,
    Deed.ERASE: _erase,
}

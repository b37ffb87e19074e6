"""The end of a whole run: the faults cease, all has to come to its end, and is judged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.history.archive import ArchiveHistory
from sidecar.ops.audit import Audit
from tests.simulation.invariants import Violation
from tests.simulation.schedule import Process
from tests.simulation.streams import Stream, show_id
from tests.simulation.whole import operators
from tests.simulation.whole.erasing import TRIES, left_paused
from tests.simulation.whole.kinds import Deed
from tests.simulation.whole.oracle import ASIDE
from tests.simulation.whole.people import GARBAGE_S, THEIRS
from tests.simulation.whole.plan import LONG_S
from tests.simulation.whole.producers import LATE_S
from tests.simulation.whole.truth import Gone

if TYPE_CHECKING:
    from tests.simulation.whole.truth import Entry
    from tests.simulation.whole.worker import WholeWorker
    from tests.simulation.whole.world import Fleet, World

PATIENCE_S: Final = 60.0
"""Of simulated time, for all to be finished once the faults have ended."""
HOPELESS_S: Final = 6.0
"""After so long a full server has what is finished trimmed, if it lets go of anything."""
LOOK_EVERY_S: Final = 0.25
LATER_S: Final = 100_000.0
OF_SHORT_WINDOWS: Final = frozenset({"two_ends", "twice", "out_of_order"})
"""What an audit says of events that were sent, or delivered, again once the index forgot them."""
TIMES_FROM: Final = 10**11, 0
"""IDs below are no times."""
KEPT: Final = 3
"""Entries that the policy `length=3` keeps."""


class Nowhere:
    """Stands in for `scratch`: an audit of a run lies in memory."""

    @staticmethod
    @contextmanager
    def directory(_prefix: str) -> Iterator[Path]:
        """Return no directory."""
        yield Path("nowhere")


class InMemory:
    """Stands in for `sqlite3`."""

    Connection = sqlite3.Connection

    @staticmethod
    def connect(_: object, **options: Any) -> sqlite3.Connection:
        """Return a database in memory."""
        opened: sqlite3.Connection = sqlite3.connect(":memory:", **options)
        return opened


def finish(world: World) -> None:
    """End the faults, have everything finished in time, and judge what is left."""
    _end_faults(world)
    _drain(world)
    _operate(world)
    _drain(world)
    _rest(world)
    _probe(world)
    _drain(world)
    _read_up(world)
    if Deed.GARBAGE in world.faults.did:
        world.wait(GARBAGE_S)  # until whoever wrote it has undone it
    _settle(world)
    _judge(world)


def _end_faults(world: World) -> None:
    world.faults.on = False
    world.note("the faults end")
    for box in world.boxes:
        box.wire.away_until = box.busy_until = 0.0
        if Deed.FULL not in world.lasting:
            box.limit_bytes = None
        if Deed.DENIED not in world.lasting:
            box.denied.clear()
    for fleet in world.fleets:
        for depot in (fleet.source, fleet.store):
            depot.hangs_until = min(depot.hangs_until, world.schedule.now)
            depot.away_until = min(depot.away_until, world.schedule.now)
        _undo(world, fleet)


def _undo(world: World, fleet: Fleet) -> None:
    """Let people undo what they did to a fleet's streams, as far as that can be undone."""
    there = fleet.control.server.data
    for key in fleet.control_streams:
        aside = key + ASIDE
        if aside in there and key not in there:
            world.people(fleet.control, b"RENAME", aside, key)
            stream = there[key]
            ids = stream.ids if isinstance(stream, Stream) else ()
            world.oracle.truth.come_back(aside, key, ids)
    for box, key in fleet.places():
        if isinstance(box.server.data.get(key), Stream):
            world.people(box, b"XGROUP", b"DESTROY", key, THEIRS)


def _drain(world: World) -> None:
    slack_s = world.clock_back_s + world.plan.chaos_s + world.plan.retry_budget_s
    slack_s += len(world.oracle.unfinished()) * world.plan.retry_budget_s  # of a tenant, in a row
    deadline = world.schedule.now + PATIENCE_S + slack_s
    hopeless_at = world.schedule.now + HOPELESS_S
    while not _is_drained(world):
        for fleet in world.fleets:
            _have_workers(world, fleet)
            _resume(world, fleet)
        if world.schedule.now > hopeless_at and Deed.FULL in world.lasting:
            hopeless_at = world.schedule.now + HOPELESS_S
            if not _could_trim(world):
                _make_room(world)
        if world.schedule.now > deadline:
            raise Violation(_what_waits(world))
        world.wait(LOOK_EVERY_S)


def _operate(world: World) -> None:
    """Let operators redriven and repair once more, now that what was late is there."""
    every = (Deed.REDRIVE, Deed.REPAIR, Deed.ERASE)
    deeds = [one for one in every if one in world.faults.deeds]
    if deeds:
        world.wait(LATE_S)
    for deed in deeds:
        operators.Operators(world).begin(deed)
        world.wait(LOOK_EVERY_S)


def _make_room(world: World) -> None:
    """Give full servers memory: nothing but an operator can help here."""
    world.lasting.discard(Deed.FULL)
    for box in world.boxes:
        box.limit_bytes = None


def _have_workers(world: World, fleet: Fleet) -> None:
    """Start a worker for streams that nobody serves: the others have to do."""
    for keys in fleet.shares(apart=world.plan.apart):
        serving = [
            worker
            for worker in world.workers.values()
            if worker.fleet is fleet
            and worker.keys == keys
            and not worker.stop.is_set()
            and worker.process not in world.cut_off
        ]
        if not serving:
            world.start_worker(fleet, keys)


def _resume(world: World, fleet: Fleet) -> None:
    for keys in fleet.keys:
        halt = fleet.notify.server.data.get(keys.halt.encode())
        if isinstance(halt, dict) and b"reason" in halt:
            world.people(fleet.notify, b"HDEL", keys.halt.encode(), b"reason", b"since", b"by",
                         b"dead_in_a_row")  # fmt: skip
        paused = fleet.notify.server.data.get(keys.paused.encode())
        for tenant in list(paused) if isinstance(paused, dict) else ():
            if _is_continued(world, fleet, keys.paused.encode(), tenant):
                continue
            for key in (keys.paused, keys.rows):
                world.people(fleet.notify, b"HDEL", key.encode(), tenant)
            world.people(fleet.notify, b"HINCRBY", keys.halt.encode(), b"tenants", b"1")


def _is_continued(world: World, fleet: Fleet, key: bytes, tenant: bytes) -> bool:
    """Tell whether a pause is an erasure's that is at it; one that was killed is continued."""
    if (key, tenant) not in set(left_paused(fleet)):
        return False
    if any(process.name.startswith(Deed.ERASE.name.lower()) for process in world.acting):
        return True
    tries = world.oracle.erased.tries
    tries[key, tenant] = tries.get((key, tenant), 0) + 1
    if tries[key, tenant] <= TRIES:
        operators.erase_again(world, fleet, tenant.decode())
        return True
    return False


def _is_drained(world: World) -> bool:
    return (
        not world.producing.tasks
        and not world.acting
        and not any(world.oracle.pending(fleet) for fleet in world.fleets)
        and not world.oracle.unfinished()
    )


def _what_waits(world: World) -> str:
    pending = [world.oracle.pending(fleet) for fleet in world.fleets]
    unfinished = [str(entry) for entry in world.oracle.unfinished()]
    states = sorted({state for one in world.workers.values() for state in one.states.values()})
    producing = len(world.producing.tasks)
    return (
        f"progress: {pending} pending, unfinished: {unfinished}, {producing} producers and"
        f" {len(world.acting)} operators still at it; states: {states}"
    )


def _rest(world: World) -> None:
    """Have what is finished trimmed, though no event comes any more."""
    if Deed.GARBAGE in world.faults.did:
        world.wait(GARBAGE_S)
    deadline = world.schedule.now + _settled_in_s(world)
    while left := next((said for one in world.fleets if (said := _overlong(world, one))), ""):
        if world.schedule.now > deadline:
            raise Violation(f"{left}, and nothing comes")
        for fleet in world.fleets:
            _have_workers(world, fleet)
            _resume(world, fleet)  # a late tenure may halt on what had ended in a tail that is lost
        world.wait(LOOK_EVERY_S)


def _probe(world: World) -> None:
    """Let one more event come on every stream: who is idle must read it, too."""
    for producer in world.producers:
        world.schedule.spawn(world.producing, producer.probe)
    world.wait(LOOK_EVERY_S)


def _read_up(world: World) -> None:
    """Let every controller read what there is."""
    deadline = world.schedule.now + 30.0 + world.clock_back_s
    while lacking := [one for one in world.controllers if one.lacks()]:
        if world.schedule.now > deadline:
            raise Violation(
                f"feed: {lacking[0].process} never read {[str(n) for n in lacking[0].lacks()]}"
            )
        world.wait(LOOK_EVERY_S)


def _settle(world: World) -> None:
    """Give background work the time that it needs: trimming, archiving."""
    deadline = world.schedule.now + _settled_in_s(world)
    while _unsettled(world) and world.schedule.now < deadline:
        for fleet in world.fleets:  # the last one may have been told to stop
            _have_workers(world, fleet)
        world.wait(LOOK_EVERY_S)


def _settled_in_s(world: World) -> float:
    return 4 * world.plan.lease_s + 3.0


def _unsettled(world: World) -> str:
    """Say what background work has yet to do; empty when it is done."""
    for fleet in world.fleets:
        found = _overlong(world, fleet) or _not_archived(world, fleet) or _unfair(world, fleet)
        if found:
            return found
    return next((left for one in _serving(world) if (left := one.leftovers())), "")


def _serving(world: World) -> list[WholeWorker]:
    return [one for process, one in world.workers.items() if process not in world.cut_off]


def _judge(world: World) -> None:
    world.oracle.resolvable()
    world.oracle.refs()
    world.oracle.repaired()
    if left := _unsettled(world):
        raise Violation(left)
    for process in [*world.workers, *(one.process for one in world.controllers)]:
        world.schedule.kill(process)
    world.wait(0.0)
    accused = [found for fleet in world.fleets for found in _audit(world, fleet)]
    _collect(world)
    if world.plan.dedup_window_s < LONG_S:
        accused = [one for one in accused if one.problem not in OF_SHORT_WINDOWS]
    if accused and world.oracle.knows_all():
        raise Violation(f"audit: nothing is wrong, and the audit says {accused[0]}")


def _could_trim(world: World) -> bool:
    """Tell whether a full server has finished entries that its policy lets go."""
    if world.plan.trim_control == "never" or world.plan.archive:
        return False
    truth = world.oracle.truth
    for fleet in world.fleets:
        for key in fleet.control_streams:
            stream = fleet.control.server.data.get(key)
            if isinstance(stream, Stream) and fleet.group not in stream.groups:
                continue  # nothing of it goes until its group is made, which needs memory
            there = [e for e in truth.entries if e.place[0] == key and e.present]
            if world.plan.trim_control == "age=1s":  # by ID: those that lie ahead are young
                ripe = fleet.control.now_us() // 1000 - 1000, 0
                there = [e for e in there if e.place[1] < ripe]
                if not there or there[-1].place[1] < TIMES_FROM:
                    continue  # such IDs tell no age
            first = next((at for at, e in enumerate(there) if not _has_ended(world, fleet, e)),
                         len(there))  # fmt: skip
            keeps = KEPT if world.plan.trim_control == "length=3" else 0
            if fleet.control.full and min(first, len(there) - keeps) > 0:
                return True
    return False


def _has_ended(world: World, fleet: Fleet, entry: Entry) -> bool:
    """Tell whether an entry has its end; a repeat behind a short window is published once more."""
    is_anew = world.plan.dedup_window_s < LONG_S and world.oracle.waits(fleet, entry)
    return bool(world.oracle.truth.ends_of(entry)) and not is_anew


def _not_archived(world: World, fleet: Fleet) -> str:
    """Say what was trimmed and lies not in the archive, read in either direction."""
    if not world.plan.archive or Deed.ROT in world.faults.did:
        return ""
    one = fleet.keys[0]
    streams = fleet.streams()
    archive = ArchiveHistory(fleet.store.inner, streams)
    for stream in (one.notifications, *streams.control):
        forwards = [entry.id for entry in archive.entries(stream)]
        backwards = [entry.id for entry in archive.entries_back(stream)]
        if forwards != backwards[::-1]:
            return f"archive: {stream} has {forwards}, and read backwards {backwards[::-1]}"
        there = set(forwards)
        for record in world.oracle.truth.all():
            entry_id = show_id(record.place[1]).decode()
            if record.place[0] != stream.encode() or record.gone is not Gone.PRODUCT:
                continue
            if entry_id not in there:
                return f"archive: {record} was trimmed, and is not in it: {forwards}"
    return ""


def _unfair(world: World, fleet: Fleet) -> str:
    """Say who owns more than a fair share of a fleet's streams."""
    if world.plan.apart or world.cut_off or world.lasting or Deed.GARBAGE in world.faults.did:
        return ""
    owned = {
        str(one.process): sorted(one.share.owned)
        for one in world.workers.values()
        if one.fleet is fleet and not one.stop.is_set()
    }
    counts = [len(streams) for streams in owned.values()]
    if sum(counts) == len(fleet.keys) and max(counts) - min(counts) <= 1:
        return ""
    return f"share: the workers own {owned}"


def _overlong(world: World, fleet: Fleet) -> str:
    """Hold the streams against their policies: what nobody needs goes."""
    if any(one.fleet is fleet for p in world.cut_off for one in [world.workers.get(p)] if one):
        return ""
    policy = world.plan.trim_control
    if policy != "length=3" or world.plan.archive or Deed.GARBAGE in world.faults.did:
        return ""
    for key in fleet.control_streams:
        denied = (b"XTRIM", key) in fleet.control.denied or (b"XTRIM", None) in fleet.control.denied
        stream = fleet.control.server.data.get(key)
        if isinstance(stream, Stream) and not denied and len(stream.ids) > KEPT:
            return (
                f"G6: {key!r} keeps {len(stream.ids)} finished entries of {policy}, from"
                f" {show_id(stream.ids[0])!r}"
            )
    return ""


def _audit(world: World, fleet: Fleet) -> list[Any]:
    """Hold the audit against what is known: it says what is broken. Returns whom it accuses."""
    for box in world.boxes:
        box.limit_bytes = None
        box.denied.clear()
    done: list[tuple[list[Any], Audit]] = []
    process = Process("auditor")
    world.schedule.spawn(process, lambda: done.append(operators.audit(world, fleet, process)))
    while process.tasks:
        world.wait(LOOK_EVERY_S)
    found, auditing = done[0]
    if auditing.found.forgotten:
        return found  # of that time it vouches for nothing
    named = {(culprit.stream, culprit.entry) for culprit in found}
    truth = world.oracle.truth
    for entry in truth.entries:
        if not entry.present or entry.place[0] not in fleet.control_streams:
            continue
        if truth.ends_of(entry) or world.oracle.waits(fleet, entry):
            continue
        where = entry.place[0].decode(), show_id(entry.place[1]).decode()
        if where not in named and world.plan.dedup_window_s >= LONG_S:
            raise Violation(f"audit: {entry} is lost, and the audit does not say so: {found}")
    return found


def _collect(world: World) -> None:
    """Much later, when all is quiet, collect the store's garbage."""
    if Deed.COLLECT not in world.faults.deeds:
        return
    world.schedule.now += LATER_S
    process = Process("collector")
    world.schedule.spawn(process, partial(_gc, world, process))
    while process.tasks:
        world.wait(LOOK_EVERY_S)
    world.oracle.resolvable()


def _gc(world: World, process: Process) -> None:
    """Collect, naming one fleet's Redis only, and then all: whoever forgets one is refused."""
    for fleets in (*([one] for one in world.fleets), world.fleets):
        try:
            operators.collect_garbage(world, fleets, process, grace_s=3600.0)
        except operators.EXPECTED as error:
            world.note("operator", process.name, str(error))

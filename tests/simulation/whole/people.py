"""People with a Redis client, and what befalls servers, networks and clocks.

A deed is a function of the world; it does one thing to one fleet or server, now. To add one: name
it in `kinds.Deed`, write its function, and put it into `DEEDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.streams import Group, Id, Stream, show_id
from tests.simulation.whole.kinds import Deed
from tests.simulation.whole.oracle import ASIDE

if TYPE_CHECKING:
    from tests.simulation.whole.world import Fleet, World

OTHER: Final = b"debug"
THEIRS: Final = b"analysis"
GARBAGE_S: Final = 2.0
WATCHES: Final = 150
"""So often it is looked, after a trim, whether a reader stands where the sidecar's ended."""
LAST: Final = b"18446744073709551615-18446744073709551615"
DENIABLE: Final = (
    b"XTRIM", b"XADD", b"XACK", b"HSET", b"SET", b"XREADGROUP", b"EVALSHA", b"XGROUP", b"XPENDING",
)  # fmt: skip


def _fleet(world: World) -> Fleet:
    return world.chance.choice(world.fleets)


def _stream(world: World) -> tuple[Fleet, bytes, Stream | None]:
    fleet = _fleet(world)
    key = world.chance.choice(fleet.control_streams)
    found = fleet.control.server.data.get(key)
    return fleet, key, found if isinstance(found, Stream) else None


def _group(world: World) -> tuple[Fleet, bytes, Stream | None, Group | None]:
    fleet, key, stream = _stream(world)
    return fleet, key, stream, stream.groups.get(fleet.group) if stream else None


def _some_id(world: World, ids: list[Id]) -> bytes:
    return show_id(world.chance.choice(ids))


def read_as_other(world: World) -> bool:
    """Read what nobody has read, as another consumer."""
    fleet, key, stream, group = _group(world)
    if not stream or not group or not stream.after(group.last):
        return False
    count = b"%d" % world.chance.choice((1, 1, 2, 10))
    world.people(fleet.control, b"XREADGROUP", b"GROUP", fleet.group, OTHER, b"COUNT", count,
                 b"STREAMS", key, b">")  # fmt: skip
    return True


def other_group(world: World) -> bool:
    """Read a stream in a group of one's own, and acknowledge nothing."""
    fleet = _fleet(world)
    key = world.chance.choice((*fleet.control_streams, fleet.notifications))
    box = fleet.notify if key == fleet.notifications else fleet.control
    if key not in box.server.data:
        return False
    world.people(box, b"XGROUP", b"CREATE", key, THEIRS, b"0")
    world.people(box, b"XREADGROUP", b"GROUP", THEIRS, OTHER, b"COUNT", b"2", b"STREAMS", key, b">")
    return True


def claim(world: World) -> bool:
    """Claim a pending entry for another consumer, or back; or one that is not pending."""
    fleet, key, stream, group = _group(world)
    read = [each for each in stream.ids if each <= group.last] if stream and group else []
    if read and world.chance.random() < 0.5:
        world.people(fleet.control, b"XCLAIM", key, fleet.group, OTHER, b"0",
                     _some_id(world, read), b"FORCE")  # fmt: skip
        return True
    if not group or not group.pending:
        return False
    entry = _some_id(world, sorted(group.pending))
    whom = world.chance.choice((OTHER, OTHER, b"worker"))
    world.people(fleet.control, b"XCLAIM", key, fleet.group, whom, b"0", entry)
    return True


def setid_back(world: World) -> bool:
    """Let the group deliver again."""
    fleet, key, stream, group = _group(world)
    there = [each for each in stream.ids if each <= group.last] if stream and group else []
    if not there:
        return False
    to = world.chance.choice((b"0", _some_id(world, there)))
    world.people(fleet.control, b"XGROUP", b"SETID", key, fleet.group, to)
    return True


def setid_ahead(world: World) -> bool:
    """Let the group skip what is there, or what is to come."""
    fleet, key, stream, group = _group(world)
    if not stream or not group:
        return False
    ms, seq = stream.last
    to = world.chance.choice((b"$", b"%d-%d" % (ms + 1000, seq), b"%d-0" % (ms * 2 + 9), LAST))
    world.people(fleet.control, b"XGROUP", b"SETID", key, fleet.group, to)
    return True


def delete_consumer(world: World) -> bool:
    """Delete a consumer, and with it what is pending at it."""
    fleet, key, _, group = _group(world)
    if not group or not group.consumers:
        return False
    name = world.chance.choice(sorted(group.consumers))
    world.people(fleet.control, b"XGROUP", b"DELCONSUMER", key, fleet.group, name)
    return True


def destroy_group(world: World) -> bool:
    """Destroy the group."""
    fleet, key, _, group = _group(world)
    if not group:
        return False
    world.people(fleet.control, b"XGROUP", b"DESTROY", key, fleet.group)
    return True


def delete_entry(world: World) -> bool:
    """Delete an entry, read or not."""
    fleet, key, stream = _stream(world)
    if not stream or not stream.ids:
        return False
    world.people(fleet.control, b"XDEL", key, _some_id(world, stream.ids))
    return True


def trim_entries(world: World) -> bool:
    """Trim a control stream."""
    fleet, key, stream = _stream(world)
    if not stream or not stream.ids:
        return False
    world.people(fleet.control, b"XTRIM", key, b"MAXLEN", b"%d" % world.chance.randint(0, 3))
    return True


def trim_notes(world: World) -> bool:
    """Trim the notifications, and once more as soon as a reader stands where trimming ended."""
    fleet = _fleet(world)
    world.people(fleet.notify, b"XTRIM", fleet.notifications, b"MAXLEN",
                 b"%d" % world.chance.randint(0, 3))  # fmt: skip
    _trim_at_a_cursor(world, fleet, WATCHES)
    return True


def _trim_at_a_cursor(world: World, fleet: Fleet, left: int) -> None:
    if not world.faults.on or not left:
        return
    found = fleet.notify.server.data.get(fleet.notifications)
    marks = fleet.notify.server.data.get(fleet.keys[0].trimmed.encode())
    mark = marks.get(fleet.notifications) if isinstance(marks, dict) else None
    stands = {show_id(divmod(c.cursor, 1000)) for c in world.controllers if c.fleet is fleet}
    if isinstance(found, Stream) and found.ids and mark in stands:
        world.people(fleet.notify, b"XTRIM", fleet.notifications, b"MAXLEN",
                     b"%d" % (len(found.ids) - 1))  # fmt: skip
        return
    world.schedule.after(0.02, lambda: _trim_at_a_cursor(world, fleet, left - 1))


def odd_entry(world: World) -> bool:
    """Append an entry with an ID of one's own."""
    fleet, key, stream = _stream(world)
    ms, seq = stream.last if stream else (0, 0)
    wanted = world.chance.choice((
        b"%d-%d" % (ms, seq + 1), b"%d-%d" % (ms, seq + 10**9), b"%d-0" % (ms + 86_400_000),
        b"%d-0" % (ms + 1),
    ))  # fmt: skip
    number = world.number()
    raw = world.chance.choice((
        b'{"event_id":"o%d","type":"run.abort","tenant_id":"a"}' % number, b"{", b"x" * 20_000,
    ))  # fmt: skip
    world.by_people = True
    world.append(fleet.control, key, wanted, [b"event", raw], None)
    world.by_people = False
    return True


def foreign_note(world: World) -> bool:
    """Append something to the notifications."""
    fleet = _fleet(world)
    ahead_ms = world.chance.choice((0, 0, 1000, 86_400_000))
    found = fleet.notify.server.data.get(fleet.notifications)
    last_ms = found.last[0] if isinstance(found, Stream) else 0
    ms = max(last_ms, fleet.notify.now_us() // 1000) + ahead_ms + 1
    world.people(fleet.notify, b"XADD", fleet.notifications, b"%d-5" % ms, b"hello", b"world")
    return True


def delete_note(world: World) -> bool:
    """Delete one notification."""
    fleet = _fleet(world)
    found = fleet.notify.server.data.get(fleet.notifications)
    if not isinstance(found, Stream) or not found.ids:
        return False
    world.people(fleet.notify, b"XDEL", fleet.notifications, _some_id(world, found.ids))
    return True


def delete_stream(world: World) -> bool:
    """Delete a control stream."""
    fleet, key, _ = _stream(world)
    world.people(fleet.control, b"DEL", key)
    return True


def delete_notes(world: World) -> bool:
    """Delete the notification stream."""
    fleet = _fleet(world)
    world.people(fleet.notify, b"DEL", fleet.notifications)
    return True


def rename_stream(world: World) -> bool:
    """Rename a control stream, maybe for a while only."""
    fleet, key, stream = _stream(world)
    if not stream:
        return False
    aside = key + ASIDE
    if aside in fleet.control.server.data:
        return False
    world.people(fleet.control, b"RENAME", key, aside)
    world.oracle.truth.rename(key, aside)
    world.oracle.truth.lives[key] = world.oracle.truth.lives.get(key, 0) + 1
    return True


def flush(world: World) -> bool:
    """Empty a database."""
    box = world.chance.choice(world.boxes)
    world.people(box, b"FLUSHDB")
    world.oracle.emptied(box)
    world.forget_indexes(box)
    return True


def script_flush(world: World) -> bool:
    """Flush the scripts."""
    world.people(world.chance.choice(world.boxes), b"SCRIPT", b"FLUSH")
    return True


def client_kill(world: World) -> bool:
    """Kill connections."""
    wire = world.chance.choice(world.boxes).wire
    links = [link for link in wire.links if world.chance.random() < 0.5]
    wire.cut(links)
    return bool(links)


def denied(world: World) -> bool:
    """Take a right away, for a while or until the end."""
    fleet = _fleet(world)
    command = world.chance.choice(DENIABLE)
    keys: list[bytes | None] = [None, *fleet.control_streams, fleet.notifications]
    box = world.chance.choice((fleet.control, fleet.notify))
    until = world.schedule.now + world.chance.choice((0.3, 2.0))
    key = world.chance.choice(keys)
    if command == b"XTRIM" and world.chance.random() < 0.5 and len(fleet.control_streams) > 1:
        box, key, until = fleet.control, fleet.control_streams[0], 1e9
        world.lasting.add(Deed.DENIED)
    box.denied[command, key] = until
    return True


def full(world: World) -> bool:
    """Reach maxmemory: for a while, or until trimming has freed some."""
    box = world.chance.choice(world.boxes)
    if box.limit_bytes is not None:
        return False
    box.limit_bytes = int(box.used_bytes * world.chance.choice((0.6, 0.9, 0.99)))
    if world.chance.random() < 0.5:
        world.schedule.after(world.chance.uniform(0.2, 3.0), lambda: world.relieve(box))
    else:
        world.lasting.add(Deed.FULL)
    return True


def busy(world: World) -> bool:
    """Keep a server busy with a script."""
    world.chance.choice(world.boxes).busy_until = world.schedule.now + world.chance.uniform(0.1, 3)
    return True


def promoted(world: World) -> bool:
    """Promote a replica that lacks the tail; its clock is its own."""
    box = world.chance.choice(world.boxes)
    if box.is_behind:
        return False
    box.is_behind = True
    replica = box.snapshot()
    takes_workers = world.chance.random() < 0.6  # they were on the machine that died
    behind_s = world.chance.choice((0.0, 0.5, 5.0, 5.0, -5.0))

    def promote() -> None:
        box.is_behind = False
        if not world.faults.on:
            return
        world.note("promoted", box.name)
        box.restore(replica)
        box.step_clock(-behind_s)
        box.server.run_id = b"%040x" % world.number()
        box.wire.go_away(world.chance.uniform(0.0, 1.0))
        if takes_workers:
            world.crash_all()

    world.schedule.after(world.chance.choice((0.05, 0.5, 1.5)), promote)
    return True


def emptied(world: World) -> bool:
    """Restart a server that kept nothing."""
    box = world.chance.choice(world.boxes)
    if box.is_behind:
        return False
    box.restore(({}, {}, 0))
    world.oracle.emptied(box)
    box.step_clock(-world.chance.choice((0.0, 5.0, 5.0)))
    box.server.run_id = b"%040x" % world.number()
    world.forget_indexes(box)
    box.wire.go_away(world.chance.uniform(0.0, 0.5))
    if world.chance.random() < 0.4:
        world.crash_all()
    return True


def server_clock(world: World) -> bool:
    """Step a server's clock."""
    step_s = world.chance.choice((0.001, 1.0, 20.0)) * world.chance.uniform(-1, 1)
    world.chance.choice(world.boxes).step_clock(step_s)
    world.clock_back_s += abs(step_s)
    return True


def worker_clock(world: World) -> bool:
    """Step a worker's wall clock."""
    worker = world.some_worker()
    if worker is not None:
        world.time.set_wall(worker.process, world.chance.uniform(-2000.0, 2000.0))
    return worker is not None


def garbage(world: World) -> bool:
    """Write garbage into a key of the sidecar's."""
    fleet = _fleet(world)
    keys = world.chance.choice(fleet.keys)
    low, archived, reader, workers, trimmed = (
        name.encode()
        for name in (keys.low, keys.archived, keys.reader("x"), keys.workers, keys.trimmed)
    )
    stream = keys.notifications.encode()
    command = world.chance.choice((
        (b"SET", low, b"garbage"), (b"SET", low, b""), (b"HSET", archived, stream, b"garbage"),
        (b"HSET", archived, keys.control.encode(), b"x-y"), (b"SET", reader, b"garbage"),
        (b"HSET", workers, b"x", b"garbage"), (b"HSET", trimmed, stream, b"garbage"),
    ))  # fmt: skip
    world.people(fleet.notify, *command)
    # Whoever did it undoes it: from then on all continues.
    world.schedule.after(GARBAGE_S, lambda: world.undo_garbage(fleet, command))
    return True


def split(world: World) -> bool:
    """Cut the owner of a stream off from one of two servers, until the end."""
    worker = world.some_worker()
    if worker is None or len(world.boxes) < 2 or world.cut_off:
        return False
    others = [one for one in world.workers.values() if one is not worker]
    if not any(one.fleet is worker.fleet and one.keys == worker.keys for one in others):
        return False  # nobody could serve in its place
    box = world.chance.choice((worker.fleet.control, worker.fleet.control, worker.fleet.notify))
    world.cut_off[worker.process] = box
    box.wire.cut_off[worker.process] = 1e9
    box.wire.cut([link for link in box.wire.links if link.process is worker.process])
    return True


def lease_gone(world: World) -> bool:
    """Delete a lease."""
    fleet = _fleet(world)
    world.people(fleet.notify, b"DEL", world.chance.choice(fleet.keys).lease.encode())
    return True


def server_away(world: World) -> bool:
    """Let a server be out of reach for a while."""
    world.chance.choice(world.boxes).wire.go_away(world.chance.choice((0.1, 1.0, 3.0)))
    return True


def store_away(world: World) -> bool:
    """Let a store be away for a while."""
    fleet = _fleet(world)
    depot = world.chance.choice((fleet.source, fleet.source, fleet.store))
    depot.away_until = world.schedule.now + world.chance.choice((0.3, 2.0, 4.0))
    return True


def store_hangs(world: World) -> bool:
    """Let a store neither answer nor fail, for a while."""
    fleet = _fleet(world)
    depot = world.chance.choice((fleet.source, fleet.store))
    depot.hangs_until = world.schedule.now + world.chance.choice((2.0, 6.0))
    return True


def rot(world: World) -> bool:
    """Let a stored version rot."""
    fleet = _fleet(world)
    depot = world.chance.choice((fleet.source, fleet.store))
    pin = depot.rot(world.chance)
    if pin is not None:
        world.oracle.rotten.add((depot, pin))
    return pin is not None


DEEDS: Final[dict[Deed, Callable[[World], bool]]] = {
    Deed.READ_AS_OTHER: read_as_other,
    Deed.OTHER_GROUP: other_group,
    Deed.CLAIM: claim,
    Deed.SETID_BACK: setid_back,
    Deed.SETID_AHEAD: setid_ahead,
    Deed.DELETE_CONSUMER: delete_consumer,
    Deed.DESTROY_GROUP: destroy_group,
    Deed.DELETE_ENTRY: delete_entry,
    Deed.TRIM_ENTRIES: trim_entries,
    Deed.TRIM_NOTES: trim_notes,
    Deed.ODD_ENTRY: odd_entry,
    Deed.FOREIGN_NOTE: foreign_note,
    Deed.DELETE_NOTE: delete_note,
    Deed.DELETE_STREAM: delete_stream,
    Deed.DELETE_NOTES: delete_notes,
    Deed.RENAME_STREAM: rename_stream,
    Deed.FLUSH: flush,
    Deed.SCRIPT_FLUSH: script_flush,
    Deed.CLIENT_KILL: client_kill,
    Deed.DENIED: denied,
    Deed.FULL: full,
    Deed.BUSY: busy,
    Deed.PROMOTED: promoted,
    Deed.EMPTIED: emptied,
    Deed.SERVER_CLOCK: server_clock,
    Deed.WORKER_CLOCK: worker_clock,
    Deed.GARBAGE: garbage,
    Deed.SPLIT: split,
    Deed.LEASE_GONE: lease_gone,
    Deed.SERVER_AWAY: server_away,
    Deed.STORE_AWAY: store_away,
    Deed.STORE_HANGS: store_hangs,
    Deed.ROT: rot,
}

"""Keep rules followed beside the relays: what goes, what stays, who does it, and how slowly."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import Unreachable, UsageError
from sidecar.ops import pins
from sidecar.ops.keeping import AT_ONCE, Pace
from sidecar.ops.published import PublishedRefs
from sidecar.ops.sweeping import sweep
from sidecar.redis.census import Census
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from sidecar.wire.keeping import Published, source_rules, unattended
from sidecar.wire.logbook import Log, register
from sidecar.wire.removals import removals
from sidecar.worker import retaining, wiring
from sidecar.worker.retaining import Place, Relays, Retaining, SweepOrder, Swept, Task
from sidecar.worker.settings import build
from sidecar.worker.share import Share
from sidecar.worker.supervision import Supervisor
from sidecar.worker.window import Item, Trouble, Window
from store import Capability, Unavailable, checksum_of
from store.file import FileStore
from store.memory import MemoryStore
from store.testing.samples import wait_out
from tests.sidecar.harness import Rig, eventually, silent_log
from tests.sidecar.test_app import worker
from tests.sidecar.test_supervision import Told

WEB = "stacks/t/web"
TICKS_S = 0.2
"""What was put so long ago is older than a pass."""


def put(store: MemoryStore, *versions: int, family: str = WEB) -> None:
    """Put versions of a stack, long ago."""
    for version in versions:
        store.put(f"{family}/{version}", b"%d" % version, b"m")
    wait_out(TICKS_S)


def event(version: int, family: str = WEB) -> dict[str, Any]:
    """Return what an event says that names a version."""
    ref = f"{family}/{version}"
    return {
        "event_id": ref, "type": "stack.activated", "tenant_id": "t",
        "stack_id": family.rpartition("/")[2], "version": version, "artifact_ref": ref,
        "checksum": checksum_of(b"%d" % version),
    }  # fmt: skip


def append(rig: Rig, stream: str, version: int, family: str = WEB, **fields: str) -> str:
    """Append an entry that names a version; return its ID."""
    entry: Any = {"event": json.dumps(event(version, family)), **fields}
    answer: Any = rig.client.xadd(stream, entry)
    return str(answer.decode())


def notify(rig: Rig, version: int, family: str = WEB) -> None:
    """Announce a version."""
    append(rig, rig.notify, version, family, origin=f"{rig.control}/1-1")


def left(store: MemoryStore, family: str = WEB) -> list[int]:
    """Return which versions of a stack are there."""
    return sorted(int(ref.rpartition("/")[2]) for ref in store.list(family))


def order(rig: Rig, place: Place, **more: Any) -> SweepOrder:
    """Return the order for a pass that takes no rest."""
    side = Side(rig.client, rig.url)
    usual: dict[str, Any] = {
        "grace_s": 0.0,
        "most": 10_000,
        "after": "",
        "by": "me",
        "collects": True,
    }
    return SweepOrder(place, side, side, [rig.keys], **(usual | {"breathe": lambda: None} | more))


@pytest.fixture
def fleet(rig: Rig) -> MemoryStore:
    """A fleet's store with six versions of a stack, of which the last is announced."""
    found = MemoryStore()
    put(found, *range(1, 7))
    notify(rig, 6)
    return found


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first pass, and looks, be due at once."""
    monkeypatch.setattr(retaining, "FIRST_S", 0.0)
    monkeypatch.setattr(retaining, "LOOK_EVERY_S", 0.01)


class Looked(Share):
    """A share that counts how often it was asked."""

    looks = 0

    def owns(self, stream: str) -> bool:
        """Count it."""
        self.looks += 1
        return super().owns(stream)


@contextmanager
def running(
    rig: Rig, do: Callable[[SweepOrder], Swept], share: Share, *places: Place, told: Any = None,
    went: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[None]:  # fmt: skip
    """Follow rules for as long as the block lasts."""
    side, log = Side(rig.client, rig.url), silent_log()
    task = Task(places, side, side, [rig.keys], 0.0, "me")
    one = Retaining(task, do, share, Relays(list), Supervisor(told or Told(), log), log, went)
    one.start()
    try:
        yield
    finally:
        one.close()


def owner(rig: Rig) -> Looked:
    """Return the share of a worker that owns the control stream."""
    share = Looked([rig.control])
    share.took(rig.control)
    return share


RULES = [unattended("last=2")]


def with_damage(path: Path, damaged: int) -> FileStore:
    """Return a store with four versions of a stack, of which one cannot be read."""
    files = FileStore(str(path))
    for version in range(1, 5):
        files.put(f"{WEB}/{version}", b"%d" % version, b"m")
    for record in path.glob(f"refs/**/{damaged}@*"):
        record.chmod(0o600)
        record.write_bytes(b"spoilt")
    return files


# --- the fleet's store -------------------------------------------------------------------------


def test_refs_go_by_rule(rig: Rig, fleet: MemoryStore) -> None:
    """The last stay, and what a control entry, a dead letter or a notification names."""
    append(rig, rig.control, 1)
    append(rig, rig.keys.dead, 2, origin=f"{rig.control}/1-1", reason="artifact_missing")
    notify(rig, 3)
    done = sweep(order(rig, Place("fleet", fleet, RULES)))
    assert (done.refs, done.size_bytes) == (1, 2)
    assert left(fleet) == [1, 2, 3, 5, 6]


def test_a_pass_leaves_a_record(rig: Rig, fleet: MemoryStore) -> None:
    """Who, by which rules, what: one that removed nothing leaves none."""
    place = Place("fleet", fleet, RULES)
    sweep(order(rig, place))
    sweep(order(rig, place))
    [removal] = removals(fleet)
    assert (removal.by, removal.complete) == ("me", True)
    assert removal.rules == ["stacks/*/*/*:last=2,age=0s"]
    assert (removal.counts, removal.size_bytes) == ({"ref": 4}, 8)
    assert removal.refs == [(f"{WEB}/{one}", checksum_of(b"%d" % one)) for one in (4, 3, 2, 1)]


def test_a_pass_that_ends_early_leaves_a_record(
    rig: Rig, fleet: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what went until then."""
    delete, rest = fleet.delete, iter(range(2))

    def deleted(ref: str, **how: Any) -> bool:
        if next(rest, None) is None:
            raise Unavailable("away")
        return delete(ref, **how)

    monkeypatch.setattr(fleet, "delete", deleted)
    with pytest.raises(Unreachable):
        sweep(order(rig, Place("fleet", fleet, RULES)))
    [removal] = removals(fleet)
    assert (removal.complete, removal.counts) == (False, {"ref": 2})


def test_a_pass_is_on_record_before_anything_goes(
    rig: Rig, fleet: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed in it is known; where the store takes no record, nothing goes."""
    delete, known = fleet.delete, list[bool]()

    def deleted(ref: str, **how: Any) -> bool:
        known.extend(removal.complete for removal in removals(fleet))
        return delete(ref, **how)

    monkeypatch.setattr(fleet, "delete", deleted)
    sweep(order(rig, Place("fleet", fleet, RULES)))
    assert known[0] is False
    put(fleet, 7, 8)
    for version in (7, 8):
        notify(rig, version)
    stay = left(fleet)

    def full(*_: Any, **__: Any) -> None:
        raise Unavailable("full")

    monkeypatch.setattr(fleet, "put", full)
    with pytest.raises(Unreachable):
        sweep(order(rig, Place("fleet", fleet, RULES)))
    assert left(fleet) == stay


def test_the_grace_keeps(rig: Rig, fleet: MemoryStore) -> None:
    """What was stored within the grace stays."""
    assert sweep(order(rig, Place("fleet", fleet, RULES), grace_s=3600.0)) == Swept()
    assert left(fleet) == [1, 2, 3, 4, 5, 6]


def test_before_anything_is_announced_nothing_goes(rig: Rig) -> None:
    """A fleet that is new is no error."""
    fleet = MemoryStore()
    put(fleet, 1, 2, 3)
    assert sweep(order(rig, Place("fleet", fleet, RULES))) == Swept()
    assert left(fleet) == [1, 2, 3]


def test_a_log_that_was_not_asked_keeps_all(rig: Rig, fleet: MemoryStore) -> None:
    """Where another log publishes into the store, nothing goes, and the way by hand is told."""
    register(fleet, Log("a" * 32, "n", "redis://elsewhere", "2026-01-01T00:00:00Z", None))
    with pytest.raises(UsageError, match="store gc"):
        sweep(order(rig, Place("fleet", fleet, RULES)))
    assert left(fleet) == [1, 2, 3, 4, 5, 6]


def test_a_pass_is_bounded_and_the_next_continues(rig: Rig, fleet: MemoryStore) -> None:
    """Each stack has its turn, also when those before it have more than a pass takes."""
    other, place = "stacks/t/zed", Place("fleet", fleet, RULES)
    put(fleet, *range(1, 7), family=other)
    notify(rig, 6, other)
    for version in range(1, 5):
        append(rig, rig.control, version)  # needed: they stay, no matter which pass looks at them
    first = sweep(order(rig, place, most=1))
    assert (first.refs, first.reached) == (0, WEB)
    second = sweep(order(rig, place, most=1, after=first.reached))
    assert (second.refs, second.reached) == (4, other)
    third = sweep(order(rig, place, most=10, after=second.reached))
    assert (third.refs, third.reached) == (0, "")
    assert left(fleet, other) == [5, 6]


def test_large_data_is_collected_where_that_is_due(rig: Rig, fleet: MemoryStore) -> None:
    """It is once refs went; a pass tells that it was."""
    place = Place("fleet", fleet, RULES)
    assert not sweep(order(rig, place, collects=False)).collected
    assert not sweep(order(rig, place)).collected  # no ref went
    put(fleet, 1)
    assert sweep(order(rig, place)).collected


def test_large_data_is_collected_once_all_had_their_turn(rig: Rig, fleet: MemoryStore) -> None:
    """The store is walked for it: not after each of many passes. All that they took counts."""
    other, place = "stacks/t/zed", Place("fleet", fleet, RULES)
    put(fleet, *range(1, 7), family=other)
    notify(rig, 6, other)
    first = sweep(order(rig, place, most=1))
    assert (first.refs, first.reached, first.collected) == (4, WEB, False)
    second = sweep(order(rig, place, most=1, after=WEB))
    assert (second.refs, second.reached, second.collected) == (4, other, False)
    assert sweep(order(rig, place, most=1, after=other, went=8)) == Swept(collected=True)


def test_a_collection_rests_while_it_walks(rig: Rig, tmp_path: Path) -> None:
    """Also where it finds nothing: the walk takes long, and a worker stops amid it."""
    files, breaths = FileStore(str(tmp_path / "root")), list[int]()
    for version in range(1, 41):
        files.put(f"{WEB}/{version}", b"%d" % version, b"m")
    notify(rig, 40)
    usual = order(rig, Place("fleet", files, RULES), grace_s=3600.0)
    sweep(usual._replace(breathe=lambda: breaths.append(1)))
    without = len(breaths)
    sweep(usual._replace(breathe=lambda: breaths.append(1), went=1))
    assert len(breaths) - 2 * without >= 80


def test_what_is_damaged_stays(rig: Rig, tmp_path: Path) -> None:
    """Nothing tells how old it is."""
    files = with_damage(tmp_path / "root", 1)
    wait_out(TICKS_S)
    notify(rig, 4)
    assert sweep(order(rig, Place("fleet", files, RULES), collects=False)).refs == 1
    assert sorted(files.list(WEB)) == [f"{WEB}/1", f"{WEB}/3", f"{WEB}/4"]


def test_what_a_pass_ends_with_removes_nothing_more(rig: Rig, fleet: MemoryStore) -> None:
    """A worker that stops while the streams are read has removed nothing."""
    rest = iter(range(3))

    def breathe() -> None:
        if next(rest, None) is None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(order(rig, Place("fleet", fleet, RULES), breathe=breathe))
    assert left(fleet) == [1, 2, 3, 4, 5, 6]


# --- the producer's store ----------------------------------------------------------------------


@pytest.fixture
def source(rig: Rig, fleet: MemoryStore) -> MemoryStore:
    """A producer's store with what the fleet has, and a version that it has not."""
    del fleet
    found = MemoryStore()
    put(found, *range(1, 8))
    found.put(".sidecar/probe", b"record", b"")
    rig.client.xgroup_create(rig.control, rig.keys.group, "0", mkstream=True)
    return found


def published(source: MemoryStore, fleet: MemoryStore, age_s: float = 0.0) -> Place:
    """Return the place where what is published goes."""
    return Place("source", source, Published(age_s), fleet)


def test_what_the_fleet_has_goes_from_the_source(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """What it has not stays, and so do the store's own records."""
    fleet.put(".sidecar/probe", b"record", b"")
    fleet.put(f"{WEB}/3", b"another", b"m")
    source.put(f"{WEB}/3", b"newer", b"m")
    wait_out(TICKS_S)
    assert sweep(order(rig, published(source, fleet))).refs == 5
    assert left(source) == [3, 7]
    assert left(fleet) == [1, 2, 3, 4, 5, 6]
    assert source.exists(".sidecar/probe")


def test_what_is_not_finished_stays_at_the_source(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """What is pending, what nobody has read, and dead letters are read there again."""
    entries = [append(rig, rig.control, version) for version in (1, 2, 3)]
    read: Any = rig.client.xreadgroup(rig.keys.group, "worker", {rig.control: ">"}, count=2)
    assert len(read[0][1]) == 2
    rig.client.xack(rig.control, rig.keys.group, entries[0])
    append(rig, rig.keys.dead, 4, origin=f"{rig.control}/1-1", reason="checksum_mismatch")
    sweep(order(rig, published(source, fleet)))
    assert left(source) == [2, 3, 4, 7]


def test_a_stream_without_a_group_keeps_all_that_it_names(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """A group that was lost begins anew, at what may be published already."""
    entry = append(rig, rig.control, 1)
    rig.client.xreadgroup(rig.keys.group, "worker", {rig.control: ">"})
    rig.client.xack(rig.control, rig.keys.group, entry)
    rig.client.xgroup_destroy(rig.control, rig.keys.group)
    rig.client.set(rig.keys.fence, "token")
    sweep(order(rig, published(source, fleet)))
    assert left(source) == [1, 7]


def test_a_group_that_another_fleet_has_does_not_tell_for_one_that_is_lost(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """A fleet has read all; what the other's worker, which was here, has not finished stays."""
    append(rig, rig.control, 1)
    other = Keys.of(rig.control, "other:notifications")
    rig.client.xadd(other.notifications, {"event": "{}", "origin": f"{rig.control}/1-1"})
    rig.client.xgroup_create(rig.control, other.group, "$")
    rig.client.set(rig.keys.fence, "token")
    rig.client.xgroup_destroy(rig.control, rig.keys.group)
    sweep(order(rig, published(source, fleet)))
    assert left(source) == [1, 7]


def test_what_is_younger_than_the_rule_stays(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """In either store: an hour after the fleet has it, and after somebody put it last."""
    assert sweep(order(rig, published(source, fleet, 3600.0))).refs == 0
    assert left(source) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_put_again_meanwhile_stays(fleet: MemoryStore, source: MemoryStore) -> None:
    """Its event may be on its way."""

    def pins() -> Iterator[Any]:
        source.put(f"{WEB}/1", b"1", b"m")
        return iter(())

    found = PublishedRefs(source, fleet, Published(0.0), 1e12, AT_ONCE).run(pins, tuple)
    assert f"{WEB}/1" not in [one.ref for one in found]
    assert left(source) == [1, 7]


def test_what_was_put_again_within_the_age_stays(fleet: MemoryStore, source: MemoryStore) -> None:
    """Its record says when it was put first; the storage knows better."""
    found = PublishedRefs(source, fleet, Published(3600.0), 1e12, AT_ONCE).run(tuple, tuple)
    assert list(found) == []
    assert left(source) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_damaged_in_either_store_stays_at_the_source(tmp_path: Path) -> None:
    """What the fleet cannot read is not what it never had, though it has a later version."""
    fleet, source = (with_damage(tmp_path / name, at) for name, at in (("f", 1), ("s", 2)))
    wait_out(TICKS_S)
    found = PublishedRefs(source, fleet, Published(0.0, 0.0), 1e12, AT_ONCE).run(tuple, tuple)
    assert sorted(one.ref for one in found) == [f"{WEB}/3", f"{WEB}/4"]
    assert sorted(source.list(WEB)) == [f"{WEB}/1", f"{WEB}/2"]


def test_what_the_fleet_has_for_less_than_the_age_stays(
    fleet: MemoryStore, source: MemoryStore
) -> None:
    """However long the producer has it."""
    since = time.time()
    wait_out(TICKS_S)
    fleet.delete(f"{WEB}/1")
    put(fleet, 1)
    now_s = time.time()
    found = PublishedRefs(source, fleet, Published(now_s - since), now_s, AT_ONCE)
    assert sorted(one.ref for one in found.run(tuple, tuple)) == [f"{WEB}/{n}" for n in range(2, 7)]
    assert left(source) == [1, 7]


def test_an_orphan_has_its_own_age_beside_what_is_published(
    fleet: MemoryStore, source: MemoryStore
) -> None:
    """By the storage's own clock, too: somebody put it again within that."""
    fleet.delete(f"{WEB}/2")
    found = PublishedRefs(source, fleet, Published(0.0, 3600.0), 1e12, AT_ONCE).run(tuple, tuple)
    assert sorted(one.ref for one in found) == [f"{WEB}/{n}" for n in (1, 3, 4, 5, 6)]
    assert left(source) == [2, 7]


def test_nothing_goes_from_the_source_before_that_is_on_record(
    fleet: MemoryStore, source: MemoryStore
) -> None:
    """A record that cannot be begun ends the run."""

    def begin() -> None:
        raise Unavailable("no room")

    with pytest.raises(Unavailable, match="no room"):
        list(
            PublishedRefs(source, fleet, Published(0.0), 1e12, Pace(begin=begin)).run(tuple, tuple)
        )
    assert left(source) == [1, 2, 3, 4, 5, 6, 7]


ORPHANS = Published(0.0, 0.0)


def test_what_was_never_announced_goes_once_something_newer_was(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """Of a stack, or at its own ref: the newest stays, and what the fleet knows no stack of."""
    fleet.delete(f"{WEB}/2")
    source.put(f"{WEB}/3", b"never announced", b"m")
    source.put(f"{WEB}/3", b"3", b"m")
    source.put(f"{WEB}/4", b"newer", b"m")
    put(source, 1, family="stacks/t/idle")
    put(source, 1, family="rows/tenants")
    fleet.put("rows/tenants/2", b"2", b"m")
    source.put("rows/x", b"never announced", b"m")
    for place in (source, fleet):
        place.put("rows/x", b"announced", b"m")
    wait_out(TICKS_S)
    assert sweep(order(rig, Place("source", source, ORPHANS, fleet))).refs == 7
    assert left(source) == [7]
    assert not source.exists("rows/x")
    assert left(source, "stacks/t/idle") == left(source, "rows/tenants") == [1]


def test_no_orphan_goes_without_its_rule(rig: Rig, fleet: MemoryStore, source: MemoryStore) -> None:
    """Nor before its own age."""
    fleet.delete(f"{WEB}/2")
    sweep(order(rig, Place("source", source, Published(0.0, 3600.0), fleet)))
    assert left(source) == [2, 7]
    sweep(order(rig, published(source, fleet)))
    assert left(source) == [2, 7]


def test_what_any_entry_names_is_no_orphan(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """It waits, is a dead letter, or was announced and is missing: a repair needs it."""
    for version in (1, 2, 3, 4):
        fleet.delete(f"{WEB}/{version}")
    append(rig, rig.control, 1)
    append(rig, rig.keys.dead, 2, origin=f"{rig.control}/1-1", reason="artifact_missing")
    notify(rig, 3)
    assert sweep(order(rig, Place("source", source, ORPHANS, fleet))).refs == 3
    assert left(source) == [1, 2, 3, 7]


@pytest.mark.parametrize("rule", [Published(0.0), ORPHANS])
def test_what_is_named_keeps_nothing_else_from_its_turn(
    rig: Rig, fleet: MemoryStore, source: MemoryStore, rule: Published
) -> None:
    """Also where more is named, and stays, than goes in a pass: what comes behind goes."""
    for version in (1, 2, 3, 4):
        if rule is ORPHANS:
            fleet.delete(f"{WEB}/{version}")
            notify(rig, version)
        else:
            append(rig, rig.control, version)
    assert sweep(order(rig, Place("source", source, rule, fleet), most=2)).refs == 2
    assert left(source) == [1, 2, 3, 4, 7]


def test_a_source_may_keep_by_rule_as_well(
    rig: Rig, fleet: MemoryStore, source: MemoryStore
) -> None:
    """Whatever it has that no event names, and that is not the newest."""
    del fleet
    sweep(order(rig, Place("source", source, source_rules(["last=3"])[:1])))  # type: ignore[arg-type]
    assert left(source) == [5, 6, 7]


# --- the thread --------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_only_the_owner_follows_rules(rig: Rig, fleet: MemoryStore) -> None:
    """One that stands by removes nothing, until it takes over; it tells what went."""
    share, heard = Looked([rig.control]), threading.Event()
    told: list[tuple[str, int, int]] = []

    def went(*what: Any) -> None:
        told.append(what)
        heard.set()

    begun: list[SweepOrder] = []

    def swept(one: SweepOrder) -> Swept:
        begun.append(one)
        return sweep(one)

    with running(rig, swept, share, Place("fleet", fleet, RULES), went=went):
        eventually(lambda: share.looks > 3)
        assert begun == []
        share.took(rig.control)
        assert heard.wait(60)
    assert (len(begun), told) == (1, [("fleet", 4, 8)])
    assert left(fleet) == [5, 6]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("by", ["close", "loss"])
def test_a_pass_ends_with_its_worker(rig: Rig, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is closed, or loses the stream: and it is no failure."""
    monkeypatch.setattr(retaining, "SLICE_S", 0.0)
    monkeypatch.setattr(retaining, "REST", 0)
    share, told = owner(rig), Told()
    began, ended = threading.Event(), threading.Event()

    def endless(one: SweepOrder) -> Swept:
        try:
            while True:
                began.set()
                one.breathe()
        finally:
            ended.set()

    with running(rig, endless, share, Place("fleet", MemoryStore(), RULES), told=told):
        assert began.wait(60)
        if by == "loss":
            share.lost(rig.control)
            assert ended.wait(60)
    assert ended.is_set()
    assert told.failed == []


@pytest.mark.usefixtures("at_once")
def test_a_pass_that_fails_keeps_no_other_back(rig: Rig, fleet: MemoryStore) -> None:
    """It is told, and the other store has its turn."""
    told, places = Told(), (Place("source", MemoryStore(), RULES), Place("fleet", fleet, RULES))

    def fails(one: SweepOrder) -> Swept:
        if one.place.name == "source":
            raise OSError("away")
        return sweep(one)

    with running(rig, fails, owner(rig), *places, told=told):
        eventually(lambda: left(fleet) == [5, 6] and told.failed)
    assert set(told.failed) == {"retention"}
    assert told.failing == {"retention": 1}


@pytest.mark.usefixtures("at_once")
def test_a_pass_that_took_its_share_continues_soon(rig: Rig) -> None:
    """Where the one before ended; one that is through waits for its hour."""
    asked: list[str] = []

    def many(one: SweepOrder) -> Swept:
        asked.append(one.after)
        return Swept(1, 1, "" if len(asked) == 3 else f"family{len(asked)}")

    told = Told()
    with running(rig, many, owner(rig), Place("fleet", MemoryStore(), RULES), told=told):
        eventually(lambda: len(asked) == 3)
    assert asked == ["", "family1", "family2"]
    assert told.failed == []


@pytest.mark.usefixtures("at_once")
def test_when_all_had_their_turn_it_waits_for_its_hour(rig: Rig) -> None:
    """Also where a pass ends early each time, for what is named stays and is as many."""
    asked: list[str] = []
    names = iter(["b", "d", "a", "c"])

    def many(one: SweepOrder) -> Swept:
        asked.append(one.after)
        return Swept(reached=next(names))

    share = owner(rig)
    with running(rig, many, share, Place("fleet", MemoryStore(), RULES)):
        eventually(lambda: len(asked) == 3)
        before = share.looks
        eventually(lambda: share.looks > before + 3)
    assert asked == ["", "b", "d"]


class Clock:
    """Stands in for time, and for the event that a rest waits for."""

    def __init__(self) -> None:
        self.now = self.worked = self.rested = 0.0
        self.rests: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def work(self, seconds: float) -> None:
        """Let time pass at work."""
        self.now, self.worked = self.now + seconds, self.worked + seconds

    def wait(self, seconds: float) -> bool:
        """Let time pass at rest."""
        self.now, self.rested = self.now + seconds, self.rested + seconds
        self.rests.append(seconds)
        return False

    def is_set(self) -> bool:
        """Nobody closes it."""
        return False


def item() -> Item:
    """Return something for a window."""
    number = next(_NUMBERS)
    entry_id = EntryId(f"{number}-1")
    return Item(Entry(entry_id, {}), entry_id, "o", Trouble(0.0))


_NUMBERS = itertools.count(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes only where the test says so."""
    found = Clock()
    monkeypatch.setattr(retaining, "time", found)
    monkeypatch.setattr(retaining, "SLICE_S", 2 * PIECE_S)
    return found


PIECE_S = 2.0**-10


def rested(clock: Clock, window: Window, pieces: Iterable[Callable[[], object]]) -> float:
    """Do a pass of so many pieces, half a slice each; return how long it rested for its work."""

    def do(one: SweepOrder) -> Swept:
        for piece in pieces:
            piece()
            clock.work(PIECE_S)
            one.breathe()
        return Swept()

    share, side = Share(["s"]), Side(None, "")  # type: ignore[arg-type]
    share.took("s")
    task = Task([Place("fleet", MemoryStore(), RULES)], side, side, [Keys.of("s", "n")], 0.0, "me")
    log = silent_log()
    one = Retaining(
        task, do, share, Relays(lambda: [window]), Supervisor(Told(), log), log, lambda *_: None
    )
    one._stopping = clock  # type: ignore[assignment]
    clock.now += retaining.FIRST_S
    one._look()
    return clock.rested / clock.worked


@pytest.mark.unit
def test_it_rests_nineteen_times_as_long_while_a_relay_has_work(clock: Clock) -> None:
    """A twentieth of the time is its own then."""
    window = Window()
    window.add(item())
    assert rested(clock, window, [lambda: None] * 100) == 19


@pytest.mark.unit
def test_it_rests_little_while_no_relay_has_work(clock: Clock) -> None:
    """A quarter of what it works, after each slice: so long a first event waits."""
    assert rested(clock, Window(), [lambda: None] * 100) == 0.25
    assert set(clock.rests) == {PIECE_S / 2}


@pytest.mark.unit
def test_what_came_and_went_between_two_looks_is_work(clock: Clock) -> None:
    """Events that are through before anybody looks are noticed all the same."""
    window = Window()

    def come_and_go() -> None:
        one = item()
        window.add(one)
        window.drop(one)

    assert rested(clock, window, [come_and_go] * 100) == 19


@pytest.mark.unit
def test_an_event_that_comes_has_the_interpreter_after_one_slice(clock: Clock) -> None:
    """The first slice that ends with work there is followed by the long rest, no later one."""
    window = Window()
    pieces = [*[lambda: None] * 10, lambda: window.add(item()), lambda: None]
    rested(clock, window, pieces)
    assert clock.rests == [*[PIECE_S / 2] * 6, 2 * PIECE_S * 18.75]


# --- the worker --------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_a_worker_follows_its_rules(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has published goes from the producer's store, and only that."""
    monkeypatch.setattr(retaining, "EVERY_S", 0.05)
    monkeypatch.setattr("sidecar.wire.keeping.SHORTEST_GRACE_S", 0.0)
    rig.fleet, rig.source = MemoryStore(), MemoryStore()
    put(rig.source, 7)
    with worker(rig, stores, source_keep=("published+0",)):
        rig.emit_artifact("a", ref=f"{WEB}/1")
        eventually(lambda: rig.published() == ["a"])
        eventually(lambda: left(rig.source) == [7])
    assert left(rig.fleet) == [1]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": ("last=1",)}, "--keep: .*next to nothing"),
        ({"keep": ("published+1h",)}, "--keep"),
        ({"source_keep": ("published+59s",)}, "--source-keep: .*under a minute"),
        ({"source_keep": ("published+x",)}, "--source-keep: .*no duration"),
        ({"source_keep": ("published+1h,orphans=x",)}, "--source-keep: .*no duration"),
        ({"source_keep": ("published+1h,orphans=23h",)}, "--source-keep: .*for a day at least"),
        ({"source_keep": ("published+7d,orphans=6d",)}, "--source-keep: .*for a day at least"),
        ({"source_keep": ("published+1h", "last=3")}, "--source-keep: published.3600s is a rule"),
        ({"source_keep": ("published+1h", "published+2h")}, "--source-keep: published"),
        ({"keep_grace": "1s"}, "--keep-grace"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(options: dict[str, Any], said: str) -> None:
    """In one line, by the name of the option."""
    with pytest.raises(UsageError, match=said):
        build(**options)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "one_store", "said"),
    [
        ({"keep": ("last=2",)}, False, "--keep: the backend 'memory' cannot delete"),
        ({"source_keep": ("last=2",)}, False, "--source-keep: the backend 'memory' cannot delete"),
        ({"source_keep": ("published+1h",)}, True, "say --keep"),
    ],
)
def test_a_store_that_cannot_follow_rules_is_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], one_store: bool, said: str
) -> None:
    """At the start, not when the first pass is due."""
    opened = MemoryStore()
    opened.capabilities -= {Capability.DELETE}
    for name in ("fleet", "source"):
        monkeypatch.setattr(wiring.Wiring, name, opened, raising=False)
    wired: Any = object.__new__(wiring.Wiring)
    wired.settings = build(**options)
    with pytest.raises(UsageError, match=said):
        wired.retaining(sweep, Relays(list), one_store=one_store, went=lambda *_: None)


@pytest.mark.unit
def test_what_is_handed_out_while_it_is_asked_is_not_finished() -> None:
    """The position is asked first: an entry that is read afterwards is above it."""

    class Client:
        def xinfo_groups(self, _: bytes) -> list[dict[str, Any]]:
            return [{"name": b"sidecar:n", "last-delivered-id": b"5-0"},
                    {"name": b"others", "last-delivered-id": b"1-0"}]  # fmt: skip

        def xpending(self, *_: bytes) -> dict[str, Any]:
            return {"pending": 1, "min": b"6-0"}  # read meanwhile

    one: Any = object.__new__(pins.UnfinishedPins)
    one._census = Census(control={b"c"})
    assert str(one._first(Client(), b"c")) == "5-1"
    assert str(one._first(Client(), b"another")) == "0-0"

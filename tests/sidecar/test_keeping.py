"""Which refs go by the keep rules: only what is known not to be needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.ops.keeping import Keeping, Why
from sidecar.ops.pins import Announced, announced
from sidecar.wire.keeping import KeepRule
from store import Pin, Unavailable, checksum_of
from store.file import FileStore
from store.memory import MemoryStore
from store.testing.samples import wait_out

HOUR_S, DAY_S = 3600.0, 86_400.0
NOTES = b"control:notifications"
WEB = "stacks/t/web"


@pytest.fixture
def fleet() -> MemoryStore:
    """Return a store with five versions of a stack, put long ago."""
    found = MemoryStore()
    put(found, WEB, *range(1, 6))
    return found


def put(store: MemoryStore, family: str, *versions: int, age_s: float = 10 * DAY_S) -> None:
    """Put these versions as if it had been so long ago."""
    for version in versions:
        store.put(f"{family}/{version}", b"%d" % version, b"m")
        (stored,) = store._entries[f"{family}/{version}"].versions.values()
        stored.stored_at = stored.used_at = time.time() - age_s + version / 1000


def note(ref: str, version: int, stack: str = "web", stream: bytes = NOTES) -> Announced:
    """Return what a notification announces."""
    return Announced(stream, ref, ("t", stack) if stack else ("", ""), version)


def web(*versions: int) -> list[Announced]:
    """Return the notifications of these versions of the stack."""
    return [note(f"{WEB}/{version}", version) for version in versions]


def pin(ref: str) -> Pin:
    """Return what an entry that names the ref keeps."""
    return Pin(ref, checksum_of(ref.rpartition("/")[2].encode()))


def run(
    store: MemoryStore, told: Iterable[Announced], *rules: str, pins: Iterable[str] = (),
    grace_s: float = HOUR_S, now_s: float | None = None, dry_run: bool = False,
    streams: Sequence[bytes] = (),
) -> tuple[set[str], Keeping]:  # fmt: skip
    """Run the rules; return the refs that are left. What is announced is pinned, as it is."""
    told = list(told)
    keeping = Keeping(
        store, [KeepRule.parse(rule) for rule in rules or ("last=2",)], grace_s, streams
    )
    named = [pin(ref) for ref in (*pins, *(each.ref for each in told))]
    gone = keeping.run(told, lambda: named, now_s or time.time(), dry_run=dry_run)
    went = {each.ref for each in gone}
    left = set(store.list())
    assert dry_run or went.isdisjoint(left)
    return left, keeping


def refs(*versions: int, family: str = WEB) -> set[str]:
    """Return the refs of these versions."""
    return {f"{family}/{version}" for version in versions}


def test_all_but_the_last_go(fleet: MemoryStore) -> None:
    """Of an announced stack the highest versions stay, as many as the rule says."""
    left, keeping = run(fleet, web(5), "last=2")
    assert left == refs(4, 5)
    (family,) = keeping.families.values()
    assert (family.name, family.gone, family.gone_bytes) == ("t/web", 3, 6)
    assert family.kept == {Why.NEWEST: 1, Why.LAST: 1}


def test_what_no_notification_announces_stays(fleet: MemoryStore) -> None:
    """Where nothing tells which version is the newest, all stay, and are counted as that."""
    put(fleet, "stacks/t/idle", 1, 2, 3)
    put(fleet, "rows/tenants", 7)
    left, keeping = run(fleet, web(5), "last=1", "rows/none/*:last=1")
    assert left == refs(5) | refs(1, 2, 3, family="stacks/t/idle") | {"rows/tenants/7"}
    assert keeping.unknown() == (3, 1)


def test_the_newest_of_its_subject_stays_though_it_is_no_high_version(fleet: MemoryStore) -> None:
    """After a step back to version 2 that is the newest; what is higher may still be announced."""
    left, _ = run(fleet, web(2), "last=1", pins=())
    assert left == refs(2, 3, 4, 5)


def test_what_was_announced_last_stays_though_its_notification_goes_meanwhile(
    fleet: MemoryStore,
) -> None:
    """Trimming between the two looks at the notifications takes no subject's newest."""
    keeping = Keeping(fleet, [KeepRule.parse("last=1")], HOUR_S)
    told = [*web(5), note(f"{WEB}/2", 2), note(f"{WEB}/3", 3, stream=b"other")]
    assert {each.ref for each in keeping.run(told, tuple, time.time(), dry_run=False)} == refs(1, 4)
    assert set(fleet.list()) == refs(2, 3, 5)


@pytest.mark.parametrize("streams", [[NOTES, b"other"], [NOTES, NOTES]])
def test_what_one_of_several_streams_does_not_announce_stays(
    fleet: MemoryStore, streams: list[bytes]
) -> None:
    """Another stream may have had its newest, and trimmed it; two servers may have one name."""
    left, keeping = run(fleet, web(5), "last=1", streams=streams)
    assert left == refs(1, 2, 3, 4, 5)
    assert keeping.unknown() == (5, 0)
    if b"other" in streams:
        told = [*web(5), note(f"{WEB}/3", 3, stream=b"other")]
        assert run(fleet, told, "last=1", streams=streams)[0] == refs(3, 5)


def test_what_any_entry_names_stays(fleet: MemoryStore) -> None:
    """A control entry, a dead letter, a notification: whatever names it keeps it."""
    left, keeping = run(fleet, web(3, 5), "last=1", pins=[f"{WEB}/1"])
    assert left == refs(1, 3, 5)
    assert keeping.families[WEB].kept == {Why.NEWEST: 1, Why.NAMED: 2}


@pytest.mark.parametrize(
    "odd",
    [
        note(f"{WEB}/4", 40),
        note(f"{WEB}/4", 4, stack="other"),
        note(f"{WEB}/4", 4, stack=""),
    ],
    ids=["no version", "another subject", "a subject of its own"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_family_that_is_no_stacks_versions_stays(
    fleet: MemoryStore, odd: Announced, *, first: bool
) -> None:
    """A rule that fits what it is not for removes nothing of it."""
    told = [odd, *web(5)] if first else [*web(5), odd]
    left, keeping = run(fleet, told, "last=1")
    assert left == refs(1, 2, 3, 4, 5)
    assert keeping.unknown() == (5, 0)


def test_what_is_young_stays(fleet: MemoryStore) -> None:
    """What was stored within the rule's age stays, and what was within the grace."""
    put(fleet, WEB, 6, 7, age_s=DAY_S)
    told = web(9)
    assert run(fleet, told, "age=2d", dry_run=True)[1].families[WEB].kept == {
        Why.LAST: 1,
        Why.AGE: 1,
    }
    assert run(fleet, told, "age=9h")[0] == refs(7)


def test_the_grace_keeps_besides(fleet: MemoryStore) -> None:
    """A short age does not undercut the grace."""
    put(fleet, WEB, 6, age_s=DAY_S)
    left, _ = run(fleet, web(7), "last=1", "age=0", grace_s=2 * DAY_S)
    assert left == refs(6)
    left, _ = run(fleet, web(7), "last=1", grace_s=HOUR_S)
    assert left == refs(6)


def test_a_clock_that_is_ahead_makes_nothing_old(fleet: MemoryStore) -> None:
    """Though the run's own clock is a year ahead, the store's says that it is young."""
    put(fleet, WEB, 6, 7, age_s=0)
    year_ahead = time.time() + 365 * DAY_S
    left, keeping = run(fleet, web(8), "age=5d", now_s=year_ahead)
    assert left == refs(6, 7)
    assert keeping.families[WEB].kept[Why.USED] == 1


def test_a_record_from_the_future_stays(fleet: MemoryStore) -> None:
    """A producer whose clock was a year ahead makes nothing go early."""
    put(fleet, WEB, 4, age_s=-365 * DAY_S)
    left, _ = run(fleet, web(6), "last=1")
    assert left == refs(4, 5)


def test_what_is_put_meanwhile_stays(fleet: MemoryStore) -> None:
    """A ref that a worker puts again, after the pins were read, is in use."""
    keeping = Keeping(fleet, [KeepRule.parse("last=1")], 0.0)
    gone = keeping.run(web(5), tuple, time.time(), dry_run=False)
    first = next(gone).ref
    again = min(refs(1, 2, 3, 4) - {first})
    fleet.put(again, again[-1:].encode(), b"m")
    list(gone)
    assert set(fleet.list()) == {again} | refs(5)
    assert keeping.families[WEB].kept[Why.USED] == 1


@pytest.mark.parametrize("ends", ["notifications", "pins"])
def test_nothing_goes_when_the_streams_cannot_be_read(fleet: MemoryStore, ends: str) -> None:
    """An outage halfway through the notifications or the pins removes nothing."""

    def cut(found: Iterable[Any]) -> Iterator[Any]:
        yield from found
        raise Unavailable("Redis is away")

    keeping = Keeping(fleet, [KeepRule.parse("last=1")], 0.0)
    told = cut(web(5)) if ends == "notifications" else iter(web(5))
    with pytest.raises(Unavailable):
        list(keeping.run(told, lambda: cut([]), time.time(), dry_run=False))
    assert set(fleet.list()) == refs(1, 2, 3, 4, 5)


def test_a_dry_run_tells_the_same(fleet: MemoryStore) -> None:
    """It yields what would go, and removes nothing."""
    left, dry = run(fleet, web(5), "last=2", dry_run=True)
    assert left == refs(1, 2, 3, 4, 5)
    assert dry.families[WEB].gone == 3
    assert run(fleet, web(5), "last=2")[0] == refs(4, 5)


def test_what_is_beside_a_family_stays(fleet: MemoryStore) -> None:
    """Refs that are no versions, and those below a version, are none of the family's."""
    beside = [f"{WEB}/latest", f"{WEB}/007", f"{WEB}/3/extra", f"{WEB}er/1", WEB]
    for ref in beside:
        put_at(fleet, ref)
    left, _ = run(fleet, web(5), "last=1")
    assert left == refs(5) | set(beside)


def put_at(store: MemoryStore, ref: str) -> None:
    """Put as if it had been long ago."""
    store.put(ref, b"x", b"m")
    (stored,) = store._entries[ref].versions.values()
    stored.stored_at = stored.used_at = 0.0


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (b'{"artifact_ref":"a/1","tenant_id":"t","stack_id":"s","version":1}', (("t", "s"), 1)),
        (b'{"artifact_ref":"a/1","stack_id":"s"}', (("", "s"), 0)),
        (b'{"artifact_ref":"a/1","tenant_id":"t","version":"1"}', (("", ""), 0)),
        (b'{"artifact_ref":7}', None),
        (b'["a/1"]', None),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_what_a_notification_announces(event: bytes, told: object) -> None:
    """Ref, subject and version; of what cannot be decoded nothing."""
    found = announced({b"event": event}, NOTES)
    assert (found and (found.subject, found.version)) == told


def test_a_stack_with_many_versions_is_not_read_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is read to list the refs and their versions, and for 32 that go at a time."""
    store, read = FileStore(str(tmp_path / "root")), list[int]()
    for version in range(1, 101):
        store.put(f"{WEB}/{version}", b"%d" % version, b"m")
    wait_out(0.2)
    scandir = os.scandir

    def reading(where: Any) -> Any:
        read.append(where)
        return scandir(where)

    monkeypatch.setattr(os, "scandir", reading)
    keeping = Keeping(store, [KeepRule.parse("last=4")], 0.0)
    gone = keeping.run(web(100), tuple, time.time(), dry_run=False)
    assert len(list(gone)) == 96
    assert len(read) == len(["list", "versions", *range(32, 97, 32)])

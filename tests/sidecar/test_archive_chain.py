"""The chain of the archive's segments: what is missing or changed since shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from sidecar.history.archive import ArchiveHistory, Name, mark_of, names_of, pack
from sidecar.history.chain import faults_of
from sidecar.wire.ids import EntryId
from store import VersionedStore
from store.memory import MemoryStore
from tests.sidecar.harness import Rig
from tests.sidecar.test_archive import archiver, emit
from tests.sidecar.test_history import live


@pytest.fixture
def fleet(rig: Rig) -> VersionedStore:
    """A store with an archive of a control stream, in five segments."""
    found: VersionedStore = MemoryStore()
    emit(rig, 35)
    assert archive(rig, found) == 5
    return found


def archive(rig: Rig, fleet: VersionedStore) -> int:
    """Archive the control stream; return how many segments came."""
    return len(list(archiver(rig, fleet).archive(rig.control, rest=True)))


def faults(rig: Rig, fleet: VersionedStore) -> list[tuple[str, int]]:
    """Return what is wrong, and the number of the segment that tells it."""
    names = [name.ref for name in names_of(fleet, rig.notify, rig.control)]
    history = ArchiveHistory(fleet, live(rig).streams)
    return [(one.kind, names.index(one.segment)) for one in faults_of(history, rig.control)]


def names(rig: Rig, fleet: VersionedStore) -> list[Name]:
    """Return the segments."""
    return names_of(fleet, rig.notify, rig.control)


def said(fleet: VersionedStore, name: Name) -> dict[str, Any]:
    """Return what a segment's manifest says."""
    found: dict[str, Any] = orjson.loads(fleet.get(name.ref)[1])
    return found


def says(fleet: VersionedStore, name: Name, **more: Any) -> None:
    """Change what a segment's manifest says."""
    data, manifest = fleet.get(name.ref)[:2]
    fleet.put(name.ref, data, orjson.dumps(orjson.loads(manifest) | more))


def test_a_whole_archive_has_no_faults(rig: Rig, fleet: VersionedStore) -> None:
    """Each segment names the one before it, but the first; also what another process continues."""
    emit(rig, 21, begin=35)
    assert archive(rig, fleet) == 3
    found = [said(fleet, name)["previous"].partition(" ")[0] for name in names(rig, fleet)]
    assert found == ["", *(name.ref.rpartition("/")[2] for name in names(rig, fleet)[:-1])]
    assert not faults(rig, fleet)


def gone(rig: Rig, fleet: VersionedStore) -> None:
    """Take a segment out of the middle."""
    fleet.delete(names(rig, fleet)[2].ref)


def rewritten(rig: Rig, fleet: VersionedStore) -> None:
    """Put other rows at a segment's ref, with a manifest that fits."""
    name, before = names(rig, fleet)[2], said(fleet, names(rig, fleet)[2])["previous"]
    entries = list(ArchiveHistory(fleet, live(rig).streams).entries(
        rig.control, name.first, name.last
    ))  # fmt: skip
    entries[4] = entries[4]._replace(fields={b"event": b"{}"})
    ref, data, manifest = pack(rig.notify, rig.control, entries, None, before)
    assert ref == name.ref
    fleet.put(ref, data, manifest)


BROKEN: dict[str, tuple[list[tuple[str, int]], Callable[[Rig, VersionedStore], None]]] = {
    "gone": ([("missing", 2)], gone),
    "rewritten": ([("changed", 3)], rewritten),
    "its header changed": (
        [("changed", 3)], lambda rig, fleet: says(fleet, names(rig, fleet)[2], tenants=["x"]),
    ),
    "cut from the chain": (
        [("no_predecessor", 2), ("changed", 3)],
        lambda rig, fleet: says(fleet, names(rig, fleet)[2], previous=""),
    ),
    "its chain leads elsewhere": (
        [("missing", 2), ("changed", 3)],
        lambda rig, fleet: says(fleet, names(rig, fleet)[2], previous="nowhere 00"),
    ),
    "its chain leads ahead": (
        [("changed", 2), ("changed", 3)],
        lambda rig, fleet: says(
            fleet, names(rig, fleet)[2],
            previous=names(rig, fleet)[4].ref.rpartition("/")[2] + " " + "0" * 64,
        ),
    ),
    "no header": (
        [("damaged", 2), ("changed", 3)],
        lambda rig, fleet: fleet.put(names(rig, fleet)[2].ref, b"", b"no header"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_was_done_to_a_segment_shows(rig: Rig, fleet: VersionedStore, name: str) -> None:
    """In the segment that comes after it, which the one who did it has not written."""
    expected, tamper = BROKEN[name]
    tamper(rig, fleet)
    assert faults(rig, fleet) == expected


def test_what_expired_is_not_missing(rig: Rig, fleet: VersionedStore) -> None:
    """Of a segment that the horizon took, the mark beside the segments tells."""
    first, second, *_ = names(rig, fleet)
    for name in (first, second):
        fleet.delete(name.ref)
    assert faults(rig, fleet) == [("missing", 0)]
    fleet.put(mark_of(rig.notify, rig.control, second.last), b"", b"")
    assert not faults(rig, fleet)


def test_a_mark_hides_no_segment_that_is_gone_by_itself(rig: Rig, fleet: VersionedStore) -> None:
    """What expires goes oldest first. So one that is taken out of the middle shows, whatever the
    mark says.
    """
    second = names(rig, fleet)[1]
    fleet.put(mark_of(rig.notify, rig.control, second.last), b"", b"")
    fleet.delete(second.ref)
    assert faults(rig, fleet) == [("missing", 1)]
    fleet.delete(names(rig, fleet)[0].ref)
    assert not faults(rig, fleet)


def test_segments_of_older_releases_have_no_chain(rig: Rig, fleet: VersionedStore) -> None:
    """It begins with the first segment that is written by this one."""
    for name in names(rig, fleet):
        data, manifest = fleet.get(name.ref)[:2]
        header = {key: one for key, one in orjson.loads(manifest).items() if key != "previous"}
        fleet.put(name.ref, data, orjson.dumps(header))
    assert not faults(rig, fleet)
    emit(rig, 21, begin=35)
    archive(rig, fleet)
    assert not faults(rig, fleet)
    says(fleet, names(rig, fleet)[4], rows=11)
    assert ("changed", 5) in faults(rig, fleet)


def test_to_write_again_what_is_there_breaks_no_chain(rig: Rig, fleet: VersionedStore) -> None:
    """A worker that lost its mark in Redis, after another writer left a segment between."""
    before = [fleet.get(name.ref)[1] for name in names(rig, fleet)]
    first = names(rig, fleet)[0]
    found = list(ArchiveHistory(fleet, live(rig).streams).entries(rig.control))
    fleet.put(*pack(rig.notify, rig.control, found[2:5], None))  # overlaps, and ends in between
    rig.client.hset(rig.keys.archived, rig.control, first.last)
    assert list(archiver(rig, fleet).archive(rig.control, rest=True))
    there = {name.ref: fleet.get(name.ref)[1] for name in names(rig, fleet)}
    assert set(before) <= set(there.values())
    assert not faults(rig, fleet)


def test_a_damaged_segment_does_not_keep_the_next_from_being_written(
    rig: Rig, fleet: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the damaged one, whose hash it cannot know."""
    last = names(rig, fleet)[-1]
    real = ArchiveHistory.manifest

    def manifest(self: ArchiveHistory, ref: str) -> bytes:
        if ref == last.ref:
            return real(self, f"{ref}~gone")
        return real(self, ref)

    monkeypatch.setattr(ArchiveHistory, "manifest", manifest)
    emit(rig, 7, begin=35)
    archive(rig, fleet)
    newest = names(rig, fleet)[-1]
    assert said(fleet, newest)["previous"].endswith(" unreadable")
    assert EntryId(newest.first) > last.last


def test_a_chain_of_two_writers_in_turn_is_whole(rig: Rig, fleet: VersionedStore) -> None:
    """Each names the other's segment, though it remembers its own last one."""
    one, two = archiver(rig, fleet), archiver(rig, fleet)
    for begin, writer in zip(range(35, 70, 7), (one, two, two, one, two), strict=True):
        emit(rig, 7, begin=begin)
        assert len(list(writer.archive(rig.control, rest=True))) == 1
    assert not faults(rig, fleet)
    found = [said(fleet, name)["previous"].partition(" ")[0] for name in names(rig, fleet)]
    assert found == ["", *(name.ref.rpartition("/")[2] for name in names(rig, fleet)[:-1])]

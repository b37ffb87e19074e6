"""Two that archive one stream, and streams made anew: nothing is lost, nothing is doubled."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import store
from sidecar.errors import SidecarError
from sidecar.history.archive import ArchiveHistory, names_of, pack
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.contract import Streams
from sidecar.history.joined import JoinedHistory
from sidecar.history.rows import to_line
from sidecar.history.segments import Segment, entries_back_of, entries_of, lines_of
from sidecar.redis.archived import CLAIM_S, is_due
from sidecar.redis.damage import Damaged
from sidecar.redis.groups import group_of
from sidecar.redis.keys import Keys
from sidecar.redis.retention import Policy, Retention
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.worker import logs
from sidecar.worker.settings import build
from store import Capability, VersionedStore, versioned
from store.memory import MemoryStore
from tests.servers import named_stores
from tests.sidecar.harness import (
    AtWork,
    Rig,
    at_work,
    eventually,
    trim_once,
)
from tests.sidecar.test_history import live

ROWS = 4
HOUR_US = 3600 * 10**6


class Fleet(MemoryStore):
    """A fleet's store, of which a test may watch each put."""

    def __init__(self) -> None:
        super().__init__()
        self.on_put: Any = lambda: None

    def put(self, ref: str, data: Any, manifest: Any, **options: Any) -> None:
        """Put, after the test's hook."""
        self.on_put()
        super().put(ref, data, manifest, **options)


@pytest.fixture
def fleet() -> Fleet:
    """A fleet's store in memory."""
    return Fleet()


def of(fleet: Fleet) -> VersionedStore:
    """Return it as what it is."""
    found = versioned(fleet, Capability.STREAM)
    assert found
    return found


def archiver(rig: Rig, fleet: Fleet, rows: int = ROWS) -> Archiver:
    """Return one more that archives the rig's streams."""
    return Archiver(live(rig), of(fleet), rig.client, rig.keys, sizes=Sizes(rows))


def archive(rig: Rig, fleet: Fleet, stream: str = "", **options: Any) -> int:
    """Archive a stream, the control stream unless told; return how many segments came."""
    options = {"rest": True} | options
    return len(list(archiver(rig, fleet).archive(stream or rig.control, **options)))


def joined(rig: Rig, fleet: Fleet) -> JoinedHistory:
    """Return archive and Redis as one."""
    here = live(rig)
    return JoinedHistory(ArchiveHistory(of(fleet), here.streams), here)


def add(rig: Rig, first: int, count: int, word: str, step: int = 1) -> list[Entry]:
    """Append entries with IDs of the producer's own; return them."""
    numbers = range(first, first + count * step, step)
    entries = [Entry(EntryId(f"{n}-0"), {b"event": f"{word} {n}".encode()}) for n in numbers]
    for entry in entries:
        fields: Any = dict(entry.fields)
        rig.client.xadd(rig.control, fields, id=entry.id)
    return entries


def trim_all(rig: Rig, *, archived_first: bool = True) -> None:
    """Trim what an archive allows to be trimmed."""
    policies = {name: Policy(length=0) for name in ("control", "notifications", "dead")}
    info: Any = rig.client.xinfo_stream(rig.control)
    last = EntryId(info["last-generated-id"].decode())
    if not rig.client.xinfo_groups(rig.control):
        rig.client.xgroup_create(rig.control, rig.keys.group, last)
    rig.client.xgroup_setid(rig.control, rig.keys.group, last)
    rig.client.set(rig.keys.low, last.after)
    retention = Retention(
        rig.client, rig.client, rig.keys, policies, dedup_window_s=0, archived_first=archived_first
    )
    trim_once(retention)


# --- reading -------------------------------------------------------------------------------------


def segment(entries: list[Entry]) -> Segment:
    """Return a segment of these."""
    raw = b"".join(map(to_line, entries))
    return Segment(
        "one", entries[0].id, entries[-1].id, len(entries), hashlib.sha256(raw).hexdigest(),
        lambda: raw,
    )  # fmt: skip


entries_at = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 3), st.sampled_from(["", "other"])), unique=True
)
"""Few IDs, so that segments overlap; some with two contents, as after a stream made anew."""


def sorted_entries(made: list[tuple[int, int, str]]) -> list[Entry]:
    """Return them in order."""
    found = [Entry(EntryId(f"{ms}-{seq}"), {b"event": word.encode()}) for ms, seq, word in made]
    return sorted(found, key=lambda entry: (entry.id.pair, entry.fields[b"event"]))


def one_history(entries: list[Entry]) -> list[Entry]:
    """Return them with each ID once, as one segment has them."""
    return list({entry.id: entry for entry in entries}.values())


def keyed(entries: Any) -> list[tuple[tuple[int, int], bytes]]:
    """Return IDs and contents."""
    return [(entry.id.pair, entry.fields[b"event"]) for entry in entries]


@given(
    st.lists(entries_at.filter(bool), max_size=7),
    st.tuples(st.integers(0, 7), st.integers(0, 4)),
    st.tuples(st.integers(0, 7), st.integers(0, 4)),
    st.booleans(),
)
def test_overlapping_segments_give_each_row_once(
    made: list[list[tuple[int, int, str]]],
    low: tuple[int, int],
    high: tuple[int, int],
    eager: bool,
) -> None:
    """Whatever overlaps with what, and lacks what: forwards and backwards, within any window."""
    runs = [one_history(sorted_entries(one)) for one in made]
    first, last = f"{low[0]}-{low[1]}", f"{high[0]}-{high[1]}"
    want = sorted({one for run in runs for one in keyed(run) if low <= one[0] <= high})
    pieces = list(map(segment, runs))
    forwards = keyed(entries_of(pieces, EntryId(first), EntryId(last), eager=eager))
    assert sorted(forwards) == want
    assert [at for at, _ in forwards] == [at for at, _ in want]
    backwards = keyed(entries_back_of(pieces, EntryId(last), EntryId(first)))
    assert sorted(backwards) == want
    assert [at for at, _ in backwards] == [at for at, _ in want][::-1]
    assert len(list(lines_of(pieces, EntryId(first), EntryId(last), eager=eager))) == len(want)


def test_a_search_opens_no_segment_behind_what_it_found() -> None:
    """Segments that stand alone are read one by one, and the next only when it is asked for."""
    opened = []

    class Watched(Segment):
        def open(self) -> Segment:
            opened.append(self.first)
            return self

    pieces = [Watched(*segment([Entry(EntryId(f"{n}-0"), {b"event": b""})])) for n in range(1, 9)]
    assert next(entries_of(pieces)).id == "1-0"
    assert next(entries_back_of(pieces)).id == "8-0"
    assert opened == ["1-0", "8-0"]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30, unique=True),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=6),
    st.tuples(st.integers(0, 31), st.integers(0, 31)),
)
def test_the_archive_gives_each_row_once(
    ids: list[int], slices: list[tuple[int, int]], window: tuple[int, int]
) -> None:
    """Segments as archivers write them, through a store."""
    entries = [Entry(EntryId(f"{n}-0"), {b"event": b"x"}) for n in sorted(ids)]
    fleet = of(Fleet())
    archived = set()
    for low, high in slices:
        some = [one for one in entries if low <= one.id.ms <= high]
        if some:
            fleet.put(*pack("n", "c", some, None))
            archived |= {one.id for one in some}
    history = ArchiveHistory(fleet, Streams(("c",), "n", "d", "r", "h", "t"))
    first, last = (f"{n}-0" for n in window)
    want = [one.id for one in entries if one.id in archived
            and window[0] <= one.id.ms <= window[1]]  # fmt: skip
    assert [one.id for one in history.entries("c", EntryId(first), EntryId(last))] == want
    assert [one.id for one in history.entries_back("c", EntryId(last), EntryId(first))] == want[
        ::-1
    ]


def test_a_segment_within_another_hides_nothing_backwards(rig: Rig, fleet: Fleet) -> None:
    """A slow archiver's short segment lies in the middle of a long one."""
    entries = add(rig, 1, 12, "a")
    archiver_of_all = archiver(rig, fleet, rows=12)
    assert len(list(archiver_of_all.archive(rig.control, rest=True))) == 1
    of(fleet).put(*pack(rig.notify, rig.control, entries[4:7], None))
    for history in (joined(rig, fleet), ArchiveHistory(of(fleet), live(rig).streams)):
        ids = [entry.id for entry in entries]
        assert [one.id for one in history.entries(rig.control)] == ids
        assert [one.id for one in history.entries_back(rig.control)] == ids[::-1]


def test_a_gap_that_another_archiver_filled_is_none(rig: Rig, fleet: Fleet) -> None:
    """What one archiver found trimmed, and another had archived, is not missing."""
    entries = add(rig, 1, 9, "a")
    of(fleet).put(*pack(rig.notify, rig.control, entries[:2], None))
    of(fleet).put(*pack(rig.notify, rig.control, entries[6:], (EntryId("3-0"), EntryId("6-0"))))
    of(fleet).put(*pack(rig.notify, rig.control, entries[2:5], None))
    reach = ArchiveHistory(of(fleet), live(rig).streams).reach(rig.control)
    assert reach
    ((first, last, *_),) = reach.gaps
    assert (first, last) == ("5-1", "6-0")


# --- a claim -------------------------------------------------------------------------------------


def test_two_do_not_archive_one_stream_at_once(rig: Rig, fleet: Fleet) -> None:
    """While one is at work the other writes nothing, and afterwards there is nothing left to do."""
    add(rig, 1, 10, "a")
    seen: list[int] = []

    def meanwhile() -> None:
        fleet.on_put = lambda: None
        seen.append(archive(rig, fleet))
        with pytest.raises(SidecarError, match="archived by another"):
            archive(rig, fleet, wait_s=0.001)

    fleet.on_put = meanwhile
    assert archive(rig, fleet) == 3
    assert seen == [0]
    assert archive(rig, fleet) == 0
    assert len(names_of(of(fleet), rig.notify, rig.control)) == 3
    assert not rig.client.exists(rig.keys.archiving(rig.control))


def test_a_claim_of_one_that_died_runs_out(rig: Rig, fleet: Fleet) -> None:
    """It is no lock: who died while it archived keeps nobody from continuing for long."""
    add(rig, 1, 3, "a")
    rig.client.set(rig.keys.archiving(rig.control), "dead", px=300)
    assert archive(rig, fleet, wait_s=CLAIM_S) == 1


def test_who_lost_the_claim_does_not_move_the_mark(rig: Rig, fleet: Fleet) -> None:
    """A Put that took too long: another archives meanwhile, and what it noted stays."""
    add(rig, 1, 10, "a")

    def meanwhile() -> None:
        rig.client.set(rig.keys.archiving(rig.control), "another")
        rig.client.hset(rig.keys.archived, rig.control, "10-0")

    fleet.on_put = meanwhile
    assert archive(rig, fleet) == 0
    assert rig.client.hget(rig.keys.archived, rig.control) == b"10-0"
    assert rig.client.get(rig.keys.archiving(rig.control)) == b"another"
    fleet.on_put = lambda: None
    rig.client.delete(rig.keys.archiving(rig.control), rig.keys.archived)
    archive(rig, fleet)
    assert len(list(joined(rig, fleet).entries_back(rig.control))) == 10


# --- made anew -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "step"), [(1, 1), (6, 1), (11, 1), (4, 2)])
@pytest.mark.parametrize("forgets", [False, True])
def test_a_stream_made_anew_is_archived_before_it_is_trimmed(
    rig: Rig,
    fleet: Fleet,
    first: int,
    step: int,
    forgets: bool,
) -> None:
    """With lower IDs or the same, and grown past what was archived of the one before it."""
    old = add(rig, 6, 8, "old")
    archive(rig, fleet)
    trim_all(rig)
    rig.client.delete(rig.control)
    if forgets:
        rig.client.delete(rig.keys.archived, rig.keys.segments)
    new = add(rig, first, 20, "new", step)
    trim_all(rig)
    assert rig.client.xlen(rig.control) == 20
    want = sorted(keyed([*old, *new]))
    for _ in range(2):
        history = joined(rig, fleet)
        assert sorted(keyed(history.entries(rig.control))) == want
        assert [e.id for e in history.entries_back(rig.control)] == [
            e.id for e in history.entries(rig.control)
        ][::-1]
        assert len(list(history.lines(rig.control, FIRST, LAST))) == len(want)
        archive(rig, fleet)
        trim_all(rig)
    assert rig.client.xlen(rig.control) == 0
    assert sorted(keyed(joined(rig, fleet).entries(rig.control))) == want


def test_rows_between_the_same_ids_do_not_replace_each_other(rig: Rig, fleet: Fleet) -> None:
    """Two histories whose segments have the same first and last ID: both stay."""
    old = add(rig, 1, ROWS, "old")
    archive(rig, fleet)
    rig.client.delete(rig.control)
    new = add(rig, 1, ROWS, "new")
    assert archive(rig, fleet) == 1
    rig.client.delete(rig.keys.archived)
    assert archive(rig, fleet) == 0
    alone = ArchiveHistory(of(fleet), live(rig).streams)
    assert sorted(keyed(alone.entries(rig.control))) == sorted(keyed([*old, *new]))
    assert sorted(keyed(joined(rig, fleet).entries(rig.control))) == sorted(keyed([*old, *new]))


def test_notifications_made_anew_are_archived_before_they_are_trimmed(
    rig: Rig, fleet: Fleet
) -> None:
    """The mark of the stream before is forgotten with it."""
    rig.emit("e0")
    rig.drain()
    archive(rig, fleet, rig.notify)
    rig.client.hset(rig.keys.archived, rig.notify, f"{10**15}-0")
    rig.client.hset(rig.keys.trimmed, rig.notify, f"{10**15}-0")
    rig.client.delete(rig.notify)
    rig.emit("e1")
    rig.drain()
    trim_all(rig)
    assert rig.published() == ["e1"]
    assert rig.client.hget(rig.keys.archived, rig.notify) is None
    assert archive(rig, fleet, rig.notify) == 1
    assert len(list(joined(rig, fleet).entries(rig.notify))) == 2


def test_an_id_that_is_none_does_not_stop_the_archive(rig: Rig, fleet: Fleet) -> None:
    """What a person wrote into the marks is as good as none, and trimming waits and names it."""
    add(rig, 1, 6, "a")
    archive(rig, fleet)
    rig.client.hset(rig.keys.archived, rig.control, "x")
    rig.client.hset(rig.keys.segments, rig.control, "y")
    with pytest.raises(Damaged, match=f"HDEL its field {rig.control}"):
        trim_all(rig)
    assert rig.client.xlen(rig.control) == 6
    add(rig, 7, 1, "a")
    assert archive(rig, fleet) == 1
    trim_all(rig)
    assert rig.client.xlen(rig.control) == 0
    assert len(list(joined(rig, fleet).entries(rig.control))) == 7


# --- when ----------------------------------------------------------------------------------------


def test_the_time_of_the_last_segment_outlives_the_worker(rig: Rig, fleet: Fleet) -> None:
    """Who starts again and again asks when the last segment was closed, not when it started."""
    assert not is_due(rig.client, rig.keys, rig.control, 3600)
    assert not archiver(rig, fleet).is_due(rig.control, 3600)
    told: Any = rig.client.hget(rig.keys.segments, rig.control)
    *words, at = told.split()
    rig.client.hset(rig.keys.segments, rig.control, b"%s %s %d" % (*words, int(at) - HOUR_US))
    assert archiver(rig, fleet).is_due(rig.control, 3600)
    add(rig, 1, 1, "a")
    assert archive(rig, fleet) == 1
    assert not archiver(rig, fleet).is_due(rig.control, 3600)
    assert archiver(rig, fleet).is_due(rig.control, 0)
    rig.client.hset(rig.keys.segments, rig.control, b"1-0 - %d" % (int(at) + HOUR_US))
    assert archiver(rig, fleet).is_due(rig.control, 3600)


def working(redis_url: str, directory: Path, **options: Any) -> AbstractContextManager[AtWork]:
    """Run a worker meanwhile."""
    chosen = build(redis=redis_url, **named_stores(directory), **options)
    return at_work(chosen, logs.configure("error"))


def test_a_worker_that_just_started_archives_what_is_due(
    rig: Rig, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its predecessor closed a segment an hour ago, and it does not wait for another hour."""
    monkeypatch.setattr("sidecar.worker.archiving.LOOK_EVERY_S", 0.05)
    rig.emit("e0")
    rig.client.hset(rig.keys.segments, rig.control, "0-0 - 1")
    with working(redis_url, tmp_path, archive=True, archive_every_s="3600"):
        eventually(lambda: rig.client.hget(rig.keys.archived, rig.control))
    opened = versioned(store.open_url((tmp_path / "fleet").as_uri()), Capability.STREAM)
    assert opened
    assert len(names_of(opened, rig.notify, rig.control)) == 1


def test_another_fleet_trims_nothing_that_is_not_archived(
    rig: Rig, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two fleets on one control stream each leaves there what the other has yet to archive,
    as long as the other archives at all.
    """
    monkeypatch.setattr("sidecar.worker.archiving.LOOK_EVERY_S", 0.05)
    theirs = Keys.of(rig.control, "theirs")
    group = partial(group_of, rig.client, rig.control, theirs.archivers)
    other: Any = {"notify_stream": "theirs", "second_deployment": True}
    rig.emit("e0")
    rig.drain()
    with working(redis_url, tmp_path, **other, archive=True, archive_every_s="3600"):
        eventually(lambda: rig.client.xlen("theirs") == 1 and group())
    trim_all(rig, archived_first=False)
    assert rig.client.xlen(rig.control) == 1
    with working(redis_url, tmp_path, **other, archive=True, archive_every_s="1"):
        eventually(lambda: (found := group()) and found["last-delivered-id"] != b"0-0")
    trim_all(rig, archived_first=False)
    assert rig.client.xlen(rig.control) == 0
    rig.emit("e1")
    rig.drain()
    with working(redis_url, tmp_path, **other):
        eventually(lambda: rig.client.xlen("theirs") == 2)
    trim_all(rig, archived_first=False)
    assert rig.client.xlen(rig.control) == 0

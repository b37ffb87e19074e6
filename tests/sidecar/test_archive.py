"""The archive: what is in the streams outlives them, and is read as if it still lay there."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.errors import UsageError
from sidecar.history import About, Gap, History
from sidecar.history import archiver as archiver_module
from sidecar.history.archive import ArchiveHistory, contents_of, mark_of, names_of, pack
from sidecar.history.archiver import Archiver, Sizes
from sidecar.history.bundle import BundleHistory
from sidecar.history.dropping import drop, target_of
from sidecar.history.joined import JoinedHistory
from sidecar.history.live import LiveHistory
from sidecar.history.places import ROOT, escaped
from sidecar.history.segments import Damaged, ahead
from sidecar.history.state import state_at
from sidecar.ops.evidence import Evidence
from sidecar.ops.waiting import EntryRange
from sidecar.redis.archived import Claim
from sidecar.redis.client import Side
from sidecar.redis.keys import records_of
from sidecar.redis.retention import KINDS, Policy, Retention
from sidecar.redis.source import Entry
from sidecar.replay import moment
from sidecar.replay.export import export
from sidecar.replay.timeline import lives
from sidecar.replay.window import Window
from sidecar.wire.event import Reason
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.worker import app, logs
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

ROWS = 7


@pytest.fixture
def fleet(tmp_path: Path) -> VersionedStore:
    """A fleet's store, on real files."""
    opened = versioned(store.open_url((tmp_path / "fleet").as_uri()), Capability.STREAM)
    assert opened
    return opened


def archiver(rig: Rig, fleet: VersionedStore, **options: Any) -> Archiver:
    """Return what archives the rig's streams."""
    sizes = Sizes(**{"rows": ROWS, **options})
    return Archiver(live(rig), fleet, rig.client, rig.keys, sizes=sizes)


def archive(rig: Rig, fleet: VersionedStore, *, rest: bool = True) -> int:
    """Archive all streams; return how many segments came."""
    streams = (rig.control, rig.notify, rig.keys.dead, *records_of(rig.keys))
    return sum(len(list(archiver(rig, fleet).archive(stream, rest=rest))) for stream in streams)


def archive_with_states(writer: Archiver, stream: str) -> int:
    """Archive the notifications, with checkpoints; return how many segments came."""
    segments = 0
    for _ in writer.archive(stream, rest=True):
        writer.keep_state()
        segments += 1
    return segments


def joined(rig: Rig, fleet: VersionedStore) -> JoinedHistory:
    """Return archive and Redis as one."""
    here = live(rig)
    return JoinedHistory(ArchiveHistory(fleet, here.streams), here)


def emit(rig: Rig, count: int, begin: int = 0) -> None:
    """Let so many events come and end."""
    for n in range(begin, begin + count):
        rig.emit(f"e{n}", tenant=f"t{n % 3}", kind=("run.abort", "odd.type")[n % 10 == 9])
    rig.drain(max_consecutive_dead=0)


def trim(rig: Rig, keep: int) -> None:
    """Trim the control stream, and note it, as trimming does."""
    found: Any = rig.client.xrange(rig.control)
    rig.client.hset(rig.keys.trimmed, rig.control, found[-keep - 1][0])
    rig.client.xtrim(rig.control, maxlen=keep, approximate=False)


def told(history: History) -> list[tuple[str, str, str | None]]:
    """Return what a history tells of all events."""
    return [(life.origin, life.end.value, life.end_id) for life in lives(history, Window())]


def test_what_trimming_took_is_read_from_the_archive(rig: Rig, fleet: VersionedStore) -> None:
    """Archived in pieces and trimmed, the streams tell the same as before."""
    emit(rig, 20)
    before = told(live(rig))
    assert archive(rig, fleet, rest=False) == 4  # two full ones of entries, two of notifications
    emit(rig, 20, begin=20)
    whole = told(live(rig))
    assert told(joined(rig, fleet)) == whole
    assert archive(rig, fleet)
    for stream in (rig.control, rig.notify, rig.keys.dead):
        rig.client.xtrim(stream, maxlen=3, approximate=False)
    history = joined(rig, fleet)
    assert told(history) == whole
    assert whole[: len(before)] != whole
    for stream in (rig.control, rig.notify):
        reach = history.reach(stream)
        assert reach
        assert not reach.gaps
        ids = [entry.id for entry in history.entries(stream)]
        assert [entry.id for entry in history.entries_back(stream)] == ids[::-1]
        assert (reach.first, reach.last) == (ids[0], ids[-1])
        some = [entry.id for entry in history.entries(stream, ids[3], ids[30])]
        assert some == ids[3:31]
        assert [e.id for e in history.entries_back(stream, ids[30], ids[3])] == some[::-1]


def test_what_comes_long_after_the_archive_leaves_no_gap(rig: Rig, fleet: VersionedStore) -> None:
    """Trimmed exactly as far as it is archived, and gone on later: nothing is missing between."""
    emit(rig, 9)
    archive(rig, fleet)
    emit(rig, 1, begin=9)
    trim(rig, 1)
    reach = joined(rig, fleet).reach(rig.control)
    assert reach
    assert not reach.gaps


def test_any_bytes_come_back(rig: Rig, fleet: VersionedStore) -> None:
    """Entries of any content are archived byte for byte."""
    chance = random.Random(5)
    for _ in range(40):
        rig.client.xadd(rig.control, {chance.randbytes(9): chance.randbytes(chance.randrange(99))})
    entries = list(live(rig).entries(rig.control))
    archive(rig, fleet)
    rig.client.delete(rig.control)
    alone = ArchiveHistory(fleet, live(rig).streams)
    assert [(e.id, dict(e.fields)) for e in alone.entries(rig.control)] == [
        (e.id, dict(e.fields)) for e in entries
    ]


def test_a_letter_in_the_archive_that_was_put_back_is_dead_no_more(
    rig: Rig, fleet: VersionedStore
) -> None:
    """The archive keeps the letter; from its redriving on nobody takes it for dead."""
    rig.emit("odd", kind="odd.type")
    rig.drain(max_consecutive_dead=0)
    archive(rig, fleet)
    (letter,) = live(rig).entries(rig.keys.dead)
    record: Any = {"letter": letter.id, "event_id": "odd", "origin": f"{rig.control}/1-1"}
    rig.client.xdel(rig.keys.dead, letter.id)
    rig.client.xadd(rig.keys.redriven, record)
    history = joined(rig, fleet)

    def dead(at_us: int) -> list[str]:
        return [row.event_id for row in moment.at(history, at_us, 0).rows() if row.what == "dead"]

    ms = int(letter.id.partition("-")[0])
    assert dead((ms + 1) * 1000 - 1) == ["odd"]
    assert dead(history.now_us() + 10**6) == []


def test_records_lie_in_the_archive_and_in_bundles(
    rig: Rig, fleet: VersionedStore, tmp_path: Path
) -> None:
    """Of redrives, of halts, and of what Redis forgot: also when Redis has forgotten them."""
    rig.emit("a")
    rig.drain()
    for stream in records_of(rig.keys):
        rig.client.xadd(stream, {"what": "something", "stream": rig.control})
    archive(rig, fleet)
    export(joined(rig, fleet), Window(0, 2**62), tmp_path / "b.zip", artifacts=False)
    rig.client.delete(*records_of(rig.keys))
    bundle = BundleHistory(tmp_path / "b.zip")
    for stream in records_of(rig.keys)[1:]:
        assert len(list(bundle.entries(stream))) == 1
    for stream in records_of(rig.keys):
        assert len(list(joined(rig, fleet).entries(stream))) == 1


def test_to_archive_again_changes_nothing(rig: Rig, fleet: VersionedStore) -> None:
    """A worker that died before it noted how far it was, and one that lost Redis, do it again."""
    emit(rig, 20)
    archive(rig, fleet)
    names = names_of(fleet, rig.notify, rig.control)
    assert archive(rig, fleet) == 0
    rig.client.hset(rig.keys.archived, rig.control, names[0].last)
    assert archive(rig, fleet) == len(names) - 1
    rig.client.delete(rig.keys.archived)
    assert archive(rig, fleet) == 0
    assert names_of(fleet, rig.notify, rig.control) == names


def test_a_damaged_segment_does_not_end_archiving(rig: Rig, fleet: VersionedStore) -> None:
    """With the mark lost, what Redis still has of it is archived anew, and trimming continues."""
    emit(rig, 20)
    archive(rig, fleet)
    first = names_of(fleet, rig.notify, rig.control)[0]
    data, manifest = fleet.get(first.ref)[:2]
    fleet.put(first.ref, data[:-9], manifest)
    rig.client.delete(rig.keys.archived)
    assert archive(rig, fleet)
    assert rig.client.hget(rig.keys.archived, rig.control)
    found = [entry.id for entry in ArchiveHistory(fleet, live(rig).streams).entries(rig.control)]
    assert found == [entry.id for entry in live(rig).entries(rig.control)]


def test_a_claim_is_renewed_while_a_lost_mark_is_looked_for(
    rig: Rig, fleet: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compare all that Redis has with the archive may take longer than a claim lasts."""
    emit(rig, 20)
    archive(rig, fleet)
    rig.client.delete(rig.keys.archived)
    renewed: list[str] = []
    monkeypatch.setattr(archiver_module, "RENEW_ROWS", 5)
    real = Claim.hold

    def hold(claim: Claim) -> bool:
        renewed.append(claim._key)
        return real(claim)

    monkeypatch.setattr(Claim, "hold", hold)
    assert not list(archiver(rig, fleet).archive(rig.control, rest=True))
    assert renewed == [rig.keys.archiving(rig.control)] * 5


def test_two_archivers_do_not_double_anything(rig: Rig, fleet: VersionedStore) -> None:
    """Segments of different sizes overlap, and each entry is read once."""
    emit(rig, 20)
    archive(rig, fleet)
    rig.client.delete(rig.keys.archived)
    entries = list(live(rig).entries(rig.control))
    ref, data, manifest = pack(rig.notify, rig.control, entries[3:15], None)
    fleet.put(ref, data, manifest)
    history = ArchiveHistory(fleet, live(rig).streams)
    assert [e.id for e in history.entries(rig.control)] == [e.id for e in entries]
    assert [e.id for e in history.entries_back(rig.control)] == [e.id for e in entries][::-1]


def test_what_was_gone_before_is_a_gap(rig: Rig, fleet: VersionedStore) -> None:
    """Trimmed between two segments: that something lacks is told, and where."""
    emit(rig, 10)
    archive(rig, fleet)
    emit(rig, 10, begin=10)
    ids = [entry.id for entry in live(rig).entries(rig.control)]
    trim(rig, 4)
    archive(rig, fleet)
    reach = joined(rig, fleet).reach(rig.control)
    assert reach
    (gap,) = reach.gaps
    assert gap.why == "trimmed before it was archived"
    assert reach.missing(ids[12], ids[12]) == [gap._replace(first=ids[12], last=ids[12])]
    assert not reach.missing(ids[0], ids[9])
    assert not reach.missing(ids[16], ids[19])
    trim(rig, 0)
    emit(rig, 2, begin=20)
    trim(rig, 1)
    after = joined(rig, fleet).reach(rig.control)
    assert after
    assert [one.why for one in after.gaps] == [gap.why, "trimmed"]
    assert isinstance(after.gaps[0], Gap)


def test_each_gap_is_told_with_its_cause(rig: Rig, fleet: VersionedStore) -> None:
    """What expired, what somebody dropped, what is gone from the end, and what was trimmed."""
    for begin in range(0, 28, 7):
        emit(rig, 7, begin=begin)
        archive(rig, fleet)
    first, second, _, last = names_of(fleet, rig.notify, rig.control)
    fleet.put(mark_of(rig.notify, rig.control, first.last), b"", b"")
    fleet.delete(first.ref)
    history = ArchiveHistory(fleet, live(rig).streams)
    target = target_of(history, second.ref)
    drop(history, target, at="2026-12-01T10:00:00Z", by="me", reason="damaged")
    fleet.delete(last.ref)
    for begin in (28, 35):
        emit(rig, 7, begin=begin)
        archive(rig, fleet)
        trim(rig, 0)
        emit(rig, 7, begin=begin + 70)
        trim(rig, 3)
    archive(rig, fleet)
    reach = ArchiveHistory(fleet, live(rig).streams).reach(rig.control)
    assert reach
    assert [gap.why for gap in reach.gaps] == [
        "expired", "dropped from the archive by hand", "archived, and gone from the archive since",
        *["trimmed before it was archived"] * 2,
    ]  # fmt: skip
    lost = reach.gaps[2]
    assert (lost.first, lost.last) == (names_of(fleet, rig.notify, rig.control)[0].last.after,
                                       last.last)  # fmt: skip


@pytest.mark.parametrize(
    "about",
    [About(event_id="e17"), About(tenant_id="t1"), About(artifact_ref="rows/3"), About("nobody"),
     About("e17", "t2")],
)  # fmt: skip
def test_a_hint_leaves_out_nothing_that_is_meant(
    rig: Rig, fleet: VersionedStore, about: About
) -> None:
    """What segments are skipped for a hint, have nothing about it."""
    for n in range(30):
        rig.emit_artifact(f"e{n}", tenant=f"t{n // 10}", ref=f"rows/{n % 5}")
    archive(rig, fleet)
    history = ArchiveHistory(fleet, live(rig).streams)

    def fits(entry: Entry) -> bool:
        body = json.loads(entry.fields[b"event"])
        return all(body[name] == value for name, value in about._asdict().items() if value)

    everything = [entry.id for entry in history.entries(rig.control) if fits(entry)]
    hinted = list(history.entries(rig.control, about=about))
    assert [entry.id for entry in hinted if fits(entry)] == everything
    assert len(hinted) < 30 or about == About(artifact_ref="rows/3")


def test_events_that_the_index_has_forgotten_are_found(rig: Rig, fleet: VersionedStore) -> None:
    """What was published long ago is told from the archive."""
    emit(rig, 20)
    archive(rig, fleet)
    known = live(rig).published(["e3", "e18"])
    rig.client.flushall()
    assert joined(rig, fleet).published(["e3", "e18", "nobody"]) == known


def test_a_damaged_segment_is_named_and_gives_nothing_wrong(
    rig: Rig, fleet: VersionedStore
) -> None:
    """Neither a changed segment nor one of a newer format is taken for what it was."""
    emit(rig, 5)
    archive(rig, fleet)
    (name,) = names_of(fleet, rig.notify, rig.control)
    data, manifest = fleet.get(name.ref)
    history = ArchiveHistory(fleet, live(rig).streams)
    for broken in (
        b"no gzip",
        data[:-9],
        pack(rig.notify, "other", [Entry(EntryId("1-1"), {})], None)[1],
    ):
        fleet.put(name.ref, broken, manifest)
        with pytest.raises(Damaged, match="damaged"):
            list(history.entries(rig.control))
    fleet.put(name.ref, data, b"{}")
    with pytest.raises(Damaged, match="no header"):
        list(history.entries(rig.control))
    header = json.loads(manifest) | {"format": 9}
    fleet.put(name.ref, data, json.dumps(header).encode())
    with pytest.raises(UsageError, match="format 9"):
        list(history.entries(rig.control))


@pytest.mark.parametrize("seed", range(3))
def test_a_state_is_the_same_from_a_checkpoint(
    rig: Rig, fleet: VersionedStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any position, by checkpoints and spilt or not, the state is that of all notifications."""
    chance = random.Random(seed)
    for n in range(60):
        stack = chance.choice(["", "web", "db"])
        rig.emit_artifact(f"e{n}", tenant=f"t{chance.randrange(3)}", stack_id=stack,
                          ref=f"rows/{chance.randrange(9)}", version=n + 1)  # fmt: skip
    rig.drain()
    positions = [note["control_version"] for note in rig.notifications()]

    def states(history: History) -> list[list[list[str]]]:
        found = []
        for position in [*positions[::7], positions[-1]]:
            state = state_at(history, position)
            assert not state.gaps
            kinds = (state.stacks(), state.refs())
            found.append([[n.event_id for n in kind] for kind in kinds])
        return found

    plain = states(live(rig))
    monkeypatch.setattr("sidecar.history.state.SUBJECTS_IN_MEMORY", 5 if seed else 10**6)
    monkeypatch.setattr("sidecar.history.packed.CHUNK_BYTES", 7 if seed else 1 << 20)
    writer = archiver(rig, fleet, checkpoint_rows=10)
    assert archive_with_states(writer, rig.notify) == 9
    history = joined(rig, fleet)
    assert history.checkpoint(EntryId("9999999999999-0"))
    rig.client.xtrim(rig.notify, maxlen=0)
    assert states(joined(rig, fleet)) == plain
    refs = [ref for ref in fleet.list(".sidecar") if "@state" in ref]
    assert 1 < len(refs) < 9
    for ref in refs:
        fleet.put(ref, b"broken", fleet.get(ref).manifest)
    with pytest.raises(Damaged, match="checkpoint"):
        state_at(joined(rig, fleet), positions[-1])


def test_a_segment_costs_the_same_however_many_there_are(
    rig: Rig, fleet: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wrote the last one looks through none of the others, nor counts them for a checkpoint."""
    looks: list[str] = []

    def look(opened: VersionedStore, notifications: str, stream: str) -> Any:
        looks.append(stream)
        return contents_of(opened, notifications, stream)

    writer = archiver(rig, fleet)
    emit(rig, 3)
    archive_with_states(writer, rig.notify)
    monkeypatch.setattr("sidecar.history.archive.contents_of", look)
    for begin in range(3, 12, 3):
        emit(rig, 3, begin=begin)
        assert archive_with_states(writer, rig.notify) == 1
    assert not looks
    archive_with_states(archiver(rig, fleet), rig.notify)
    emit(rig, 3, begin=12)
    assert archive_with_states(archiver(rig, fleet), rig.notify) == 1
    assert looks  # by one who did not


def test_checkpoints_come_where_they_would_if_all_were_counted_each_time(
    rig: Rig, fleet: VersionedStore
) -> None:
    """Who counts on writes the same ones as who begins anew at each segment, also where another
    writes a segment between.
    """
    other: VersionedStore = MemoryStore()
    writer = archiver(rig, fleet, checkpoint_rows=10)
    for number in range(15):
        emit(rig, 4, begin=4 * number)
        for at, who in ((fleet, writer), (other, archiver(rig, other, checkpoint_rows=10))):
            if number % 3 == 1:
                assert list(archiver(rig, at).archive(rig.notify, rest=True))
            else:
                archive_with_states(who, rig.notify)
            rig.client.delete(rig.keys.archived, rig.keys.segments)
    found, expected = (
        sorted(one.list(f"{ROOT}/{escaped(rig.notify)}@state")) for one in (fleet, other)
    )
    assert found == expected
    assert len(expected) > 2


def test_a_checkpoint_of_an_older_format_is_as_good_as_none(
    rig: Rig, fleet: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is told all the same, from the segments."""
    for n in range(8):
        rig.emit_artifact(f"e{n}", ref=f"rows/{n % 3}")
    rig.drain()
    monkeypatch.setattr("sidecar.history.checkpoints.FORMAT", 2)
    assert archive_with_states(archiver(rig, fleet, checkpoint_rows=4), rig.notify)
    assert joined(rig, fleet).checkpoint(EntryId("9999999999999-0"))
    monkeypatch.setattr("sidecar.history.checkpoints.FORMAT", 3)
    history = joined(rig, fleet)
    assert history.checkpoint(EntryId("9999999999999-0")) is None
    assert [note.event_id for note in state_at(history, 2**52).refs()] == ["e6", "e7", "e5"]


def test_a_state_has_one_notification_of_each_subject(rig: Rig, fleet: VersionedStore) -> None:
    """Versions of a stack, each at a ref of its own, replace one another; so a state grows with the
    subjects and not with the history, also in its checkpoint, and is there once all is trimmed.
    """
    for n in range(1, 41):
        rig.emit_artifact(f"v{n}", tenant=f"t{n % 2}", stack_id="web", version=n,
                          ref=f"stacks/t{n % 2}/web/{n}")  # fmt: skip
        rig.emit_artifact(f"r{n}", ref=f"rows/{n % 3}")
        rig.emit(f"nothing{n}")
    rig.emit_artifact("bound", tenant="t1", stack_id="web", ref="rows/host")
    rig.drain()
    archive_with_states(archiver(rig, fleet, checkpoint_rows=7), rig.notify)
    rig.client.xtrim(rig.notify, maxlen=0)
    history = joined(rig, fleet)
    checkpoint = history.checkpoint(EntryId("9999999999999-0"))
    assert checkpoint
    assert checkpoint.rows == len(list(checkpoint.keyed())) == 5
    state = state_at(history, 2**52)
    assert not state.gaps
    assert [note.event_id for note in state.stacks()] == ["v40", "bound"]
    assert [note.event_id for note in state.refs()] == ["r39", "r40", "r38"]


def test_what_was_trimmed_by_hand_behind_the_archive_is_a_gap(
    rig: Rig, fleet: VersionedStore
) -> None:
    """Also where retention had ended exactly with the archive before."""
    rig.emit_artifact("first", ref="rows/1")
    rig.drain()
    info: Any = rig.client.xinfo_stream(rig.notify)
    if "entries-added" not in info:
        pytest.skip("before Redis 7 no server counts entries: nobody can tell")
    archive(rig, fleet)
    found: Any = rig.client.xrevrange(rig.notify, count=1)
    rig.client.hset(rig.keys.trimmed, rig.notify, found[0][0])
    rig.client.xtrim(rig.notify, maxlen=0, approximate=False)
    for n in range(4):
        rig.emit_artifact(f"e{n}", ref="rows/1")
    rig.drain()
    rig.client.xtrim(rig.notify, maxlen=2, approximate=False)
    archive(rig, fleet)
    reach = joined(rig, fleet).reach(rig.notify)
    assert reach
    assert reach.gaps


def test_what_people_take_where_archive_and_trimming_ended_is_a_gap(
    rig: Rig, fleet: VersionedStore
) -> None:
    """Told by counting, and no longer believed to be quiet; an audit sees it, too."""
    rig.emit_artifact("first", ref="rows/1")
    rig.drain()
    info: Any = rig.client.xinfo_stream(rig.notify)
    if "entries-added" not in info:
        pytest.skip("before Redis 7 no server counts entries: nobody can tell")
    archive(rig, fleet)
    everything = Policy(length=0)
    policies = dict.fromkeys(KINDS, everything)
    retention = Retention(rig.client, rig.client, rig.keys, policies, dedup_window_s=0)
    assert retention.trim_one("notifications").removed == 1
    for n in range(4):
        rig.emit_artifact(f"e{n}", ref="rows/1")
    rig.drain()
    side = Side(rig.client, rig.url)
    everywhere, disk = EntryRange(FIRST, LAST), sqlite3.connect(":memory:")
    with closing(disk):
        archived = ArchiveHistory(fleet, live(rig).streams)
        evidence = Evidence(side, side, [rig.keys], everywhere, disk, archived)

        def told() -> tuple[int, bool]:
            history, audited = joined(rig, fleet).reach(rig.notify), evidence.outbound_reach
            extent = audited(rig.notify)
            assert history
            assert extent
            return len(history.gaps), extent.cut(FIRST.after)

        assert told() == (0, False)
        rig.client.xtrim(rig.notify, maxlen=2, approximate=False)
        assert told() == (1, True)


def test_what_no_sidecar_wrote_is_of_no_state(rig: Rig, fleet: VersionedStore) -> None:
    """Notifications of odd shapes are passed over, live and archived, and the rest is told."""
    rig.emit_artifact("good", ref="rows/1")
    rig.drain()
    hides = '{"event_id":"e","type":"t","artifact_ref":"rows/1","control_version":7}'
    for body in (
        "[]", "7", "null", "{", '{"artifact_ref":["x"],"stack_id":{},"version":1}',
        '{"artifact_ref":"rows/1"}', hides,
    ):  # fmt: skip
        rig.client.xadd(rig.notify, {"event": body, "origin": "x"})
    rig.client.xadd(rig.notify, {"other": "event", "event": b"\xff"})
    archive(rig, fleet)
    histories: tuple[History, ...] = (live(rig), joined(rig, fleet))
    for history in histories:
        state = state_at(history, 2**52)
        assert [note.event_id for note in state.refs()] == ["good"]


def test_an_error_in_what_is_read_ahead_reaches_the_reader() -> None:
    """After what was read before it; who stops before it never meets it."""

    def items() -> Iterator[int]:
        yield from (1, 2)
        raise Damaged("here")

    seen: list[int] = []
    with pytest.raises(Damaged, match="here"):
        seen.extend(ahead(items()))
    assert seen == [1, 2]
    assert next(ahead(items())) == 1


def test_no_event_may_write_into_the_archive(rig: Rig) -> None:
    """A ref of the sidecar's own ends as a dead letter, and nothing is put there."""
    ref = f".sidecar/archive/{rig.notify}/{rig.control}/1-1..2-2"
    rig.emit_artifact("evil", ref=ref)
    rig.drain()
    assert rig.reasons() == [Reason.FORBIDDEN_REF]
    assert not rig.fleet.exists(ref)


def test_trimming_waits_for_the_archive(rig: Rig, fleet: VersionedStore) -> None:
    """Nothing goes that is not archived yet; what is, goes."""
    emit(rig, 20)
    policies = {name: Policy(length=1) for name in ("control", "notifications", "dead")}
    retention = Retention(
        rig.client, rig.client, rig.keys, policies, dedup_window_s=0, archived_first=True
    )
    assert [one.removed for one in trim_once(retention)] == [0, 0, 0]
    archive(rig, fleet, rest=False)
    removed = {one.stream: one.removed for one in trim_once(retention)}
    assert removed[rig.control] == 14
    assert removed[rig.keys.dead] == 0
    assert told(joined(rig, fleet))[:1] != []


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[AtWork]:
    """A worker that archives every second."""
    settings = build(
        redis=redis_url, **named_stores(tmp_path), archive=True, archive_every_s="1",
        trim_control="length=1", trim_notifications="length=1", dedup_window_s="1",
    )  # fmt: skip
    with at_work(settings, logs.configure("error")) as worker:
        yield worker


def test_a_worker_archives_what_it_relays(
    worker: AtWork, rig: Rig, redis_url: str, tmp_path: Path, client: redis.Redis
) -> None:
    """Control entries, notifications and dead letters come into the store while it runs."""
    del worker
    for n in range(5):
        rig.emit(f"e{n}", kind=("run.abort", "odd.type")[n == 4])
    side = Side(client, redis_url)
    here = LiveHistory(side, side, [rig.keys], None)

    def archived() -> bool:
        opened = versioned(store.open_url((tmp_path / "fleet").as_uri()), Capability.STREAM)
        assert opened
        history = ArchiveHistory(opened, here.streams)
        counts = [
            len(list(history.entries(name))) for name in (rig.control, rig.notify, rig.keys.dead)
        ]
        return counts == [5, 4, 1]

    eventually(archived)
    streams = {rig.control.encode(), rig.notify.encode(), rig.keys.dead.encode()}
    eventually(lambda: set(client.hkeys(rig.keys.archived)) >= streams)


def test_a_store_that_cannot_hold_an_archive_is_refused(redis_url: str, tmp_path: Path) -> None:
    """With the fix, before anything is relayed."""
    (tmp_path / "go").mkdir()
    settings = build(
        redis=redis_url, source_store="memory:", archive=True, allow_unpinned=True,
        fleet_store=f"chassis-file://{tmp_path / 'go'}",
    )  # fmt: skip
    with pytest.raises(UsageError, match="declares list and stream"):
        app.run(settings, logs.configure("error"), threading.Event())

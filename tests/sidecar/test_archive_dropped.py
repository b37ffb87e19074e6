"""What is dropped from the archive by hand: it hides nothing else, and explains no theft."""

from __future__ import annotations

import gzip
import hashlib
from contextlib import suppress
from typing import Any, Final

import orjson
import pytest

from sidecar.errors import SidecarError
from sidecar.feed import Trust
from sidecar.history.archive import archive_in, pack
from sidecar.history.chain import faults_of
from sidecar.history.contract import Streams
from sidecar.history.dropping import drop, target_of
from sidecar.history.sealing import Sealer
from sidecar.wire.ids import EntryId
from store import VersionedStore
from tests.sidecar.harness import NOTIFICATIONS
from tests.sidecar.test_archive_sealed import Place, keys, place, some
from tests.sidecar.test_feed_trust import ids

__all__ = ["keys", "place"]


SAID: Final[dict[str, Any]] = {"at": "2026-12-01T00:00:00Z", "by": "me@here", "reason": "x"}


def dropped(place: Place, ref: str) -> None:
    """Drop a segment or state, on a record that the worker's key seals."""
    assert place.signer
    archive, sealer = place.history, Sealer(place.signer, NOTIFICATIONS)
    drop(
        archive,
        target_of(archive, ref),
        at="2026-12-01T00:00:00Z",
        by="me@here",
        reason="x",
        seal=sealer.sealed,
    )


def faults(place: Place) -> list[tuple[str, str]]:
    """Return what a check with keys finds."""
    found = faults_of(place.history, NOTIFICATIONS, Trust(place.keys.trust))
    return [(one.kind, one.segment) for one in found]


@pytest.fixture
def five(place: Place) -> Place:
    """An archive of five segments, all sealed, with no state."""
    for event_id in some(0, 5):
        place.publish(event_id)
        place.archive(state=False)
    assert not faults(place)
    return place


@pytest.mark.parametrize("count", [1, 2])
def test_a_segment_before_a_dropped_one_is_missed(five: Place, count: int) -> None:
    """The mark names it as the dropped segment did, also through a second mark before it."""
    names = five.names
    for name in names[3 - count : 3][::-1]:
        dropped(five, name.ref)
    assert not faults(five)
    five.fleet.delete(names[2 - count].ref)
    assert faults(five) == [("missing", names[3].ref)]


def test_what_a_dropped_segment_named_before_it_stays_missed(five: Place) -> None:
    """Also where that was gone already: a drop explains one segment, and no theft before it."""
    names = five.names
    five.fleet.delete(names[1].ref)
    assert faults(five) == [("missing", names[2].ref)]
    dropped(five, names[2].ref)
    assert faults(five) == [("missing", names[3].ref)]


def test_what_a_forged_segment_named_before_it_does_not_count(five: Place) -> None:
    """Who forges one names another before it, has it dropped, and takes out the one between."""
    first, between, forged, after, _ = five.names
    rows = list(five.history.entries(NOTIFICATIONS, forged.first, forged.last))
    named = five.says(between.ref)["previous"]
    assert named.startswith(first.ref.rpartition("/")[2])
    _, data, manifest = pack(NOTIFICATIONS, NOTIFICATIONS, rows, None, named)
    five.fleet.put(forged.ref, data, manifest)
    dropped(five, forged.ref)
    assert not faults(five)
    five.fleet.delete(between.ref)
    assert faults(five) == [("missing", after.ref)]


def test_a_segment_before_a_dropped_one_that_is_another_now_is_told(five: Place) -> None:
    """By its hash in the mark."""
    names = five.names
    dropped(five, names[2].ref)
    five.rewrite(names[1], lambda rows: rows)
    assert ("changed", names[3].ref) in faults(five)


def test_the_newest_segment_may_be_dropped(five: Place) -> None:
    """On record, as one of the middle: the next one names it, and nothing else is told as gone."""
    last = five.names[-1]
    dropped(five, last.ref)
    five.publish("later")
    five.archive(state=False)
    assert not faults(five)
    reach = five.history.reach(NOTIFICATIONS)
    assert reach
    told = [(one.first, one.last, one.why) for one in reach.gaps]
    assert told == [(last.first, last.last, "dropped from the archive by hand")]


def test_a_mark_without_a_seal_does_not_explain_an_end_that_is_gone(five: Place) -> None:
    """Who takes the newest segments out may write one beside them."""
    last = five.names[-1]
    archive = five.history
    drop(archive, target_of(archive, last.ref), **SAID)
    five.publish("later")
    five.archive(state=False)
    assert [kind for kind, _ in faults(five)] == ["missing"]


class Killed:
    """A store whose user is killed before a delete."""

    def __init__(self, opened: VersionedStore) -> None:
        self._opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def delete(self, ref: str) -> None:
        """End here."""
        raise KeyboardInterrupt(ref)


def test_a_drop_that_was_killed_behind_its_mark_is_done_again(five: Place) -> None:
    """Until then nothing is missing, and a worker continues; then all is as after one drop."""
    real, name = five.fleet, five.names[-1]
    killed: Any = Killed(real)
    five.fleet = killed
    with pytest.raises(KeyboardInterrupt):
        dropped(five, name.ref)
    five.fleet = real
    five.publish("f")
    five.archive(state=False)
    reach = five.history.reach(NOTIFICATIONS)
    assert reach
    assert (reach.gaps, faults(five)) == ((), [])
    dropped(five, name.ref)
    reach = five.history.reach(NOTIFICATIONS)
    assert reach
    assert [one[:2] for one in reach.gaps] == [(name.first, name.last)]
    assert not faults(five)


def test_a_gap_that_a_dropped_segment_told_is_told_on(place: Place) -> None:
    """What was trimmed before it was archived: its name alone knew that."""
    place.publish("a")
    place.archive(state=False)
    if "entries-added" not in place.rig.client.xinfo_stream(NOTIFICATIONS):
        pytest.skip("before Redis 7 no server counts entries: nobody can tell")
    place.publish("b")
    place.rig.client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)
    place.publish("c")
    place.archive(state=False)
    (gap,) = [name.gap for name in place.names if name.gap]
    place.publish("d")
    place.archive(state=False)
    dropped(place, next(name.ref for name in place.names if name.gap))
    reach = place.history.reach(NOTIFICATIONS)
    assert reach
    assert (*gap, "trimmed before it was archived") in [one[:3] for one in reach.gaps]
    assert not faults(place)


def test_an_archive_of_which_all_was_dropped_is_one(place: Place) -> None:
    """Its gap is told, and not that there never was an archive."""
    place.publish("a")
    place.archive(state=False)
    dropped(place, place.names[0].ref)
    found = archive_in(place.fleet, Streams.of([place.rig.keys]))
    assert found
    reach = found.reach(NOTIFICATIONS)
    assert reach
    assert len(reach.gaps) == 1


def test_two_dropped_segments_with_the_same_ends_have_a_mark_each(place: Place) -> None:
    """A stream that was made anew has two: both drops stay on record."""
    place.publish("a")
    place.archive(state=False)
    ref = place.names[0].ref
    data, manifest = place.fleet.get(ref)[:2]
    place.fleet.put(f"{ref}+0123456789ab", data, manifest)
    for one in (ref, f"{ref}+0123456789ab"):
        dropped(place, one)
    assert len(place.history.contents(NOTIFICATIONS, anew=True).gone) == 2


def test_a_state_that_expired_segments_need_is_missed(five: Place) -> None:
    """A drop of it says so before, and once it is gone: nothing else has what came before it."""
    five.publish("f")
    five.archive(state=True)
    (state,) = five.checkpoints
    assert target_of(five.history, state).lacking == []
    expired = five.names[2].last
    five.fleet.put(f"{five.names[0].ref.rpartition('/')[0]}/expired~{expired}", b"", b"")
    assert target_of(five.history, state).lacking == [(EntryId("0-1"), expired)]


def huge(place: Place, like: bytes = b"") -> None:
    """Append an entry of 17 MiB to the notifications, as who writes to Redis may."""
    fields: dict[Any, Any] = {"event": like or b"{}", "origin": b"{}", "x": b"x" * (17 << 20)}
    place.rig.client.xadd(NOTIFICATIONS, fields)


def test_a_huge_entry_stops_no_state(place: Place) -> None:
    """A worker archives whatever is in Redis; no notification is so large, and it replaces none."""
    place.publish("a")
    huge(place)
    place.archive(state=True)
    place.publish("b")
    place.archive(state=True)
    assert ids(list(place.state())) == ["a", "b"]


@pytest.mark.parametrize("row", [b"nonsense", b'["%d-0"', b"[]"])
def test_rows_in_a_state_that_are_none_break_nothing(place: Place, row: bytes) -> None:
    """Who writes to the store puts a state there with no seal: a worker and a feed continue, or say
    that it is damaged.
    """
    last = place.publish("a")
    place.archive(state=False)
    name = place.names[0]
    row = row.replace(b"%d", b"%d" % name.last.ms)
    raw = b"%s\t%s\n" % (orjson.dumps(["t", "x", ""]), row)
    said = {"format": 3, "rows": 1, "sha256": hashlib.sha256(raw).hexdigest(), "gaps": []}
    ref = f"{name.ref.rpartition('/')[0].rpartition('/')[0]}@state/{name.last}"
    place.fleet.put(ref, gzip.compress(raw), orjson.dumps(said))
    assert last
    place.publish("b")
    for step in (place.archive, lambda: list(place.state())):
        with suppress(SidecarError):
            step()


def test_a_seal_that_a_newer_state_made_old_stops_no_state(five: Place) -> None:
    """Another worker, which knows less of keys, wrote one since: what came before is not read."""
    bad = five.names[-1].ref
    data, manifest = five.fleet.get(bad)[:2]
    five.fleet.put(bad, data, manifest.replace(b'"doubted":[', b'"doubted":[ '))
    writer = five.archiver()
    with pytest.raises(SidecarError, match="did not seal"):
        writer.keep_state()
    five.publish("f")
    other = five.keys.new("other")
    five.archive(signer=other)
    (state,) = five.checkpoints
    five.publish("g", "h", "i")
    assert list(writer.archive(NOTIFICATIONS, rest=True))
    writer.keep_state()
    assert five.checkpoints[:-1] == [state]

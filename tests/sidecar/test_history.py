"""Histories: what can be read of the streams, and what is said of the rest."""

from __future__ import annotations

import gc
import threading

import pytest
import redis

from sidecar.history import Gap
from sidecar.history.live import LiveHistory
from sidecar.history.rows import of_line, to_line
from sidecar.history.scratch import scratch
from sidecar.redis.client import Side
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from tests.sidecar.harness import Rig


def live(rig: Rig) -> LiveHistory:
    """Return the history of the rig's streams."""
    side = Side(rig.client, rig.url)
    return LiveHistory(side, side, [rig.keys], None)


@pytest.mark.parametrize("value", [b"", b"plain", b'{"a":"\\u0000"}', "ü".encode(), b"\xff\x00"])
def test_a_line_gives_back_the_very_bytes(value: bytes) -> None:
    """Whatever bytes an entry has, its line is one line and gives them back."""
    line = to_line(Entry(EntryId("1-2"), {b"event": value, b"\xfe": value}))
    assert line.count(b"\n") == 1
    assert of_line(line) == Entry(EntryId("1-2"), {b"event": value, b"\xfe": value})


@pytest.mark.parametrize(
    "line", [b"{}", b'["1-1","a"]', b'["1-1","a",{"base64":"?"}]', b'["1-1","a",3]', b"[1", b"[3]"]
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """A damaged line is an error, not another entry."""
    with pytest.raises(ValueError, match=r"no entry|base64|JSON|unexpected"):
        of_line(line)


def test_entries_come_in_order_and_back(rig: Rig, client: redis.Redis) -> None:
    """Entries are read between two IDs, both inclusive, either way."""
    ids = [rig.emit(f"e{i}") for i in range(5)]
    del client
    history = live(rig)
    assert [e.id for e in history.entries(rig.control, EntryId(ids[1]), EntryId(ids[3]))] == ids[
        1:4
    ]
    assert [
        e.id for e in history.entries_back(rig.control, EntryId(ids[3]), EntryId(ids[1]))
    ] == ids[3:0:-1]


def test_the_reach_tells_what_was_trimmed(rig: Rig) -> None:
    """What the sidecar trimmed is missing; what an operator removed from the middle is not."""
    ids = [rig.emit(f"e{i}") for i in range(5)]
    history = live(rig)
    assert history.reach("nothing") is None
    whole = history.reach(rig.control)
    assert whole
    assert (whole.first, whole.last, whole.gaps) == (ids[0], ids[4], ())
    rig.client.xdel(rig.control, ids[3])
    assert not live(rig).reach(rig.control).gaps  # type: ignore[union-attr]
    rig.client.hset(rig.keys.trimmed, rig.control, ids[1])
    rig.client.xtrim(rig.control, minid=ids[2], approximate=False)
    reach = live(rig).reach(rig.control)
    assert reach
    assert reach.first == ids[2]
    assert [gap.why for gap in reach.missing(EntryId("0-1"), EntryId(ids[4]))] == ["trimmed"]
    assert not reach.missing(EntryId(ids[2]), EntryId(ids[4]))
    assert reach.missing(EntryId(ids[1]), EntryId(ids[1])) == [
        Gap(EntryId(ids[1]), EntryId(ids[1]), "trimmed")
    ]


def test_waiting_is_what_was_not_handed_out_or_is_pending(rig: Rig) -> None:
    """Entries that a worker finished do not wait; those it holds, or never saw, do."""
    first = rig.emit("done")
    rig.drain()
    held = rig.emit("held")
    rig.client.xreadgroup(rig.keys.group, "worker", {rig.control: ">"})
    fresh = rig.emit("fresh")
    assert live(rig).waiting(rig.control, [EntryId(first), EntryId(held), EntryId(fresh)]) == {
        held,
        fresh,
    }


def test_published_is_what_the_index_remembers(rig: Rig) -> None:
    """An event that was published is told with its control_version, others are not."""
    rig.emit("a")
    rig.drain()
    known = live(rig).published(["a", "b"])
    assert known == {"a": rig.notifications()[0]["control_version"]}


def test_a_scratch_database_ends_with_who_had_it() -> None:
    """It needs no closing, and whichever thread lets it go may end it, without a warning."""
    only = [scratch("CREATE TABLE held (line BLOB)")]
    only[0].execute("INSERT INTO held VALUES ('x')")
    only.clear()
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()

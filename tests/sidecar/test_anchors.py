"""Anchors: up to where a control stream is finished, and what the index keeps for its sake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.redis.anchors import SHORTEST_HOLD_US, Anchor, followed, kept_since, parse, written
from sidecar.redis.ends import Ends
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, EntryId
from sidecar.worker.anchoring import Anchoring
from sidecar.worker.reading import ReadAgain

KEYS = Keys.of("control:events", "control:notifications")
NOW_US = 1_790_000_000_000_000
WEEK_US = 7 * 86_400 * 1_000_000


def entry(entry_id: str, content: bytes = b"old") -> Entry:
    """Return an entry."""
    return Entry(EntryId(entry_id), {b"event": content})


def ends(ids: list[str], *, given_id: str = "", deleted: str = "") -> Ends:
    """Return what a stream with these entries tells."""
    last = ids[-1] if ids else ""
    given, oldest = EntryId(given_id or last or FIRST), EntryId(ids[0] if ids else "")
    return Ends(
        0, given, EntryId(last), oldest, EntryId(deleted), has_known=False, below_known=EntryId("")
    )


@pytest.mark.parametrize(
    ("there", "stream", "same"),
    [
        (entry("5-0"), ends(["4-0", "5-0"]), True),
        (entry("5-0", b"new"), ends(["4-0", "5-0"]), False),
        (None, ends(["4-0", "6-0"]), False),
        (None, ends(["4-0", "6-0"], deleted="5-0"), True),
        (None, ends(["4-0", "6-0"], deleted="4-5"), False),
        (None, ends(["6-0"]), True),
        (None, ends([], given_id="5-0"), True),
        (None, ends([], given_id="4-9"), False),
        (None, ends(["4-0"]), False),
        (None, ends(["4-0"], given_id="5-0"), True),
        (None, ends([]), False),
    ],
)
def test_whether_a_stream_has_an_anchor(there: Entry | None, stream: Ends, *, same: bool) -> None:
    """It has the same entry, or nothing up to there, or it says that the entry was deleted."""
    assert Anchor.of(EntryId("5-0"), entry("5-0"), 0).is_in(stream, there) is same


def test_an_anchor_where_nothing_was() -> None:
    """An entry that stands where none was is another stream's; before all there is none."""
    assert not Anchor.of(EntryId("5-0"), None, 0).is_in(ends(["4-0", "5-0"]), entry("5-0"))
    assert Anchor.of(FIRST, None, 0).is_in(ends([]), None)
    assert Anchor.of(FIRST, None, 0).is_in(ends(["1-0"]), None)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([b"x", b"y"])), max_size=12),
    st.integers(0, 70),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([b"x", b"y"])), max_size=12),
)
def test_a_stream_that_is_only_trimmed_has_its_anchor(
    was: list[tuple[int, bytes]], at: int, trimmed: int, other: list[tuple[int, bytes]]
) -> None:
    """It has; and what another stream has below its own entry at an anchor, that is never taken."""
    stream = sorted(dict(was).items())
    noted = next(((n, content) for n, content in reversed(stream) if n <= at), None)
    if noted is None:
        return
    anchor = Anchor.of(EntryId(f"{noted[0]}-0"), entry(f"{noted[0]}-0", noted[1]), 0)

    def has(entries: list[tuple[int, bytes]], given_id: str) -> bool:
        there = dict(entries).get(noted[0])
        found = ends([f"{n}-0" for n, _ in entries], given_id=given_id)
        return anchor.is_in(found, entry(anchor.id, there) if there else None)

    assert has(stream[trimmed:], f"{stream[-1][0]}-0")
    anew = sorted(dict(other).items())
    if has(anew, f"{anew[-1][0]}-0" if anew else FIRST):
        below = [n for n, _ in anew if n <= noted[0]]
        assert not below or dict(anew)[noted[0]] == noted[1]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(1, 100))
def test_the_older_anchor_moves_on(steps: list[int], apart_us: int) -> None:
    """The newest is kept, and one before it that is never further back than two steps need."""
    anchors: tuple[Anchor, ...] = (Anchor(FIRST, "-", 0),)
    at = 0
    for number, step in enumerate(steps, 1):
        at += step
        newest, before = Anchor(EntryId(f"{number}-0"), "-", at), anchors
        anchors = followed(before, newest, apart_us=apart_us)
        assert anchors[0] is newest
        assert anchors[1] in before
        assert len(anchors) == 2
        assert anchors[1].since_us >= before[-1].since_us
        assert before[0].since_us - anchors[1].since_us < apart_us
        assert parse(written(anchors).encode()) == anchors


@pytest.mark.parametrize(
    "noted", [None, b"", b"garbage", b"5-0", b"5-0 - x", b"5-0 - 1 2", b"x - 1", b"\xff"]
)
def test_garbage_is_no_anchor(noted: bytes | None) -> None:
    """What no sidecar wrote is no anchor."""
    assert parse(noted) == ()


def test_what_the_index_keeps() -> None:
    """It keeps what ended since the oldest anchor, but for a stream that stands still too long."""
    noted: dict[bytes, bytes] = {}

    class Server:
        """Has anchors."""

        def hgetall(self, _: str) -> dict[bytes, bytes]:
            """Return them."""
            return noted

    client: Any = Server()
    assert kept_since(client, KEYS, NOW_US, WEEK_US) == NOW_US
    fresh, older = NOW_US - 1000, NOW_US - 2 * WEEK_US
    noted[b"a"] = written(
        [Anchor(EntryId("9-0"), "-", fresh), Anchor(EntryId("5-0"), "-", older)]
    ).encode()
    noted[b"garbage"] = b"garbage"
    assert kept_since(client, KEYS, NOW_US, WEEK_US) == older
    noted[b"given up"] = written([Anchor(EntryId("5-0"), "-", NOW_US - 5 * WEEK_US)]).encode()
    assert kept_since(client, KEYS, NOW_US, WEEK_US) == older
    assert kept_since(client, KEYS, NOW_US, 2 * WEEK_US) == NOW_US - 5 * WEEK_US
    noted[b"b"] = written([Anchor(EntryId("5-0"), "-", NOW_US - SHORTEST_HOLD_US)]).encode()
    assert kept_since(client, KEYS, NOW_US, 1_000_000) == NOW_US - SHORTEST_HOLD_US


class Tenure:
    """All that a tenure's anchoring asks for: publisher, control stream and reading."""

    window_s = 80.0

    def __init__(self) -> None:
        self.next_new, self.recovers, self.now = EntryId("5-0"), False, NOW_US
        self.entries, self.content = ["4-0"], b"old"
        self.noted: list[Anchor] = []
        self.low = FIRST
        side: Any = self
        self.anchoring = Anchoring(side, side, side, (Anchor(FIRST, "-", 0),))

    def now_us(self) -> int:
        """Return the time."""
        return self.now

    def last_to(self, entry_id: EntryId) -> Entry | None:
        """Return the highest entry up to there."""
        below = [one for one in self.entries if EntryId(one) <= entry_id]
        return entry(below[-1], self.content) if below else None

    def at(self, entry_id: EntryId) -> Entry | None:
        """Return the entry with that ID."""
        return entry(entry_id, self.content) if entry_id in self.entries else None

    def look(self, known: EntryId) -> Ends:
        """Hold the stream against that entry."""
        return ends(self.entries, given_id=self.next_new.before)._replace(
            has_known=known in self.entries
        )

    def stand(self, *, low: EntryId, anchors: tuple[Anchor, ...]) -> None:
        """Take what is noted."""
        self.low = low
        self.noted.append(anchors[0])


def test_an_anchor_waits_until_all_before_its_mark_is_finished() -> None:
    """Its time is that of the mark: nothing after it had been read then."""
    tenure = Tenure()
    tenure.anchoring.move_on(EntryId("3-0"))
    tenure.next_new, tenure.now, tenure.entries = EntryId("9-0"), NOW_US + 5, ["4-0", "8-0"]
    tenure.anchoring.move_on(EntryId("4-0"))
    assert not tenure.noted
    tenure.anchoring.move_on(EntryId("7-0"))
    assert tenure.noted == [Anchor.of(EntryId("4-0"), entry("4-0"), NOW_US)]
    tenure.anchoring.move_on(EntryId("9-0"))
    assert tenure.noted[1:] == [Anchor.of(EntryId("8-0"), entry("8-0"), NOW_US + 5)]
    assert tenure.low == "9-0"


def test_an_anchor_of_an_empty_stream() -> None:
    """Where all is trimmed, it stands before what comes next, without an entry."""
    tenure = Tenure()
    tenure.entries = []
    tenure.anchoring.move_on(EntryId("5-0"))
    (anchor,) = tenure.noted
    assert anchor.id < EntryId("5-0")
    assert anchor.checksum == "-"


def test_another_stream_has_no_anchor_of_this_one() -> None:
    """Where the entry at the mark is another one now, nothing is noted: all is read anew."""
    tenure = Tenure()
    tenure.anchoring.move_on(EntryId("3-0"))
    tenure.content = b"new"
    with pytest.raises(ReadAgain):
        tenure.anchoring.move_on(EntryId("5-0"))
    assert not tenure.noted


def test_a_stream_put_in_place_while_its_end_is_read_gives_no_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its entries were never read, however long the worker stalled before it asked for the last."""
    tenure = Tenure()
    tenure.anchoring.move_on(EntryId("5-0"))
    (of_this_stream,) = tenure.noted
    tenure.next_new = EntryId("9-0")

    def last_of_another(entry_id: EntryId) -> Entry | None:
        tenure.entries, tenure.content = ["2-0", "4-0"], b"new"
        return Tenure.last_to(tenure, entry_id)

    monkeypatch.setattr(tenure, "last_to", last_of_another)
    with pytest.raises(ReadAgain):
        tenure.anchoring.move_on(EntryId("9-0"))
    assert tenure.noted == [of_this_stream]


def test_no_mark_while_the_group_delivers_again() -> None:
    """What it delivers may have ended long ago."""
    tenure = Tenure()
    tenure.recovers = True
    tenure.anchoring.move_on(EntryId("5-0"))
    assert not tenure.noted

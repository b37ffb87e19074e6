"""What a row of dead letters ends with: one table, and both ways that an event can take."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.redis.publisher import Buried, Letter, Publisher
from sidecar.redis.source import Entry
from sidecar.wire.event import Reason
from sidecar.wire.ids import EntryId, Origin
from sidecar.worker.policy import Bury
from sidecar.worker.rows import parted
from sidecar.worker.window import Item, Trouble
from tests.sidecar.harness import Rig


def item(word: str) -> Item:
    """Return an item: `x` is a dead letter, `d` a known duplicate, anything else that event."""
    made = Item(
        Entry(EntryId("1-0"), {}),
        EntryId("1-0"),
        Origin("s/1-0"),
        Trouble(0.0),
        identity=word.encode() * 32,
    )
    if word == "x":
        made.bury = Bury(Reason.MALFORMED, "")
    elif word == "d":
        made.known = made.identity
    return made


@pytest.mark.parametrize(
    ("ready", "begin", "ends_from"),
    [
        ("", "", 1),
        ("x", "-", 1),
        ("xx", "--", 1),
        ("ax", "^", 2),
        ("axx", "^-", 2),
        ("xax", "-^", 2),
        ("xa", "-", 1),
        ("axb", "^", 2),
        ("dx", "-", 2),
        ("xdx", "--", 2),
        ("adx", "^", 3),
        ("aax", "^", 3),
        ("axax", "^-", 3),
        ("axbxax", "^^-", 4),
        ("axdxbx", "^-^", 4),
    ],
)
def test_which_letters_begin_a_row(ready: str, begin: str, ends_from: int) -> None:
    """A letter after a new event begins a row; one after a duplicate does not."""
    letters, events, row_ends_from, _ = parted([item(word) for word in ready], ())
    assert "".join("^" if letter.begins_row else "-" for letter in letters) == begin
    assert row_ends_from == ends_from
    assert len(letters) + len(events) == len(ready)


def emit(rig: Rig, event_id: str, *, artifact: bool) -> None:
    """Emit an event with an artifact or without."""
    (rig.emit_artifact if artifact else rig.emit)(event_id)


@pytest.mark.parametrize("artifact", [True, False], ids=["artifact", "none"])
def test_a_duplicate_ends_no_row(rig: Rig, artifact: bool) -> None:
    """Dead letters with duplicates of one old event between them halt the stream."""
    emit(rig, "old", artifact=artifact)
    rig.drain()
    for _ in range(3):
        rig.add("{")
        emit(rig, "old", artifact=artifact)
    with rig.relay(max_consecutive_dead=3, drain=True) as run:
        assert not run.finish(), "it was not halted"
        assert "halted" in [state for state, _ in run.observer.states]
    assert len(rig.letters()) == 3


def test_a_new_event_ends_a_row(rig: Rig) -> None:
    """Dead letters with new events between them do not halt the stream, be they read in one go."""
    for n in range(5):
        rig.add("{")
        rig.emit(f"new {n}")
    with rig.relay(max_consecutive_dead=2, drain=True) as run:
        assert run.finish(), run.observer.states


def test_one_new_event_by_itself_ends_a_row(rig: Rig) -> None:
    """A run with nothing but one event in it ends the row that was counted before."""
    rig.add("{")
    rig.drain(max_consecutive_dead=9)
    rig.emit("new")
    rig.drain(max_consecutive_dead=9)
    assert not rig.client.hexists(rig.keys.halt, "dead_in_a_row")


@pytest.mark.parametrize("artifact", [True, False], ids=["artifact", "none"])
def test_a_row_goes_on_behind_a_duplicate(rig: Rig, artifact: bool) -> None:
    """What was published before a dead letter does not end the row that begins with it."""
    emit(rig, "old", artifact=artifact)
    rig.drain()
    emit(rig, "new", artifact=artifact)
    if artifact:
        rig.drain()  # else it may still be at the store when the dead letter is written
    rig.add("{")
    emit(rig, "old", artifact=artifact)
    rig.drain(max_consecutive_dead=9)
    counted: Any = rig.client.hget(rig.keys.halt, "dead_in_a_row")
    assert counted == b"1"


def test_a_letter_that_is_there_already_begins_a_row_all_the_same(rig: Rig) -> None:
    """That a row has ended is not lost with a dead letter that need not be written again."""
    rig.emit("new")
    rig.add("{")
    rig.drain()
    rig.client.hset(rig.keys.halt, "dead_in_a_row", "5")
    publisher = Publisher(rig.client, rig.keys, lease_s=60, dedup_window_s=3600)
    publisher.acquire()
    (there,) = rig.letters()
    again = Letter(Origin(there["origin"].decode()), b"", {"reason": "malformed"}, begins_row=True)
    assert publisher.bury([again], EntryId("9-0"), max_in_a_row=9, now="") == [Buried.ALREADY]
    assert not rig.client.hexists(rig.keys.halt, "dead_in_a_row")


@pytest.mark.parametrize("noted", ["many", "-5", "1e300"])
def test_a_count_that_no_sidecar_wrote_gives_way(rig: Rig, noted: str) -> None:
    """It keeps no stream from being halted: the row is counted anew."""
    rig.client.hset(rig.keys.halt, "dead_in_a_row", noted)
    rig.add("{")
    rig.drain(max_consecutive_dead=2)
    assert rig.client.hget(rig.keys.halt, "dead_in_a_row") == b"1"
    rig.add("{")
    with rig.relay(max_consecutive_dead=2, drain=True) as run:
        assert not run.finish(), "it was not halted"
    assert len(rig.letters()) == 2

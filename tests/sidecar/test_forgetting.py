"""The rule by which a worker tells that Redis forgot, and that each loss is told once."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from sidecar.redis.ends import Ends
from sidecar.redis.forgotten import Forgotten, Loss, Part
from sidecar.redis.publisher import Outcome, Verdict
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.incarnations import Incarnation
from sidecar.worker import forgetting
from sidecar.worker.forgetting import Watch, begun_since, control_found, notifications_found
from sidecar.worker.host import Route

OLD, NEW = Incarnation("a", 0, 1001), Incarnation("b", 5000, 9000)


def ends(
    given: str = FIRST, *, oldest: str = "1-0", deleted: str = "0-0", has: bool = False, **more: Any
) -> Ends:
    """Return what a stream has."""
    fields: dict[str, Any] = {
        "given": given, "newest": given, "oldest": oldest, "deleted": deleted, "below_known": "3-0",
    } | more  # fmt: skip
    ids: dict[str, Any] = {
        name: EntryId(one) if isinstance(one, str) else one for name, one in fields.items()
    }
    return Ends(now_ms=50, has_known=has, **ids)


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (ends("5-0", has=True), None),
        (ends("9-0", has=True), None),
        (ends("4-9"), "4-9"),
        (ends("0-0", oldest=""), "0-0"),
        (ends("9-0"), "3-0"),  # producers continued, and the known one is missing
        (ends("9-0", deleted="5-0"), None),  # by hand
        (ends("9-0", deleted=""), None),  # before Redis 7.0 nobody can tell
        (ends("9-0", oldest="7-0"), None),  # trimmed
        (ends("5-0", oldest="", newest=""), None),  # trimmed to nothing
    ],
)
def test_how_a_control_stream_lost_its_end(now: Ends, found: str | None) -> None:
    """What is trimmed or deleted by hand is not forgotten; a last ID that went back is."""
    assert control_found(EntryId("5-0"), now) == found


def test_a_control_stream_of_which_nothing_is_known_lost_nothing() -> None:
    """A worker that has just begun knows no entry."""
    assert control_found(FIRST, ends("9-0", deleted="0-0")) is None


@pytest.mark.parametrize(
    ("known", "seen", "given", "since", "found"),
    [
        ("6-0", "6-0", "6-0", [], None),
        ("6-0", "6-0", "8-0", [], None),
        ("6-0", "6-0", "4-0", [], "4-0"),
        ("6-0", "6-0", "0-0", [], "0-0"),
        ("6-0", "6-0", "9-5", [NEW], "5-0"),  # published into again meanwhile
        ("5-0", "5-0", "9-5", [NEW], None),  # it kept all
        ("9-2", "5-0", "9-2", [NEW], None),  # published by this worker into the new one
        ("9-2", "5-1", "9-2", [NEW], "5-0"),
        ("6-0", "6-0", "9-5", [Incarnation("c", 4000, 6500), NEW], "4-0"),
        ("6-0", "6-0", "3-0", [NEW], "3-0"),
    ],
)
def test_how_a_notification_stream_lost_its_end(
    known: str, seen: str, given: str, since: list[Incarnation], found: str | None
) -> None:
    """By its last ID, or by what an incarnation kept that began since."""
    assert notifications_found(EntryId(known), EntryId(seen), EntryId(given), since) == found


def test_which_incarnations_began_since() -> None:
    """All, when the known one is not on the list any more; none, for who looks first."""
    assert begun_since(None, (OLD, NEW)) == ()
    assert begun_since("a", (OLD, NEW)) == (NEW,)
    assert begun_since("b", (OLD, NEW)) == ()
    assert begun_since("gone", (OLD, NEW)) == (OLD, NEW)
    assert begun_since("", (OLD,)) == (OLD,)


@pytest.mark.parametrize(
    ("first", "last", "touches"),
    [
        ("0-0", None, True), ("20-0", None, True), ("20-1", None, False),
        ("0-0", "9-999", False), ("0-0", "10-0", True), ("5-0", "15-0", True),
    ],
)  # fmt: skip
def test_which_window_a_loss_touches(first: str, last: str | None, *, touches: bool) -> None:
    """One that holds a moment from the last that was there to when it was noticed."""
    one = Forgotten(Part.NOTIFICATIONS, "n", EntryId("15-0"), EntryId("10-0"), "", 20_000)
    assert one.touches(EntryId(first), EntryId(last) if last else None) is touches


def test_ids_that_lie_ahead_bound_no_loss() -> None:
    """A control stream whose IDs are ahead of the clock may lack any entry after what was found."""
    one = Forgotten(Part.CONTROL, "s", EntryId("400000-0"), EntryId("399000-0"), "", 20_000)
    assert one.touches(EntryId("500000-0"), None)
    assert not one.touches(EntryId("0-0"), EntryId("398000-0"))
    assert "entry 399000-0 and then" in str(one)


# --- the watch -----------------------------------------------------------------------------------


class Side:
    """A side of Redis, as a test says that it is."""

    notifications = "n"

    def __init__(self) -> None:
        self.ends = ends()
        self.records: list[Loss] = []
        self.error: Exception | None = None
        self.is_news = True

    def look(self, known: str) -> Ends:
        """Return what the test says."""
        del known
        return self.ends

    def put_on_record(self, loss: Loss) -> bool:
        """Keep it, or fail."""
        if self.error:
            raise self.error
        self.records.append(loss)
        return self.is_news


class Scene:
    """A watch between two such sides, and what it says."""

    def __init__(self) -> None:
        self.control, self.memory, self.told, self.now = Side(), Side(), list[str](), 0.0
        route = Route("s", self.control, self.memory)  # type: ignore[arg-type]
        self.watch = Watch(route, self, self, every_s=1, clock=lambda: self.now)  # type: ignore[arg-type]

    def forgot(self, part: str) -> None:
        """Be told, as metrics are."""
        self.told.append(part)

    def error(self, event: str, **more: Any) -> None:
        """Take the line of the log."""
        assert event == "Redis forgot"
        self.line = more

    @property
    def lost(self) -> list[tuple[str, str, str]]:
        """What is on record."""
        return [(one.part, one.known, one.found) for one in self.memory.records]


def published(control_version: int) -> list[Verdict]:
    """Return the verdict on one event."""
    return [Verdict(Outcome.PUBLISHED, control_version)]


def test_what_was_read_and_published_is_known() -> None:
    """Both streams are held against what came between two looks, each loss is told once."""
    scene = Scene()
    scene.watch.look()
    scene.watch.read(EntryId("7-0"))
    scene.watch.read(EntryId("6-0"))  # delivered again
    scene.watch.published(EntryId("0-0"), published(8000))
    scene.watch.look()
    scene.watch.look()
    assert scene.lost == [("notification stream", "8-0", "0-0"), ("control stream", "7-0", "0-0")]
    assert scene.told == [part for part, _, _ in scene.lost]
    assert scene.line["whole_until"] == "1970-01-01T00:00:00.050Z"
    assert scene.line["detail"] == forgetting.FOLLOWS[Part.CONTROL]


def test_when_a_control_stream_was_whole_is_not_read_from_an_id() -> None:
    """Only a notification's ID is a time; of a control entry nobody knows it before a look."""
    scene = Scene()
    scene.watch.lost(Part.CONTROL, EntryId("17-0"), EntryId("0-0"))
    scene.watch.published(EntryId("9-0"), [])
    assert [one.whole_ms for one in scene.memory.records] == [0]
    assert scene.line["whole_until"] == "unknown"
    scene.watch.published(EntryId("9-0"), published(9001))
    scene.watch.published(EntryId("0-0"), [])
    assert [one.whole_ms for one in scene.memory.records] == [0, 9]


def test_a_publish_into_a_stream_that_lost_its_end_tells_at_once() -> None:
    """The next look finds nothing new, though an incarnation began."""
    scene = Scene()
    scene.memory.ends = ends("4-0", incarnations=(OLD,))
    scene.watch.look()
    scene.watch.published(EntryId("4-0"), published(6000))
    scene.watch.published(EntryId("5-0"), published(9000))
    assert scene.lost == [("notification stream", "6-0", "5-0")]
    scene.memory.ends = ends("9-0", incarnations=(OLD, NEW))
    scene.watch.look()
    assert len(scene.lost) == 1


def test_a_server_that_took_over_with_all_there_was_forgot_nothing() -> None:
    """An incarnation begins with it, also where this worker published first."""
    scene = Scene()
    scene.memory.ends = ends("5-0", incarnations=(OLD,))
    scene.watch.look()
    scene.watch.published(EntryId("5-0"), published(9000))
    scene.memory.ends = ends("9-0", incarnations=(OLD, NEW))
    scene.watch.look()
    assert scene.lost == []


def test_a_worker_that_begins_goes_by_what_was_published_last() -> None:
    """What is noted as published last, and is not there, is lost; it is told once."""
    scene = Scene()
    scene.memory.ends = ends("4-0", published="6-0", incarnations=(OLD,))
    scene.watch.look()
    scene.watch.look()
    assert scene.lost == [("notification stream", "6-0", "4-0")]
    assert scene.memory.records[0].whole_ms == 6


def test_what_the_look_tells_is_not_told_again_by_what_lies_beside() -> None:
    """A lost control stream took its group with it, lost notifications their notes."""
    scene = Scene()
    scene.watch.look()
    scene.watch.read(EntryId("7-0"))
    scene.watch.published(EntryId("0-0"), published(8000))
    scene.watch.look()
    for part in Part:
        scene.watch.lost(part, EntryId("7-0"), EntryId("0-0"))
    assert len(scene.lost) == 2
    scene.watch.all_is_right()
    scene.watch.lost(Part.GROUP, EntryId("7-0"), EntryId("0-0"))
    assert scene.memory.records[-1].whole_ms == 50


def test_what_others_have_told_is_not_said_again() -> None:
    """Another worker, or relay, saw the same: the record says so."""
    scene = Scene()
    scene.memory.is_news = False
    scene.watch.lost(Part.GROUP, EntryId("7-0"), EntryId("7-0"))
    assert (scene.told, len(scene.lost)) == ([], 1)


def test_what_cannot_be_put_on_record_is_told_all_the_same() -> None:
    """By the log, with why; nothing stops for it."""
    scene = Scene()
    scene.memory.error = redis.ResponseError("NOPERM")
    scene.watch.lost(Part.NOTES, EntryId("7-0"), EntryId(""))
    assert scene.told == ["notes"]
    assert scene.line["unrecorded"] == "NOPERM"


def test_what_could_not_be_told_is_told_later() -> None:
    """Redis went away again just then: the next look tells."""
    scene = Scene()
    scene.memory.error = redis.ConnectionError("away")
    with pytest.raises(redis.ConnectionError):
        scene.watch.lost(Part.GROUP, EntryId("7-0"), EntryId("7-0"))
    scene.memory.error = None
    scene.watch.look()
    assert scene.told == ["group"]


def test_a_look_is_due_once_in_a_while() -> None:
    """Who stands by looks no more often than an owner."""
    scene = Scene()
    scene.watch.look_if_due()
    scene.memory.ends = ends("4-0", published="6-0")
    scene.control.ends = ends("9-0")
    scene.watch.read(EntryId("99-0"))
    scene.watch.look_if_due()
    assert scene.lost == []
    scene.now = 1.0
    scene.watch.look_if_due()
    assert scene.lost == [("control stream", "99-0", "9-0")]

"""The timeline: each event's cause beside its effect."""

from __future__ import annotations

from time import sleep

import pytest

from sidecar.replay import timeline
from sidecar.replay.timeline import End, Life, lives
from sidecar.replay.window import Window, parse_window
from sidecar.wire.moments import rfc3339
from tests.sidecar.harness import Rig
from tests.sidecar.test_history import live


def told(rig: Rig, window: Window | None = None) -> list[Life]:
    """Return the lives in the window, or all."""
    return list(lives(live(rig), window or Window()))


def ends(found: list[Life]) -> list[tuple[str, str]]:
    """Return each event_id with its end."""
    return [(life.event_id, life.end.value) for life in found]


def everything(rig: Rig) -> None:
    """Let an event end in each of the ways."""
    rig.emit("good")
    rig.emit("bad", kind="nobody.knows")
    rig.emit("good", id=7)
    rig.add("{broken")
    rig.drain()
    rig.emit("late")


@pytest.mark.parametrize("memory", [20_000, 1])
def test_each_event_has_its_end(rig: Rig, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """Published, dead, duplicate and waiting: each once, cause and effect joined, spilt or not."""
    monkeypatch.setattr(timeline, "HELD_IN_MEMORY", memory)
    everything(rig)
    found = told(rig)
    assert sorted(ends(found)) == [
        ("", "dead"), ("bad", "dead"), ("good", "duplicate"), ("good", "published"),
        ("late", "waiting"),
    ]  # fmt: skip
    for life in found:
        assert life.entry
        assert life.origin == f"{rig.control}/{life.entry.id}"
        assert life.begun_us
        assert life.end is End.WAITING or life.ended_us + 1000 > life.begun_us
    cv = rig.notifications()[0]["control_version"]
    assert {life.control_version for life in found if life.event_id == "good"} == {cv}
    assert [life.reason for life in found if life.event_id == "bad"] == ["unknown_type"]


def test_a_cause_that_was_trimmed_leaves_its_effect(rig: Rig) -> None:
    """A notification whose entry is gone is told without it."""
    everything(rig)
    rig.client.xtrim(rig.control, maxlen=0)
    assert {(life.event_id, life.entry) for life in told(rig)} == {
        ("good", None), ("bad", None), ("", None),
    }  # fmt: skip


def test_what_ended_after_the_window_is_told_with_its_end(rig: Rig) -> None:
    """An event that began in the window and ended later is there, and when it ended."""
    entry = rig.emit("e")
    rig.drain()
    cv = rig.notifications()[0]["control_version"]
    found = told(rig, Window(0, int(entry.partition("-")[0]) * 1000))
    assert ends(found) == [("e", "published")]
    assert found[0].ended_us == cv


def test_what_began_before_the_window_comes_with_its_cause(rig: Rig) -> None:
    """The entry of a notification in the window is found though it lies before."""
    rig.emit("e")
    rig.drain()
    cv = rig.notifications()[0]["control_version"]
    found = told(rig, parse_window(str(cv - 1), rfc3339(cv + 10_000), cv))
    assert ends(found) == [("e", "published")]
    assert found[0].entry


def test_a_lost_entry_is_unknown(rig: Rig) -> None:
    """An entry that was acknowledged and has no end is not given one."""
    rig.emit("e")
    rig.drain()
    rig.client.delete(rig.notify, *rig.client.keys("*seen*"))
    assert ends(told(rig)) == [("e", "unknown")]


def test_what_was_published_stays_so_when_its_notification_has_expired(rig: Rig) -> None:
    """The first entry of an event_id was published; later ones are repeats of it."""
    rig.emit("good")
    rig.emit("good", id=7)
    rig.drain()
    rig.emit("good", id=8)
    rig.drain()
    rig.client.xtrim(rig.notify, maxlen=0)
    assert ends(told(rig)) == [("good", "published"), ("good", "duplicate"), ("good", "duplicate")]


def test_a_repeat_whose_original_expired_is_a_repeat(rig: Rig) -> None:
    """It came after the event had been published, though nothing else is left to tell."""
    rig.emit("good")
    rig.drain()
    sleep(0.002)
    rig.emit("good", id=7)
    rig.drain()
    rig.client.xtrim(rig.control, maxlen=1, approximate=False)
    rig.client.xtrim(rig.notify, maxlen=0, approximate=False)
    assert ends(told(rig)) == [("good", "duplicate")]

"""Halts as a review sees them: recorded when they begin and end, told wherever they explain."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.history.halts import halts_of
from tests.cli.harness import DEAD, STREAM, Cli

HALTS: Final = "{control:notifications}:halts"
MS: Final = 1_790_000_000_000


def halt(sidecar: Cli, reason: str, why: str = "") -> None:
    """Pause and, when there is a why, resume."""
    assert sidecar("pause", "--reason", reason).code == 0
    if why:
        assert sidecar("resume", "--reason", why).code == 0


def shown(sidecar: Cli, *args: str | Path) -> list[dict[str, Any]]:
    """Return the halts that the timeline tells."""
    ran = sidecar("replay", "show", "--json", *args)
    assert ran.code == 0, ran.err
    return [one for one in ran.objects() if "halted" in one]


def hops(sidecar: Cli, what: str, name: str, *args: str | Path) -> list[str]:
    """Return what the hops of that name say of an event."""
    (event,) = sidecar("trace", "--json", what, *args).objects()
    return [hop["detail"] for hop in event["hops"] if hop["hop"] == name]


def entry(sidecar: Cli, event_id: str, begun: int, ended: int | None, tenant: str = "t") -> None:
    """Plant an event that came, and was published, so many milliseconds after MS."""
    event: dict[str, Any] = {"id": 0, "event_id": event_id, "type": "run.abort"}
    event |= {"tenant_id": tenant}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)}, id=f"{MS + begun}-0")
    if ended is not None:
        event["control_version"] = (MS + ended) * 1000
        sidecar.notification(event, f"{MS + ended}-0", f"{STREAM}/{MS + begun}-0")


# --- the record ----------------------------------------------------------------------------------


def test_pause_and_resume_are_recorded(sidecar: Cli) -> None:
    """With what they did, to which stream, why, and by whom."""
    halt(sidecar, "bad deploy", "rolled back")
    records = sidecar.entries(HALTS)
    assert [(one["what"], one["stream"], one["reason"]) for one in records] == [
        ("halted", STREAM, "bad deploy"), ("resumed", STREAM, "rolled back"),
    ]  # fmt: skip
    assert all("@" in one["by"] for one in records)


def test_a_tenant_is_paused_and_resumed_by_name(sidecar: Cli) -> None:
    """It is said of what, as text and as JSON; `status` and `replay show` tell it."""
    ran = sidecar("pause", "--tenant", "t 1", "--reason", "repeats itself")
    assert f"{STREAM}, tenant 't 1': paused: repeats itself" in ran.out
    again = sidecar("pause", "--tenant", "t 1", "--reason", "me too", "--json").object()
    assert (again["tenant"], again["paused"], again["changed"]) == ("t 1", True, False)
    assert again["reason"] == "repeats itself"
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert stream["paused"]["t 1"]["reason"] == "repeats itself"
    assert stream["halt"] is None
    assert "repeats itself" in sidecar("status").out
    resumed = sidecar("resume", "--tenant", "t 1", "--reason", "fixed")
    assert "resumed; it was paused: repeats itself" in resumed.out
    assert "not paused, nothing to resume" in sidecar("resume", "--tenant", "t 1").out
    entry(sidecar, "e", begun=0, ended=1)
    (told,) = shown(sidecar)
    assert (told["tenant"], told["reason"], told["resumed_why"]) == (
        "t 1", "repeats itself", "fixed",
    )  # fmt: skip


def test_to_resume_a_stream_resumes_no_tenant_of_it(sidecar: Cli) -> None:
    """A halt and a pause are two things."""
    assert sidecar("pause", "--tenant", "t", "--reason", "one").code == 0
    halt(sidecar, "all", "continue")
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert list(stream["paused"]) == ["t"]


def test_no_variable_names_the_tenant(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for `dead ls` does not make a halt the pause of one tenant."""
    monkeypatch.setenv("SIDECAR_TENANT", "t")
    assert sidecar("pause", "--reason", "all", "--json").object()["halted"] is True


def test_an_event_waited_for_its_own_tenants_pause_alone(sidecar: Cli) -> None:
    """The pause of another is no reason of its wait."""
    entry(sidecar, "late", begun=0, ended=8000, tenant="t")
    entry(sidecar, "quick", begun=1, ended=8001, tenant="u")
    for at_ms, what in ((1000, "paused"), (7000, "unpaused")):
        sidecar.client.xadd(
            HALTS, {"what": what, "stream": STREAM, "tenant": "t", "reason": "r", "by": "op"},
            id=f"{MS + at_ms}-0",
        )  # fmt: skip
    (told,) = hops(sidecar, "late", "halt")
    assert f"{STREAM} had tenant 't' paused by op, reason given: \"r\"" in told
    assert hops(sidecar, "quick", "halt") == []


def test_what_changes_nothing_is_not_recorded(sidecar: Cli) -> None:
    """A second pause keeps the first one's reason, and a resume of what runs does nothing."""
    halt(sidecar, "first")
    halt(sidecar, "second", "continue")
    assert sidecar("resume").code == 0
    assert [one["reason"] for one in sidecar.entries(HALTS)] == ["first", "continue"]


def test_a_row_of_dead_letters_is_recorded(sidecar: Cli) -> None:
    """The worker's own halt, too, with the reason that `status` shows."""
    for _ in range(3):
        sidecar.client.xadd(STREAM, {"event": "{"})
    ran = sidecar("run", "--drain", "--max-consecutive-dead", "3")
    assert ran.code in (0, 3), ran.err
    (record,) = sidecar.entries(HALTS)
    assert (record["what"], record["stream"], record["by"]) == ("halted", STREAM, "sidecar")
    assert record["reason"] == "3 dead letters in a row, the last for malformed"


def test_a_halt_that_cannot_be_recorded_is_a_halt(sidecar: Cli) -> None:
    """What lies in the place of the record keeps nobody from halting, or continuing; it is told."""
    sidecar.client.set(HALTS, "in the way")
    paused = sidecar("pause", "--reason", "bad deploy")
    assert (paused.code, "no record" in paused.err) == (0, True)
    assert "bad deploy" in sidecar("status").out
    resumed = sidecar("resume")
    assert (resumed.code, "no record" in resumed.err) == (0, True)


# --- the review ----------------------------------------------------------------------------------


def test_the_timeline_tells_a_halt_among_the_events(sidecar: Cli) -> None:
    """After what had ended before it, whatever the filters."""
    sidecar.emit("e1", "--tenant", "a")
    sidecar.work()
    halt(sidecar, "bad deploy", "rolled back")
    sidecar.emit("e2", "--tenant", "a")
    sidecar.work()
    rows = sidecar("replay", "show", "--json", "--tenant", "a").objects()[1:]
    assert [one.get("event_id", one.get("reason")) for one in rows] == ["e1", "bad deploy", "e2"]
    assert (rows[1]["resumed_why"], rows[1]["until"] > rows[1]["since"]) == ("rolled back", True)
    text = sidecar("replay", "show").out
    assert 'bad deploy"; resumed after' in text


def test_a_halt_before_the_window_that_reaches_into_it_is_told(sidecar: Cli) -> None:
    """It explains why nothing came; one that had ended by then does not."""
    halt(sidecar, "long ago", "over")
    halt(sidecar, "still on")
    sidecar.emit("e1")
    found: Any = sidecar.client.xrange(STREAM)
    since = f"{found[0][0].decode().split('-')[0]}000"
    (told,) = shown(sidecar, "--since", since)
    assert (told["reason"], told["until"]) == ("still on", None)


def test_the_fleet_at_a_position_was_halted(sidecar: Cli) -> None:
    """`replay at` says so while it was, and not before or after."""
    sidecar.emit("e1")
    sidecar.work()
    halt(sidecar, "bad deploy", "rolled back")
    records: Any = sidecar.client.xrange(HALTS)
    began, ended = (int(entry_id.split(b"-")[0]) for entry_id, _ in records)
    positions = (f"{began}000", f"{ended + 1}000", f"{began - 1}999")
    found = [sidecar("replay", "at", one, "--json").objects() for one in positions]
    assert ["halt" in [row["what"] for row in rows] for rows in found] == [True, False, False]
    assert "bad deploy" in sidecar("replay", "at", positions[0]).out


def test_a_bundle_has_the_halts(sidecar: Cli) -> None:
    """Those of the window and before, and how each ended, though that was after the window."""
    halt(sidecar, "bad deploy")
    sidecar.emit("e1")
    found: Any = sidecar.client.xrange(STREAM)
    until = f"{found[0][0].decode().split('-')[0]}999"
    assert sidecar("resume", "--reason", "rolled back").code == 0
    bundle = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", bundle, "--until", until).code == 0
    (told,) = shown(replace(sidecar, url=""), "--bundle", bundle)
    assert (told["reason"], told["resumed_why"]) == ("bad deploy", "rolled back")


def test_a_bundle_of_before_there_was_a_record_opens(sidecar: Cli) -> None:
    """It knows of no halts, and can be exported again."""
    from sidecar.history.bundle import BundleHistory, seal, unseal
    from sidecar.history.members import INDEX

    sidecar.emit("e1")
    sidecar.work()
    halt(sidecar, "bad deploy")
    new, old = sidecar.directory / "new.zip", sidecar.directory / "old.zip"
    assert sidecar("replay", "export", new).code == 0
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            raw = source.read(name)
            if name == INDEX:
                index = unseal(raw, new)
                streams = [one for one in index.streams if one.name != index.halts]
                raw = seal(index.model_copy(update={"halts": "", "streams": streams}))
            target.writestr(name, raw)
    assert halts_of(BundleHistory(old), 0, 2**62) == []
    again = sidecar.directory / "again.zip"
    offline = replace(sidecar, url="")
    assert offline("replay", "export", again, "--bundle", old).code == 0
    assert "" not in [one.name for one in BundleHistory(again)._index.streams]
    assert offline("trace", "e1", "--bundle", again).code == 0


def test_a_resumption_that_is_not_on_record_is_told_as_such(sidecar: Cli) -> None:
    """A stream that was halted twice was resumed between, at a time that nobody knows."""
    for reason in ("first", "second"):
        record: Any = {"what": "halted", "stream": STREAM, "reason": reason, "by": "me"}
        sidecar.client.xadd(HALTS, record)
    sidecar.emit("e1")
    first, second = shown(sidecar)
    assert (first["reason"], first["until"]) == ("first", second["since"])
    assert "no record" in first["resumed_why"]
    assert second["until"] is None


# --- what an event waited for --------------------------------------------------------------------


def test_an_event_that_waited_through_a_halt_says_so(sidecar: Cli) -> None:
    """Once for each halt between its entry and its end, and not for those before or after."""
    halt(sidecar, "before", "over")
    halt(sidecar, "while it waited")
    sidecar.emit("e1")
    assert hops(sidecar, "e1", "halt")[0].endswith('while it waited"; nobody has resumed it')
    assert sidecar("resume", "--reason", "continue").code == 0
    sidecar.work()
    halt(sidecar, "after", "over")
    (told,) = hops(sidecar, "e1", "halt")
    assert 'while it waited"; resumed after' in told


def test_a_halt_of_another_control_stream_held_nothing(sidecar: Cli) -> None:
    """Only the stream that the event came by had to continue."""
    assert sidecar("pause", "--stream", "other:events", "--reason", "not this one").code == 0
    sidecar.emit("e1")
    streams = ("--stream", STREAM, "--stream", "other:events")
    assert hops(sidecar, "e1", "halt", *streams) == []


def test_an_event_names_the_one_that_it_waited_for(sidecar: Cli) -> None:
    """Of all that its tenant sent before, the one that took longest while this one waited."""
    entry(sidecar, "quick", 0, 110)
    entry(sidecar, "slow", 10, 2000)
    entry(sidecar, "behind", 20, 2010)
    entry(sidecar, "another tenant's", 30, 2500, "u")
    entry(sidecar, "e1", 100, 2600)
    assert hops(sidecar, "e1", "held") == [
        "for 1.9s by what its tenant sent before, 1.9s of them by slow"
    ]
    assert hops(sidecar, "another tenant's", "held") == []
    assert hops(sidecar, "quick", "held") == []


def test_a_dead_letter_can_be_what_an_event_waited_for(sidecar: Cli) -> None:
    """Retried until its budget was spent, then buried."""
    event = {"event_id": "gone", "type": "run.abort", "tenant_id": "t"}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)}, id=f"{MS}-0")
    fields: dict[Any, Any] = {"event": json.dumps(event), "origin": f"{STREAM}/{MS}-0"}
    sidecar.client.xadd(DEAD, fields | {"reason": "artifact_missing"}, id=f"{MS + 900}-0")
    entry(sidecar, "e1", 100, 1000)
    assert hops(sidecar, "e1", "held") == [
        "for 800ms by what its tenant sent before, 800ms of them by gone"
    ]


def test_a_waiting_event_names_the_first_of_its_tenant_that_waits(sidecar: Cli) -> None:
    """That is the one being tried; what was done before is not it, nor another tenant's."""
    sidecar.emit("done", "--tenant", "t")
    sidecar.work()
    sidecar.emit("another tenant's", "--tenant", "u")
    for event_id in ("first", "second", "e1"):
        sidecar.emit(event_id, "--tenant", "t")
    assert hops(sidecar, "e1", "held") == ["behind first, which waits, too"]
    assert hops(sidecar, "first", "held") == []


def test_origins_that_no_sidecar_wrote_are_passed_over(sidecar: Cli) -> None:
    """Of hostile notifications between nothing is taken for what the event waited for."""
    event = {"event_id": "x", "type": "run.abort", "tenant_id": "t", "control_version": 1}
    for number, origin in enumerate(("", "nowhere", f"{STREAM}/x-y", f"{STREAM}/9", "é/1-1")):
        sidecar.notification(event, f"{MS + 1000 + number}-0", origin)
    entry(sidecar, "e1", 0, 2000)
    assert hops(sidecar, "e1", "held") == []


def test_the_archive_keeps_halts(sidecar: Cli, client: redis.Redis) -> None:
    """When Redis has lost its record, the review reads it from the fleet's store."""
    sidecar.emit("e1")
    sidecar.work()
    halt(sidecar, "bad deploy", "rolled back")
    assert sidecar("archive").code == 0
    client.xtrim(HALTS, maxlen=0, approximate=False)
    (told,) = shown(sidecar)
    assert told["resumed_why"] == "rolled back"

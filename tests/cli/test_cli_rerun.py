"""`sidecar replay run` and `check`: a window again, for a lab, and through today's code."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

import store
from sidecar.replay import check
from sidecar.wire import notification
from sidecar.wire.event import Reason
from sidecar.worker import pipeline
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli
from tests.sidecar.harness import eventually

LAB = "lab:notifications"
BASE_MS = 1_790_000_000_000


def published(sidecar: Cli, count: int) -> list[Any]:
    """Publish so many; return the notification stream."""
    for n in range(count):
        sidecar.bring(f"e{n}", f"rows/{n}", b"%d" % n, "--tenant", "ab"[n % 2])
    sidecar.work()
    found: Any = sidecar.client.xrange(NOTIFICATIONS)
    return list(found)


def _position(entry_id: bytes) -> int:
    ms, _, seq = entry_id.partition(b"-")
    return int(ms) * 1000 + int(seq)


def rerun(sidecar: Cli, *args: str) -> Any:
    """Publish the window into the lab's stream, as fast as it goes."""
    return sidecar(
        "replay", "run", "--to-redis", sidecar.url, "--to-stream", LAB, "--speed", "max", "--yes",
        *args,
    )  # fmt: skip


def test_the_lab_gets_the_very_same(sidecar: Cli) -> None:
    """IDs, content and order are those of the window; a second run adds nothing."""
    notes = published(sidecar, 4)
    for _ in range(2):
        ran = rerun(sidecar)
        assert ran.code == 0, ran.err
        assert sidecar.client.xrange(LAB) == notes
    found = sidecar("tail", "--notify-stream", LAB, "--resolve", "--json").objects()
    assert [one["control_version"] for one in found] == [_position(at) for at, _ in notes]
    assert all(one["resolved"]["ok"] for one in found)


def test_it_goes_on_where_it_was_stopped(sidecar: Cli) -> None:
    """A stream that has the first of them gets the rest; one that has anything else is refused."""
    notes = published(sidecar, 4)
    for entry_id, fields in notes[:2]:
        sidecar.client.xadd(LAB, fields, id=entry_id)
    assert rerun(sidecar, "--json").objects()[-1] == {
        "stream": LAB, "published": 2, "complete": True,
    }  # fmt: skip
    assert sidecar.client.xrange(LAB) == notes
    sidecar.client.xadd(LAB, {"event": "mine"})
    ran = rerun(sidecar)
    assert (ran.code, "which is not what this window" in ran.err) == (2, True)


def test_filters_choose_what_the_lab_gets(sidecar: Cli) -> None:
    """One tenant's notifications alone; 6 where nothing is left, 5 where nothing was."""
    sidecar.lay_out()
    assert rerun(sidecar).code == 5
    published(sidecar, 4)
    assert rerun(sidecar, "--tenant", "nobody").code == 6
    assert rerun(sidecar, "--tenant", "b").code == 0
    found = [json.loads(one["event"])["event_id"] for one in sidecar.entries(LAB)]
    assert found == ["e1", "e3"]


def test_the_streams_under_review_are_never_written_to(sidecar: Cli) -> None:
    """Not by any word; another stream of the same Redis with --yes only."""
    published(sidecar, 1)
    for name in (NOTIFICATIONS, STREAM):
        ran = sidecar("replay", "run", "--to-redis", sidecar.url, "--to-stream", name, "--yes")
        assert (ran.code, "under review" in ran.err) == (2, True)
    for _ in range(2):
        ran = sidecar("replay", "run", "--to-redis", sidecar.url)
        assert (ran.code, "say --yes" in ran.err) == (2, True)
        assert sidecar("archive").code == 0  # with an archive it is no other server
    sidecar.client.set("taken", "x")
    wrong = ("--to-redis", sidecar.url, "--to-stream", "taken", "--yes")
    assert sidecar("replay", "run", *wrong).code == 2
    for speed in ("0", "fast", "-1", "inf", "nan"):
        assert rerun(sidecar, "--speed", speed).code == 2


def test_a_bundle_is_replayed_without_the_redis_it_came_from(sidecar: Cli) -> None:
    """From the file alone, into the lab's Redis."""
    notes = published(sidecar, 3)
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path).code == 0
    sidecar.client.flushall()
    ran = sidecar(
        "replay", "run", "--bundle", path, "--to-redis", sidecar.url, "--to-stream", LAB,
        "--speed", "max", env={"SIDECAR_REDIS": ""},
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert sidecar.client.xrange(LAB) == notes


def test_it_keeps_the_pace_and_stops_when_asked(sidecar: Cli) -> None:
    """What lay an hour apart is not published at once; a signal ends it, and it can continue."""
    sidecar.lay_out()
    for n in range(3):
        event = {"id": 0, "event_id": f"e{n}", "type": "run.abort"}
        ms = BASE_MS + 3_600_000 * (n // 2) + n
        sidecar.notification(event, f"{ms}-0", f"{STREAM}/{ms}-0")
    args = ("replay", "run", "--to-redis", sidecar.url, "--to-stream", LAB, "--yes")
    with sidecar.running(*args, "--speed", "2") as running:
        eventually(lambda: sidecar.client.xlen(LAB) == 2)
        time.sleep(0.2)
        assert sidecar.client.xlen(LAB) == 2
        os.kill(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=90)
    assert running.returncode == 3
    assert b"continues from here" in err
    assert rerun(sidecar).code == 0
    assert sidecar.client.xlen(LAB) == 3


# --- check ---------------------------------------------------------------------------------------


def everything(sidecar: Cli) -> None:
    """Let events end in every way."""
    published(sidecar, 3)
    sidecar.bring("e0", "rows/0", b"0", "--tenant", "a")
    sidecar.emit("e0", "--tenant", "another")
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"run.abort","version":"x"}'})
    sidecar.client.xadd(STREAM, {"event": b"\xff"})
    missing = {"event_id": "gone", "type": "key.changed", "artifact_ref": "nowhere",
               "checksum": "sha256:" + "0" * 64}  # fmt: skip
    sidecar.client.xadd(STREAM, {"event": json.dumps(missing)})
    sidecar.work()
    sidecar.emit("late")


def everything_in(sidecar: Cli) -> dict[Any, Any]:
    """Return all that the server holds."""
    return {key: sidecar.client.dump(key) for key in sidecar.client.scan_iter()}


def checked(sidecar: Cli, *args: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what a check tells."""
    ran = sidecar("replay", "check", "--json", *args)
    return ran.code, ran.objects()[-1]


def test_the_same_code_does_the_same(sidecar: Cli) -> None:
    """Every kind of end comes again; what lay in what was around is not judged."""
    everything(sidecar)
    before = everything_in(sidecar)
    code, found = checked(sidecar)
    assert (code, found["divergence"]) == (0, None)
    assert (found["entries"], found["same"], found["unjudged"]) == (9, 8, 1)
    assert everything_in(sidecar) == before


def test_what_cannot_be_judged_is_named(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the reason, for a person and for machines; of many the first."""
    everything(sidecar)
    _, found = checked(sidecar)
    (one,) = found["unjudged_first"]
    assert (one["event_id"], one["recorded"]) == ("late", "waiting")
    assert "not recorded" in one["why"]
    line = next(one for one in sidecar("replay", "check").out.splitlines() if "late" in one)
    assert one["origin"] in line
    assert "not recorded" in line
    monkeypatch.setattr(check, "MAX_UNJUDGED_TOLD", 1)
    sidecar.emit("later")
    _, found = checked(sidecar)
    assert (found["unjudged"], len(found["unjudged_first"])) == (2, 1)
    assert "and 1 more" in sidecar("replay", "check").out


def test_a_bundle_is_checked_offline(sidecar: Cli) -> None:
    """The artifacts come from the bundle."""
    everything(sidecar)
    path = sidecar.directory / "b"
    assert sidecar("replay", "export", path).code == 0
    sidecar.client.flushall()
    ran = sidecar("replay", "check", "--json", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert (ran.code, ran.objects()[-1]["divergence"]) == (0, None)


def test_other_content_is_told_side_by_side(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first entry that ends otherwise, as recorded and as today."""
    everything(sidecar)
    real = notification.unstamped

    def changed(body: Mapping[str, Any], manifest_checksum: str) -> bytes:
        more = {"extra": 1} if body["event_id"] == "e1" else {}
        return real({**body, **more}, manifest_checksum)

    monkeypatch.setattr(notification, "unstamped", changed)
    code, found = checked(sidecar)
    assert code == 1
    assert found["divergence"]["event_id"] == "e1"
    assert '"extra"' not in found["divergence"]["recorded"]
    assert '"extra":1' in found["divergence"]["today"]
    assert "recorded" in sidecar("replay", "check").out


def test_another_reason_is_told(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that was refused and is let through today diverges, and the other way round."""
    everything(sidecar)
    monkeypatch.setattr(pipeline, "content_digest", lambda _: b"0" * 16)
    code, found = checked(sidecar)
    assert code == 1
    assert found["divergence"]["recorded"] == "dead: id_conflict"
    assert found["divergence"]["today"] == "duplicate"


def test_what_repeats_something_before_the_window_is_not_judged(sidecar: Cli) -> None:
    """A duplicate of what is not run again cannot come out as one."""
    published(sidecar, 1)
    time.sleep(0.01)
    since = json.loads(sidecar.entries(NOTIFICATIONS)[0]["event"])["control_version"] + 1000
    sidecar.bring("e0", "rows/0", b"0", "--tenant", "a")
    sidecar.emit("e0", "--tenant", "another")
    sidecar.work()
    code, found = checked(sidecar, "--since", str(since))
    assert (code, found["unjudged"], found["entries"]) == (0, 1, 2)


def test_a_race_for_an_event_id_is_not_judged(sidecar: Cli) -> None:
    """Which use of an id was published first lay in the moment: a later one that won is left."""
    store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri())
    first = {"event_id": "e", "type": "run.abort", "tenant_id": "a"}
    second = {**first, "tenant_id": "b"}
    for event, ms in ((first, 1), (second, 2)):
        sidecar.client.xadd(STREAM, {"event": json.dumps(event)}, id=f"{BASE_MS + ms}-0")
    sidecar.notification({"id": 0, **second}, f"{BASE_MS + 3}-0", f"{STREAM}/{BASE_MS + 2}-0")
    sidecar.letter(first, f"{BASE_MS + 1}-0", reason="id_conflict")
    code, found = checked(sidecar)
    assert (code, found["unjudged"], found["entries"]) == (0, 2, 2)


def test_without_artifacts_there_is_nothing_to_check_with(sidecar: Cli) -> None:
    """A bundle that left them out is refused, with the fix."""
    published(sidecar, 1)
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path, "--no-artifacts").code == 0
    ran = sidecar("replay", "check", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert (ran.code, "no artifacts" in ran.err) == (2, True)
    assert sidecar("replay", "check", "--until", "2020-01-01T00:00:00Z").code == 5


def test_every_reason_is_known_to_lie_in_the_entry_or_around_it() -> None:
    """A new reason is to be put on one side: what lay around an entry does not come again."""
    in_the_entry = {
        Reason.TOO_LARGE, Reason.MALFORMED, Reason.INVALID_EVENT, Reason.BAD_REF,
        Reason.ID_CONFLICT,
    }  # fmt: skip
    assert in_the_entry.isdisjoint(check._OUTSIDE)
    assert in_the_entry | check._OUTSIDE == set(Reason)

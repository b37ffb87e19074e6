"""`sidecar explain`: what went wrong, of a live system and of a bundle alike."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import redis

from sidecar.history.bundle import BundleHistory
from sidecar.redis import readers, takeovers
from sidecar.redis.readers import registered
from tests.cli.harness import KEYS, NOTIFICATIONS, STREAM, Cli
from tests.sidecar.harness import eventually


def told(sidecar: Cli, *args: str | Path, code: int = 1) -> list[dict[str, Any]]:
    """Return the findings."""
    env = {"SIDECAR_REDIS": ""} if "--bundle" in args else None
    ran = sidecar("explain", "--json", *args, env=env)
    assert ran.code == code, ran.err
    summary, *found = ran.objects()
    assert 1 <= len(summary["summary"]) <= 4
    return found


def test_a_stack_that_went_back_is_told_live_and_in_a_bundle(sidecar: Cli) -> None:
    """The same sentence, with who did it, over what, and what its version had died of."""
    sidecar.lay_out("source", "fleet")
    sidecar.add("six", "t", stack_id="web", version=6)
    letter = sidecar.letter(
        {"event_id": "five", "type": "key.changed", "tenant_id": "t", "stack_id": "web",
         "version": 5}, "1-0",
    )  # fmt: skip
    sidecar.work()
    redriven = sidecar("dead", "redrive", letter, "--force", "--reason", "nova asked")
    assert redriven.code == 0, redriven.err
    sidecar.work()
    (one, *_) = live = told(sidecar, "t/web")
    assert (one["kind"], one["level"], one["causes"]) == ("went_back", "error", [])
    assert [cause["kind"] for cause in one["because"]] == ["artifact_missing"]
    assert "t/web went back from @6 to @5" in one["what"]
    assert "redriven by force by" in one["what"]
    assert 'reason given: "nova asked", behind six' in one["what"]
    assert re.search(r", because (t/web@5|event five of t).* died at", one["what"]), one["what"]
    assert "not come to the source store in time (artifact_missing: nothing there)" in one["what"]
    bundle = sidecar.directory / "incident.zip"
    assert sidecar("replay", "export", bundle).code in (0, 3)  # no letter is left: trimmed, or not
    assert told(sidecar, "t/web", "--bundle", bundle) == live
    offline = {"SIDECAR_REDIS": ""}
    text = sidecar("explain", "--bundle", bundle, "--markdown", env=offline).out
    begin = r"\*\*Wrong now \([0-9TZ:.-]+, when the bundle was taken\):\*\* t/web went back from"
    assert re.match(rf"{begin} \\@6 to \\@5: its dead letter", text)
    assert "\n1. **error, went\\_back**: t/web went back" in text


def test_what_a_bundle_is_asked_next_is_printed_as_it_is_typed(sidecar: Cli) -> None:
    """Only commands that read one, with its name; a file in a tenant's place is refused."""
    sidecar.add("{", "t")
    sidecar.letter({"event_id": "lost", "type": "key.changed", "tenant_id": "t"}, "1-0")
    sidecar.work()
    bundle, offline = sidecar.directory / "an incident.zip", {"SIDECAR_REDIS": ""}
    assert sidecar("replay", "export", bundle).code in (0, 3)
    ran = sidecar("explain", "--bundle", bundle, env=offline)
    shown = re.findall(r"(?:see|^)\s+(sidecar .*)$", ran.out, re.MULTILINE)
    assert shown, ran.out
    for command in shown:
        words = shlex.split(command)
        assert words[-2:] == ["--bundle", str(bundle)]
        assert sidecar(*words[1:], env=offline).code in (0, 1, 3)
    ran = sidecar("explain", bundle)
    assert (ran.code, "--bundle" in ran.err) == (2, True), ran.err


def test_every_command_says_of_a_subject_that_it_went_back(sidecar: Cli) -> None:
    """`trace` of both events, `show` and `at`; live and in a bundle, as `dead history` does."""
    sidecar.lay_out("source", "fleet")
    sidecar.add("six", "t", stack_id="web", version=6)
    letter = sidecar.letter(
        {"event_id": "five", "type": "key.changed", "tenant_id": "t", "stack_id": "web",
         "version": 5}, "1-0",
    )  # fmt: skip
    sidecar.work()
    assert sidecar("dead", "redrive", letter, "--force", "--reason", "nova asked").code == 0
    sidecar.work()
    bundle = sidecar.directory / "incident.zip"
    assert sidecar("replay", "export", bundle).code in (0, 3)
    for args, env in (((), None), (("--bundle", bundle), {"SIDECAR_REDIS": ""})):
        hops = sidecar("trace", "t/web@6", *args, env=env).out
        assert re.search(
            r"! set back .* by five \(t/web@5\), redriven by force by .*: \"nova", hops
        )
        assert re.search(r"! went back .* redriven by force .*, behind six",
                         sidecar("trace", "five", *args, env=env).out)  # fmt: skip
        shown = sidecar("replay", "show", *args, env=env).out.splitlines()
        assert ["went back: redriven" in line for line in shown if " published " in line] == [
            False, True,
        ]  # fmt: skip
        (stack,) = [line for line in sidecar("replay", "at", "0s", *args, env=env).out.splitlines()
                    if line.startswith("stack")]  # fmt: skip
        assert "went back: redriven by force" in stack
        told = sidecar("dead", "history", "--json", *args, env=env).object()
        assert (told["event_id"], told["became"]) == ("five", "published")
        assert told["became_as"].isdecimal()


def test_trace_finds_whatever_another_command_prints(sidecar: Cli) -> None:
    """IDs of entries, notifications, dead letters, also redriven ones, and of their records."""
    letter = sidecar.letter({"event_id": "five", "type": "run.abort", "tenant_id": "t"}, "1-0",
                            reason="poison")  # fmt: skip
    sidecar.add("six", "t")
    sidecar.work()
    assert sidecar("dead", "redrive", letter, "--force", "--reason", "x").code == 0
    sidecar.work()
    records: Any = sidecar.client.xrange(KEYS.redriven)
    record = records[0]
    entry = record[1][b"entry"].decode()
    (six,) = sidecar("trace", "six", "--json").objects()
    names = {
        letter: "five", record[0].decode(): "five", entry: "five", entry.rpartition("/")[2]: "five",
        six["origin"]: "six", six["origin"].rpartition("/")[2]: "six", six["end_id"]: "six",
        str(six["control_version"]): "six",
    }  # fmt: skip
    for name, event_id in names.items():
        ran = sidecar("trace", name, "--json")
        assert ran.code == 0, (name, ran.err)
        assert event_id in {one["event_id"] for one in ran.objects()}, name  # IDs may be alike
    assert sidecar("trace", "1-9", "--json").code == 1


def test_a_healthy_system_has_no_finding(sidecar: Cli) -> None:
    """Exit 0; of an event that is asked for it is said how it ended."""
    sidecar.bring("a", "ref/a", b"data", "--tenant", "t")
    sidecar.work()
    ran = sidecar("explain")
    assert (ran.code, ran.out) == (0, "")
    assert "nothing went wrong" in ran.err
    assert (
        "nothing is wrong with a: the last event, event a of t, is published"
        in sidecar("explain", "a").err
    )


def test_what_has_gone_from_the_store_is_told(sidecar: Cli) -> None:
    """The newest state of a ref that no controller can resolve, with the command that repairs."""
    sidecar.bring("a", "ref/a", b"data", "--tenant", "t")
    sidecar.work()
    fleet = (sidecar.directory / "data-dir" / "fleet").as_uri()
    for path in (sidecar.directory / "data-dir" / "fleet" / "refs").rglob("*@*"):
        path.unlink()
    (one,) = told(sidecar, "ref/a", "--fleet-store", fleet)
    assert (one["kind"], one["level"]) == ("artifact_gone", "error")
    assert "audit --repair" in one["fix"]


def test_what_was_damaged_when_a_bundle_was_taken_is_told(sidecar: Cli) -> None:
    """As damaged, and not as gone."""
    sidecar.bring("a", "ref/a", b"rots", "--tenant", "t")
    sidecar.work()
    fleet = sidecar.directory / "data-dir" / "fleet"
    for path in (fleet / "refs").rglob("*@*"):
        path.write_bytes(path.read_bytes().replace(b"rots", b"rotz"))
    bundle = sidecar.directory / "incident.zip"
    assert sidecar("replay", "export", bundle, "--fleet-store", fleet.as_uri()).code in (0, 3)
    (one,) = told(sidecar, "ref/a", "--bundle", bundle)
    assert one["kind"] == "artifact_gone"
    assert one["what"].endswith("is damaged")


def test_nothing_by_that_name_is_exit_1(sidecar: Cli) -> None:
    """In one line, without a finding."""
    sidecar.add("a")
    ran = sidecar("explain", "nobody")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no event, ref or stack 'nobody'" in ran.err


def test_json_and_markdown_exclude_each_other(sidecar: Cli) -> None:
    """Exit 2, with both names."""
    ran = sidecar("explain", "--json", "--markdown")
    assert ran.code == 2
    assert "--json and --markdown" in ran.err


def test_an_expired_window_without_a_finding_is_exit_3(sidecar: Cli) -> None:
    """Nobody can know what happened in it."""
    for n in range(4):
        sidecar.add(f"a{n}")
    sidecar.work()
    sidecar.trim("control:notifications", 1)
    ran = sidecar("explain")
    assert ran.code == 3
    assert "not on record any more" in ran.err


def test_a_bundle_has_who_reads_who_took_over_and_what_is_held_back(
    sidecar: Cli, client: redis.Redis
) -> None:
    """As it was when it was taken; explain says the same of it."""
    sidecar.add("a", "t")
    sidecar.work()
    readers.passed(client, KEYS, "edge-7", 1, 1)
    takeovers.put_on_record(client, KEYS, by="new:1", before="old:1")
    held = {"entry": f"{KEYS.control}/1-0", "tenant_id": "t", "event_id": "a", "error": "away",
            "attempts": 2, "since": "2026-01-01T00:00:00Z", "next_at": "",
            "outage": True}  # fmt: skip
    beat = {"name": "w", "version": "1", "serves": [], "owns": [], "held": [held]}
    client.hset(KEYS.workers, "0" * 16, json.dumps(beat))
    eventually(lambda: registered(client, KEYS).good[0].expired)
    live = told(sidecar)
    assert {one["kind"] for one in live} >= {"store_away", "reader_expired"}
    bundle = sidecar.directory / "incident.zip"
    assert sidecar("replay", "export", bundle).code == 0
    assert told(sidecar, "--bundle", bundle) == live
    (takeover,) = BundleHistory(bundle).takeovers()
    assert (takeover.by, takeover.before) == ("new:1", "old:1")


def test_a_redrive_of_the_oldest_dead_letter_is_no_trimming(sidecar: Cli) -> None:
    """Its record says where it went; what somebody trims besides has expired."""
    sidecar.lay_out("source", "fleet")
    sidecar.work()
    letters = [
        sidecar.letter({"event_id": f"e{n}", "type": "run.abort", "tenant_id": "t"}, f"{n}-0",
                       reason="poison")
        for n in (1, 2, 3)
    ]  # fmt: skip
    assert sidecar("dead", "redrive", letters[0], "--reason", "fixed", "--force").code == 0
    assert "not on record any more" not in sidecar("explain").err
    sidecar.trim("{control:notifications}:dead", 1)
    assert "not on record any more" in sidecar("explain").err


def test_a_reader_behind_what_was_trimmed_by_hand_has_no_gap(sidecar: Cli) -> None:
    """Also where the oldest that is left is the first of a millisecond, which it has passed."""
    sidecar.lay_out("source", "fleet")
    ms = int(time.time() * 1000) - 60_000
    for number in range(3):
        at = f"{ms + number}-0"
        event = {"event_id": f"e{number}", "type": "key.changed",
                 "control_version": (ms + number) * 1000}  # fmt: skip
        sidecar.notification(event, at, f"{STREAM}/{at}")
    sidecar.client.xtrim(NOTIFICATIONS, maxlen=1, approximate=False)
    told = f"{(ms + 2) * 1000} {time.time_ns() // 1000} 600"
    sidecar.client.set(KEYS.reader("ctl"), told)
    sidecar.client.sadd(KEYS.registered, "ctl")
    kinds = {one["kind"] for one in sidecar("explain", "--json").objects() if "kind" in one}
    assert "reader_gap" not in kinds
    told = f"{(ms + 1) * 1000 - 1} {time.time_ns() // 1000} 600"
    sidecar.client.set(KEYS.reader("ctl"), told)
    counts = "entries-added" in sidecar.client.xinfo_stream(NOTIFICATIONS)
    kinds = {one["kind"] for one in sidecar("explain", "--json").objects() if "kind" in one}
    assert ("reader_gap" in kinds) is counts


def test_a_pause_whose_record_has_an_id_ahead_of_time_is_told(sidecar: Cli) -> None:
    """A stolen halter gives its record any ID: it hides no pause, and breaks no page."""
    record: dict[Any, Any] = {
        "what": "paused",
        "stream": STREAM,
        "tenant": "t",
        "reason": "r",
        "by": "me",
    }
    sidecar.client.xadd(KEYS.halts, record, id="18446744073709551614-5")
    sidecar.client.xadd(STREAM, {"event": '{"event_id": "e1", "type": "x"}'})
    sidecar.drain()
    ran = sidecar("explain")
    assert ran.code == 1
    assert "paused" in ran.out
    report = sidecar("replay", "report", sidecar.directory / "report.html")
    assert report.code == 0, report.err

"""`sidecar replay`: the timeline, the fleet as it was, and bundles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import store
from sidecar.feed import Feed, Notification
from sidecar.history.bundle import BundleHistory
from sidecar.history.members import INDEX, artifact_name
from sidecar.wire.moments import rfc3339
from store import Corrupt, checksum_of
from tests.cli.harness import DEAD, HOSTILE, NOTIFICATIONS, STREAM, Cli, dialogue

NOWHERE = "redis://127.0.0.1:1"


def everything(sidecar: Cli) -> None:
    """Let events end in every way, one after the other."""
    sidecar.bring("a1", "rows/a", b"one", "--tenant", "t_1")
    sidecar.bring("a1", "rows/a", b"one", "--tenant", "t_1")
    sidecar.bring("web1", "stacks/web", b"v1", "--type", "stack.activated", "--tenant", "t_1",
                  "--stack", "web", "--version", "1")  # fmt: skip
    sidecar.bring("web2", "stacks/web", b"v2", "--type", "stack.activated", "--tenant", "t_1",
                  "--stack", "web", "--version", "2")  # fmt: skip
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"nobody.knows"}'})
    sidecar.client.xadd(STREAM, {"event": b"\xff broken"})
    sidecar.work()
    sidecar.emit("late", "--tenant", "t_2")


def lives(sidecar: Cli, *args: str | Path) -> list[dict[str, Any]]:
    """Return the lines of `replay show --json`, without the first, which tells the window."""
    ran = sidecar("replay", "show", "--json", *args)
    assert ran.code == 0, ran.err
    return ran.objects()[1:]


def ends(found: list[dict[str, Any]]) -> list[tuple[str | None, str]]:
    """Return each event_id with its end, sorted."""
    return sorted((one["event_id"], one["end"]) for one in found)


ALL = [
    ("", "dead"), ("a1", "duplicate"), ("a1", "published"), ("late", "waiting"), ("odd", "dead"),
    ("web1", "published"), ("web2", "published"),
]  # fmt: skip


def test_the_timeline_has_cause_and_effect_of_each_event(sidecar: Cli) -> None:
    """Each event is told once, with entry, end, delay and what there is to say."""
    everything(sidecar)
    found = [one | {"event_id": one["event_id"] or ""} for one in lives(sidecar, "--resolve")]
    assert ends(found) == ALL
    first = next(one for one in found if one["end"] == "published")
    note = sidecar.entries(NOTIFICATIONS)[0]
    assert first["origin"] == note["origin"]
    assert first["control_version"] == json.loads(note["event"])["control_version"]
    assert first["delay_s"] >= 0
    assert first["put"]["state"] == "there"
    assert first["put"]["size_bytes"] == 3
    assert {one["reason"] for one in found if one["end"] == "dead"} == {
        "unknown_type", "malformed",
    }  # fmt: skip


def test_a_person_reads_lines_and_the_window(sidecar: Cli) -> None:
    """Lines on standard output; on standard error from when to when the streams go."""
    everything(sidecar)
    ran = sidecar("replay", "show", "--tenant", "t_1")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 4
    assert "t_1/web@2" in ran.out
    assert "duplicate" in ran.out
    assert STREAM in ran.err
    assert "the beginning to now" in ran.err


def test_filters_and_their_exit_code(sidecar: Cli) -> None:
    """Tenant, stack, type and ref choose events; 6 when they leave nothing of what there is."""
    everything(sidecar)
    assert ends(lives(sidecar, "--stack", "web")) == ALL[-2:]
    assert ends(lives(sidecar, "--type", "stack.activated", "--ref", "stacks")) == ALL[-2:]
    assert ends(lives(sidecar, "--ref", "rows/a")) == ALL[1:3]
    assert sidecar("replay", "show", "--ref", "row").code == 6
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"x","version":"1","tenant_id":"t_9"}'})
    sidecar.work()
    assert ends(lives(sidecar, "--tenant", "t_9")) == [("x", "dead")]
    ran = sidecar("replay", "show", "--tenant", "nobody")
    assert ran.code == 6
    assert "the filters left nothing of 8 events" in ran.err


def test_events_are_chosen_by_how_they_ended(sidecar: Cli) -> None:
    """--end keeps these ends, and filters as the others do: 6 when it leaves nothing."""
    everything(sidecar)
    found = lives(sidecar, "--end", "dead", "--end", "waiting")
    assert sorted(one["end"] for one in found) == ["dead", "dead", "waiting"]
    ran = sidecar("replay", "show", "--end", "redriven")
    assert ran.code == 6
    assert "the filters left nothing of 7 events" in ran.err
    wrong = sidecar("replay", "show", "--end", "died")
    assert (wrong.code, "published, duplicate, dead" in wrong.err) == (2, True)


def test_what_was_shown_is_counted_by_end(sidecar: Cli) -> None:
    """At the end, on standard error, so that the data stays as it is."""
    everything(sidecar)
    whole = "7 events: 3 published, 2 dead, 1 duplicate, 1 waiting"
    for args in ((), ("--json",)):
        last = sidecar("replay", "show", *args).err.splitlines()[-1]
        assert last == f"sidecar: {whole}; --end dead shows what died alone"
    last = sidecar("replay", "show", "--end", "waiting").err.splitlines()[-1]
    assert last == "sidecar: 1 event: 1 waiting"


def test_a_person_at_a_terminal_reads_what_the_columns_are(sidecar: Cli) -> None:
    """Neither a pipe nor a machine is told."""
    everything(sidecar)
    _, seen = dialogue(sidecar, "replay", "show", answer="")
    assert "EVENT_ID" in seen
    assert "EVENT_ID" not in dialogue(sidecar, "replay", "show", "--json", answer="")[1]
    assert "EVENT_ID" not in sidecar("replay", "show").err


def test_a_window_that_never_held_anything(sidecar: Cli) -> None:
    """5 where nothing ever was, with or without streams."""
    assert sidecar("replay", "show").code == 5
    everything(sidecar)
    ran = sidecar("replay", "show", "--until", "2020-01-01T00:00:00Z")
    assert ran.code == 5
    assert "there never was" in ran.err


def test_a_window_that_has_expired(sidecar: Cli) -> None:
    """3 where something was trimmed, and what; what is left is shown all the same."""
    everything(sidecar)
    sidecar.trim(NOTIFICATIONS, 1)
    ran = sidecar("replay", "show")
    assert ran.code == 3
    assert "trimmed" in ran.err
    assert "web2" in ran.out
    after = json.loads(sidecar.entries(NOTIFICATIONS)[0]["event"])["control_version"] - 1
    assert sidecar("replay", "show", "--since", str(after)).code == 0


def test_a_window_is_bounded_on_both_ends(sidecar: Cli) -> None:
    """--since excludes a control_version, --until includes one; the other way round is refused."""
    everything(sidecar)
    published = [one for one in lives(sidecar) if one["end"] == "published"]
    first, second, _ = (str(one["control_version"]) for one in published)
    found = lives(sidecar, "--since", first, "--until", second)
    assert ("web1", "published") in ends([one for one in found if one["event_id"]])
    assert published[0] not in found
    ran = sidecar("replay", "show", "--since", second, "--until", first)
    assert ran.code == 2
    assert "swap them" in ran.err


def test_a_producers_clock_that_is_ahead_is_told(sidecar: Cli) -> None:
    """An event that was made after it was appended gives its producer's clock away."""
    made = rfc3339(4e15)
    event = {"event_id": "e", "type": "run.abort", "created_at": made}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    sidecar.work()
    assert "producer's clock is" in sidecar("replay", "show").out
    assert "producer's clock is" not in sidecar("replay", "show", "--json").out


def test_hostile_strings_stay_text(sidecar: Cli) -> None:
    """Control characters of an event reach no terminal."""
    event = {"event_id": "e", "type": "run.abort", "tenant_id": HOSTILE, "stack_id": HOSTILE}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    sidecar.client.xadd(STREAM, {"event": json.dumps(event | {"type": HOSTILE})})
    sidecar.work()
    for arguments in (("show",), ("at", "0s"), ("show", "--json")):
        out = sidecar("replay", *arguments).out
        assert out
        assert not set("\x1b\x07\u202e") & set(out)


# --- at ------------------------------------------------------------------------------------------


def test_the_fleet_at_a_position(sidecar: Cli) -> None:
    """Each subject has the newest that was published by then; what waited or was dead comes."""
    everything(sidecar)
    versions = {
        one["event_id"]: one["control_version"] for one in lives(sidecar) if one["control_version"]
    }

    def rows(position: str | int) -> set[tuple[str, str | None, int | None]]:
        ran = sidecar("replay", "at", str(position), "--json")
        assert ran.code == 0, ran.err
        return {(one["what"], one["event_id"], one["version"]) for one in ran.objects()}

    then = {row for row in rows(versions["web1"]) if row[0] in ("stack", "ref")}
    assert then == {("stack", "web1", 1), ("ref", "a1", None)}
    assert ("waiting", "web2", 2) in rows(versions["web1"])
    now = rows("0s")
    assert {row for row in now if row[0] == "stack"} == {("stack", "web2", 2)}
    assert ("waiting", "late", None) in now
    assert {row[1] for row in now if row[0] == "dead"} == {"odd", None}
    assert sidecar("replay", "at", "1").code == 5
    assert sidecar("replay", "at", "0s", "--tenant", "nobody").code == 6
    assert sidecar("replay", "at", "yesterday").code == 2


def test_refs_come_last_and_each_line_says_what_its_time_is(sidecar: Cli) -> None:
    """Stacks, what waited, what was dead, refs: published, entered, died, published."""
    everything(sidecar)
    found = [line.split() for line in sidecar("replay", "at", "0s").out.splitlines()]
    assert [words[0] for words in found] == ["stack", "waiting", "dead", "dead", "ref"]
    times = {"published": "stack ref", "entered": "waiting", "died": "dead"}
    assert all(words[0] in times[words[4]] for words in found)
    assert all(one["since"] for one in sidecar("replay", "at", "0s", "--json").objects())


def test_a_letter_that_was_put_back_since_was_dead_then(sidecar: Cli) -> None:
    """Before it was redriven it was dead, after that it is not."""
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"nobody.knows"}'})
    sidecar.work()
    (dead_at,) = [one["end_id"] for one in lives(sidecar)]
    ms = int(dead_at.partition("-")[0]) + 1
    ran = sidecar("dead", "redrive", "--all", "--force", "--reason", "try")
    assert ran.code == 0, ran.err
    then = sidecar("replay", "at", str(ms * 1000), "--json").objects()
    assert [one["event_id"] for one in then if one["what"] == "dead"] == ["odd"]
    now = sidecar("replay", "at", "0s", "--json").objects()
    assert [one["what"] for one in now] == ["waiting"]


def test_a_state_of_which_a_part_has_expired(sidecar: Cli) -> None:
    """What is left is printed, and that something may be missing."""
    everything(sidecar)
    sidecar.trim(NOTIFICATIONS, 1)
    ran = sidecar("replay", "at", "0s")
    assert ran.code == 3
    assert "web2" in ran.out
    assert "expired" in ran.err


# --- bundles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle.zip", "bundle"])
def test_a_bundle_tells_what_redis_told(sidecar: Cli, name: str) -> None:
    """With the bundle alone, the same is shown, the artifacts included."""
    everything(sidecar)
    path = sidecar.directory / name
    before = lives(sidecar, "--resolve")
    ran = sidecar("replay", "export", path, "--json")
    assert ran.code == 0, ran.err
    assert ran.objects()[-1]["artifacts"] == 3
    state = sidecar("replay", "at", "0s", "--json").out
    sidecar.client.flushall()
    offline = Cli(NOWHERE, sidecar.directory, sidecar.client)
    ran = offline(
        "replay", "show", "--resolve", "--json", "--bundle", path, env={"SIDECAR_REDIS": ""}
    )
    assert ran.code == 0, ran.err
    assert ran.objects()[1:] == before
    assert (
        offline("replay", "at", "0s", "--json", "--bundle", path, env={"SIDECAR_REDIS": ""}).out
        == state
    )
    fleet = BundleHistory(path).store
    assert fleet
    assert fleet.get("stacks/web", checksum=checksum_of(b"v1")).data == b"v1"


def test_a_bundle_of_a_window_has_what_came_before(sidecar: Cli) -> None:
    """The state at its beginning is whole; what lies outside is said to be not exported."""
    everything(sidecar)
    published = [one for one in lives(sidecar) if one["end"] == "published"]
    cv = published[1]["control_version"]
    path = sidecar.directory / "bundle.zip"
    assert sidecar("replay", "export", path, "--since", str(cv)).code == 0
    env = {"SIDECAR_REDIS": ""}
    ran = sidecar("replay", "show", "--json", "--bundle", path, env=env)
    assert ran.code == 0, ran.err
    assert ("web1", "published") not in ends(
        [one | {"event_id": one["event_id"] or ""} for one in ran.objects()[1:]]
    )
    stacks = sidecar("replay", "at", str(cv), "--json", "--bundle", path, env=env)
    assert stacks.code == 0, stacks.err
    assert ("stack", 1) in [(one["what"], one["version"]) for one in stacks.objects()]
    wider = sidecar("replay", "show", "--since", "2020-01-01T00:00:00Z", "--bundle", path, env=env)
    assert wider.code == 3
    assert "not exported" in wider.err


def test_what_the_store_has_no_more_is_told_not_invented(sidecar: Cli) -> None:
    """An artifact that is gone stays gone in the bundle."""
    everything(sidecar)
    record = next((sidecar.directory / "data-dir" / "fleet" / "refs" / "rows").iterdir())
    for path in record.parent.iterdir():
        path.unlink()
    bundle = sidecar.directory / "bundle.zip"
    ran = sidecar("replay", "export", bundle)
    assert ran.code == 0
    assert "1 artifacts are not to be had" in ran.out
    shown = sidecar("replay", "show", "--resolve", "--json", "--bundle", bundle,
                    env={"SIDECAR_REDIS": ""})  # fmt: skip
    states = {one["event_id"]: one["put"]["state"] for one in shown.objects()[1:] if one["put"]}
    assert states["a1"] == "absent"
    assert states["web1"] == "there"


@pytest.fixture
def bundle(sidecar: Cli) -> Path:
    """A bundle, as a directory, of all kinds of ends."""
    everything(sidecar)
    path = sidecar.directory / "bundle"
    assert sidecar("replay", "export", path).code == 0
    return path


def opened(sidecar: Cli, path: Path) -> tuple[int, str]:
    """Return how reading the bundle ends, and the words."""
    ran = sidecar("replay", "show", "--bundle", path, env={"SIDECAR_REDIS": ""})
    return ran.code, ran.err


def test_a_bundle_that_was_cut_short(sidecar: Cli, bundle: Path, tmp_path: Path) -> None:
    """Wherever a zip file ends too early, it is said; never is a part taken for the whole."""
    del bundle
    whole = tmp_path / "whole.zip"
    assert sidecar("replay", "export", whole).code == 0
    raw = whole.read_bytes()
    for size in (0, 10, len(raw) // 2, len(raw) - 1):
        cut = tmp_path / f"cut{size}.zip"
        cut.write_bytes(raw[:size])
        code, words = opened(sidecar, cut)
        assert (code, "cut short" in words) == (1, True)


@pytest.mark.parametrize("name", ["streams/0/000000.jsonl", "waiting.jsonl", INDEX])
def test_a_bundle_that_was_tampered_with(sidecar: Cli, bundle: Path, name: str) -> None:
    """A changed byte in any part that is read is noticed, and the part is named."""
    path = bundle / name
    raw = bytearray(path.read_bytes())
    at = raw.index(b"control:events") if name != "streams/0/000000.jsonl" else raw.index(b"a1")
    raw[at] ^= 1
    path.write_bytes(raw)
    code, words = opened(sidecar, bundle)
    assert code == 1
    assert "damaged" in words
    assert name in words


def test_an_artifact_that_was_tampered_with(bundle: Path) -> None:
    """A changed artifact is corrupt, and no other is given for it."""
    digest = checksum_of(b"v1").removeprefix("sha256:")
    (bundle / artifact_name(digest)).write_bytes(b"v9")
    fleet = BundleHistory(bundle).store
    assert fleet
    with pytest.raises(Corrupt, match=digest):
        fleet.get("stacks/web", checksum=checksum_of(b"v1"))


def test_a_link_in_a_bundle_leads_nowhere(sidecar: Cli, bundle: Path, tmp_path: Path) -> None:
    """A directory from elsewhere cannot have a file of this machine read."""
    target = tmp_path / "elsewhere"
    (bundle / "waiting.jsonl").rename(target)
    (bundle / "waiting.jsonl").symlink_to(target)
    code, words = opened(sidecar, bundle)
    assert code == 1
    assert "cannot be read" in words


def test_a_bundle_of_a_newer_format(sidecar: Cli, bundle: Path) -> None:
    """It is refused with the fix, before anything of it is believed."""
    index = json.loads((bundle / INDEX).read_bytes())
    (bundle / INDEX).write_text(json.dumps(index | {"format": 2, "index": {}}))
    code, words = opened(sidecar, bundle)
    assert code == 2
    assert "bundle format 2" in words


def test_what_is_no_bundle(sidecar: Cli, tmp_path: Path) -> None:
    """Nothing, an empty directory, another zip file: each in clear words."""
    assert opened(sidecar, tmp_path / "nothing")[0] == 2
    (tmp_path / "empty").mkdir()
    assert "it is no bundle" in opened(sidecar, tmp_path / "empty")[1]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("hello", "x")
    assert "it is no bundle" in opened(sidecar, tmp_path / "other.zip")[1]
    ran = sidecar("replay", "show", "--bundle", tmp_path / "empty")
    assert ran.code == 2
    assert "in place of --redis" in ran.err


def test_export_replaces_nothing_and_leaves_nothing_behind(sidecar: Cli, tmp_path: Path) -> None:
    """What is at the path stays; a failure leaves neither a bundle nor a part of one."""
    everything(sidecar)
    (tmp_path / "taken.zip").write_text("mine")
    ran = sidecar("replay", "export", tmp_path / "taken.zip")
    assert ran.code == 2
    assert (tmp_path / "taken.zip").read_text() == "mine"
    before = set(tmp_path.iterdir())
    sidecar.client.delete(DEAD)
    sidecar.client.set(DEAD, "no stream")
    assert sidecar("replay", "export", tmp_path / "b.zip").code == 2
    assert sidecar("replay", "export", tmp_path / "none" / "b.zip").code == 2
    assert set(tmp_path.iterdir()) == before


def test_a_controller_begins_with_the_fleet_as_it_is(sidecar: Cli) -> None:
    """Each subject that `at` tells can be resolved, and what comes after them followed."""
    everything(sidecar)
    fleet = store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri())
    with Feed(sidecar.url, store=fleet) as feed:
        now = [
            Notification(**{name: value for name, value in line.items() if value is not None})
            for line in sidecar("replay", "at", "0s", "--json").objects()
            if line["what"] in ("stack", "ref")
        ]
        found = {n.artifact_ref: feed.resolve(n).data for n in now}
        assert found == {"rows/a": b"one", "stacks/web": b"v2"}
        sidecar.work()
        assert [n.event_id for n in feed.poll(max(n.control_version for n in now))] == ["late"]

"""`sidecar trace`: one event, or all about a ref or stack, hop by hop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.redis.keys import Keys
from sidecar.redis.readers import passed, value
from sidecar.wire.moments import rfc3339
from tests.cli.harness import HOSTILE, NOTIFICATIONS, STREAM, Cli


def marks(event: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the hops of one event with their marks."""
    return [(hop["hop"], hop["mark"]) for hop in event["hops"]]


def traced(sidecar: Cli, *args: str | Path) -> list[dict[str, Any]]:
    """Return what a trace tells."""
    ran = sidecar("trace", "--json", *args)
    assert ran.code == 0, ran.err
    return ran.objects()


def test_every_station_of_a_published_event(sidecar: Cli) -> None:
    """From the producer's clock over entry and Put to the notification, each with its time."""
    sidecar.bring("e1", "rows/a", b"one", "--tenant", "t")
    sidecar.work()
    (event,) = traced(sidecar, "e1")
    assert marks(event) == [("made", "ok"), ("entry", "ok"), ("put", "ok"), ("notification", "ok")]
    assert all(hop["at"] for hop in event["hops"])
    assert "3 bytes" in event["hops"][2]["detail"]
    text = sidecar("trace", "e1").out
    assert str(event["control_version"]) in text
    assert event["checksum"] in text


def test_registered_readers_are_the_last_station(sidecar: Cli) -> None:
    """Who has passed it, and for whom it is still new; who has expired is not waited for."""
    sidecar.emit("e1")
    sidecar.work()
    (event,) = traced(sidecar, "e1")
    keys, version = Keys.of(STREAM, NOTIFICATIONS), event["control_version"]
    assert marks(event)[-1] == ("notification", "ok")
    passed(sidecar.client, keys, "lab", version, 60)
    sidecar.client.set(keys.reader("gone"), value(1, 1, 1))
    sidecar.client.sadd(keys.registered, "gone")
    assert traced(sidecar, "e1")[0]["hops"][-1] == {
        "hop": "readers", "mark": "ok", "at": None, "detail": "passed by lab", "fix": None,
    }  # fmt: skip
    passed(sidecar.client, keys, "fleet", version - 1, 60)
    (event,) = traced(sidecar, "e1")
    assert marks(event)[-1] == ("readers", "waits")
    assert event["hops"][-1]["detail"] == "passed by lab; not yet by fleet"
    assert "not yet by fleet" in sidecar("trace", "e1").out


def test_an_event_is_found_by_every_name_it_has(sidecar: Cli) -> None:
    """By event_id, entry, control_version, notification ID and dead letter."""
    sidecar.emit("other")
    sidecar.emit("e1")
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"nobody.knows"}'})
    sidecar.work()
    (event,) = traced(sidecar, "e1")
    (odd,) = traced(sidecar, "odd")
    names = (event["origin"], str(event["control_version"]), event["end_id"], odd["end_id"])
    assert [traced(sidecar, name)[0]["event_id"] for name in names] == ["e1", "e1", "e1", "odd"]
    assert marks(odd)[-1] == ("dead letter", "failed")
    assert "--allow-type" in odd["hops"][-1]["fix"]


def test_all_entries_of_an_event_id_are_told(sidecar: Cli) -> None:
    """What was published, its repeat, and what came under the same id with other content."""
    sidecar.emit("e1")
    sidecar.emit("e1")
    sidecar.emit("e1", "--tenant", "another")
    sidecar.work()
    assert [one["end"] for one in traced(sidecar, "e1")] == ["published", "duplicate", "dead"]


def test_what_waits_is_found_though_no_index_knows_it(sidecar: Cli) -> None:
    """An entry that nobody has read is looked for in the stream."""
    sidecar.emit("first")
    sidecar.emit("e1")
    (event,) = traced(sidecar, "e1")
    assert marks(event)[-1] == ("waits", "waits")


def test_a_letter_is_followed_through_being_put_back(sidecar: Cli) -> None:
    """Who redrove it and why, and what became of it then, as often as it was."""
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"nobody.knows"}'})
    sidecar.work()
    for _ in range(2):
        ran = sidecar("dead", "redrive", "--all", "--force", "--reason", "try again")
        assert ran.code == 0, ran.err
        sidecar.work()
    ends = [one["end"] for one in traced(sidecar, "odd")]
    assert sorted(ends) == ["dead", "redriven", "redriven"]
    assert "try again" in sidecar("trace", "odd").out


def test_a_letter_that_was_overtaken_says_by_what(sidecar: Cli) -> None:
    """After a dead letter, the first newer notification of its stack is named; its is the fix."""
    for version, kind in (("7", "other.type"), ("8", "stack.activated")):
        sidecar.bring(f"v{version}", f"stacks/{version}", b"x", "--type", kind, "--tenant", "t",
                      "--stack", "web", "--version", version)  # fmt: skip
        sidecar.work()
    (event,) = traced(sidecar, "v7")
    assert marks(event)[-2:] == [("dead letter", "failed"), ("overtaken", "failed")]
    assert "v8" in event["hops"][-1]["detail"]
    assert [hop["fix"] is not None for hop in event["hops"][-2:]] == [False, True]


def test_a_ref_with_its_versions_and_events(sidecar: Cli) -> None:
    """The versions that the store has, the current one marked, and the events about the ref."""
    sidecar.bring("e1", "rows/a", b"one")
    sidecar.work()
    sidecar.bring("e2", "rows/a", b"two!")
    sidecar.bring("e3", "rows/ab", b"other")
    sidecar.work()
    found = traced(sidecar, "rows/a")
    versions = [one["version"] for one in found if "hops" not in one]
    assert [(one["size_bytes"], one["current"]) for one in versions] == [(3, False), (4, True)]
    assert [one["event_id"] for one in found if "hops" in one] == ["e1", "e2"]
    newest = traced(sidecar, "rows/a", "--as", "ref", "-n", "1")
    assert [one["event_id"] for one in newest if "hops" in one] == ["e2"]


def test_an_artifact_that_was_put_again_later_is_told_as_such(sidecar: Cli) -> None:
    """A Put of the same content after the notification does not look as if it had come too late."""
    sidecar.bring("e1", "rows/a", b"one")
    sidecar.work()
    sidecar.bring("e2", "rows/a", b"two")
    sidecar.work()
    sidecar.bring("e3", "rows/a", b"one")
    sidecar.work()
    (first,) = traced(sidecar, "e1")
    put = next(hop for hop in first["hops"] if hop["hop"] == "put")
    assert (put["mark"], put["at"]) == ("ok", None)
    assert "put again since" in put["detail"]


def test_a_notification_that_has_expired_is_told_as_such(sidecar: Cli) -> None:
    """The event was published, as the deduplication index remembers."""
    sidecar.emit("e1")
    sidecar.work()
    sidecar.trim(NOTIFICATIONS, 0)
    (found,) = traced(sidecar, "e1")
    assert marks(found)[-1] == ("notification", "ok")
    assert "expired since" in found["hops"][-1]["detail"]


def activate(sidecar: Cli, version: int, *, tenant: str = "t", ref: str = "") -> None:
    """Emit the activation of a version of a tenant's stack `web`."""
    sidecar.bring(f"{tenant}-v{version}", ref or f"stacks/{tenant}/{version}", b"x", "--type",
                  "stack.activated", "--tenant", tenant, "--stack", "web",
                  "--version", str(version))  # fmt: skip


def test_a_stack_is_traced_by_the_name_that_is_printed(sidecar: Cli) -> None:
    """All events of TENANT/STACK, those of one version with @VERSION, the newest --count."""
    for version in (1, 2, 12):
        activate(sidecar, version)
    activate(sidecar, 2, tenant="other")
    sidecar.work()
    activate(sidecar, 13)
    every = [one["event_id"] for one in traced(sidecar, "t/web")]
    assert every == ["t-v1", "t-v2", "t-v12", "t-v13"]
    assert [one["event_id"] for one in traced(sidecar, "t/web@2")] == ["t-v2"]
    newest = traced(sidecar, "t/web", "--as", "stack", "-n", "2")
    assert [one["event_id"] for one in newest] == ["t-v12", "t-v13"]
    for absent in ("t/web@3", "t/we", "web", "t/"):
        assert sidecar("trace", absent, "--as", "stack").code == 1


def test_a_ref_that_looks_like_a_stack_comes_first(sidecar: Cli) -> None:
    """What is there as a ref is taken for one; --as stack says that the stack is meant."""
    sidecar.bring("e1", "t/web@2", b"one")
    activate(sidecar, 2)
    sidecar.work()
    assert traced(sidecar, "t/web@2")[-1]["event_id"] == "e1"
    assert traced(sidecar, "t/web@2", "--as", "stack")[-1]["event_id"] == "t-v2"


def test_as_many_events_are_told_as_were_asked_for(sidecar: Cli) -> None:
    """The bound on following what was redriven is none on what is told."""
    for n in range(20):
        sidecar.bring(f"e{n}", "rows/a", b"one")
    sidecar.work()
    found = [one for one in traced(sidecar, "rows/a", "-n", "18") if "hops" in one]
    assert [one["event_id"] for one in found] == [f"e{n}" for n in range(2, 20)]


def test_an_absence_claims_no_more_than_was_looked_at(sidecar: Cli) -> None:
    """In a window it says nothing of the rest; where refs lie under it, it says how to see them."""
    sidecar.bring("e1", "rows/a", b"one")
    sidecar.work()
    ran = sidecar("trace", "nobody", "--since", "1h")
    assert (ran.code, "never was" in ran.err) == (1, False)
    ran = sidecar("trace", "rows")
    assert (ran.code, "`sidecar replay show --ref rows`" in ran.err) == (1, True)
    sidecar.bring("e2", "odd; rows/a", b"two")
    sidecar.work()
    ran = sidecar("trace", "odd; rows")
    assert "`sidecar replay show --ref 'odd; rows'`" in ran.err.replace("\n", " ")
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path).code == 0
    ran = sidecar("trace", "rows/", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert (ran.code, "never was" in ran.err, "--ref rows" in ran.err) == (1, False, True)
    assert "replay show" not in sidecar("trace", "row").err


def test_what_never_was_and_what_has_expired(sidecar: Cli) -> None:
    """1 where there never was such a thing, 3 where it may have expired."""
    sidecar.emit("e1")
    sidecar.work()
    ran = sidecar("trace", "nobody")
    assert (ran.code, "never was" in ran.err) == (1, True)
    sidecar.trim(NOTIFICATIONS, 0)
    ran = sidecar("trace", "nobody")
    assert (ran.code, "trimmed" in ran.err) == (3, True)
    assert sidecar("trace", "nobody", "--as", "thing").code == 2


def test_a_trimmed_entry_and_a_collected_artifact_are_told(sidecar: Cli) -> None:
    """What is gone is said to be gone; nothing is invented for it."""
    sidecar.bring("e1", "rows/a", b"one")
    sidecar.work()
    sidecar.trim(STREAM, 0)
    for path in (sidecar.directory / "data-dir" / "fleet" / "refs" / "rows").iterdir():
        path.unlink()
    (event,) = traced(sidecar, "e1")
    assert marks(event)[1:] == [("entry", "absent"), ("put", "failed"), ("notification", "ok")]


def test_lying_clocks_and_hostile_strings(sidecar: Cli) -> None:
    """A producer's clock that cannot be right is marked; control characters stay text."""
    event = {"event_id": "e1", "type": "run.abort", "created_at": rfc3339(4e15), "x": HOSTILE}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event | {"tenant_id": HOSTILE})})
    sidecar.work()
    (found,) = traced(sidecar, "e1")
    assert marks(found)[0] == ("made", "unknown")
    out = sidecar("trace", "e1").out
    assert not set("\x1b\x07\u202e") & set(out)
    assert sidecar("trace", HOSTILE).code == 1


@pytest.mark.parametrize("name", ["b.zip", "b"])
def test_a_bundle_is_traced_as_redis_is(sidecar: Cli, name: str) -> None:
    """With the bundle alone, a trace tells the same."""
    sidecar.bring("e1", "rows/a", b"one")
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"odd","type":"nobody.knows"}'})
    sidecar.work()
    sidecar.emit("late")
    path = sidecar.directory / name
    before = [traced(sidecar, what) for what in ("e1", "odd", "late", "rows/a")]
    assert sidecar("replay", "export", path).code == 0
    sidecar.client.flushall()
    after = [
        sidecar("trace", what, "--json", "--bundle", path, env={"SIDECAR_REDIS": ""}).objects()
        for what in ("e1", "odd", "late", "rows/a")
    ]
    assert after == before


@pytest.mark.parametrize("days", [None, 30, -30], ids=["a number", "ahead", "old"])
def test_an_entry_id_that_is_no_time_tells_none(sidecar: Cli, days: int | None) -> None:
    """Where an entry's end, or now, does not bear its ID out, no time, wait or delay is told."""
    now_ms = int(time.time() * 1000)
    at = 17 if days is None else now_ms + days * 86_400_000
    for n in range(2):
        body = json.dumps({"event_id": f"e{n}", "type": "key.changed", "tenant_id": "t"})
        sidecar.client.xadd(STREAM, {"event": body}, id=f"{at + n}-0")
    sidecar.client.xadd(STREAM, {"event": "not JSON"}, id=f"{at + 2}-0")
    sidecar.work()
    sidecar.client.xadd(STREAM, {"event": "waits"}, id=f"{at + 3}-0")
    for n, end in enumerate(("notification", "notification", "dead letter", "waits")):
        (event,) = traced(sidecar, f"{STREAM}/{at + n}-0")
        assert [hop["hop"] for hop in event["hops"]] == ["entry", end]
        assert event["hops"][0]["at"] is None
        assert "an ID that is taken for no time" in event["hops"][0]["detail"]
        assert (event["entry_at"], event["delay_s"]) == (None, None)

"""`sidecar dead`, what could not be published and how it is redriven."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import redis

from sidecar.ops.predictions import NO_INDEX, NO_SOURCE, STORE_AWAY, Predictions
from sidecar.ops.redrive import RedriveOrder, Redriver, Result
from sidecar.redis.client import Side, connect
from sidecar.redis.keys import Keys
from sidecar.wire.event import Reason
from sidecar.wire.reasons import EXPLANATIONS
from sidecar.worker.pipeline import Rules
from tests.cli.harness import (
    DEAD,
    HALT,
    HOSTILE,
    NOTIFICATIONS,
    REDRIVEN,
    STREAM,
    TRIMMED,
    Cli,
    dialogue,
    install,
)

KEYS = Keys.of(STREAM, NOTIFICATIONS)

_AWAY = """
import sys
import store

class Store:
    name = "away"
    def __init__(self, config): pass
    def put(self, ref, data, manifest): pass
    def get(self, ref): raise store.NotFound(ref)
    def exists(self, ref): return False

def fail(*_):
    sys.stderr.write("ASKED\\n")
    raise store.Unavailable("not now")

Store.FAILING = fail
"""


def _event(event_id: str, **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "type": "key.changed", **fields}


def _ref(ref: str) -> dict[str, str]:
    return {"artifact_ref": ref, "checksum": "sha256:" + "0" * 64}


def _missing(sidecar: Cli, event_id: str, ref: str) -> str:
    """Let a real worker bury an event whose artifact is missing; return the letter's ID."""
    fields: dict[Any, Any] = {"event": json.dumps(_event(event_id, **_artifact(ref)))}
    sidecar.client.xadd(STREAM, fields)
    sidecar.drain()
    return str(sidecar("dead", "ls", "--each", "--json", "-n", "1").object()["id"])


def _artifact(ref: str) -> dict[str, str]:
    """Return the fields of an artifact with the data `late`."""
    import store

    return {"artifact_ref": ref, "checksum": store.checksum_of(b"late")}


def _judge(client: redis.Redis) -> Predictions:
    """Return what judges letters without a store."""
    return Predictions(client, KEYS, None, Rules())


def _open_control(sidecar: Cli) -> None:
    """Make the control stream exist, as every worker does that starts."""
    sidecar.client.xgroup_create(STREAM, "g", "0", mkstream=True)


# --- ls and show -----------------------------------------------------------------------------


def test_ls_lists_what_a_worker_buried(sidecar: Cli) -> None:
    """A table for a person, an object a line for machines."""
    letter = _missing(sidecar, "e1", "nowhere")
    found = sidecar("dead", "ls", "--each", "--json").object()
    assert (found["id"], found["reason"], found["event_id"]) == (letter, "artifact_missing", "e1")
    table = sidecar("dead", "ls", "--each").out.splitlines()
    assert table[0].split()[:3] == ["ID", "DEAD_AT", "REASON"]
    assert letter in table[1]


def test_ls_filters_and_counts(sidecar: Cli) -> None:
    """--only keeps reasons, -n the newest; what the filter leaves empty is exit 6."""
    ids = [
        sidecar.letter(_event(f"e{i}"), f"{i + 1}-0", reason=("poison", "malformed")[i % 2])
        for i in range(6)
    ]
    listed = sidecar("dead", "ls", "--each", "--json", "--only", "poison", "-n", "2").objects()
    assert [letter["id"] for letter in listed] == [ids[2], ids[4]]
    both = sidecar(
        "dead", "ls", "--each", "--json", env={"SIDECAR_ONLY": "poison malformed"}
    ).objects()
    assert [letter["id"] for letter in both] == ids
    none = sidecar("dead", "ls", "--each", "--only", "too_large")
    assert (none.code, none.raw) == (6, b"")
    wrong = sidecar("dead", "ls", "--only", "nonsense")
    assert wrong.code == 2
    assert "artifact_missing" in wrong.err


def test_ls_reads_a_bundle(sidecar: Cli) -> None:
    """Without Redis it lists the same letters, grouped, each, the newest, and filtered."""
    for n in range(4):
        sidecar.letter(_event(f"e{n}", tenant_id=f"t_{n % 2}"), f"{n + 1}-0",
                       reason=("poison", "malformed")[n % 2])  # fmt: skip
    path = sidecar.directory / "b.zip"
    assert sidecar("replay", "export", path).code == 0
    asked = (
        (), ("--each",), ("-n", "2", "--json"), ("--only", "poison", "--json"),
        ("--tenant", "t_1", "--each"), ("--since", "1h", "-n", "3"),
    )  # fmt: skip
    before = [sidecar("dead", "ls", *args).out for args in asked]
    sidecar.client.flushall()
    env = {"SIDECAR_REDIS": ""}
    after = [sidecar("dead", "ls", *args, "--bundle", path, env=env).out for args in asked]
    assert all(after)
    assert after == before
    none = sidecar("dead", "ls", "--tenant", "nobody", "--bundle", path, env=env)
    assert (none.code, "none of the 4 dead letters" in none.err) == (6, True)


@pytest.mark.parametrize("command", [
    "dead show 1-0", "dead redrive --all --reason x", "status", "audit",
])  # fmt: skip
def test_what_needs_a_live_system_refuses_a_bundle(sidecar: Cli, command: str) -> None:
    """It says so, and which commands read one."""
    ran = sidecar(*command.split(), "--bundle", "incident.zip")
    assert ran.code == 2
    assert "live system only" in ran.err
    assert "`sidecar trace ID`" in ran.err


def test_no_letters_is_no_failure(sidecar: Cli) -> None:
    """An empty list is good news: exit 0, nothing on standard output."""
    for args in (("ls",), ("ls", "--json"), ("redrive", "--all", "--reason", "x")):
        ran = sidecar("dead", *args)
        assert (ran.code, ran.raw) == (0, b"")
        assert "no dead letters" in ran.err


def test_a_table_is_not_cut_in_a_pipe(sidecar: Cli) -> None:
    """Every cell is whole on one line, however narrow the terminal was."""
    sidecar.letter(_event("e" * 200), "1-0", detail="d" * 3000)
    lines = sidecar.process("dead", "ls", "--each", env={"COLUMNS": "40"}).out.splitlines()
    assert len(lines) == 2
    assert "d" * 3000 in lines[1]
    assert "e" * 200 in lines[1]
    assert "\x1b" not in lines[0]


def test_letters_with_hostile_strings_are_inert(sidecar: Cli) -> None:
    """Escapes, markup, broken UTF-8 and changes of direction come out as text."""
    hostile = sidecar.letter(
        _event(HOSTILE, tenant_id=HOSTILE), "1-0", detail=HOSTILE, reason=HOSTILE
    )
    sidecar.letter(b"\xff\x1b[2J{", "2-0", reason="malformed")
    for ran in (
        sidecar("dead", "ls"), sidecar("dead", "ls", "--each"), sidecar("dead", "show", hostile),
    ):  # fmt: skip
        assert ran.code == 0
        assert "[bold]x[/bold]" in ran.out
        assert ran.out.replace("\n", "").isprintable()
    assert sidecar("dead", "ls", "--each", "--json").objects()[0]["detail"] == HOSTILE


def test_show_explains_the_reason(sidecar: Cli) -> None:
    """Everything there is, what it means and how to fix it; JSON has the event as it came."""
    raw = b'{"event_id": "e1", "version": 42.0}'
    letter = sidecar.letter(raw, "1-0", reason="invalid_event", traceparent="00-a")
    text = sidecar("dead", "show", letter).out
    assert all(part in text for part in ("meaning", "fix", "00-a", "Fix the producer"))
    found = sidecar("dead", "show", letter, "--json").object()
    assert found["event"] == raw.decode()
    assert found["fix"] in text


def test_show_of_an_absent_letter_is_exit_1(sidecar: Cli) -> None:
    """And of something that is no ID exit 2."""
    assert sidecar("dead", "show", "1-1").code == 1
    assert sidecar("dead", "show", "latest").code == 2


def test_every_reason_is_explained() -> None:
    """The table has a text for each reason of the contract."""
    assert set(EXPLANATIONS) == set(Reason)
    assert all(text.meaning and text.fix for text in EXPLANATIONS.values())


def test_strange_entries_in_the_dead_stream_do_not_hurt(sidecar: Cli) -> None:
    """An entry with none of the fields is listed, shown, and refused."""
    strange: dict[Any, Any] = {HOSTILE: "b"}
    added: Any = sidecar.client.xadd(DEAD, strange)
    assert sidecar("dead", "ls").code == 0
    shown = sidecar("dead", "show", added.decode())
    assert shown.code == 0
    assert shown.out.replace("\n", "").isprintable()
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 3


# --- redrive ---------------------------------------------------------------------------------


def test_redrive_puts_an_event_back_that_is_then_published(sidecar: Cli) -> None:
    """Once its artifact is there: one notification, no letter, and a record of who and why."""
    letter = _missing(sidecar, "e1", "late/1")
    origin = sidecar("dead", "show", letter, "--json").object()["origin"]
    data = sidecar.directory / "late"
    data.write_bytes(b"late")
    source = (sidecar.directory / "data-dir" / "source").as_uri()
    assert sidecar("store", "put", "late/1", "--data", data, "--store", source).code == 0
    ran = sidecar("dead", "redrive", letter, "--reason", "node is back", "--json")
    assert ran.code == 0, ran.err
    assert ran.object()["result"] == "redriven"
    sidecar.drain()
    assert sidecar("tail", "--json", "--resolve").object()["event_id"] == "e1"
    assert sidecar.client.xlen(DEAD) == 0
    (record,) = sidecar.entries(REDRIVEN)
    assert record["entry"] == ran.object()["entry"]
    assert (record["letter"], record["origin"], record["event_id"], record["reason"]) == (
        letter, origin, "e1", "node is back",
    )  # fmt: skip
    assert "@" in record["by"]
    assert record["at"].endswith("Z")
    assert "overrode" not in record


def test_nothing_is_redriven_that_cannot_be_put_on_record(sidecar: Cli) -> None:
    """A stolen redriver gives the record the highest ID: the letter stays, and it is told."""
    letter = _missing(sidecar, "e1", "late/1")
    highest = "18446744073709551615-18446744073709551615"
    sidecar.client.xadd(REDRIVEN, {"what": "x"}, id=highest)
    entries = sidecar.client.xlen(STREAM)
    ran = sidecar("dead", "redrive", letter, "--reason", "r", "--force")
    assert ran.code == 1
    assert f"{REDRIVEN} was given the ID {highest}, after which nothing can be put on" in ran.err
    assert (sidecar.client.xlen(DEAD), sidecar.client.xlen(STREAM)) == (1, entries)
    status = sidecar("status")
    assert "nothing can be put on record" in status.out + status.err


def test_the_record_of_a_redrive_keeps_what_the_dead_letter_said(sidecar: Cli) -> None:
    """Why it died, when and after how many attempts, of a long detail the beginning."""
    _open_control(sidecar)
    letter = sidecar.letter(_event("old"), "1790000000000-0", detail="d" * 5000, attempts="7")
    (before,) = sidecar.entries(DEAD)
    assert sidecar("dead", "redrive", letter, "--reason", "x").code == 0
    (record,) = sidecar.entries(REDRIVEN)
    assert record["dead_reason"] == before["reason"]
    assert record["dead_detail"] == "d" * 1000
    kept = ("dead_at", "first_seen", "attempts")
    assert [record[name] for name in kept] == [before[name] for name in kept]


def test_a_trace_tells_why_what_was_redriven_had_died(sidecar: Cli) -> None:
    """And that it was by force, and over what, though the dead letter is gone."""
    _missing(sidecar, "e1", "never")
    (before,) = sidecar.entries(DEAD)
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 0
    hops = [hop for one in sidecar("trace", "e1", "--json").objects() for hop in one["hops"]]
    (said,) = (hop["detail"] for hop in hops if hop["hop"] == "redriven")
    assert f"; it had died: artifact_missing: {before['detail']}" in said
    assert ", by force: it would end here again" in said


def test_a_record_of_an_older_release_is_read_as_far_as_it_goes(sidecar: Cli) -> None:
    """Of what it does not have is said that it is not on record."""
    entry_id = sidecar.add("old", "t1")
    fields: dict[Any, Any] = {
        "letter": "1790000000000-0", "origin": f"{STREAM}/1789999999000-0", "event_id": "old",
        "reason": "x", "by": "a@b", "entry": f"{STREAM}/{entry_id}",
    }  # fmt: skip
    sidecar.client.xadd(REDRIVEN, fields)
    found = sidecar("replay", "at", "1790000000000", "--json").objects()
    (dead,) = (one for one in found if one["what"] == "dead")
    assert "its reason is not on record" in dead["detail"]
    assert (dead["event_id"], dead["tenant_id"]) == ("old", "t1")


def test_what_fails_again_has_a_letter_again(sidecar: Cli) -> None:
    """A redriven entry is a new origin, so nothing is lost when it cannot be published."""
    first = _missing(sidecar, "e1", "never")
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 0
    sidecar.drain()
    again = sidecar("dead", "ls", "--each", "--json").object()
    assert again["id"] != first
    assert again["origin"] == sidecar.entries(REDRIVEN)[0]["entry"]


def test_redrive_carries_the_bytes_and_the_trace_as_they_were(sidecar: Cli) -> None:
    """The event is not encoded anew."""
    _open_control(sidecar)
    raw = b'{ "type":"key.changed","event_id":"e1",  "x":1.10 }'
    sidecar.letter(raw, "1-0", traceparent="00-a-b-01")
    assert sidecar("dead", "redrive", "--all", "--reason", "x").code == 0
    (entry,) = sidecar.entries(STREAM)
    assert entry == {"event": raw.decode(), "traceparent": "00-a-b-01"}


def test_a_dry_run_changes_nothing(sidecar: Cli) -> None:
    """It tells what would be done, refusals and exit code included."""
    sidecar.letter(_event("e1"), "1-0")
    sidecar.letter(_event("e2"), "2-0", truncated="1")
    ran = sidecar("dead", "redrive", "--all", "--dry-run", "--json")
    assert ran.code == 3
    assert [found["result"] for found in ran.objects()] == ["would be redriven", "refused"]
    assert sidecar.client.xlen(DEAD) == 2
    assert not sidecar.client.exists(STREAM, REDRIVEN)


def test_only_and_ids_choose(sidecar: Cli) -> None:
    """--all with --only passes the others over; IDs that are not there are exit 1."""
    _open_control(sidecar)
    poison = sidecar.letter(_event("e1"), "1-0", reason="poison")
    other = sidecar.letter(_event("e2"), "2-0")
    ran = sidecar("dead", "redrive", "--all", "--only", "poison", "--reason", "x", "--json")
    assert [found["letter"] for found in ran.objects()] == [poison]
    ran = sidecar("dead", "redrive", "--all", "--only", "poison", "--reason", "x")
    assert ran.code == 6
    ran = sidecar("dead", "redrive", poison, other, "--reason", "x", "--json")
    assert ran.code == 1
    assert [found["result"] for found in ran.objects()] == ["absent", "redriven"]


@pytest.mark.parametrize(
    "args",
    [
        ("--reason", "x"),
        ("1-0", "--all", "--reason", "x"),
        ("1-0",),
        ("1-0", "--reason", "  "),
        ("one", "--reason", "x"),
        ("--all", "--reason", "x", "--max-rate", "0"),
        ("--all", "--reason", "x", "--only", "nonsense"),
    ],
)
def test_wrong_use_of_redrive_is_exit_2(sidecar: Cli, args: tuple[str, ...]) -> None:
    """IDs or --all, a reason, a sensible rate."""
    sidecar.letter(_event("e1"), "1-0")
    assert sidecar("dead", "redrive", *args).code == 2
    assert sidecar.client.xlen(DEAD) == 1


@pytest.mark.parametrize(
    ("event", "fields", "says"),
    [
        (_event("e"), {"truncated": "1"}, "truncated"),
        (b"", {"reason": "entry_lost"}, "no event"),
        (_event("e"), {"origin": "other/1-0"}, "--stream other"),
        (_event("e"), {"origin": "garbage"}, "names no entry"),
    ],
)
def test_some_letters_no_force_puts_back(
    sidecar: Cli, event: Any, fields: dict[str, str], says: str
) -> None:
    """Truncated, empty, or of a stream that was not named: exit 3, and the letter stays."""
    _open_control(sidecar)
    sidecar.letter(event, "1-0", **fields)
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--force", "--json")
    assert ran.code == 3
    assert says in ran.object()["detail"]
    assert sidecar.client.xlen(DEAD) == 1
    assert sidecar.client.xlen(STREAM) == 0


def test_a_letter_goes_back_to_the_stream_it_came_from(sidecar: Cli) -> None:
    """With several --stream each has its own back, a slash in the name or not."""
    for stream in ("a/b", "c"):
        sidecar.client.xgroup_create(stream, "g", "0", mkstream=True)
        sidecar.letter(_event(f"of {stream}"), "1-0", origin=f"{stream}/1-0")
    args = ("--stream", "a/b", "--stream", "c", "--reason", "x")
    assert sidecar("dead", "redrive", "--all", *args).code == 0
    assert "of a/b" in sidecar.entries("a/b")[0]["event"]
    assert "of c" in sidecar.entries("c")[0]["event"]


def test_the_streams_may_lie_on_two_servers(sidecar: Cli) -> None:
    """--notify-redis has the letters and the record, --redis gets the entry."""
    _open_control(sidecar)
    notify = sidecar.url.replace("/0", "/1")
    with redis.Redis.from_url(notify) as client:
        letter: dict[Any, Any] = {
            "event": json.dumps(_event("e")), "reason": "poison", "origin": f"{STREAM}/1-0",
        }  # fmt: skip
        client.xadd(DEAD, letter)
        env = {"SIDECAR_NOTIFY_REDIS": notify}
        assert sidecar("dead", "redrive", "--all", "--reason", "x", env=env).code == 0
        assert (client.xlen(DEAD), client.xlen(REDRIVEN)) == (0, 1)
    assert len(sidecar.entries(STREAM)) == 1


def test_many_letters_go_back_in_batches(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a batch: each is redriven once, in order, and each has its record."""
    monkeypatch.setattr("sidecar.ops.redrive.BATCH", 200)
    _open_control(sidecar)
    pipeline = sidecar.client.pipeline()
    for i in range(430):
        fields: dict[Any, Any] = {
            "event": json.dumps(_event(f"e{i}", **_ref("r"))), "reason": "poison",
            "origin": f"{STREAM}/{i + 1}-0",
        }  # fmt: skip
        pipeline.xadd(DEAD, fields)
    pipeline.execute()
    assert sidecar("dead", "redrive", "--all", "--reason", "x").code == 0
    back = [json.loads(entry["event"])["event_id"] for entry in sidecar.entries(STREAM)]
    assert back == [f"e{i}" for i in range(430)]
    assert [record["event_id"] for record in sidecar.entries(REDRIVEN)] == back
    assert sidecar.client.xlen(DEAD) == 0


def test_no_control_stream_is_made(sidecar: Cli) -> None:
    """Where the stream does not exist, --redis is probably wrong: refused, the letter stays."""
    sidecar.letter(_event("e"), "1-0")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert ran.code == 3
    assert "is --redis right?" in ran.object()["detail"]
    assert sidecar.client.xlen(DEAD) == 1


def test_what_would_only_end_here_again_is_refused(sidecar: Cli) -> None:
    """A malformed event needs --force."""
    _open_control(sidecar)
    sidecar.letter(b"{", "1-0", reason="malformed")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert ran.code == 3
    assert "malformed" in ran.object()["detail"]
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 0


@pytest.mark.parametrize(
    ("dead", "newer"),
    [
        (_ref("r"), _ref("r")),
        (
            {"tenant_id": "t", "stack_id": "s", "version": 7},
            {"tenant_id": "t", "stack_id": "s", "version": 7},
        ),
    ],
)
def test_what_newer_notifications_overtook_is_refused(
    sidecar: Cli, dead: dict[str, Any], newer: dict[str, Any]
) -> None:
    """Of the same ref, or the same stack with a version not lower; --force overrides."""
    _open_control(sidecar)
    sidecar.letter(_event("old", **dead), "1790000000000-0")
    later = _event("new", control_version=1790000005000000, **newer)
    sidecar.notification(later, "1790000005000-0", f"{STREAM}/1790000000000-1")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert ran.code == 3
    assert "new overtook it, as control_version 1790000005000000" in ran.object()["detail"]
    assert sidecar.client.xlen(STREAM) == 0
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 0
    assert sidecar.client.xlen(STREAM) == 1
    (record,) = sidecar.entries(REDRIVEN)
    assert (record["overrode"], record["overrode_version"]) == ("new", "1790000005000000")


@pytest.mark.parametrize(
    ("other", "origin"),
    [
        (_ref("another"), f"{STREAM}/1790000009000-0"),
        (_ref("r"), f"{STREAM}/1789999999999-0"),
        ({"tenant_id": "t", "stack_id": "s", "version": 6}, f"{STREAM}/1790000009000-0"),
        ({"tenant_id": "u", "stack_id": "s", "version": 9}, f"{STREAM}/1790000009000-0"),
        ({"tenant_id": "t", "version": 9}, f"{STREAM}/1790000009000-0"),
    ],
)
def test_what_is_not_overtaken_goes_back(sidecar: Cli, other: dict[str, Any], origin: str) -> None:
    """Another ref, an earlier entry that was only published later, a lower version."""
    _open_control(sidecar)
    event = _event("old", tenant_id="t", stack_id="s", version=7, **_ref("r"))
    sidecar.letter(event, "1790000000000-0")
    sidecar.notification(_event("other", **other), "1790000009000-0", origin)
    assert sidecar("dead", "redrive", "--all", "--reason", "x").code == 0


def test_times_decide_between_two_control_streams(sidecar: Cli) -> None:
    """A notification of another stream overtakes when it was published later."""
    _open_control(sidecar)
    sidecar.letter(_event("old", **_ref("r")), "1790000000000-0")
    sidecar.notification(_event("a", **_ref("r")), "1789999999999-0", "else/1790000000099-0")
    assert sidecar("dead", "redrive", "--all", "--dry-run").code == 0
    sidecar.notification(_event("b", **_ref("r")), "1790000000000-0", "else/1-0")
    assert sidecar("dead", "redrive", "--all", "--dry-run").code == 3


def test_letters_of_one_ref_do_not_overtake_each_other(sidecar: Cli) -> None:
    """Put back in order, now or on different days, each is older than the next."""
    _open_control(sidecar)
    first = sidecar.letter(_event("one", **_ref("r")), "1790000000000-0")
    second = sidecar.letter(_event("two", **_ref("r")), "1790000001000-0")
    ran = sidecar("dead", "redrive", first, "--reason", "x", "--json").object()
    ms = int(ran["entry"].rpartition("/")[2].partition("-")[0])
    sidecar.notification(_event("one", **_ref("r")), f"{ms + 5}-0", ran["entry"])
    assert sidecar("dead", "redrive", second, "--reason", "x").code == 0


def test_the_oldest_notification_that_counts_is_on_a_later_page(sidecar: Cli) -> None:
    """The scan goes through all pages."""
    _open_control(sidecar)
    sidecar.letter(_event("old", **_ref("r")), "1790000000000-0")
    pipeline = sidecar.client.pipeline()
    for i in range(1, 2300):
        entry: dict[Any, Any] = {
            "event": json.dumps(_event(f"e{i}")), "origin": f"{STREAM}/{1790000000000 + i}-0",
        }  # fmt: skip
        pipeline.xadd(NOTIFICATIONS, entry, id=f"{1790000000000 + i}-0")
    pipeline.execute()
    last = f"{STREAM}/1790000009000-0"
    sidecar.notification(_event("new", **_ref("r")), "1790000009000-0", last)
    assert sidecar("dead", "redrive", "--all", "--dry-run").code == 3


class _DiesBeforeRemoval(redis.Redis):
    """A connection whose owner is killed between the two writes."""

    def pipeline(self, *_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt


def test_a_crash_before_the_letter_is_removed_publishes_once(sidecar: Cli) -> None:
    """The letter is still there, to redrive it again is absorbed, one notification is all."""
    _open_control(sidecar)
    sidecar.letter(_event("e1", tenant_id="t"), "1790000000000-0")
    dying = _DiesBeforeRemoval.from_url(sidecar.url, protocol=2)
    order = RedriveOrder(streams={STREAM}, reason="x", by="me@here")
    with connect(sidecar.url) as control, dying:
        redriver = Redriver(Side(control, sidecar.url), dying, KEYS, order, _judge(control))
        with pytest.raises(KeyboardInterrupt):
            list(redriver.all())
    assert (sidecar.client.xlen(DEAD), sidecar.client.xlen(STREAM)) == (1, 1)
    sidecar.drain()
    ran = sidecar("dead", "redrive", "--all", "--reason", "again")
    assert ran.code == 0, ran.out
    sidecar.drain()
    assert len(sidecar("tail", "--json").objects()) == 1
    assert sidecar.client.xlen(DEAD) == 0


def test_max_rate_spreads_them(sidecar: Cli) -> None:
    """So many a second: the pauses add up to the time that takes."""
    _open_control(sidecar)
    for i in range(5):
        sidecar.letter(_event(f"e{i}"), f"{i + 1}-0")
    slept: list[float] = []
    order = RedriveOrder(streams={STREAM}, reason="x", by="me", max_rate=2.0)
    with connect(sidecar.url) as client:
        redriver = Redriver(
            Side(client, sidecar.url), client, KEYS, order, _judge(client),
            clock=lambda: sum(slept), sleep=slept.append,
        )  # fmt: skip
        assert [outcome.result for outcome in redriver.all()] == [Result.REDRIVEN] * 5
    assert sum(slept) == pytest.approx(2.0)


def test_a_letter_that_comes_meanwhile_is_left_for_the_next_time(sidecar: Cli) -> None:
    """--all is what there is at the start: what fails again at once is no endless loop."""
    _open_control(sidecar)
    for i in range(3):
        sidecar.letter(_event(f"e{i}"), f"{i + 1}-0")
    order = RedriveOrder(streams={STREAM}, reason="x", by="me")
    with connect(sidecar.url) as client:
        redriver = Redriver(Side(client, sidecar.url), client, KEYS, order, _judge(client))
        done = 0
        for _ in redriver.all():
            done += 1
            sidecar.letter(_event(f"new {done}"), f"9-{done}")
    assert done == 3
    assert sidecar.client.xlen(DEAD) == 3


def test_a_halt_is_mentioned(sidecar: Cli) -> None:
    """What is redriven on a halted stream waits there: standard error says so."""
    _open_control(sidecar)
    sidecar.letter(_event("e"), "1-0")
    sidecar.client.hset(HALT, "reason", "100 dead letters in a row")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x")
    assert ran.code == 0
    assert "is halted (100 dead letters in a row)" in ran.err


def test_a_dead_stream_of_another_name(sidecar: Cli) -> None:
    """--dead-stream names it, by option or environment."""
    letter: dict[Any, Any] = {"event": "{}", "reason": "poison"}
    sidecar.client.xadd("graveyard", letter)
    assert len(sidecar("dead", "ls", "--dead-stream", "graveyard", "--json").objects()) == 1
    env = {"SIDECAR_DEAD_STREAM": "graveyard"}
    assert len(sidecar("dead", "ls", "--each", "--json", env=env).objects()) == 1


@pytest.mark.parametrize("args", [("ls",), ("show", "1-0"), ("redrive", "1-0", "--dry-run")])
def test_a_dead_stream_that_is_none_is_exit_2(sidecar: Cli, args: tuple[str, ...]) -> None:
    """The key belongs to something else."""
    sidecar.client.set(DEAD, "x")
    assert sidecar("dead", *args).code == 2


# --- groups, filters, and what would end here again ------------------------------------------


def test_ls_groups_by_reason_and_tenant(sidecar: Cli) -> None:
    """The most first, with from when to when, and the newest of each to look at."""
    ids = [
        sidecar.letter(_event(f"e{i}", tenant_id="ab"[i // 3]), f"{i + 1}-0", reason=reason)
        for i, reason in enumerate(["poison", "malformed", "poison", "poison"])
    ]
    found = sidecar("dead", "ls", "--json").objects()
    assert [(one["reason"], one["tenant_id"], one["count"]) for one in found] == [
        ("poison", "a", 2), ("malformed", "a", 1), ("poison", "b", 1),
    ]  # fmt: skip
    assert found[0]["newest_id"] == ids[2]
    lines = sidecar("dead", "ls").out.splitlines()
    assert lines[0].split()[:3] == ["LETTERS", "REASON", "TENANT"]
    assert lines[1].split()[:3] == ["2", "poison", "a"]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (("--tenant", "a"), ["e0", "e2", ""]),
        (("--stack", "web"), ["e1"]),
        (("--type", "run.abort"), ["e2"]),
        (("--ref", "rows/a"), ["e0"]),
        (("--ref", "rows"), ["e0", "e1"]),
        (("--tenant", "a", "--only", "malformed"), ["e2", ""]),
        (("--until", "1h"), []),
        (("--since", "1h", "--tenant", "b"), ["e1"]),
    ],
)
def test_filters_choose_letters(sidecar: Cli, filters: tuple[str, ...], left: list[str]) -> None:
    """For ls and redrive alike; what they leave empty is exit 6."""
    _open_control(sidecar)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("poison", {"tenant_id": "a", **_artifact("rows/a")}),
        ("poison", {"tenant_id": "b", "stack_id": "web", **_artifact("rows/ab")}),
        ("malformed", {"tenant_id": "a", "type": "run.abort"}),
    ]
    for i, (reason, fields) in enumerate(kinds):
        sidecar.letter(_event(f"e{i}", **fields), f"{i + 1}-0", reason=reason)
    sidecar.letter(b'{"tenant_id":"a","version":"x"}', "9-0", reason="malformed")
    ran = sidecar("dead", "ls", "--each", "--json", *filters)
    assert [one["event_id"] for one in ran.objects()] == left
    assert ran.code == (0 if left else 6)
    ran = sidecar("dead", "redrive", "--all", "--dry-run", "--json", *filters)
    assert [one["event_id"] for one in ran.objects()] == left
    assert ran.code in ((0, 3) if left else (6,))


def test_what_would_end_here_again_is_refused(sidecar: Cli) -> None:
    """The artifact that still lacks, the type that is still unknown, the id that is taken."""
    letter = _missing(sidecar, "e1", "late/1")
    odd = sidecar.letter(_event("e2", type="odd"), "2-0", reason="unknown_type")
    sidecar.emit("taken", "--tenant", "a")
    sidecar.emit("taken", "--tenant", "b")
    sidecar.work()
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert ran.code == 3
    details = [one["detail"] for one in ran.objects()]
    assert all("it would end here again: " in one for one in details)
    for reason in ("artifact_missing", "unknown_type", "id_conflict"):
        assert any(reason in one for one in details), reason
    assert "artifact_missing" in sidecar("dead", "show", letter, "--json").object()["again"]
    data = sidecar.directory / "late"
    data.write_bytes(b"late")
    source = (sidecar.directory / "data-dir" / "source").as_uri()
    assert sidecar("store", "put", "late/1", "--data", data, "--store", source).code == 0
    assert sidecar("dead", "show", letter, "--json").object()["again"] is None
    assert "nothing is known" in sidecar("dead", "show", letter).out
    fixed = ("--reason", "fixed", "--allow-type", "odd")
    assert sidecar("dead", "redrive", letter, odd, *fixed).code == 0
    assert sidecar("dead", "redrive", "--all", "--reason", "x", "--force").code == 0


def test_other_bytes_at_the_source_are_refused_too(sidecar: Cli) -> None:
    """The artifact is read and verified by the worker's own code, and nothing is put."""
    letter = _missing(sidecar, "e1", "late/1")
    data = sidecar.directory / "other"
    data.write_bytes(b"other")
    source = (sidecar.directory / "data-dir" / "source").as_uri()
    assert sidecar("store", "put", "late/1", "--data", data, "--store", source).code == 0
    again = sidecar("dead", "show", letter, "--json").object()["again"]
    assert again.startswith("checksum_mismatch: ")
    limit = ("--max-artifact-size", "many")
    assert sidecar("dead", "show", letter, *limit).code == 2


def test_all_says_first_what_that_is(sidecar: Cli) -> None:
    """Before anything is done it counts by reason what the filters leave."""
    _open_control(sidecar)
    for i, reason in enumerate(("poison", "too_large", "poison", "malformed")):
        sidecar.letter(_event(f"e{i}"), f"{i + 1}-0", reason=reason)
    only = ("--only", "poison", "--only", "too_large")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", *only)
    assert ran.code == 0
    assert ran.err.startswith("sidecar: 3 dead letters: 2 poison, 1 too_large\n")


@pytest.mark.parametrize(
    ("answer", "args", "code", "left"),
    [("n", (), 1, 2), ("y", (), 0, 0), ("", ("--yes",), 0, 0), ("", ("--dry-run",), 0, 2)],
)
def test_on_a_terminal_a_person_agrees_first(
    sidecar: Cli, answer: str, args: tuple[str, ...], code: int, left: int
) -> None:
    """Without a yes nothing is redriven; --yes and --dry-run do not ask."""
    _open_control(sidecar)
    for i in range(2):
        sidecar.letter(_event(f"e{i}"), f"{i + 1}-0", reason="poison")
    ended, seen = dialogue(
        sidecar, "dead", "redrive", "--all", "--reason", "x", *args, answer=answer
    )
    assert ended == code, seen
    assert ("Redrive them?" in seen) == bool(answer)
    assert sidecar.client.xlen(DEAD) == left


@pytest.mark.parametrize("method", ["__init__", "get"])
def test_a_source_that_is_away_refuses_nothing(sidecar: Cli, method: str) -> None:
    """An outage, at once or later, is no verdict on a letter, and is told; one is waited for."""
    letter = sidecar.letter(_event("e1", **_artifact("a")), "1-0")
    sidecar.letter(_event("e2", **_artifact("b")), "2-0")
    _open_control(sidecar)
    env = install(sidecar.directory / "site", "away", _AWAY.replace("FAILING", method))
    source = ("--source-store", "away://x")
    ran = sidecar.process("dead", "show", letter, "--json", *source, env=env)
    found = ran.object()
    assert (found["again"], found["unseen"]) == (None, STORE_AWAY)
    ran = sidecar.process("dead", "redrive", "--all", "--reason", "x", *source, env=env)
    assert ran.code == 0
    assert f"of 2 dead letters: {STORE_AWAY}" in ran.err
    assert ran.err.count("ASKED") == 1


def test_what_could_not_be_looked_at_is_said(sidecar: Cli) -> None:
    """Nobody reads an unopened store as good news: show says so, redrive once for all."""
    _open_control(sidecar)
    ids = [sidecar.letter(_event(f"e{i}", **_artifact("a")), f"{i + 1}-0") for i in range(2)]
    bare = sidecar.letter(_event("bare"), "3-0")
    nowhere = ("--data-dir", sidecar.directory / "none")
    found = sidecar("dead", "show", ids[0], "--json", "--redis", sidecar.url, *nowhere).object()
    assert (found["again"], found["unseen"]) == (None, NO_SOURCE)
    assert NO_SOURCE in sidecar("dead", "show", ids[0], "--redis", sidecar.url, *nowhere).out
    ran = sidecar(
        "dead", "redrive", "--all", "--dry-run", "--json", "--redis", sidecar.url, *nowhere
    )
    assert [(one["letter"], one["unseen"]) for one in ran.objects()] == [
        (ids[0], NO_SOURCE), (ids[1], NO_SOURCE), (bare, ""),
    ]  # fmt: skip
    assert ran.err.count(NO_SOURCE) == 1
    assert f"of 2 dead letters: {NO_SOURCE}" in ran.err


def test_a_user_who_may_not_read_the_index_is_told_so(sidecar: Cli) -> None:
    """What was published under this event_id is not known then, and refuses nothing."""
    letter = sidecar.letter(_event("e1"), "1-0")
    readable = [DEAD, NOTIFICATIONS, REDRIVEN, TRIMMED]
    sidecar.client.acl_setuser(
        "u", reset=True, enabled=True, nopass=True, keys=readable, commands=["+@all"]
    )
    url = sidecar.url.replace("redis://", "redis://u:x@")
    found = sidecar("dead", "show", letter, "--json", "--redis", url).object()
    assert (found["again"], found["unseen"]) == (None, NO_INDEX)


def test_show_tells_what_has_overtaken(sidecar: Cli) -> None:
    """As redrive would refuse it; of what nothing overtook it is null."""
    old = sidecar.letter(_event("old", **_ref("r")), "1790000000000-0")
    assert sidecar("dead", "show", old, "--json").object()["overtaken"] is None
    later = _event("new", **_ref("r"))
    sidecar.notification(later, "1790000005000-0", f"{STREAM}/1790000000000-1")
    overtaken = sidecar("dead", "show", old, "--json").object()["overtaken"]
    assert overtaken == "new overtook it, as control_version 1790000005000000"
    assert overtaken in sidecar("dead", "show", old).out
    odd = sidecar.letter(_event("odd", **_ref("r")), "1-0")
    sidecar.client.xadd(DEAD, {"event": json.dumps(_event("x", **_ref("r"))), "origin": "?"})
    lost = sidecar("dead", "ls", "--json", "-n", "1").object()["id"]
    assert sidecar("dead", "show", lost, "--json").object()["overtaken"] is None
    assert sidecar("dead", "show", odd, "--json").object()["overtaken"] == overtaken


def test_the_fix_names_the_ref_and_the_type(sidecar: Cli) -> None:
    """As a shell takes them, whatever is in them."""
    ref = "TYPE $(x)/it's"
    gone = sidecar.letter(_event("e1", **_ref(ref)), "1-0", reason="artifact_missing")
    odd = sidecar.letter(_event("e2", type="odd; x"), "2-0", reason="unknown_type")
    broken = sidecar.letter(b"{", "3-0", reason="artifact_missing")
    fixes = [sidecar("dead", "show", one, "--json").object()["fix"] for one in (gone, odd, broken)]
    assert f"exists {shlex.quote(ref)} --store" in fixes[0]
    assert "--allow-type 'odd; x'" in fixes[1]
    assert "exists REF --store" in fixes[2]


def test_history_tells_who_put_back_what(sidecar: Cli) -> None:
    """The audit trail, the oldest first, the newest with -n."""
    _open_control(sidecar)
    assert "nothing was redriven" in sidecar("dead", "history").err
    for i in range(3):
        letter = sidecar.letter(_event(f"e{i}"), f"{i + 1}-0")
        assert sidecar("dead", "redrive", letter, "--reason", f"why {i}").code == 0
    found = sidecar("dead", "history", "--json").objects()
    assert [one["event_id"] for one in found] == ["e0", "e1", "e2"]
    assert all("@" in one["by"] for one in found)
    lines = sidecar("dead", "history", "-n", "2").out.splitlines()
    assert ["why 1" in lines[0], "why 2" in lines[1], len(lines)] == [True, True, 2]


def test_history_tells_what_became_of_it(sidecar: Cli) -> None:
    """Published, dead again, redriven again; nothing of what waits, or was published before."""
    _open_control(sidecar)
    sidecar.emit("before")
    sidecar.work()
    ids = [
        sidecar.letter(event, f"{n + 1}-0")
        for n, event in enumerate(
            (_event("good"), _event("odd", type="nobody.knows"), _event("before", tenant_id="x"))
        )
    ]

    def put_back(*letters: str) -> None:
        args = ("dead", "redrive", *letters, "--force", "--reason", "try")
        assert sidecar(*args).code == 0

    def told() -> list[tuple[str, str]]:
        found = sidecar("dead", "history", "--json").objects()
        return sorted((one["event_id"], one["became"] or "?") for one in found)

    put_back(*ids)
    assert told() == [("before", "?"), ("good", "?"), ("odd", "?")]
    sidecar.work()
    assert told() == [("before", "dead"), ("good", "published"), ("odd", "dead")]
    dead = sidecar("dead", "ls", "--only", "unknown_type", "--each", "--json").object()["id"]
    assert f"dead again as {dead}" in sidecar("dead", "history").out
    put_back(dead)
    assert told()[2:] == [("odd", "?"), ("odd", "redriven")]
    note = json.loads(sidecar.entries(NOTIFICATIONS)[-1]["event"])
    line = next(one for one in sidecar("dead", "history").out.splitlines() if "good" in one)
    assert line.endswith(f"published as {note['control_version']}")


@pytest.mark.parametrize("option", ["--tenant", "--stack", "--ref", "--type", "--since"])
def test_an_empty_filter_is_refused(sidecar: Cli, option: str) -> None:
    """What a script's unset variable leaves behind must not mean all tenants."""
    sidecar.letter(_event("e1"), "1-0")
    for command in (("ls",), ("redrive", "--all", "--yes", "--reason", "r")):
        ran = sidecar("dead", *command, option, "")
        assert (ran.code, "empty" in ran.err, option in ran.err) == (2, True, True), ran.err
    assert sidecar.client.xlen(DEAD) == 1

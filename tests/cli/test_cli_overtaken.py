"""Redrive and repair never move a subject back: whatever is newer, wherever it is, refuses them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

import store
from sidecar.history.live import LiveHistory
from sidecar.ops.audit import Audit, AuditOrder
from sidecar.ops.predictions import Prediction, Predictions
from sidecar.ops.redrive import RedriveOrder, Redriver
from sidecar.ops.repair import Outcome, Repair, RepairOrder
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetter
from sidecar.replay.overtaking import Overtaking
from sidecar.replay.timeline import End, lives
from sidecar.replay.window import Window
from sidecar.worker.pipeline import Rules
from tests.cli.harness import HALT, NOTIFICATIONS, REDRIVEN, STREAM, TRIMMED, Cli
from tests.wire.test_subject import TABLE

KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
REF: Final = {"artifact_ref": "rows/a", "checksum": "sha256:" + "0" * 64}
WEB: Final = {"tenant_id": "t", "stack_id": "web"}
BEFORE: Final = int(time.time() * 1000) - 60_000
"""When the older event was appended."""
Ends = Callable[..., tuple[int, dict[str, Any]]]


def event(event_id: str, **fields: Any) -> dict[str, Any]:
    """Return an event about the stack `web`."""
    return {"event_id": event_id, "type": "key.changed", **WEB, **fields}


def append(sidecar: Cli, event_id: str, at: str = "*", **fields: Any) -> str:
    """Append an event; return the entry's ID."""
    added: Any = sidecar.client.xadd(
        STREAM, {"event": json.dumps(event(event_id, **fields))}, id=at
    )
    return str(added.decode())


def read(sidecar: Cli) -> None:
    """Read as the worker does, and acknowledge nothing."""
    sidecar.client.xreadgroup(KEYS.group, "worker", {STREAM: ">"})


def finish(sidecar: Cli) -> None:
    """Acknowledge all that is pending."""
    for one in sidecar.client.xpending_range(STREAM, KEYS.group, "-", "+", 99):
        sidecar.client.xack(STREAM, KEYS.group, one["message_id"])


REDRIVE = pytest.mark.parametrize("older", ["redrive"], indirect=True)
"""What may have been trimmed is expired to an audit: a repair is never asked for it."""


@pytest.fixture(params=["redrive", "repair"])
def older(request: pytest.FixtureRequest, sidecar: Cli) -> Ends:
    """Return what plants an older event that never was published, and what puts it back.

    As a dead letter that is to be redriven, or as a lost entry that is to be repaired.
    """
    sidecar.lay_out("source", "fleet")
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)

    def redrive(*args: str) -> tuple[int, dict[str, Any]]:
        ran = sidecar("dead", "redrive", "--all", "--json", "--reason", "x", *args)
        return ran.code, ran.objects()[0]

    def repair(*args: str) -> tuple[int, dict[str, Any]]:
        ran = sidecar("audit", "--repair", "--json", "--reason", "x", *args)
        (one,) = (one for one in ran.objects() if one.get("event_id") == "old")
        return ran.code, one["repair"]

    def plant(at: str = f"{BEFORE}-0", **fields: Any) -> Ends:
        if request.param == "redrive":
            sidecar.letter(event("old", **fields), at)
            return redrive
        append(sidecar, "old", at, **fields)
        read(sidecar)
        finish(sidecar)
        return repair

    return plant  # type: ignore[return-value]


def refused(ends: Ends, *words: str) -> None:
    """Make sure that it is refused, tried dry too, and that the message names these."""
    for args in (("--dry-run",), ()):
        code, told = ends(*args)
        assert (code, told["result"]) in ((3, "refused"), (1, "refused")), told
        assert all(word in told["detail"] for word in words), told


def forced(sidecar: Cli, ends: Ends, word: str) -> None:
    """Make sure that --force puts it back, and that the record tells over what."""
    code, told = ends("--force")
    assert told["result"] in ("redriven", "fixed"), (code, told)
    assert word in sidecar.entries(REDRIVEN)[-1]["forced"]


@pytest.mark.parametrize("where", ["behind a halt", "pending"])
def test_what_waits_overtakes(sidecar: Cli, older: Any, where: str) -> None:
    """A newer event of the same stack that nobody has read, or nobody finished."""
    ends = older()
    new = append(sidecar, "new")
    if where == "pending":
        read(sidecar)
        sidecar.client.xreadgroup(KEYS.group, "debug", {STREAM: ">"})
    else:
        sidecar.client.hset(HALT, "reason", "maintenance")
    refused(ends, "new overtakes it", f"waits as {STREAM}/{new}")
    assert sidecar.client.xlen(REDRIVEN) == 0
    forced(sidecar, ends, "new overtakes it")


def test_what_waits_before_it_does_not_overtake(sidecar: Cli, older: Any) -> None:
    """What comes before, is of another subject, or of a lower version, is no newer state."""
    append(sidecar, "first", f"{BEFORE - 5}-0")
    read(sidecar)
    append(sidecar, "second", f"{BEFORE - 4}-0")
    ends = older(version=5)
    append(sidecar, "lower", version=4)
    append(sidecar, "else", stack_id="api")
    code, told = ends("--dry-run")
    assert told["result"] in ("would be redriven", "would be fixed"), (code, told)


@REDRIVE
def test_what_was_trimmed_may_have_overtaken(sidecar: Cli, older: Any) -> None:
    """Without an archive nobody can tell, and only --force puts it back."""
    ends = older()
    _publish_and_trim(sidecar)
    refused(ends, "nobody can tell", "were trimmed", "--fleet-store")
    forced(sidecar, ends, "were trimmed")


@REDRIVE
def test_the_archive_tells_what_was_trimmed(sidecar: Cli, older: Any) -> None:
    """Of the same stack it refuses, and names what overtook; with nothing of it, it lets go."""
    ends = older()
    _publish_and_trim(sidecar, "--archived")
    refused(ends, "new overtook it, as control_version")


@REDRIVE
def test_an_archive_without_a_newer_one_lets_it_go(sidecar: Cli, older: Any) -> None:
    """What was trimmed was of other stacks: the archive vouches for that."""
    ends = older()
    _publish_and_trim(sidecar, "--archived", stack_id="api")
    code, told = ends()
    assert told["result"] in ("redriven", "fixed"), (code, told)
    assert "forced" not in sidecar.entries(REDRIVEN)[-1]


def _publish_and_trim(sidecar: Cli, *archived: str, **fields: Any) -> None:
    """Have a newer notification and another one, and trim all but the last, as a worker does."""
    for n, fields_ in enumerate((fields, {"stack_id": "other"})):
        ms = BEFORE + 1000 + n
        entry = append(sidecar, "new" if not n else "last", f"{ms}-0", **fields_)
        told = event("new" if not n else "last", control_version=ms * 1000, **fields_)
        sidecar.notification(told, f"{ms}-0", f"{STREAM}/{entry}")
    read(sidecar)
    finish(sidecar)
    if archived:
        ran = sidecar("archive")
        assert ran.code == 0, ran.err
    sidecar.trim(NOTIFICATIONS, 1)
    assert sidecar.client.hget(TRIMMED, NOTIFICATIONS)


@pytest.mark.server
@REDRIVE
def test_the_archive_tells_what_was_trimmed_before_the_stream_was_deleted(
    sidecar: Cli, older: Any
) -> None:
    """What was trimmed stays there, whatever comes of the notification stream."""
    ends = older()
    _publish_and_trim(sidecar, "--archived")
    _made_anew(sidecar)
    refused(ends, "new overtook it, as control_version")


@pytest.mark.server
def test_the_archive_is_asked_while_there_is_no_notification_stream(
    sidecar: Cli, older: Any
) -> None:
    """It was deleted a moment ago, and the note of trimming with it."""
    ends = older()
    _publish_and_trim(sidecar, "--archived")
    sidecar.client.delete(NOTIFICATIONS)
    sidecar.client.hdel(TRIMMED, NOTIFICATIONS)
    refused(ends, "new overtook it, as control_version")


@pytest.mark.server
@REDRIVE
def test_what_was_trimmed_may_have_overtaken_after_the_stream_was_deleted(
    sidecar: Cli, older: Any
) -> None:
    """A worker that publishes into the stream made anew keeps the note (seed 311007)."""
    ends = older()
    _publish_and_trim(sidecar)
    sidecar.client.delete(NOTIFICATIONS)
    append(sidecar, "after", stack_id="api")
    sidecar.work()
    assert sidecar.client.xlen(NOTIFICATIONS) == 1
    refused(ends, "nobody can tell", "were trimmed", "--fleet-store")
    forced(sidecar, ends, "were trimmed")


@pytest.mark.server
def test_what_was_trimmed_is_not_published_again_after_the_stream_was_deleted(
    sidecar: Cli,
) -> None:
    """A repair brings back what the deleted stream had, and nothing that was trimmed before."""
    sidecar.lay_out("source", "fleet")
    for event_id in ("trimmed", "deleted"):
        append(sidecar, event_id, stack_id=event_id)
    sidecar.work()
    sidecar.trim(NOTIFICATIONS, 1)
    sidecar.client.delete(NOTIFICATIONS)
    append(sidecar, "after", stack_id="api")
    sidecar.work()
    sidecar("audit", "--repair", "--reason", "x", "--force")
    sidecar.work()
    events = [json.loads(one["event"])["event_id"] for one in sidecar.entries(NOTIFICATIONS)]
    assert events == ["after", "deleted"]


@REDRIVE
def test_a_gap_of_the_archive_counts_after_the_stream_was_deleted(sidecar: Cli, older: Any) -> None:
    """What was trimmed before it was archived may have overtaken: nobody can tell."""
    ends = older()
    _publish_and_trim(sidecar)
    ran = sidecar("archive")
    assert ran.code == 0, ran.err
    _made_anew(sidecar)
    refused(ends, "nobody can tell", "the archive does not have all of them")


@REDRIVE
def test_what_was_trimmed_by_hand_ends_with_a_control_version(sidecar: Cli, older: Any) -> None:
    """Also where what is left begins with the first of a millisecond, before which no ID is one."""
    ends = older()
    _publish_and_trim(sidecar)
    counts = "entries-added" in sidecar.client.xinfo_stream(NOTIFICATIONS)
    assert sidecar("archive").code == 0
    _made_anew(sidecar)
    last = (BEFORE + 1000) * 1000 + (999 if counts else 0)
    refused(ends, f"notifications up to {last} were trimmed")


def _made_anew(sidecar: Cli) -> None:
    """Delete the notification stream, and begin it anew as a worker does."""
    sidecar.client.delete(NOTIFICATIONS)
    now, after = int(time.time() * 1000), event("after", stack_id="api")
    entry = append(sidecar, "after", f"{now}-0", stack_id="api")
    sidecar.notification(after, f"{now}-0", f"{STREAM}/{entry}")
    read(sidecar)
    finish(sidecar)


OTHER: Final = "control:other"


@pytest.mark.parametrize(
    "at", [17, BEFORE - 30 * 86_400_000, BEFORE - 1000], ids=["a number", "old", "a time"]
)
def test_what_waits_on_another_stream_overtakes_unless_it_is_known_to_be_older(
    sidecar: Cli, at: int
) -> None:
    """By its ID only where that stream's notifications show that its IDs are times."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    sidecar.letter(event("old"), f"{BEFORE}-0")
    sidecar.client.xadd(OTHER, {"event": json.dumps(event("new"))}, id=f"{at}-0")
    both = ("--stream", STREAM, "--stream", OTHER)
    redrive = ("dead", "redrive", "--all", "--reason", "x", "--json", "--dry-run", *both)
    (told,) = sidecar(*redrive).objects()
    assert f"waits as {OTHER}/{at}-0" in told["detail"]
    sidecar.notification(
        event("x", stack_id="x"), f"{BEFORE - 500}-0", f"{OTHER}/{BEFORE - 2000}-0"
    )
    (told,) = sidecar(*redrive).objects()
    assert told["result"] == "would be redriven"


@pytest.mark.parametrize("ms", [7, 99_999_999_999_999, 1_790_000_000_000_000])
def test_entry_ids_that_are_no_times(sidecar: Cli, older: Any, ms: int) -> None:
    """On one stream they are in order all the same, however far from the notification's time."""
    ends = older(f"{ms}-0")
    new = append(sidecar, "new", f"{ms}-1")
    read(sidecar)
    finish(sidecar)
    now = int(time.time() * 1000)
    sidecar.notification(event("new", control_version=now * 1000), f"{now}-0", f"{STREAM}/{new}")
    refused(ends, f"new overtook it, as control_version {now}000")
    forced(sidecar, ends, "new overtook it")


def test_an_id_an_hour_ahead_is_seen_by_what_came_of_others(sidecar: Cli) -> None:
    """It may be a time, by itself; but the stream's notifications came before their entries."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    now = int(time.time() * 1000)
    ahead = now - 60_000
    sidecar.letter(event("old"), f"{ahead}-0")
    sidecar.notification(event("new"), f"{now - 3_600_000}-0", f"{STREAM}/{ahead}-1")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert "new overtook it" in ran.object()["detail"]


def test_letters_go_back_in_entry_order(sidecar: Cli) -> None:
    """Not in the order of their deaths: the newer one is published last."""
    sidecar.lay_out("source", "fleet")
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    for n in (3, 1, 2):
        sidecar.letter(event(f"e{n}", version=n), f"{BEFORE + n}-0")
    ids = [one["id"] for one in sidecar("dead", "ls", "--each", "--json").objects()]
    dry = sidecar("dead", "redrive", *ids, "--dry-run", "--json").objects()
    assert [one["event_id"] for one in dry] == ["e1", "e2", "e3"]
    assert sidecar("dead", "redrive", "--all", "--reason", "x").code == 0
    sidecar.work()
    assert [one["event_id"] for one in sidecar("tail", "--json").objects()] == ["e1", "e2", "e3"]


def test_lost_entries_are_repaired_in_entry_order(sidecar: Cli) -> None:
    """Both are missing: the older is redriven before the newer, and neither is refused for it."""
    sidecar.lay_out("source", "fleet")
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    for n in range(3):
        append(sidecar, f"e{n}", version=n + 1)
    read(sidecar)
    finish(sidecar)
    ran = sidecar("audit", "--repair", "--reason", "x", "--json")
    assert ran.code == 0, ran.out
    sidecar.work()
    assert [one["event_id"] for one in sidecar("tail", "--json").objects()] == ["e0", "e1", "e2"]


@pytest.mark.parametrize("moved", ["9999999999999-0", "$"])
def test_a_lost_entry_that_a_worker_delivers_again_overtakes_one_that_it_does_not(
    sidecar: Cli, moved: str
) -> None:
    """Its notification was deleted; what is passed over comes first where it stands (551286)."""
    sidecar.lay_out("source", "fleet")
    append(sidecar, "e0")
    sidecar.work()
    for n in (1, 2):
        append(sidecar, f"e{n}")
    sidecar.client.xdel(NOTIFICATIONS, sidecar.notifications()[0][0])
    sidecar.client.xgroup_setid(STREAM, KEYS.group, moved)
    ran = sidecar("audit", "--repair", "--reason", "x", "--json")
    results = {one["event_id"]: one["repair"]["result"] for one in ran.objects()[:-1]}
    assert results == {"e0": "refused", "e1": "fixed", "e2": "fixed"}
    sidecar.work()
    assert [one["event_id"] for one in sidecar("tail", "--json").objects()] == ["e1", "e2"]


class _Meanwhile(Predictions):
    """Judges letters; a newer event is appended between the look and the writing."""

    def __init__(self, sidecar: Cli, fields: dict[str, Any]) -> None:
        super().__init__(sidecar.client, KEYS, None, Rules())
        self._sidecar, self._fields = sidecar, fields

    def of(self, letter: DeadLetter) -> Prediction:
        """Have an event come, once."""
        if self._fields:
            append(self._sidecar, "new", **self._fields)
            self._fields = {}
        return super().of(letter)


@pytest.mark.parametrize(
    ("fields", "result"),
    [({"version": 6}, "refused"), ({"version": 1}, "redriven"), ({"stack_id": "x"}, "redriven")],
)
def test_what_comes_between_the_look_and_the_writing(
    sidecar: Cli, fields: dict[str, Any], result: str
) -> None:
    """The script that appends sees it, and has it looked at before anything is written."""
    sidecar.lay_out("source", "fleet")
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    sidecar.letter(event("old", version=5), f"{BEFORE}-0")
    side = Side(sidecar.client, sidecar.url)
    order = RedriveOrder(streams={STREAM}, reason="x", by="me")
    redriver = Redriver(side, sidecar.client, KEYS, order, _Meanwhile(sidecar, fields))
    (outcome,) = redriver.all()
    assert outcome.result == result
    assert ("new overtakes it" in outcome.detail) == (result == "refused")
    assert sidecar.client.xlen(STREAM) == (1 if result == "refused" else 2)


def test_what_comes_between_the_look_and_the_repair(
    sidecar: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a lost entry."""
    sidecar.lay_out("source", "fleet")
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    append(sidecar, "old", f"{BEFORE}-0")
    read(sidecar)
    finish(sidecar)
    side = Side(sidecar.client, sidecar.url)
    fleet = store.open("memory")
    culprits = list(Audit(side, side, fleet, AuditOrder([KEYS])).run())
    repair = Repair(side, side, [KEYS], None, fleet, RepairOrder("test", "me"))
    note = repair._note_again

    def meanwhile(entry: Any) -> Outcome | None:
        append(sidecar, "new")
        monkeypatch.setattr(repair, "_note_again", note)
        return note(entry)

    monkeypatch.setattr(repair, "_note_again", meanwhile)
    ((_, outcome),) = repair.of(culprits)
    assert (outcome.result, sidecar.client.xlen(STREAM)) == ("refused", 2)
    assert "new overtakes it" in outcome.detail


# --- one rule ------------------------------------------------------------------------------------


def _told(sidecar: Cli) -> dict[str, bool]:
    """Return what each room says: whether the letter of the event `old` was overtaken."""
    letter = sidecar("dead", "ls", "--each", "--json").object()["id"]
    (trace,) = sidecar("trace", f"{STREAM}/{BEFORE}-0", "--json").objects()
    side, overtaking = Side(sidecar.client, sidecar.url), Overtaking()
    for row, life in enumerate(lives(LiveHistory(side, side, [KEYS]), Window())):
        overtaking.see(life, row)
        if life.end is End.DEAD:
            overtaking.watch(row, life)
    redriven = sidecar("dead", "redrive", letter, "--dry-run", "--json").object()
    return {
        "redrive": "overtook it" in redriven["detail"],
        "show": sidecar("dead", "show", letter, "--json").object()["overtaken"] is not None,
        "trace": any(hop["hop"] == "overtaken" for hop in trace["hops"]),
        "report": bool(overtaking.of),
    }


def _said(event_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return an event of the table, of a type that need not name a stack."""
    said: dict[str, Any] = {
        **WEB, "version": 7, "artifact_ref": "stacks/7", "checksum": REF["checksum"], **fields,
        "event_id": fields.get("event_id", event_id), "type": "key.changed",
    }  # fmt: skip
    return said if said["artifact_ref"] else said | {"checksum": ""}


@pytest.mark.parametrize("before_death", [True, False])
def test_every_room_goes_by_the_one_table(sidecar: Cli, *, before_death: bool) -> None:
    """Redrive, show, trace and report say the same, whether it was published before the death."""
    for what, new, old, does in TABLE:
        sidecar.client.flushall()
        at = BEFORE + 2 if before_death else int(time.time() * 1000) + 60_000
        told = {name: _said(name, fields) for name, fields in (("old", old), ("new", new))}
        for n, name in enumerate(("old", "new")):
            told[name]["type"] = (
                "key.changed"  # of which the contract wants neither stack nor version
            )
            if not told[name]["artifact_ref"]:
                del told[name]["checksum"]
            sidecar.client.xadd(STREAM, {"event": json.dumps(told[name])}, id=f"{BEFORE + n}-0")
        sidecar.letter(told["old"], f"{BEFORE}-0")
        sidecar.client.xgroup_create(STREAM, KEYS.group, "$")
        later = told["new"] | {"control_version": at * 1000}
        sidecar.notification(later, f"{at}-0", f"{STREAM}/{BEFORE + 1}-0")
        assert _told(sidecar) == dict.fromkeys(("redrive", "show", "trace", "report"), does), what


def test_what_died_again_still_stands_where_it_stood_first(sidecar: Cli) -> None:
    """Put back once, it is no newer: what came after its first entry overtakes it."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    record: dict[Any, Any] = {
        "letter": "1-0", "origin": f"{STREAM}/{BEFORE}-0", "event_id": "old",
        "entry": f"{STREAM}/{BEFORE + 50}-0",
    }  # fmt: skip
    sidecar.client.xadd(REDRIVEN, record)
    sidecar.letter(event("old"), f"{BEFORE + 50}-0")
    sidecar.notification(event("new"), f"{BEFORE + 60}-0", f"{STREAM}/{BEFORE + 7}-0")
    ran = sidecar("dead", "redrive", "--all", "--reason", "x", "--json")
    assert (ran.code, "new overtook it" in ran.object()["detail"]) == (3, True)

"""`sidecar audit --repair`: damage of each kind, done on purpose, and what becomes of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import store
from sidecar.ops.audit import Audit, AuditOrder, Culprit
from sidecar.ops.repair import Repair, RepairOrder, Result
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire.event import decode
from sidecar.wire.identity import identity_of
from tests.cli.harness import DEAD, HALT, NOTIFICATIONS, REDRIVEN, STREAM, Cli, Ran
from tests.servers import counts_deletions

GROUP: Final = f"sidecar:{NOTIFICATIONS}"
KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
DEADLINE_S: Final = 60.0


@pytest.fixture
def worked(sidecar: Cli) -> Cli:
    """Every kind of end: with and without artifact, a duplicate, dead letters."""
    sidecar.end_in_every_way()
    return sidecar


def _event_ids(sidecar: Cli) -> list[str]:
    return [decode(fields)[0].event_id for _, fields in sidecar.notifications()]


def _audit(sidecar: Cli, *args: str) -> tuple[Ran, list[dict[str, Any]], dict[str, Any]]:
    ran = sidecar("audit", "--json", *args)
    *culprits, summary = ran.objects() or [{}]
    return ran, culprits, summary.get("summary", {})


def _repair(sidecar: Cli, *args: str) -> tuple[Ran, list[dict[str, Any]]]:
    ran, culprits, _ = _audit(sidecar, "--repair", "--reason", "test", *args)
    return ran, culprits


def _results(culprits: list[dict[str, Any]]) -> list[str]:
    return [one["repair"]["result"] for one in culprits]


def _is_clean(sidecar: Cli) -> bool:
    ran, culprits, summary = _audit(sidecar)
    return (ran.code, culprits, summary["waiting"]) == (0, [], 0)


def _state(sidecar: Cli) -> dict[Any, Any]:
    """Return all that the server has."""
    return {key: sidecar.client.dump(key) for key in sidecar.client.keys("*")}


@pytest.mark.parametrize("which", [0, 1, 2, -1])
def test_a_deleted_notification_is_published_again(worked: Cli, which: int) -> None:
    """With an artifact or without, with duplicates or none: once, as it was but for its version."""
    notification, before = worked.notifications()[which]
    worked.client.xdel(NOTIFICATIONS, notification)
    ran, culprits = _repair(worked)
    assert ran.code == 0, ran.err
    assert set(_results(culprits)) == {"fixed"}
    worked.work()
    assert _is_clean(worked)
    at, after = worked.notifications()[-1]
    same = {"control_version": 0}
    assert json.loads(after[b"event"]) | same == json.loads(before[b"event"]) | same
    assert after.get(b"traceparent") == before.get(b"traceparent")
    assert f"{after[b'origin'].decode()}" == culprits[0]["repair"]["entry"]
    assert at > notification
    assert sorted(_event_ids(worked)) == ["a", "b", "c", "large"]


def test_what_is_refused_by_now_and_sent_again_is_dead(sidecar: Cli) -> None:
    """It has no notification and will have none: it is no duplicate, and a redrive publishes it."""
    sidecar.add("mine", type="mine")
    sidecar.work(allow_type=("mine",))
    sidecar.client.xdel(NOTIFICATIONS, sidecar.notifications()[0][0])
    assert _results(_repair(sidecar)[1]) == ["fixed"]
    sidecar.work()
    (letter,) = sidecar.entries(DEAD)
    assert letter["reason"] == "unknown_type"
    assert _is_clean(sidecar)
    again = ("--reason", "allowed again", "--allow-type", "mine", "--yes")
    assert sidecar("dead", "redrive", "--all", *again).code == 0
    sidecar.work(allow_type=("mine",))
    assert _event_ids(sidecar) == ["mine"]
    assert _is_clean(sidecar)


def test_what_was_repaired_is_recorded(worked: Cli) -> None:
    """Who, when, why, and which entry was appended; a repair before the worker came adds none."""
    entry = worked.notifications()[-1][1][b"origin"].decode()
    worked.client.xdel(NOTIFICATIONS, worked.notifications()[-1][0])
    _, culprits = _repair(worked)
    assert _repair(worked)[1] == []
    (record,) = worked.entries(REDRIVEN)
    assert record.pop("at").endswith("Z")
    assert "@" in record.pop("by")
    assert record == {
        "letter": "", "origin": entry, "event_id": "c", "reason": "test",
        "entry": culprits[0]["repair"]["entry"],
    }  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_dead_letter_is_written_again(worked: Cli, which: int) -> None:
    """The worker judges the event anew, and buries it anew."""
    letters = worked.entries(DEAD)
    raw: Any = worked.client.xrange(DEAD)
    worked.client.xdel(DEAD, raw[which][0])
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (0, ["fixed"])
    worked.work()
    assert _is_clean(worked)
    again = worked.entries(DEAD)[-1]
    assert (again["event"], again["reason"]) == (letters[which]["event"], letters[which]["reason"])


def test_entries_acknowledged_by_hand_are_done_after_all(worked: Cli) -> None:
    """In entry order: a valid event is published, one that cannot be decoded is buried."""
    entries = [worked.add("skipped"), worked.add(""), worked.add("second")]
    worked.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    worked.client.xack(STREAM, GROUP, *entries)
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (0, ["fixed"] * 3)
    assert [one["entry"] for one in culprits] == entries
    worked.work()
    assert _is_clean(worked)
    assert _event_ids(worked)[-2:] == ["skipped", "second"]
    assert worked.entries(DEAD)[-1]["reason"] == "invalid_event"


def test_a_failover_that_lost_the_tail(worked: Cli) -> None:
    """Notifications and what the index knew of them are gone: published again, in their order."""
    for number in range(5):
        worked.add(f"tail {number}")
    worked.work()
    lost = worked.notifications()[-4:]
    for at, fields in lost:
        worked.client.xdel(NOTIFICATIONS, at)
        identity, _ = identity_of(fields)
        assert worked.client.hdel(KEYS.seen(identity), identity[2:]) == 1
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (0, ["fixed"] * 4)
    worked.work()
    assert _is_clean(worked)
    assert _event_ids(worked)[-5:] == [f"tail {number}" for number in range(5)]


def test_a_deleted_group_needs_no_repair(worked: Cli) -> None:
    """What is done is done, and the worker makes the group again: nothing is named or appended."""
    worked.add("new")
    worked.client.xgroup_destroy(STREAM, GROUP)
    ran, culprits, summary = _audit(worked, "--repair", "--reason", "x")
    assert (ran.code, culprits, summary["waiting"]) == (0, [], 1)
    worked.work()
    assert _is_clean(worked)
    assert len(_event_ids(worked)) == 5


@counts_deletions
def test_a_deleted_control_entry(worked: Cli) -> None:
    """Done before, its end is enough; still pending, the worker buries it; neither is a culprit."""
    done: Any = worked.client.xrange(STREAM)
    worked.client.xdel(STREAM, done[2][0])
    assert _is_clean(worked)
    pending = worked.add("pending")
    worked.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    worked.client.xdel(STREAM, pending)
    worked.work()
    assert worked.entries(DEAD)[-1]["reason"] == "entry_lost"
    assert _is_clean(worked)


def test_a_lost_entry_that_goes_before_it_is_repaired(worked: Cli) -> None:
    """It remains, and nothing is appended in its place."""
    worked.client.xdel(NOTIFICATIONS, worked.notifications()[-1][0])
    culprits = _culprits(worked)
    worked.client.xdel(STREAM, str(culprits[0].entry))
    before = _state(worked)
    ((_, outcome),) = _fix(worked, culprits)
    assert (outcome.result, _state(worked)) == (Result.REMAINS, before)
    assert "producer" in outcome.detail


def _stored(sidecar: Cli, ref: str) -> list[Path]:
    """Return the files that hold an artifact; of a large one, its data. Some are hard links."""
    fleet = sidecar.directory / "data-dir" / "fleet"
    objects = [path for path in (fleet / "objects").rglob("*") if path.is_file()]
    found = objects if ref == "ref/large" else [*(fleet / "refs").glob(f"{ref}@*")]
    assert found
    return found


def _harm(paths: list[Path], harm: str) -> None:
    flipped = bytearray(paths[0].read_bytes())
    flipped[-1] ^= 1
    for path in paths:
        path.unlink()
        if harm == "flipped":
            path.write_bytes(flipped)


@pytest.mark.parametrize("ref", ["ref/a", "ref/large"])
@pytest.mark.parametrize("harm", ["removed", "flipped"])
def test_an_artifact_is_put_again(worked: Cli, ref: str, harm: str) -> None:
    """From the producer's store, a small one and one that is streamed; that is recorded."""
    _harm(_stored(worked, ref), harm)
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (0, ["fixed"]), (ran.err, culprits)
    assert _is_clean(worked)
    (record,) = worked.entries(REDRIVEN)
    assert (record["artifact_ref"], record["reason"]) == (ref, "test")
    assert record["notification"] == culprits[0]["notification"]
    assert len(worked.entries(STREAM)) == 7


@pytest.mark.parametrize("harm", ["flipped", "removed"])
def test_an_artifact_below_its_refs_position_is_put_again(worked: Cli, harm: str) -> None:
    """Another control stream put the same at a later position: it is healed all the same."""
    fleet = store.versioned(_fleet(worked), store.Capability.POSITION)
    assert fleet
    fleet.put("ref/a", *fleet.get("ref/a"), position=(9999999999999999, 0))
    _harm(_stored(worked, "ref/a"), harm)
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (0, ["fixed"]), (ran.err, culprits)
    assert _is_clean(worked)


@pytest.mark.parametrize("harm", ["absent", "other", "no store"])
def test_an_artifact_that_the_producer_lacks_remains(worked: Cli, harm: str) -> None:
    """Nothing, or another version only, at its ref: told, exit 1, and the fleet's left alone."""
    _harm(_stored(worked, "ref/a"), "removed")
    source = worked.directory / "data-dir" / "source"
    source.rename(worked.directory / "away")
    if harm != "no store":
        store.open_url(source.as_uri())
    if harm == "other":
        store.open_url(source.as_uri()).put("ref/a", b"other", b"")
    ran, culprits = _repair(worked)
    assert (ran.code, _results(culprits)) == (1, ["remains"])
    wanted = "--source-store" if harm == "no store" else "does not have it"
    assert wanted in culprits[0]["repair"]["detail"]
    elsewhere = (worked.directory / "away").as_uri()
    assert _repair(worked, "--source-store", elsewhere)[0].code == 0
    assert _is_clean(worked)


def test_a_ref_does_not_move_back(sidecar: Cli) -> None:
    """An old version that is put again stays an old version."""
    for event_id, data in (("old", b"old data"), ("new", b"new data")):
        sidecar.bring(event_id, "r", data)
        sidecar.work()
    for path in _stored(sidecar, "r"):
        if b"old data" in path.read_bytes():
            path.unlink()
    ran, culprits = _repair(sidecar)
    assert (ran.code, [one["event_id"] for one in culprits]) == (0, ["old"])
    assert _is_clean(sidecar)
    fleet = store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri())
    assert fleet.get("r").data == b"new data"


def test_every_notification_of_one_artifact_is_mended_at_once(sidecar: Cli) -> None:
    """Put once, and all that pin it are told."""
    for event_id in ("one", "two"):
        sidecar.bring(event_id, "r", b"same")
    sidecar.work()
    _harm(_stored(sidecar, "r"), "removed")
    ran, culprits = _repair(sidecar)
    assert (ran.code, _results(culprits)) == (0, ["fixed"] * 2)
    assert len(sidecar.entries(REDRIVEN)) == 1


@counts_deletions
def test_what_readers_may_have_seen_is_not_taken_back(worked: Cli) -> None:
    """A second notification, one in the wrong order, a foreign one, two ends, an end of nothing."""
    (_, first), (last_at, _) = worked.notifications()[2], worked.notifications()[-1]
    ms = int(last_at.partition("-")[0]) + 1
    origin = first[b"origin"].decode()
    worked.notification(json.loads(first[b"event"]), f"{ms}-0", origin)
    worked.letter(first[b"event"], origin.rpartition("/")[2])
    worked.notification(
        {"id": 0, "event_id": "g", "type": "key.changed"}, f"{ms}-1", f"{STREAM}/1-1"
    )
    worked.client.xadd(NOTIFICATIONS, {"odd": "entry"})
    before = _state(worked)
    ran, culprits = _repair(worked, "--force")
    assert ran.code == 1
    assert set(_results(culprits)) == {"remains"}
    assert {(one["guarantee"], one["problem"]) for one in culprits} == {
        ("G2", "twice"), ("G4", "out_of_order"), ("G3", "foreign"), ("G3", "two_ends"),
        ("G3", "no_entry"),
    }  # fmt: skip
    assert all(one["repair"]["detail"] for one in culprits)
    assert _state(worked) == before


def _stacks(sidecar: Cli) -> str:
    """Publish two versions of a stack; delete the first's notification; return the second's."""
    for version in (1, 2):
        sidecar.add(f"v{version}", type="stack.activated", stack_id="web", version=version)
    sidecar.work()
    sidecar.client.xdel(NOTIFICATIONS, sidecar.notifications()[0][0])
    return "v2"


def test_what_was_overtaken_is_refused(sidecar: Cli) -> None:
    """Exit 1 and by what; --force sends it again."""
    sidecar.lay_out()
    newer = _stacks(sidecar)
    before = _state(sidecar)
    ran, culprits = _repair(sidecar)
    assert (ran.code, _results(culprits), _state(sidecar)) == (1, ["refused"], before)
    assert newer in culprits[0]["repair"]["detail"]
    assert _audit(sidecar, "--repair", "--dry-run")[0].code == 1
    assert _repair(sidecar, "--force")[0].code == 0
    sidecar.work()
    assert _is_clean(sidecar)
    assert _event_ids(sidecar) == ["v2", "v1"]


def test_of_two_control_streams_the_older_event_is_sent_first(sidecar: Cli) -> None:
    """By the IDs of their entries, not by the names of their streams."""
    streams = ("b:events", "a:events")
    options = [word for stream in streams for word in ("--stream", stream)]
    sidecar.work(stream=streams)
    for at, stream in zip(("1-0", "2-0"), streams, strict=True):
        event = {"event_id": stream, "type": "key.changed", "tenant_id": "t1", "stack_id": "s"}
        sidecar.client.xadd(stream, {"event": json.dumps(event)}, id=at)
        sidecar.client.xreadgroup(GROUP, "worker", {stream: ">"})
        sidecar.client.xack(stream, GROUP, at)
    ran = sidecar("audit", "--repair", "--reason", "acknowledged by mistake", "--json", *options)
    repaired = [one["event_id"] for one in ran.objects() if one.get("repair") and "event_id" in one]
    assert repaired == list(streams)


def test_a_dry_run_changes_nothing(worked: Cli) -> None:
    """It tells what would be done, without a reason."""
    worked.client.xdel(NOTIFICATIONS, worked.notifications()[-1][0])
    _harm(_stored(worked, "ref/a"), "removed")
    before = _state(worked)
    ran, culprits, summary = _audit(worked, "--repair", "--dry-run")
    assert (ran.code, _results(culprits)) == (0, ["would be fixed"] * 2)
    assert summary["repair"] == {"would be fixed": 2}
    assert _state(worked) == before
    assert not [path for path in _fleet_refs(worked) if path.name.startswith("a@")]
    assert "would be fixed" in worked("audit", "--repair", "--dry-run").out


def _fleet_refs(sidecar: Cli) -> Iterator[Path]:
    return (sidecar.directory / "data-dir" / "fleet" / "refs").rglob("*")


def _culprits(sidecar: Cli) -> list[Culprit]:
    side = Side(sidecar.client, sidecar.url)
    return list(Audit(side, side, _fleet(sidecar), AuditOrder([KEYS])).run())


def _fix(sidecar: Cli, culprits: list[Culprit]) -> list[tuple[Culprit, Any]]:
    side = Side(sidecar.client, sidecar.url)
    repair = Repair(side, side, [KEYS], None, _fleet(sidecar), RepairOrder("test", "me"))
    return list(repair.of(culprits))


def _fleet(sidecar: Cli) -> store.Store:
    return store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri())


def test_an_event_that_is_published_meanwhile_is_left_alone(worked: Cli) -> None:
    """Between audit and repair a worker published it: the index keeps it, nothing is appended."""
    at, fields = worked.notifications()[-1]
    worked.client.xdel(NOTIFICATIONS, at)
    culprits = _culprits(worked)
    identity, _ = identity_of(fields)
    worked.client.hdel(KEYS.seen(identity), identity[2:])
    worked.add("c")
    worked.work()
    before = _state(worked)
    ((_, outcome),) = _fix(worked, culprits)
    assert (outcome.result, outcome.entry) == (Result.FIXED, None)
    assert "meanwhile" in outcome.detail
    assert _state(worked) == before
    assert _is_clean(worked)


def test_beside_a_worker_and_a_producer(worked: Cli) -> None:
    """Repaired while both continue: all is published once, and soon an audit is clean."""
    for number in range(300):
        worked.add(f"e{number}", tenant_id=f"t{number % 3}")
    worked.work()
    gone = [at for at, _ in worked.notifications()[4::2]]
    worked.client.xdel(NOTIFICATIONS, *gone)
    with redis.Redis.from_url(worked.url) as own, worked.running("run") as worker:

        def produce() -> None:
            for number in range(300, 900):
                event = {"event_id": f"e{number % 600}", "type": "key.changed",
                         "tenant_id": f"t{number % 3}"}  # fmt: skip
                own.xadd(STREAM, {"event": json.dumps(event), "traceparent": "00-x"})

        producer = threading.Thread(target=produce)
        producer.start()
        ran, culprits = _repair(worked)
        producer.join()
        assert (ran.code, set(_results(culprits))) == (0, {"fixed"}), ran.err
        deadline = time.monotonic() + DEADLINE_S
        while not _is_clean(worked):
            assert time.monotonic() < deadline
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=DEADLINE_S)
    expected = ["a", "b", "c", "large", *(f"e{number}" for number in range(600))]
    assert sorted(_event_ids(worked)) == sorted(expected)


def test_a_halt_is_told(worked: Cli) -> None:
    """Nothing that was appended is published before the stream is resumed."""
    worked.client.xdel(NOTIFICATIONS, worked.notifications()[-1][0])
    worked.client.hset(HALT, "reason", "maintenance")
    ran, _ = _repair(worked)
    assert "halted (maintenance)" in ran.err


@pytest.mark.parametrize(
    "args", [("--repair",), ("--repair", "--reason", " "), ("--dry-run",), ("--force",),
             ("--reason", "x"), ("--repair", "--reason", "x", "--source-store", "nonsense")]
)  # fmt: skip
def test_wrong_use_is_exit_2(worked: Cli, args: tuple[str, ...]) -> None:
    """One line that says how to fix it, and nothing is changed."""
    before = _state(worked)
    ran = worked("audit", *args)
    assert (ran.code, ran.raw) == (2, b""), ran.err
    assert len(ran.err.splitlines()) == 1
    assert _state(worked) == before

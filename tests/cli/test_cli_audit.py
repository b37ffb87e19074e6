"""`sidecar audit`: it clears what a real worker did, and names every damage done on purpose."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import redis

from sidecar.redis.forgotten import Loss, Part, put_on_record
from sidecar.redis.keys import Keys
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import ANYBODYS, origin_digest
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.wire.identity import identity_digest, identity_of
from sidecar.wire.ids import FIRST, EntryId
from tests import servers
from tests.cli.harness import DEAD, LARGE, NOTIFICATIONS, REDRIVEN, STREAM, Cli, Ran, on_terminal
from tests.servers import counts_deletions

GROUP: Final = f"sidecar:{NOTIFICATIONS}"
KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
LEASE: Final = "{control:notifications}:lease:control:events"
TRIMMED: Final = "{control:notifications}:trimmed"
MOST_ENTRIES: Final = 3000
OVERLAPPING: Final = 3
DEADLINE_S: Final = 60.0


def _audit(sidecar: Cli, *args: str) -> tuple[Ran, list[dict[str, Any]], dict[str, Any]]:
    ran = sidecar("audit", "--json", *args)
    *culprits, summary = ran.objects() or [{}]
    return ran, culprits, summary.get("summary", {})


def _told(culprits: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return sorted((one["guarantee"], one["problem"], one["event_id"]) for one in culprits)


@pytest.fixture
def fresh(sidecar: Cli) -> Cli:
    """A deployment whose fleet store is empty, and no worker has run."""
    sidecar.lay_out()
    return sidecar


@pytest.fixture
def drained(sidecar: Cli) -> Cli:
    """Every kind of end: with and without artifact, a duplicate, dead letters."""
    sidecar.end_in_every_way()
    return sidecar


def test_what_a_worker_did_is_clean(drained: Cli) -> None:
    """Exit 0; --json is a summary that counts how every entry ended."""
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits) == (0, []), ran.err
    covered = summary.pop("covered")
    assert summary.pop("pending") == {}
    assert summary.pop("forgotten") == []
    assert summary == {
        "entries": 7, "notifications": 4, "duplicates": 1, "dead_letters": 2, "waiting": 0,
        "expired": 0, "artifacts": 2, "erased": 0,
        "size_bytes": 6 + len(LARGE), "sample_seed": None,
        "culprits": {"G1": 0, "G2": 0, "G3": 0, "G4": 0}, "complete": True,
    }  # fmt: skip
    assert [(one["stream"], one["trimmed"]) for one in covered] == [(STREAM, False)]


def test_a_person_gets_a_verdict(drained: Cli) -> None:
    """Without --json it says that they hold, or which one does not."""
    assert "G1 to G4 hold" in drained("audit").out
    drained.client.xdel(NOTIFICATIONS, drained.notifications()[1][0])
    ran = drained("audit")
    assert ran.code == 1
    assert "broken: G3 1" in ran.out


def test_unread_and_pending_entries_are_waiting(drained: Cli) -> None:
    """Neither is lost: a worker will come."""
    read = drained.add("read")
    drained.client.xreadgroup(GROUP, "worker", {STREAM: ">"}, count=1)
    drained.add("unread")
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits, summary["waiting"]) == (0, [], 2)
    drained.client.xack(STREAM, GROUP, read)
    assert _told(_audit(drained)[1]) == [("G3", "lost", "read")]


def test_a_stream_that_nobody_has_read_is_waiting(fresh: Cli) -> None:
    """Without group there is nothing lost."""
    fresh.add("x")
    ran, culprits, summary = _audit(fresh)
    assert (ran.code, culprits, summary["waiting"]) == (0, [], 1)


def _events() -> Iterator[str]:
    """Yield events of three tenants: a third repeat the one before, a third conflict with it."""
    for number in count():
        yield json.dumps({
            "event_id": f"e{number // 3}", "type": "key.changed",
            "tenant_id": f"t{number // 3 % 3}", "base_version": number % 3 // 2,
        })  # fmt: skip


def test_a_worker_under_load_is_clean(fresh: Cli) -> None:
    """Audits while a producer appends, and a worker publishes, buries, acknowledges: no culprit.

    The producer ends once a few audits overlapped it, and after so many entries in any case: an
    audit takes longer the longer the stream is, and beside a producer that never ends each would
    take a multiple of the one before.
    """
    enough, appended = threading.Event(), 0

    def produce() -> None:
        nonlocal appended
        with redis.Redis.from_url(fresh.url) as own:
            for event in islice(_events(), MOST_ENTRIES):
                if appended % 3 == 0 and enough.is_set():
                    break
                own.xadd(STREAM, {"event": event})
                appended += 1

    producer = threading.Thread(target=produce)
    overlapping, deadline = 0, time.monotonic() + DEADLINE_S
    with fresh.running("run", "--retry-budget", "0", "--max-consecutive-dead", "0") as worker:
        _wait_for(lambda: fresh.client.exists(LEASE))
        producer.start()
        while True:
            live = producer.is_alive()
            ran, culprits, summary = _audit(fresh)
            assert (ran.code, culprits) in ((0, []), (5, [])), ran.err
            overlapping += live and 0 < summary.get("waiting", 0) < summary["entries"]
            if overlapping == OVERLAPPING:
                enough.set()
            if not live and not summary["waiting"]:
                break
            assert time.monotonic() < deadline
        producer.join()
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=DEADLINE_S)
    assert overlapping
    third = appended // 3
    ends = [summary[end] for end in ("notifications", "duplicates", "dead_letters", "expired")]
    assert (summary["entries"], ends) == (appended, [third, third, third, 0])


def _wait_for(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("which", [0, 2, -1])
def test_a_deleted_notification_is_a_lost_entry(drained: Cli, which: int) -> None:
    """The oldest, one in between, the newest: named with where it had been."""
    notification, fields = drained.notifications()[which]
    drained.client.xdel(NOTIFICATIONS, notification)
    ran, culprits, _ = _audit(drained)
    event = json.loads(fields[b"event"])
    lost = [one for one in culprits if fields[b"origin"].decode().endswith(one["entry"])]
    assert ran.code == 1
    assert _told(lost) == [("G3", "lost", event["event_id"])]
    assert notification in lost[0]["detail"]


def test_duplicates_of_a_deleted_notification_are_lost_too(drained: Cli) -> None:
    """Every entry of that event is named."""
    drained.client.xdel(NOTIFICATIONS, drained.notifications()[2][0])
    assert _told(_audit(drained)[1]) == [("G3", "lost", "b")] * 2


def test_what_overtook_an_entry_under_another_consumer_is_told(drained: Cli) -> None:
    """A later event of its tenant that is published breaks G4, and who has the entry is named."""
    entry = drained.add("taken")
    drained.client.xreadgroup(GROUP, "debug", {STREAM: ">"}, count=1)
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits, summary["pending"]) == (0, [], {STREAM: {"debug": 1}})
    later = drained.add("later")
    drained.client.xreadgroup(GROUP, "worker", {STREAM: ">"}, count=1)
    drained.client.xack(STREAM, GROUP, later)
    event = {"event_id": "later", "type": "key.changed", "tenant_id": "t1"}
    drained.notification(event, "9000000000000-0", f"{STREAM}/{later}")
    ran, (culprit,), summary = _audit(drained)
    assert ran.code == 1
    assert (culprit["guarantee"], culprit["problem"]) == ("G4", "overtaken")
    assert (culprit["entry"], culprit["event_id"]) == (entry, "taken")
    assert "'debug'" in culprit["detail"]
    assert later in culprit["detail"]
    assert summary["waiting"] == 1
    assert "1 under consumer 'debug'" in drained("audit").out


def test_what_a_position_beyond_the_end_passed_over_is_lost(drained: Cli) -> None:
    """The audit tells of the position, and names what was appended below it."""
    drained.client.xgroup_setid(STREAM, GROUP, "9999999999999-0")
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits) == (0, [])
    assert summary["covered"][0]["position_beyond_end"] == "9999999999999-0"
    assert "beyond the end" in drained("audit").out
    drained.add("passed")
    ran, culprits, _ = _audit(drained)
    assert (ran.code, _told(culprits)) == (1, [("G3", "lost", "passed")])
    assert "beyond the end" in culprits[0]["detail"]
    drained.work()
    assert _audit(drained)[0].code == 0


def test_an_entry_acknowledged_by_hand_is_lost(drained: Cli) -> None:
    """It was handed out, and nothing came of it; a valid event and one that cannot be decoded."""
    entries = [drained.add("skipped"), drained.add("")]
    drained.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    drained.client.xack(STREAM, GROUP, *entries)
    ran, culprits, summary = _audit(drained)
    assert ran.code == 1
    assert [(one["problem"], one["entry"], one["event_id"]) for one in culprits] == [
        ("lost", entries[0], "skipped"), ("lost", entries[1], None),
    ]  # fmt: skip
    assert summary["culprits"] == {"G1": 0, "G2": 0, "G3": 2, "G4": 0}


@pytest.mark.server
@pytest.mark.parametrize("garbage", [b"x" * 16, b"x" * 20, b""])
def test_garbage_in_the_index_is_named(bare: Cli, garbage: bytes) -> None:
    """An audit that needs what the index knows says where it is, and a repair does not go on."""
    _by_hand(bare, ("1-1", "e0", 0))
    shard = KEYS.seen(identity_digest("e0"))
    bare.client.hset(shard, identity_digest("e0")[2:], garbage)
    for repair in ((), ("--repair", "--reason", "x")):
        ran = bare("audit", *repair)
        assert ran.code == 3
        assert shard in ran.err
        assert "HDEL" in ran.err


def test_other_content_is_no_duplicate(drained: Cli) -> None:
    """An event_id that was published with other content does not cover for a lost entry."""
    entry = drained.add("b", stack_id="again other content")
    drained.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    drained.client.xack(STREAM, GROUP, entry)
    assert [one["entry"] for one in _audit(drained)[1]] == [entry]


@counts_deletions
def test_a_deleted_dead_letter_is_a_lost_entry(drained: Cli) -> None:
    """Unless it may have been redriven: of that there is a record, but only so many are kept."""
    letters: Any = drained.client.xrange(DEAD)
    drained.client.xdel(DEAD, letters[-1][0])
    ran, culprits, _ = _audit(drained)
    assert ran.code == 1
    assert [one["problem"] for one in culprits] == ["lost"]
    assert "dead letter" in culprits[0]["detail"]
    drained.client.xadd(REDRIVEN, {"letter": "5-0", "origin": f"{STREAM}/5-0"})
    assert _audit(drained)[0].code == 1
    drained.client.xtrim(REDRIVEN, maxlen=0, approximate=False)
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits, summary["expired"]) == (0, [], 1)


def test_a_redriven_event_is_clean(sidecar: Cli) -> None:
    """The letter is gone, its record tells; the new entry has an end of its own."""
    event = sidecar.bring("late", "ref/late", b"x")
    source = sidecar.directory / "data-dir" / "source"
    shutil.move(source, sidecar.directory / "away")
    sidecar.work()
    shutil.rmtree(source, ignore_errors=True)
    shutil.move(sidecar.directory / "away", source)
    assert sidecar("dead", "redrive", "--all", "--reason", "it is back").code == 0
    sidecar.work()
    ran, culprits, summary = _audit(sidecar)
    assert (ran.code, culprits) == (0, []), event
    assert (summary["dead_letters"], summary["notifications"]) == (1, 1)


def test_both_ends_are_one_too_many(drained: Cli) -> None:
    """A notification and a dead letter of one entry."""
    _, fields = drained.notifications()[2]
    drained.letter(fields[b"event"], fields[b"origin"].decode().rpartition("/")[2])
    ran, culprits, _ = _audit(drained)
    assert ran.code == 1
    assert _told(culprits) == [("G3", "two_ends", "b")]
    assert "dead letter" in culprits[0]["detail"]


def test_two_notifications_of_one_event_id(drained: Cli) -> None:
    """G2, though each has an entry of its own; not when the worker remembers for less long."""
    entry = drained.add("c", base_version=1)
    drained.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    drained.client.xack(STREAM, GROUP, entry)
    last = drained.notifications()[-1][0]
    ms = int(last.partition("-")[0]) + 5000
    event = {"id": 0, "event_id": "c", "type": "key.changed", "tenant_id": "t1", "base_version": 1}
    drained.notification(event, f"{ms}-0", f"{STREAM}/{entry}")
    ran, culprits, _ = _audit(drained)
    assert ran.code == 1
    assert _told(culprits) == [("G2", "twice", "c")]
    assert culprits[0]["notification"] == f"{ms}-0"
    assert _audit(drained, "--dedup-window", "1s")[0].code == 0


@pytest.mark.parametrize("tenant", ["t1", ""])
def test_a_tenants_notifications_in_the_wrong_order(fresh: Cli, tenant: str) -> None:
    """G4, no tenant is a tenant too; another tenant's may come in between."""
    first, other, second = (
        fresh.add(event_id, of) for event_id, of in (("1", tenant), ("o", "x"), ("2", tenant))
    )
    for number, (event_id, of, entry) in enumerate(
        (("2", tenant, second), ("o", "x", other), ("1", tenant, first))
    ):
        event = {"id": 0, "event_id": event_id, "type": "key.changed", "tenant_id": of}
        fresh.notification(event, f"9-{number}", f"{STREAM}/{entry}")
    ran, culprits, _ = _audit(fresh)
    assert ran.code == 1
    assert _told(culprits) == [("G4", "out_of_order", "1")]
    assert (culprits[0]["entry"], culprits[0]["notification"]) == (first, "9-2")


@pytest.mark.server
def test_a_stream_made_anew_with_the_same_ids_has_ends_of_its_own(bare: Cli) -> None:
    """No end of an entry that stood there before counts for it, nor against it."""

    def ended(event_id: str, at: str, clock: int) -> None:
        event = {"event_id": event_id, "type": "key.changed", "tenant_id": "t"}
        bare.client.xadd(STREAM, {"event": json.dumps(event)}, id=at)
        if event_id.endswith("dead"):
            bare.letter(event, at)
        elif not event_id.endswith("lost"):
            bare.notification(event | {"id": 0}, f"9-{clock}", f"{STREAM}/{at}")

    bare.lay_out()
    for number, event_id in enumerate(("a", "b", "c-dead", "d", "e")):
        ended(event_id, f"1-{number + 1}", number)
    assert _audit(bare)[0].code == 0
    bare.client.delete(STREAM)
    for number, event_id in enumerate(("a2", "b2-lost", "c2", "d2-dead", "e2")):
        ended(event_id, f"1-{number + 1}", number + 10)
    bare.client.xgroup_create(STREAM, GROUP, "$")
    assert _told(_audit(bare)[1]) == [("G3", "lost", "b2-lost")]


@counts_deletions
def test_ends_without_an_entry(drained: Cli) -> None:
    """A notification and a letter of entries that never were; a foreign entry."""
    for event_id, at in (("ghost", "1-1"), ("far", "99999999999999-1")):
        event = {"id": 0, "event_id": event_id, "type": "key.changed"}
        ms = int(drained.notifications()[-1][0].partition("-")[0]) + 1
        drained.notification(event, f"{ms}-0", f"{STREAM}/{at}")
    drained.letter(b"{}", "1-2")
    drained.client.xadd(NOTIFICATIONS, {"odd": "entry"})
    ran, culprits, _ = _audit(drained)
    assert ran.code == 1
    assert _told([one for one in culprits if one["event_id"]]) == [("G3", "no_entry", "ghost")]
    assert sorted(one["problem"] for one in culprits) == ["foreign", "no_entry", "no_entry"]


def _stored(sidecar: Cli, ref: str) -> list[Path]:
    """Return the files that hold an artifact; of a large one, its data. Some are hard links."""
    fleet = sidecar.directory / "data-dir" / "fleet"
    objects = [path for path in (fleet / "objects").rglob("*") if path.is_file()]
    found = objects if ref == "ref/large" else [*(fleet / "refs").glob(f"{ref}@*")]
    assert found
    return found


@pytest.mark.parametrize("ref", ["ref/a", "ref/large"])
@pytest.mark.parametrize("harm", ["removed", "flipped"])
def test_an_artifact_that_is_gone_or_damaged(drained: Cli, ref: str, harm: str) -> None:
    """G1, of a small one and of one that is streamed; the other stays clean."""
    paths = _stored(drained, ref)
    flipped = bytearray(paths[0].read_bytes())
    flipped[-1] ^= 1
    for path in paths:
        path.unlink()
        if harm == "flipped":
            path.write_bytes(flipped)
    ran, culprits, summary = _audit(drained)
    assert ran.code == 1, ran.err
    assert _told(culprits) == [("G1", "artifact", ref.removeprefix("ref/"))]
    assert ref in culprits[0]["detail"]
    assert summary["artifacts"] == 2


def test_every_notification_of_a_damaged_artifact_is_named(sidecar: Cli) -> None:
    """It is read once, and all that pin it are culprits."""
    for event_id in ("one", "two"):
        sidecar.bring(event_id, "r", b"same")
    sidecar.work()
    for path in _stored(sidecar, "r"):
        path.unlink()
    ran, culprits, summary = _audit(sidecar)
    assert ran.code == 1, ran.err
    assert [one[2] for one in _told(culprits)] == ["one", "two"]
    assert summary["artifacts"] == 1


def test_a_sample_reads_so_many_and_tells_its_seed(drained: Cli) -> None:
    """The seed chooses the same again; without one it is drawn, and printed."""
    _, _, summary = _audit(drained, "--sample", "1", "--seed", "3")
    assert (summary["artifacts"], summary["sample_seed"]) == (1, 3)
    sizes = {_audit(drained, "--sample", "1", "--seed", "3")[2]["size_bytes"] for _ in range(3)}
    assert sizes == {summary["size_bytes"]}
    assert isinstance(_audit(drained, "--sample", "1")[2]["sample_seed"], int)
    assert "--seed" in drained("audit", "--sample", "1").out


@counts_deletions
def test_what_was_trimmed_is_no_culprit(drained: Cli) -> None:
    """Notifications that trimming took are expired ends; the control stream's start is told."""
    notifications = drained.notifications()
    drained.client.xtrim(NOTIFICATIONS, minid=notifications[2][0], approximate=False)
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits) == (0, [])
    assert (summary["expired"], summary["notifications"]) == (2, 2)
    drained.client.xtrim(STREAM, maxlen=2, approximate=False)
    ran, culprits, summary = _audit(drained)
    assert (ran.code, culprits, summary["entries"]) == (0, [], 2)
    assert summary["covered"][0]["trimmed"]
    assert "has been trimmed" in drained("audit").out


@pytest.fixture
def trimmed(redis_url: str, tmp_path: Path) -> Iterator[Cli]:
    """A deployment: four entries published, two buried, by hand."""
    with redis.Redis.from_url(redis_url, protocol=2) as own:
        made = Cli(redis_url, tmp_path, own)
        made.lay_out()
        own.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        for number in range(6):
            entry = made.add(f"e{number}")
            event = {"id": 0, "event_id": f"e{number}", "type": "key.changed", "tenant_id": "t1"}
            if number < 4:
                made.notification(event, f"{number + 1}-0", f"{STREAM}/{entry}")
            else:
                made.letter(event, entry)
        entries: Any = own.xreadgroup(GROUP, "worker", {STREAM: ">"})
        own.xack(STREAM, GROUP, *(entry_id for entry_id, _ in entries[0][1]))
        yield made


def _remember(sidecar: Cli) -> None:
    """Have the deduplication index know all that was published and buried, as a worker would."""
    keys = Keys.of(STREAM, NOTIFICATIONS)
    for at, fields in sidecar.notifications():
        identity, content = identity_of(fields)
        stamp = str(int(at.partition("-")[0]) * 1000).encode()
        sidecar.client.hset(keys.seen(identity), identity[2:], content + stamp)
    letters: Any = sidecar.client.xrange(DEAD)
    for at, fields in letters:
        origin = origin_digest(fields[b"origin"].decode())
        stamp = at.partition(b"-")[0] + b"000"
        sidecar.client.hset(keys.seen(origin), origin[2:], ANYBODYS + stamp)


def test_what_the_trimmer_noted_is_expired_and_nothing_else(trimmed: Cli) -> None:
    """On every server: up to what is noted an end was trimmed, above it someone deleted it."""
    sidecar = trimmed
    _remember(sidecar)
    letters: Any = sidecar.client.xrange(DEAD)
    sidecar.client.xdel(NOTIFICATIONS, "1-0", "2-0", "3-0")
    sidecar.client.xdel(DEAD, letters[0][0])
    lost = [("G3", "lost", f"e{number}") for number in (0, 1, 2, 4)]
    assert _told(_audit(sidecar)[1]) == lost
    sidecar.client.hset(TRIMMED, NOTIFICATIONS, "2-0")
    ran, culprits, summary = _audit(sidecar)
    assert (ran.code, _told(culprits), summary["expired"]) == (1, lost[2:], 2)
    sidecar.client.hset(TRIMMED, NOTIFICATIONS, "3-0")
    sidecar.client.hset(TRIMMED, DEAD, letters[0][0])
    ran, culprits, summary = _audit(sidecar)
    assert (ran.code, culprits, summary["expired"]) == (0, [], 4)
    assert _audit(sidecar, "--since", "1h")[0].code == 3


def test_a_window_that_is_partly_expired_is_exit_3(trimmed: Cli) -> None:
    """With --since, when the control stream lacks a part of it; a culprit weighs more."""
    sidecar = trimmed
    entries: Any = sidecar.client.xrange(STREAM)
    ids = [entry_id.decode() for entry_id, _ in entries]
    sidecar.client.xdel(STREAM, ids[3])  # one that was deleted later tells nothing of those before
    sidecar.client.xdel(NOTIFICATIONS, "4-0")
    assert _audit(sidecar, "--since", "1h")[0].code == 0
    sidecar.client.hset(TRIMMED, STREAM, ids[1])
    assert _audit(sidecar, "--since", ids[0])[0].code == 0  # noted, and only about to be trimmed
    sidecar.client.xtrim(STREAM, minid=ids[2], approximate=False)
    assert _audit(sidecar)[0].code == 0
    assert _audit(sidecar, "--since", ids[2])[0].code == 0
    ran, culprits, summary = _audit(sidecar, "--since", ids[1])
    assert (ran.code, culprits, summary["entries"]) == (3, [], 3)
    assert "partly expired" in ran.err
    sidecar.client.xdel(NOTIFICATIONS, "3-0")
    assert _audit(sidecar, "--since", ids[1])[0].code == 1


AHEAD_MS: Final = 60 * 86400 * 1000
LONG_AGO_MS: Final = 30 * 86400 * 1000


def _pruned(sidecar: Cli, overlong_ms: int = 0) -> None:
    """Note that the index is pruned, and until when it remembered for very long."""
    sidecar.client.set(KEYS.pruned, f"{server_time_us(sidecar.client)} {overlong_ms * 1000}")


def _own_ids(sidecar: Cli, first_ms: int, now_ms: int) -> list[str]:
    """Have a producer give IDs: three entries of two tenants, the first published long ago.

    Their index is forgotten, and up to there the notifications were trimmed. Then one of each
    tenant is published, and one more of each is acknowledged by hand. Returns all entries.
    """
    own, ids = sidecar.client, [f"{first_ms + n}-1" for n in range(7)]
    _pruned(sidecar)
    own.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    for n, entry_id in enumerate(ids):
        event = {"event_id": f"e{n}", "type": "key.changed", "tenant_id": f"t{n % 2}"}
        own.xadd(STREAM, {"event": json.dumps(event)}, id=entry_id)
        if n in (3, 4):
            sidecar.notification(event | {"id": 0}, f"{now_ms - 9 + n}-0", f"{STREAM}/{entry_id}")
    own.xreadgroup(GROUP, "worker", {STREAM: ">"})
    own.xack(STREAM, GROUP, *ids)
    own.hset(TRIMMED, NOTIFICATIONS, f"{now_ms - LONG_AGO_MS}-0")
    sidecar.lay_out()
    return ids


@pytest.mark.server
@pytest.mark.parametrize("ahead_ms", [None, AHEAD_MS, -3 * 86400 * 1000])
def test_an_entry_id_is_no_time(redis_url: str, tmp_path: Path, ahead_ms: int | None) -> None:
    """Small, ahead, or ahead once and past now: what was trimmed is expired, what came after lost.

    What was lost is told by its tenant's order alone; nothing that may be trimmed is named.
    """
    with redis.Redis.from_url(redis_url, protocol=2) as own:
        sidecar = Cli(redis_url, tmp_path, own)
        now_ms = int(time.time() * 1000)
        _own_ids(sidecar, 1 if ahead_ms is None else now_ms + ahead_ms, now_ms)
        ran, culprits, summary = _audit(sidecar)
        lost = [("G3", "lost", "e5"), ("G3", "lost", "e6")]
        assert (ran.code, _told(culprits), summary["expired"]) == (1, lost, 3), ran.err
        ran = sidecar("audit", "--repair", "--reason", "test", "--json")
        again = [one["event_id"] for one in ran.objects()[:-1]]
        assert again == ["e5", "e6"]


DAY_MS: Final = 86400 * 1000


def _by_hand(sidecar: Cli, *entries: tuple[str, str, int]) -> None:
    """Append events of one tenant: ID, event_id, and how long ago it was published, 0 for never.

    All are read and acknowledged.
    """
    now_ms = int(time.time() * 1000)
    _pruned(sidecar)
    sidecar.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    for entry_id, event_id, ago_ms in entries:
        event = {"event_id": event_id, "type": "key.changed", "tenant_id": "t"}
        sidecar.client.xadd(STREAM, {"event": json.dumps(event)}, id=entry_id)
        if ago_ms:
            at, origin = f"{now_ms - ago_ms}-0", f"{STREAM}/{entry_id}"
            sidecar.notification(event | {"id": 0}, at, origin)
    sidecar.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    sidecar.client.xack(STREAM, GROUP, *(entry_id for entry_id, _, _ in entries))
    sidecar.lay_out()


@pytest.fixture
def bare(redis_url: str, tmp_path: Path) -> Iterator[Cli]:
    """A deployment with nothing in it."""
    with redis.Redis.from_url(redis_url, protocol=2) as own:
        yield Cli(redis_url, tmp_path, own)


def _trimmed_to(sidecar: Cli, stream: str, ago_ms: int) -> None:
    """Note that an outbound stream was trimmed, or trim a dead letter."""
    last = f"{int(time.time() * 1000) - ago_ms}-0"
    if stream == DEAD:
        sidecar.client.xadd(DEAD, {"event": "{}"}, id=last)
        sidecar.client.xtrim(DEAD, maxlen=0, approximate=False)
    sidecar.client.hset(TRIMMED, stream, last)


@pytest.mark.server
def test_a_duplicate_of_what_was_trimmed_is_no_culprit(bare: Cli) -> None:
    """It ended while the index knew its first, which since was trimmed and forgotten.

    An event that is there once is no duplicate, unless entries before it were trimmed.
    """
    _by_hand(bare, ("1-1", "e0", 0), ("2-1", "e1", 5 * DAY_MS), ("3-1", "e0", 0), ("4-1", "e2", 0))
    _trimmed_to(bare, NOTIFICATIONS, 8 * DAY_MS)
    _ran, culprits, summary = _audit(bare)
    info: Any = bare.client.xinfo_stream(STREAM)
    if "max-deleted-entry-id" in info:  # older servers cannot tell that nothing was trimmed
        assert _told(culprits) == [("G3", "lost", "e2")]
        assert summary["expired"] == 2
    bare.client.xtrim(STREAM, minid="2-1", approximate=False)
    _trimmed_to(bare, STREAM, 0)
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([], 2)


@pytest.mark.server
@pytest.mark.parametrize("elsewhere", ["anew", "served", "trimmed", "published"])
def test_a_duplicate_whose_first_stood_elsewhere_is_no_culprit(bare: Cli, elsewhere: str) -> None:
    """In a control stream that is not audited, or in this one before it was made anew."""
    _by_hand(bare, ("2-1", "e1", 5 * DAY_MS), ("3-1", "e0", 0))
    _trimmed_to(bare, NOTIFICATIONS, 8 * DAY_MS)
    info: Any = bare.client.xinfo_stream(STREAM)
    if "max-deleted-entry-id" in info:  # older servers cannot tell that nothing was trimmed
        assert _told(_audit(bare)[1]) == [("G3", "lost", "e0")]
    if elsewhere == "anew":
        put_on_record(bare.client, KEYS, Loss(Part.CONTROL, STREAM, EntryId("9-1"), FIRST, 0))
    elif elsewhere == "served":
        told = {"name": "x", "serves": ["other", STREAM], "owns": []}
        bare.client.hset(KEYS.workers, "id", json.dumps(told))
    elif elsewhere == "trimmed":
        bare.client.hset(TRIMMED, "other", "1-1")
    else:
        event = {"event_id": "e3", "type": "key.changed", "id": 0}
        bare.notification(event, f"{int(time.time() * 1000) - 1}-0", "other/1-1")
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([], 1)


@pytest.mark.server
def test_long_after_the_index_forgot_nothing_is_a_duplicate(bare: Cli) -> None:
    """What came when the index could not know a trimmed notification any more is lost."""
    _by_hand(bare, ("1-1", "e0", 0), ("2-1", "e1", 5 * DAY_MS), ("3-1", "e0", 0))
    _trimmed_to(bare, NOTIFICATIONS, 30 * DAY_MS)
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([("G3", "lost", "e0")], 1)


@pytest.mark.server
def test_a_duplicate_that_an_anchor_let_the_index_know_is_no_culprit(bare: Cli) -> None:
    """Its first was published 30 days before and is trimmed; an event was held back all the while.

    Pruning notes that, and it counts once the anchor has moved on and the index has forgotten.
    """
    _by_hand(bare, ("1-1", "e0", 0), ("2-1", "e1", 5 * DAY_MS), ("3-1", "e0", 0))
    _trimmed_to(bare, NOTIFICATIONS, 30 * DAY_MS)
    assert _told(_audit(bare)[1]) == [("G3", "lost", "e0")]
    held_us = server_time_us(bare.client) - 26 * DAY_MS * 1000
    bare.client.hset(KEYS.anchors, STREAM, f"1-0 - {held_us}")
    bare.client.set(KEYS.pruned, f"{server_time_us(bare.client) - 60_000_000} 0")
    pruning = Pruning(bare.client, KEYS, dedup_window_s=7 * DAY_MS / 1000)
    pruning.prune()
    bare.client.delete(KEYS.anchors)
    while pruning.prune():
        pass
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([], 2)


@pytest.mark.server
def test_where_nobody_prunes_the_index_what_may_be_a_duplicate_is_no_culprit(bare: Cli) -> None:
    """Nobody can know for how long the index remembered."""
    _by_hand(bare, ("1-1", "e0", 0), ("2-1", "e1", 5 * DAY_MS), ("3-1", "e0", 0))
    _trimmed_to(bare, NOTIFICATIONS, 30 * DAY_MS)
    bare.client.delete(KEYS.pruned)
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([], 2)


@pytest.mark.server
def test_an_entry_whose_dead_letter_was_trimmed_is_no_culprit(bare: Cli) -> None:
    """Its letter may have come long before its tenant's event that waited before it."""
    _by_hand(bare, ("1-1", "held", DAY_MS), ("2-1", "dead", 0))
    _ran, culprits, _summary = _audit(bare)
    assert _told(culprits) == [("G3", "lost", "dead")]
    _trimmed_to(bare, DEAD, 30 * DAY_MS)
    _ran, culprits, summary = _audit(bare)
    assert (_told(culprits), summary["expired"]) == ([], 1)


@pytest.mark.server
def test_an_entry_that_came_after_all_trimmed_letters_is_lost(bare: Cli) -> None:
    """As its ID and what was published around it agree."""
    ago = [int(time.time() * 1000) - hours * 3_600_000 for hours in (2, 1)]
    _by_hand(bare, (f"{ago[0]}-1", "before", 7_000_000), (f"{ago[1]}-1", "lost", 0))
    _trimmed_to(bare, DEAD, 30 * DAY_MS)
    assert _told(_audit(bare)[1]) == [("G3", "lost", "lost")]


@pytest.mark.server
@pytest.mark.parametrize(("began_ms", "lost"), [(9 * DAY_MS, False), (DAY_MS, True)])
def test_a_dead_letter_that_was_trimmed_before_anything_was_published_is_an_end(
    bare: Cli, began_ms: int, *, lost: bool
) -> None:
    """Where something may have ended before the window, though the first notification is young."""
    _by_hand(bare, ("1-1", "dead", 0), ("2-1", "first", 3_600_000))
    _trimmed_to(bare, DEAD, began_ms // 2)
    bare.client.xadd(DEAD, {"event": "{}"})  # what lay before may have been trimmed by hand, too
    first, now_us = stream_info(bare.client, NOTIFICATIONS), server_time_us(bare.client)
    assert first is not None
    bare.client.hset(KEYS.incarnations, "list", f"aa 0 {first.last_id.control_version}\n")
    bare.client.set(KEYS.pruned, f"{now_us} 0 0 {now_us - began_ms * 1000}")
    _ran, culprits, _summary = _audit(bare)
    assert _told(culprits) == ([("G3", "lost", "dead")] if lost else [])


def test_what_nobody_can_know_is_told(trimmed: Cli) -> None:
    """The verdict holds but for the ends that have expired."""
    trimmed.client.xtrim(NOTIFICATIONS, maxlen=2, approximate=False)
    trimmed.client.hset(TRIMMED, NOTIFICATIONS, "2-0")
    ran = trimmed("audit")
    assert ran.code == 0
    assert "2 of them expired: nobody can know what came of these" in " ".join(ran.out.split())


def test_trimming_that_nobody_noted(trimmed: Cli) -> None:
    """A control stream trimmed by hand: its window is partly expired, its ends are no culprits."""
    sidecar = trimmed
    sidecar.client.xtrim(STREAM, maxlen=3, approximate=False)
    ran, culprits, summary = _audit(sidecar, "--since", "1h")
    assert (ran.code, culprits, summary["entries"]) == (3, [], 3), ran.err
    assert _audit(sidecar)[0].code == 0


def test_a_group_that_goes_between_two_commands_is_no_verdict(drained: Cli) -> None:
    """Nor is an answer that nobody expects: exit 3, it did not come to an end."""
    denied = redis.ResponseError("ERR something new")
    with mock.patch.object(redis.Redis, "xpending_range", side_effect=denied):
        ran = drained("audit", "--json")
    assert ran.code == 3
    assert "something new" in ran.err
    gone = redis.ResponseError("NOGROUP No such key or consumer group")
    with mock.patch.object(redis.Redis, "xpending_range", side_effect=gone):
        assert _audit(drained)[0].code == 0


def test_a_window_judges_what_lies_in_it(drained: Cli) -> None:
    """--since and --until are inclusive, and take IDs; a culprit outside is nobody's business."""
    origin = drained.notifications()[2][1][b"origin"].decode().rpartition("/")[2]
    drained.client.xdel(NOTIFICATIONS, drained.notifications()[2][0])
    ran, culprits, summary = _audit(drained, "--since", origin, "--until", origin)
    assert (ran.code, summary["entries"], len(culprits)) == (1, 1, 1)
    ms, _, seq = origin.partition("-")
    before = f"{ms}-{int(seq) - 1}" if int(seq) else f"{int(ms) - 1}"
    ran, culprits, summary = _audit(drained, "--until", before)
    assert (ran.code, summary["entries"]) == (0, 2)
    assert _audit(drained, "--since", "1h")[0].code == 1
    assert _audit(drained, "--since", "2001-01-01T00:00:00Z", "--until", "1h")[0].code == 5


def test_an_empty_window_is_exit_5(fresh: Cli) -> None:
    """Nothing on standard output."""
    ran = fresh("audit", "--json")
    assert (ran.code, ran.raw) == (5, b"")


@pytest.mark.parametrize(
    "args",
    [
        ("--since", "soon"), ("--until", "99999999999999999999-0"), ("--dedup-window", "x"),
        ("--since", "5-0", "--until", "4"), ("--stream", "string"), ("--fleet-store", "nonsense"),
        ("--redis", "nonsense"),
    ],
)  # fmt: skip
def test_wrong_use_is_exit_2(drained: Cli, args: tuple[str, ...]) -> None:
    """One line that says how to fix it."""
    drained.client.set("string", "x")
    ran = drained("audit", *args)
    assert (ran.code, ran.raw) == (2, b""), ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_redis_that_is_away_is_exit_4(drained: Cli) -> None:
    """An outage is no broken guarantee."""
    away = f"redis://127.0.0.1:{servers.free_port()}"
    assert drained("audit", "--json", "--redis", away).code == 4
    assert drained("audit", "--json", "--notify-redis", away).code == 4


def test_a_store_that_is_away_is_exit_4(drained: Cli) -> None:
    """An outage of the store is never an artifact that is missing."""
    fleet = drained.directory / "data-dir" / "fleet"
    (fleet / "refs").rename(fleet / "away")
    ran = drained("audit", "--json")
    assert ran.code == 4, ran.err
    assert not [one for one in ran.objects() if "guarantee" in one]


def test_two_servers_and_two_streams(sidecar: Cli, redis_url: str) -> None:
    """Control streams in one place, notifications in another."""
    other = redis_url.removesuffix("/0") + "/1"
    options = ("--notify-redis", other, "--stream", STREAM, "--stream", "eu")
    for stream in (STREAM, "eu"):
        event = {"event_id": stream, "type": "key.changed"}
        sidecar.client.xadd(stream, {"event": json.dumps(event)})
    sidecar.drain(*options)
    ran, culprits, summary = _audit(sidecar, *options)
    assert (ran.code, culprits, summary["notifications"]) == (0, [], 2), ran.err


def test_progress_is_shown_on_a_terminal(drained: Cli) -> None:
    """There it tells how far it is; a pipe sees none of it."""
    code, shown = on_terminal(drained, "audit", stream="stderr")
    assert code == 0
    assert "read" in shown
    assert drained("audit").err == ""

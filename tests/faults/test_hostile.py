"""Hostile producers, keys and clocks, servers in trouble: what holds, and what is said.

The server of each test is its own or emptied before; the relay is production's, in a thread, but
where memory is measured: there it is a process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.redis.source import READ_BYTES, ControlStream
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.wire.ids import FIRST, HIGHEST
from store import Unavailable, checksum_of
from tests import servers
from tests.faults.fleet import worker
from tests.proofs import sampled
from tests.sidecar.harness import (
    CONTROL,
    NOTIFICATIONS,
    Recorder,
    Rig,
    data_of,
    eventually,
    ref_of,
)

MIB = 1 << 20
FAR_FUTURE_MS = 4_102_444_800_000
"""The year 2100."""


@pytest.fixture
def rig(client: redis.Redis, redis_url: str) -> Rig:
    """A rig on a real, empty server."""
    return Rig(redis_url, client)


def said(observer: Recorder, state: str, *words: str) -> bool:
    """Tell whether the relay was ever in `state` with all of `words` in the detail."""
    return any(
        name == state and all(word in detail for word in words) for name, detail in observer.states
    )


# --- flood ---------------------------------------------------------------------------------------


def giants(client: redis.Redis, count: int, size_bytes: int) -> None:
    """Append giants, of every kind: a long event, a long field beside it, a long name, many."""
    for number in range(count):
        event = json.dumps({"event_id": f"g{number}", "type": "run.abort"})
        kinds: list[dict[Any, Any]] = [
            {"event": "g" * size_bytes},
            {"event": event, "pad": "p" * size_bytes},
            {"event": event, "n" * size_bytes: "x"},
            {"event": event} | {f"{field}": "x" * 1000 for field in range(size_bytes // 1000)},
        ]
        client.xadd(CONTROL, kinds[number % len(kinds)])


def peak_mib(url: str, data_dir: Path, *options: str) -> float:
    """Drain in a process of its own; return the most memory that it held."""
    process = worker(url, data_dir, "--drain", *options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.mark.proof
def test_giants_do_not_fill_the_workers_memory(rig: Rig, tmp_path: Path) -> None:
    """300 giants of 1 MiB cost the worker little, read anew or back; each ends as a cut letter."""
    rig.emit("small")
    few = peak_mib(rig.url, tmp_path)
    giants(rig.client, 300, MIB)
    rig.emit("after")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"}, count=150)
    many = peak_mib(rig.url, tmp_path)
    assert many - few < 200  # measured: 155, with four times as many, too
    assert rig.published() == ["small", "after"]
    letters = rig.letters()
    assert [letter["reason"] for letter in letters] == [b"too_large"] * 300
    assert max(len(letter["event"]) for letter in letters) == MAX_ENTRY_BYTES
    assert rig.pending() == 0


def test_reads_become_few_behind_giants_and_many_again(rig: Rig) -> None:
    """Reads begin small, grow while entries are small, and shrink to one by one among giants."""
    control = ControlStream(rig.client, rig.client, rig.keys)
    control.create_group(FIRST)

    def reads(size_bytes: int, count: int) -> list[int]:
        for number in range(count):
            rig.client.xadd(CONTROL, {"event": "g" * size_bytes, "n": number})
        return [len(found) for found in iter(lambda: control.read_new(500, None), [])]

    assert reads(10, 112) == [16, 32, 64]
    assert reads(READ_BYTES // 2, 6) == [6]
    assert reads(READ_BYTES // 2, 4) == [1, 1, 1, 1]
    assert reads(2 * READ_BYTES, 3) == [1, 1, 1]
    assert reads(10, 15) == [1, 2, 4, 8]
    back, after = [], FIRST
    while entries := control.read_pending(after, 500):
        back += [entry.id for entry in entries]
        after = entries[-1].id
    assert len(back) == len(set(back)) == 112 + 6 + 4 + 3 + 15


def test_a_flood_halts_and_goes_on_when_resumed(rig: Rig) -> None:
    """A flood of giants halts at the limit, also over restarts; resumed, the rest continues."""
    giants(rig.client, 40, 20_000)
    for _ in range(20):
        rig.add("{")
    rig.emit("good")
    for _ in range(2):  # a restart does not end the halt
        with rig.relay(max_consecutive_dead=30, drain=True) as run:
            assert not run.finish()
            assert said(run.observer, "halted", "30 dead letters in a row")
        assert len(rig.letters()) == 30
    with rig.relay(max_consecutive_dead=100) as run:
        eventually(lambda: run.observer.state_now == "halted")
        rig.client.hdel(rig.keys.halt, "reason", "since", "by", "dead_in_a_row")
        eventually(lambda: rig.published() == ["good"])
        eventually(lambda: rig.pending() == 0)
    assert rig.reasons() == ["too_large"] * 40 + ["malformed"] * 20
    rig.audit()


@pytest.mark.parametrize("count", sampled([2000, 20_000], ["2000"]))
def test_a_flood_of_tiny_events_goes_through(rig: Rig, count: int) -> None:
    """Thousands of tiny events, each second one no event, all end, in order."""
    pipeline = rig.client.pipeline(transaction=False)
    for number in range(count):
        event = {"event_id": f"e{number}", "type": "run.abort", "tenant_id": f"t{number % 50}"}
        pipeline.xadd(CONTROL, {"event": json.dumps(event) if number % 2 else "0"})
    pipeline.execute()
    rig.drain(max_consecutive_dead=0)
    assert len(rig.published()) == len(rig.letters()) == count // 2
    assert rig.pending() == 0
    rig.audit()


# --- one tenant's trouble ------------------------------------------------------------------------


@pytest.mark.parametrize("count", sampled([450, 3000], ["450"]))
def test_endless_retries_of_one_tenant_hold_back_nobody_else(rig: Rig, count: int) -> None:
    """While one tenant's events wait for its store, every event of the others ends."""

    def away(ref: str) -> None:
        if ref.startswith("hostile/"):
            raise Unavailable("its corner of the store does not answer")

    rig.source.on_get = away
    expected = []
    with rig.relay(retry_budget_s=3600) as run:
        for number in range(count):
            if number % 3 == 0:
                rig.emit(
                    f"h{number}", tenant="hostile", artifact_ref=f"hostile/{number}",
                    checksum=checksum_of(b"never"),
                )  # fmt: skip
            else:
                rig.emit(f"e{number}", tenant=f"t{number % 7}")
                expected.append(f"e{number}")
        eventually(lambda: len(rig.published()) == len(expected))
        eventually(lambda: rig.pending() == count // 3)
        assert len(run.observer.retries) >= 1
    assert rig.published() == expected
    assert rig.letters() == []


# --- ids reused ----------------------------------------------------------------------------------


def test_an_id_reused_while_the_first_is_held_back(rig: Rig) -> None:
    """Whichever is published first has the id: the one that waited is the conflict then."""
    held = rig.emit_artifact("e", tenant="a", put=False)
    with rig.relay(retry_budget_s=3600) as run:
        eventually(lambda: run.observer.retries)
        rig.emit("e", tenant="b")
        eventually(lambda: rig.published() == ["e"])
        rig.plant(ref_of("e"), data_of("e"))
        eventually(lambda: rig.reasons() == ["id_conflict"])
    assert rig.letters()[0]["origin"] == f"{CONTROL}/{held}".encode()
    assert rig.notifications()[0]["tenant_id"] == "b"
    rig.audit()


def test_an_id_reused_across_control_streams(rig: Rig) -> None:
    """Control streams of one notification stream share their ids: equal content is a duplicate."""
    rig.emit("e", version=1)
    rig.drain()
    other = Rig(rig.url, rig.client, rig.source, rig.fleet, control="other:events")
    other.emit("e", version=1)
    conflict = other.emit("e", version=2)
    observer = other.drain()
    assert observer.outcomes == {"duplicate": 1, "id_conflict": 1}
    assert rig.published() == ["e"]
    assert [letter["origin"] for letter in rig.letters()] == [f"other:events/{conflict}".encode()]


def test_an_id_reused_after_its_dead_letter(rig: Rig) -> None:
    """A dead letter does not use an id up: other content that comes under it is published."""
    rig.emit_artifact("e", put=False)
    rig.drain()
    assert rig.reasons() == ["artifact_missing"]
    rig.emit("e", version=7)
    rig.drain()
    assert rig.notifications()[0]["version"] == 7


def test_an_id_reused_many_times_in_one_batch(rig: Rig) -> None:
    """Of many uses of one id in a batch the first is published, its repeats are absorbed."""
    for number in range(60):
        rig.emit("e", tenant=f"t{number % 3}", version=number % 2)
    rig.emit("after")
    observer = rig.drain(max_consecutive_dead=0)
    assert rig.published() == ["e", "after"]
    assert observer.outcomes == {"published": 2, "duplicate": 9, "id_conflict": 50}
    rig.audit()


# --- clocks --------------------------------------------------------------------------------------


def test_notifications_from_the_far_future(rig: Rig) -> None:
    """Behind a notification of the year 2100 control_version continues rising, nothing repeats."""
    planted: dict[Any, Any] = {"event": "{}", "origin": "planted/0-1"}
    rig.client.xadd(NOTIFICATIONS, planted, id=f"{FAR_FUTURE_MS}-998")
    rig.emit("a")
    rig.emit("b")
    rig.drain()
    rig.emit("a")
    rig.emit("c")
    assert rig.drain().outcomes == {"duplicate": 1, "published": 1}
    notes = rig.notifications()[1:]
    assert [note["event_id"] for note in notes] == ["a", "b", "c"]
    stamps = [note["control_version"] for note in notes]
    assert stamps == [FAR_FUTURE_MS * 1000 + 999 + number for number in range(3)]
    assert [note["entry"] for note in notes] == [f"{s // 1000}-{s % 1000}" for s in stamps]


def test_control_entries_from_the_past_the_future_and_the_end_of_time(rig: Rig) -> None:
    """Entry IDs and created_at may lie: order is the stream's, stamps are the server's."""
    ids = ["0-1", "1-0", f"{FAR_FUTURE_MS}-0", f"{HIGHEST}-0", f"{HIGHEST}-{HIGHEST}"]
    for number, entry_id in enumerate(ids):
        ref, data = f"r{number}", b"data %d" % number
        rig.plant(ref, data)
        event = {
            "event_id": f"e{number}", "type": "run.abort", "artifact_ref": ref,
            "checksum": checksum_of(data), "created_at": "9999-12-31T23:59:59Z",
        }  # fmt: skip
        rig.client.xadd(CONTROL, {"event": json.dumps(event)}, id=entry_id)
        rig.drain()
    assert rig.published() == [f"e{number}" for number in range(5)]
    now_s: Any = rig.client.time()
    assert rig.notifications()[-1]["control_version"] <= (now_s[0] + 1) * 1_000_000
    rig.client.xgroup_destroy(CONTROL, rig.keys.group)
    rig.drain()
    assert len(rig.published()) == 5
    rig.audit()


# --- a full server -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["one server", "the control's", "the notifications'"])
def test_a_full_server_loses_nothing(where: str) -> None:
    """Without memory the relay waits and says what to do; given memory, all ends, once."""
    with (
        servers.running("valkey") as here,
        servers.running("valkey") as there,
        redis.Redis.from_url(here.url, protocol=2) as control,
        redis.Redis.from_url(there.url, protocol=2) as notify,
    ):
        single = where == "one server"
        rig = Rig(here.url, control)
        seen = Rig(here.url if single else there.url, control if single else notify)
        in_trouble = notify if where == "the notifications'" else control
        with rig.relay(publisher_url=None if single else there.url) as run:
            rig.emit("before")
            eventually(lambda: seen.published() == ["before"])
            # Appended and made full at once: the relay cannot come between.
            pipeline = control.pipeline()
            pipeline.xadd(CONTROL, {"event": '{"event_id":"e","type":"run.abort"}'})
            pipeline.xadd(CONTROL, {"event": "{"})
            if in_trouble is control:
                pipeline.config_set("maxmemory", 1)
            else:
                in_trouble.config_set("maxmemory", 1)
            pipeline.execute()
            try:
                if where == "the control's":  # reading and acknowledging need no memory
                    eventually(lambda: seen.published() == ["before", "e"])
                else:
                    words = ("maxmemory", "nothing is lost")
                    eventually(lambda: said(run.observer, "waiting", *words))
                    assert seen.published() == ["before"]
                    assert seen.letters() == []
                    assert rig.pending() in (0, 2)
            finally:
                in_trouble.config_set("maxmemory", 0)
            eventually(lambda: seen.published() == ["before", "e"])
            eventually(lambda: seen.reasons() == ["malformed"])
            eventually(lambda: rig.pending() == 0)
            assert run.error is None
        seen.audit()


# --- keys of another kind, and nonsense ----------------------------------------------------------


def put_a_list(client: redis.Redis, key: str) -> None:
    """Put nonsense in the place of a key, in one step: a live worker writes it all the time."""
    with client.pipeline(transaction=True) as both:
        both.delete(key)
        both.lpush(key, "nonsense")
        both.execute()


@pytest.mark.parametrize("which", ["lease", "low"])
def test_a_key_of_another_type_that_is_only_written(rig: Rig, which: str) -> None:
    """A list in the place of a key that is written anew all the time is in nobody's way."""
    with rig.relay(lease_s=0.3) as run:
        eventually(lambda: run.observer.state_now == "active")
        put_a_list(rig.client, getattr(rig.keys, which))
        rig.emit("e")
        rig.add("{")
        rig.emit("f")
        eventually(lambda: rig.published() == ["e", "f"])
        eventually(lambda: rig.pending() == 0)
        assert run.error is None
    assert rig.reasons() == ["malformed"]


@pytest.mark.parametrize("which", ["fence", "halt", "notifications", "dead"])
def test_a_key_of_another_type_is_named(rig: Rig, which: str) -> None:
    """A list in the place of a key makes the relay wait and name it; removed, all continues."""
    key = getattr(rig.keys, which)
    with rig.relay(lease_s=0.3) as run:
        eventually(lambda: run.observer.state_now == "active")
        put_a_list(rig.client, key)
        rig.emit("e")
        rig.add("{")
        eventually(lambda: said(run.observer, "waiting", f"{key} is a list", "remove it"))
        rig.client.delete(key)
        eventually(lambda: rig.published() == ["e"])
        eventually(lambda: rig.reasons() == ["malformed"])
        eventually(lambda: rig.pending() == 0)
        assert run.error is None
    rig.audit()


@pytest.mark.parametrize("artifact", [True, False])
@pytest.mark.parametrize("nonsense", ["a member", "the whole shard"])
def test_nonsense_in_the_index_is_no_verdict(rig: Rig, artifact: bool, nonsense: str) -> None:
    """What no sidecar wrote into the index neither publishes nor buries, and is told."""
    rig.emit("e")
    rig.drain()
    found: Any = rig.client.keys(f"{rig.keys.prefix}:seen:*")
    (shard,) = found
    (member,) = rig.client.hkeys(shard)
    rig.client.delete(NOTIFICATIONS, CONTROL, rig.keys.low)
    if nonsense == "a member":
        rig.client.hset(shard, member, "x")
    else:
        rig.client.delete(shard)
        rig.client.set(shard, "x")
    emit = rig.emit_artifact if artifact else rig.emit
    emit("e")
    with rig.relay() as run:
        words = ["no sidecar wrote", shard.decode()] if nonsense == "a member" else ["WRONGTYPE"]
        eventually(lambda: said(run.observer, "waiting", *words))
        assert rig.pending() == 1
        assert rig.letters() == []
        rig.client.delete(shard)
        eventually(lambda: rig.published() == ["e"])
        assert run.error is None


@pytest.mark.parametrize("low", ["nonsense", "1-x", "", b"\xff", "1", "-"])
def test_nonsense_as_the_lowest_unfinished_entry(rig: Rig, low: bytes | str) -> None:
    """A low that is no entry ID makes the relay wait and name the key; deleted, it continues."""
    rig.client.set(rig.keys.low, low)
    rig.emit("e")
    with rig.relay() as run:
        eventually(lambda: said(run.observer, "waiting", rig.keys.low, "no sidecar wrote"))
        assert rig.published() == []
        rig.client.delete(rig.keys.low)
        eventually(lambda: rig.published() == ["e"])


def test_nonsense_in_the_halts_hash(rig: Rig) -> None:
    """A count of deaths that is no number is told; a reason in no encoding still halts."""
    rig.emit("e")
    rig.client.xgroup_create(CONTROL, rig.keys.group, "0")
    rig.client.xreadgroup(rig.keys.group, "worker", {CONTROL: ">"})
    halt = {"unclean": "9", "alone": rig.sent["e"], "alone_deaths": "many", "reason": b"\xff!"}
    rig.client.hset(rig.keys.halt, mapping=halt)  # type: ignore[arg-type]
    with rig.relay() as run:
        eventually(lambda: said(run.observer, "halted", "!"))
        rig.client.hdel(rig.keys.halt, "reason")
        eventually(lambda: said(run.observer, "waiting", "alone_deaths"))
        rig.client.hdel(rig.keys.halt, "alone_deaths")
        eventually(lambda: rig.published() == ["e"])


# --- streams that are taken away -----------------------------------------------------------------


@pytest.mark.parametrize("new_id", ["5-1", f"{FAR_FUTURE_MS}-1"], ids=["lower", "higher"])
@pytest.mark.parametrize("gap", [False, True], ids=["at once", "after a while"])
def test_a_control_stream_made_anew(rig: Rig, new_id: str, gap: bool) -> None:
    """Of a stream that is deleted while events are held, and made anew, every entry is read."""
    rig.emit("before")
    rig.emit_artifact("held", tenant="held", put=False)
    rig.emit("behind", tenant="held")
    with rig.relay(retry_budget_s=3600) as run:
        eventually(lambda: rig.published() == ["before"] and run.observer.retries)
        pipeline = rig.client.pipeline()
        pipeline.delete(CONTROL)
        if gap:
            pipeline.execute()
            eventually(lambda: rig.client.exists(CONTROL))
        for number in range(3):
            event = {"event_id": f"new {number}", "type": "run.abort"}
            entry_id = new_id[:-1] + str(number + 1)
            pipeline.xadd(CONTROL, {"event": json.dumps(event)}, id=entry_id)
        pipeline.execute()
        eventually(lambda: rig.published() == ["before", "new 0", "new 1", "new 2"])
        eventually(lambda: rig.pending() == 0)
        assert run.error is None
    rig.drain()
    assert len(rig.published()) == 4
    assert rig.letters() == []


def test_a_notification_stream_that_is_deleted(rig: Rig) -> None:
    """Its notifications are gone, but stamps continue rising and nothing is published twice."""
    with rig.relay():
        rig.emit("a")
        eventually(lambda: rig.published() == ["a"])
        before = rig.notifications()[0]["control_version"]
        rig.client.delete(NOTIFICATIONS)
        rig.emit("a")
        rig.emit("b")
        eventually(lambda: rig.published() == ["b"])
        assert rig.notifications()[0]["control_version"] > before


# --- a replica in the primary's place ------------------------------------------------------------


@pytest.mark.parametrize("kind", [servers.usual()])
def test_a_primary_that_becomes_a_replica(kind: str) -> None:
    """A server demoted under the relay is waited for, in clear words; nothing is lost or twice."""
    with servers.running(kind) as own, redis.Redis.from_url(own.url, protocol=2) as client:
        rig = Rig(own.url, client)
        with rig.relay(lease_s=0.3) as run:
            rig.emit("a")
            eventually(lambda: rig.published() == ["a"])
            pipeline = client.pipeline()
            pipeline.xadd(CONTROL, {"event": '{"event_id":"b","type":"run.abort"}'})
            pipeline.xadd(CONTROL, {"event": "{"})
            pipeline.execute()
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            eventually(lambda: said(run.observer, "waiting", "replica", "leads to the primary"))
            client.execute_command("REPLICAOF", "NO", "ONE")
            rig.emit("c")
            eventually(lambda: rig.published() == ["a", "b", "c"])
            eventually(lambda: rig.reasons() == ["malformed"])
            eventually(lambda: rig.pending() == 0)
            assert run.error is None
        rig.audit()

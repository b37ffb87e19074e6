"""`sidecar status`, `pause` and `resume`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis

import store
from sidecar.ops.status import collect
from sidecar.redis.client import Side
from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.lease import Lease
from sidecar.redis.members import Members
from sidecar.wire.ids import LAST
from tests import servers
from tests.cli.harness import DEAD, HALT, HOSTILE, NOTIFICATIONS, STREAM, Cli
from tests.proofs import sampled
from tests.sidecar.harness import eventually

GROUP = f"sidecar:{NOTIFICATIONS}"


def test_status_of_an_empty_server_makes_nothing(sidecar: Cli) -> None:
    """All is absent or unknown, and afterwards the server is as empty as before."""
    found = sidecar("status", "--json").object()
    (stream,) = found["streams"]
    assert (stream["exists"], stream["group"], stream["lag"]) == (False, False, None)
    assert stream["halt"] is None
    assert not stream["owner_alive"]
    assert found["notifications"]["last_control_version"] is None
    assert found["readers"] == found["workers"] == []
    assert "there is no such stream yet" in sidecar("status").out
    assert sidecar.client.dbsize() == 0


def test_status_tells_of_a_deployment(sidecar: Cli) -> None:
    """Counts, the last control_version and its age, dead letters by reason."""
    sidecar.emit("good")
    sidecar("emit", "--type", "moon.phase")
    sidecar.drain()
    sidecar.emit("waiting")
    found = sidecar("status", "--json").object()
    (stream,) = found["streams"]
    assert (stream["length"], stream["lag"], stream["pending"]) == (3, 1, 0)
    assert stream["lease_remaining_ms"] is None
    assert found["dead"] == {
        "stream": DEAD, "length": 1, "by_reason": {"unknown_type": 1}, "counted": 1,
    }  # fmt: skip
    assert 0 <= found["notifications"]["last_age_s"] < 60
    assert str(found["notifications"]["last_control_version"]) in sidecar("status").out


def test_status_tells_what_grows(sidecar: Cli) -> None:
    """About how much a day adds, and by which rules of the worker it goes; unknown is said."""
    assert set(sidecar("status", "--json").object()["growing"].values()) == {None}
    sidecar.bring("one", "stacks/t/web/1", b"1234")
    sidecar.work()
    size = sum(one.size_bytes + one.manifest_size_bytes for one in _versions(sidecar))
    ran = sidecar("status", "--json")
    assert ran.object()["growing"] == {
        "refs_a_day": 1, "bytes_a_day": size, "keep": "", "source_keep": "",
    }  # fmt: skip
    assert f"about 1 refs, {size} bytes" in sidecar("status").out
    assert "kept for ever, as far as workers go: they have no --keep" in sidecar("status").out
    sidecar.add("two")
    sidecar.work(keep=("last=2,age=1d",), source_keep=("published+1h",))
    (sidecar.directory / "data-dir" / "fleet").rename(sidecar.directory / "away")
    found = sidecar("status", "--json").object()["growing"]
    assert (found["bytes_a_day"], found["keep"]) == (None, "last=2,age=1d")
    assert found["source_keep"] == "published+1h"


def _versions(sidecar: Cli) -> list[store.Version]:
    url = (sidecar.directory / "data-dir" / "fleet").as_uri()
    fleet = store.versioned(store.open_url(url))
    assert fleet
    return list(fleet.versions("stacks/t/web/1"))


def test_status_of_a_live_worker_shows_its_lease(sidecar: Cli) -> None:
    """An owner is alive for as long as its lease runs."""
    sidecar.client.set(f"{{{NOTIFICATIONS}}}:lease:{STREAM}", "token", px=60_000)
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert stream["owner_alive"]
    assert 0 < stream["lease_remaining_ms"] <= 60_000
    assert "alive" in sidecar("status").out


def test_the_owner_is_who_holds_the_fence(sidecar: Cli) -> None:
    """One that was killed tells of itself for a while yet: that it owns the stream is left out."""
    keys = Keys.of(STREAM, NOTIFICATIONS)
    killed, alive = (
        Members(sidecar.client, keys, name=name, serves=[STREAM], lease_s=60)
        for name in ("host:1", "host:2")
    )
    for worker in (killed, alive):
        worker.beat([STREAM])
        assert Lease(sidecar.client, keys, lease_s=60, worker=worker.id).acquire() is not None
        sidecar.client.delete(keys.lease)
    Lease(sidecar.client, keys, lease_s=60, worker=alive.id).acquire()
    found = sidecar("status", "--json").object()
    assert found["streams"][0]["owner"] == "host:2"
    assert {one["name"]: one["owns"] for one in found["workers"]} == {
        "host:1": [], "host:2": [STREAM],
    }  # fmt: skip
    assert "host:2, its lease runs" in sidecar("status").out


@pytest.mark.parametrize(
    ("entry_id", "are_times"),
    [("*", True), ("7-0", False), ("1700000000-0", False), ("1700000000000000-0", False)],
)
def test_ids_that_are_no_times_are_named(sidecar: Cli, entry_id: str, *, are_times: bool) -> None:
    """Row numbers, seconds and microseconds, which are of no age."""
    sidecar.client.xadd(STREAM, {"event": "{}"}, id=entry_id)
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert stream["ids_are_times"] == are_times
    assert ("NO TIMES" in sidecar("status").out) == (not are_times)


@pytest.mark.parametrize("stream", [STREAM, NOTIFICATIONS])
@pytest.mark.parametrize("read", [False, True])
def test_a_foreign_group_that_keeps_a_stream_is_named(
    sidecar: Cli, stream: str, *, read: bool
) -> None:
    """When it has not read, or not acknowledged, what is an hour old; not when it is done."""
    sidecar.client.xadd(stream, {"event": "{}"}, id="1700000000000-0")
    sidecar.client.xgroup_create(stream, "audit-tool", "0")
    sidecar.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    if read:
        sidecar.client.xreadgroup("audit-tool", "me", {stream: ">"})
    assert sidecar("status", "--json").object()["kept"] == [
        {"stream": stream, "group": "audit-tool", "first": "1700000000000-0"}
    ]
    out = sidecar("status").out
    assert "NOT TRIMMED" in out
    sidecar.client.xreadgroup("audit-tool", "me", {stream: ">"})
    sidecar.client.xack(stream, "audit-tool", "1700000000000-0")
    assert sidecar("status", "--json").object()["kept"] == []


@pytest.mark.parametrize(
    ("published_after_s", "known"),
    [(5, True), (-200, True), (-400, False), (700_000, False), (None, True)],
)
def test_pending_entries_have_an_age(
    sidecar: Cli, published_after_s: int | None, *, known: bool
) -> None:
    """How long ago the oldest pending entry was appended, where notifications bear its ID out.

    An ID is a position: of one that is no time the age is null. Without notifications nothing
    speaks against it.
    """
    before = 1_700_000_000_000
    for ms in (before, before + 1000):
        sidecar.client.xadd(STREAM, {"event": "{}"}, id=f"{ms}-0")
    sidecar.client.xgroup_create(STREAM, GROUP, f"{before}-0")
    sidecar.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    if published_after_s is not None:
        event = {"id": 0, "event_id": "a", "type": "key.changed"}
        at = f"{before + published_after_s * 1000}-0"
        sidecar.notification(event, at, f"{STREAM}/{before}-0")
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert (stream["pending"], stream["oldest_pending"]) == (1, f"{before + 1000}-0")
    age_s = stream["oldest_pending_age_s"]
    assert age_s > 86400 if known else age_s is None
    told = sidecar("status").out
    assert f"the oldest {before + 1000}-0" in told
    assert ("ago" in told.partition("the oldest")[2].partition("\n")[0]) is known


@pytest.mark.parametrize("ms", [7, 99_999_999_999, 99_999_999_999_999])
def test_an_id_that_can_be_no_time_has_no_age(sidecar: Cli, ms: int) -> None:
    """Small numbers, and the future, though nothing was published yet."""
    sidecar.client.xadd(STREAM, {"event": "{}"}, id=f"{ms}-0")
    sidecar.client.xgroup_create(STREAM, GROUP, "0")
    sidecar.client.xreadgroup(GROUP, "worker", {STREAM: ">"})
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert (stream["oldest_pending"], stream["oldest_pending_age_s"]) == (f"{ms}-0", None)


@pytest.mark.parametrize("kind", ["valkey", "redis-6.2"])
def test_nothing_waits_behind_the_highest_id(kind: str) -> None:
    """An entry with the highest ID that was read is not unread, where the server counts no lag."""
    with servers.running(kind) as server, redis.Redis.from_url(server.url) as client:
        keys = Keys.of(STREAM, NOTIFICATIONS)
        client.xadd(STREAM, {"event": "{}"}, id=LAST)
        client.xgroup_create(STREAM, GROUP, "0")
        side = Side(client, server.url)
        assert collect(side, side, [keys]).to_json()["streams"][0]["lag"] == 1
        client.xreadgroup(GROUP, "worker", {STREAM: ">"})
        assert collect(side, side, [keys]).to_json()["streams"][0]["lag"] == 0


def test_an_unknown_lag_is_not_zero(sidecar: Cli, redis_url: str) -> None:
    """After deletes no server knows its lag: few are counted, of many it stays unknown."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        for i in range(1, 104):
            client.xadd(STREAM, {"event": "{}"}, id=f"{i}-0")
        client.xgroup_create(STREAM, GROUP, "1-0")
        client.xdel(STREAM, "50-0")
        (stream,) = sidecar("status", "--json", "--redis", redis_url).object()["streams"]
        assert stream["lag"] is None
        assert re.search(r"lag +unknown", sidecar("status", "--redis", redis_url).out)
        client.xdel(STREAM, "51-0")
        (stream,) = sidecar("status", "--json", "--redis", redis_url).object()["streams"]
        assert stream["lag"] == 100


def test_status_of_several_streams_and_readers(sidecar: Cli) -> None:
    """Each --stream has its part; registered readers are shown, expired ones as such."""
    sidecar.client.xadd("a", {"event": "{}"})
    sidecar.client.set(f"{{{NOTIFICATIONS}}}:reader:ctl-1", f"1790000000000000 {10**15} 60")
    sidecar.client.sadd(f"{{{NOTIFICATIONS}}}:registered", "ctl-1", "nobody")
    args = ("--stream", "a", "--stream", "b")
    found = sidecar("status", *args, "--json").object()
    assert [stream["stream"] for stream in found["streams"]] == ["a", "b"]
    assert [stream["length"] for stream in found["streams"]] == [1, 0]
    (reader,) = found["readers"]
    assert (reader["name"], reader["control_version"]) == ("ctl-1", 1790000000000000)
    assert reader["expired"]
    by_env = sidecar("status", env={"SIDECAR_STREAM": "a b", "SIDECAR_JSON": "1"}).object()
    assert by_env["streams"] == found["streams"]
    assert re.search("ctl-1.*EXPIRED", sidecar("status").out)


@pytest.mark.parametrize("key", [STREAM, NOTIFICATIONS, DEAD])
def test_a_key_that_is_no_stream_is_exit_2(sidecar: Cli, key: str) -> None:
    """Whichever of the three streams it is, the line names the key."""
    sidecar.client.set(key, "x")
    ran = sidecar("status")
    assert ran.code == 2
    assert repr(key) in ran.err


def test_status_survives_hostile_strings(sidecar: Cli) -> None:
    """Reasons and readers out of Redis cannot steer the terminal."""
    sidecar.client.hset(HALT, mapping={"reason": HOSTILE, "since": "s", "by": HOSTILE})
    sidecar.client.set(f"{{{NOTIFICATIONS}}}:reader:{HOSTILE}", "0 0 0")
    sidecar.client.set(f"{{{NOTIFICATIONS}}}:reader:x{HOSTILE}", HOSTILE)
    sidecar.client.sadd(f"{{{NOTIFICATIONS}}}:registered", HOSTILE, f"x{HOSTILE}")
    letter: dict[Any, Any] = {"reason": HOSTILE}
    sidecar.client.xadd(DEAD, letter)
    out = sidecar("status").out
    assert out.replace("\n", "").isprintable()
    assert "[bold]x[/bold]" in out


def test_pause_halts_and_resume_lets_go_on(sidecar: Cli) -> None:
    """A halted stream publishes nothing; after resume it does."""
    ran = sidecar("pause", "--reason", "bad deploy")
    assert ran.out.startswith("control:events: paused: bad deploy")
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert stream["halt"]["reason"] == "bad deploy"
    assert "@" in stream["halt"]["by"]
    assert re.fullmatch(r"20\d\d-.*Z", stream["halt"]["since"])
    sidecar.emit("e1")
    assert sidecar("run", "--drain").code == 3
    assert sidecar("tail").code == 5
    assert sidecar("resume").out.startswith("control:events: resumed")
    sidecar.drain()
    assert sidecar("tail").code == 0


def test_pause_keeps_the_first_reason(sidecar: Cli) -> None:
    """Pausing a halted stream says so and changes nothing."""
    sidecar("pause", "--reason", "first")
    before = sidecar.client.hgetall(HALT)
    ran = sidecar("pause", "--reason", "second", "--json")
    assert ran.code == 0
    assert (ran.object()["changed"], ran.object()["reason"]) == (False, "first")
    assert sidecar.client.hgetall(HALT) == before
    assert "halted already" in sidecar("pause", "--reason", "third").out


def test_resume_leaves_the_counts_of_crashes(sidecar: Cli) -> None:
    """Reason and dead letters in a row go, `unclean` and `alone` stay."""
    counts: dict[Any, Any] = {"unclean": "2", "alone": "1-0", "alone_deaths": "1"}
    sidecar.client.hset(HALT, mapping={**counts, "dead_in_a_row": "100", "reason": "r"})
    assert sidecar("resume", "--reason", "fixed", "--json").object()["changed"]
    left: Any = sidecar.client.hgetall(HALT)
    assert {k.decode(): v.decode() for k, v in left.items()}.items() >= counts.items()
    assert b"reason" not in left
    assert b"dead_in_a_row" not in left
    assert left[b"resumed_why"] == b"fixed"


def test_status_names_other_consumers_and_a_position_beyond_the_end(sidecar: Cli) -> None:
    """Who else has read is named, and a lag that cannot be known is no 0."""
    sidecar.client.xgroup_create("control:events", "sidecar:control:notifications", "0", True)
    sidecar.emit("e1")
    sidecar.client.xreadgroup("sidecar:control:notifications", "debug", {"control:events": ">"})
    assert "1 of them under consumer 'debug'" in sidecar("status").out
    sidecar.client.xgroup_setid(
        "control:events", "sidecar:control:notifications", "9999999999999-0"
    )
    assert "unknown: the group's position was set beyond the end" in sidecar("status").out
    (stream,) = sidecar("status", "--json").object()["streams"]
    assert (stream["lag"], stream["position_beyond_end"]) == (None, True)
    assert stream["pending_by_consumer"] == {"debug": 1}


def test_resume_of_a_running_stream_says_so(sidecar: Cli) -> None:
    """Exit 0, nothing written."""
    ran = sidecar("resume", "--json")
    assert (ran.code, ran.object()["changed"]) == (0, False)
    assert "not halted" in sidecar("resume").out
    assert not sidecar.client.exists(HALT)


def test_pause_wants_a_reason_and_knows_several_streams(sidecar: Cli) -> None:
    """Without --reason exit 2; with --stream twice both are halted; strange names are hinted at."""
    assert sidecar("pause").code == 2
    assert sidecar("pause", "--reason", " ").code == 2
    ran = sidecar("pause", "--reason", "x", "--stream", "a", "--stream", "b")
    assert len(ran.out.splitlines()) == 2
    assert "no worker has run for 'a'" in ran.err


def test_help_has_examples(sidecar: Cli) -> None:
    """Every command explains itself, with an example."""
    commands = (
        "emit", "tail", "status", "pause", "resume", "dead ls", "dead show", "dead redrive",
        "store put", "store get", "store exists", "store ls", "store versions",
    )  # fmt: skip
    for command in commands:
        ran = sidecar(*command.split(), "--help")
        assert ran.code == 0
        assert f"sidecar {command}" in ran.out.split("Examples:")[1]


@pytest.mark.parametrize("kill", sampled([True, False], ["True"]))
def test_a_takeover_is_told(sidecar: Cli, *, kill: bool) -> None:
    """When, by whom and from whom: of a worker that was killed, and of one that was stopped."""
    sidecar.lay_out()

    def owner() -> str | None:
        (stream,) = sidecar("status", "--json").object()["streams"]
        return str(stream["owner"]) if stream["owner_alive"] else None

    def taken_over() -> list[dict[str, str]]:
        return list(sidecar("status", "--json").object()["takeovers"])

    args = ("run", "--lease", "3", "--log-level", "error")  # a busy machine beats late
    with sidecar.running(*args) as first:
        eventually(lambda: (owner() or "").endswith(f":{first.pid}"))
        assert not taken_over()
        assert f":{first.pid}" in sidecar("status").out.partition("WORKER")[2]
        with sidecar.running(*args) as second:
            eventually(lambda: len(sidecar("status", "--json").object()["workers"]) == 2)
            (first.kill if kill else first.terminate)()
            (one,) = eventually(taken_over)
            assert one["stream"] == STREAM
            assert one["by"].endswith(f":{second.pid}")
            assert one["before"].endswith(f":{first.pid}")
            assert one["before"] in sidecar("status").out.partition("TAKEN OVER")[2]


def data_bytes(client: Any) -> int:
    """Return what keys take of a server's memory; the buffers of connections come and go."""
    stats: dict[str, Any] = client.memory_stats()
    return int(stats["dataset.bytes"])


def test_memory_by_part(sidecar: Cli) -> None:
    """Each part takes about what the server says that it grew by; the index is told by a sample."""
    keys = Keys.of(STREAM, NOTIFICATIONS)
    client = sidecar.client
    before: dict[str, int] = sidecar("status", "--json").object()["parts"]
    names = {"control", "notifications", "dead", "index", "own"}
    assert before.keys() == names | {"index_at_most"}
    grew = {}
    streams = {"control": STREAM, "notifications": NOTIFICATIONS, "dead": DEAD, "own": keys.halts}
    for part in names:
        used = data_bytes(client)
        pipe: Any = client.pipeline(transaction=False)
        for n in range(SHARDS if part == "index" else 2000):
            if part == "index":
                pipe.hset(keys.seen(n.to_bytes(2)), b"id", b"c" * 200)
            else:
                pipe.xadd(streams[part], {"event": b"x" * 1000})
        pipe.execute()
        grew[part] = data_bytes(client) - used
    found = sidecar("status", "--json").object()["parts"]
    for part, size in grew.items():
        assert found[part] - before[part] == pytest.approx(size, rel=0.35), part
    assert not found["index_at_most"]
    assert "deduplication index  about" in sidecar("status").out


@pytest.mark.parametrize("events", [0, 1, 300])
def test_the_memory_of_an_index_with_few_events(sidecar: Cli, events: int) -> None:
    """Too few for an estimate: it is said what they take at most, and never that it is nothing."""
    keys, client = Keys.of(STREAM, NOTIFICATIONS), sidecar.client
    pipe: Any = client.pipeline(transaction=False)
    for n in range(events):
        shard = keys.seen((n * 40503 % SHARDS).to_bytes(2))
        pipe.hset(shard, b"i" * 14, b"c" * 16 + b"1" * 16)
        pipe.memory_usage(shard)
    takes = sum(pipe.execute()[1::2])
    found = sidecar("status", "--json").object()["parts"]
    assert found["index_at_most"]
    assert takes < found["index"] < 1_000_000
    assert "deduplication index  under" in sidecar("status").out


def test_memory_that_may_not_be_asked(sidecar: Cli) -> None:
    """Who may not send MEMORY USAGE sees all else, and that this is unknown."""
    commands = ["+@all", "-memory"]
    sidecar.client.acl_setuser(
        "u", reset=True, enabled=True, nopass=True, keys=["*"], commands=commands
    )
    url = sidecar.url.replace("redis://", "redis://u:x@")
    ran = sidecar("status", "--redis", url)
    assert ran.code == 0, ran.err
    assert "unknown: this user may not send MEMORY USAGE" in ran.out
    assert sidecar("status", "--redis", url, "--json").object()["parts"] is None

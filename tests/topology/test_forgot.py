"""Redis has less than it had: the worker says so, once, and status and audit tell it afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.redis.keys import Keys
from sidecar.redis.retention import Policy, Retention
from sidecar.wire.incarnations import parse
from sidecar.worker.forgetting import Watch
from tests.cli.harness import Cli
from tests.sidecar.harness import Rig, Running, eventually, trim_once
from tests.topology.harness import Node, server, until

pytestmark = pytest.mark.server

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
BOTH = {"control stream", "notification stream"}


class Place:
    """A server with a rig on it, which can be set back."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.copy = directory / "copy"
        self.directory = directory
        self.client = redis.Redis.from_url(node.url, protocol=2)
        self.rig = Rig(node.url, self.client, lease_s=0.6)

    @property
    def keys(self) -> Keys:
        """The names."""
        return self.rig.keys

    def keep_copy(self) -> None:
        """Copy what the server has on disk."""
        shutil.copytree(self.node.directory, self.copy)

    def restore(self) -> None:
        """Start it with the copy."""
        self.node.kill()
        shutil.rmtree(self.node.directory)
        shutil.copytree(self.copy, self.node.directory)
        self.node.start()

    def relays(self, *names: str) -> None:
        """Send an event for each name; wait until a worker has finished all."""
        for name in names:
            until(partial(self.rig.emit, name), "it is appended")
        until(lambda: set(names) <= set(self.rig.published()), f"{names} are published")
        until(lambda: self.rig.pending() == 0, "all is acknowledged")

    def records(self) -> list[dict[str, str]]:
        """Return what is on record as forgotten."""
        found: Any = self.client.xrange(self.keys.tenures)
        told = [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]
        return [one for one in told if one["what"] == "forgot"]

    def lost(self) -> list[str]:
        """Return what is on record as lost, in alphabetical order."""
        return sorted(record["lost"] for record in self.records())

    def cli(self, *args: str) -> Any:
        """Run a command against it."""
        fleet = f"file://{self.directory}/fleet"
        env = {"SIDECAR_REDIS": self.node.url, "SIDECAR_FLEET_STORE": fleet}
        return Cli(self.node.url, self.directory, self.client, env)(*args)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server that keeps what it was told on disk."""
    with ExitStack() as stack:
        node = server(tmp_path, *DURABLE)
        stack.callback(node.kill)
        node.start()
        place = Place(node, tmp_path)
        stack.callback(place.client.close)
        yield place


def looked(run: Running) -> None:
    """Wait until the worker has looked once more, from beginning to end."""
    watch = run.relay._watch
    for _ in range(2):
        eventually(partial(_is_later, watch, watch._due), "the worker looks again")


def _is_later(watch: Watch, due: float) -> bool:
    return watch._due > due


# --- ways to lose --------------------------------------------------------------------------------


def emptied(place: Place) -> Callable[[], object]:
    """FLUSHDB."""
    return place.client.flushdb


def without_files(place: Place) -> Callable[[], object]:
    """It dies, and its disk with it."""

    def lose() -> None:
        place.node.kill()
        place.node.forget()
        place.node.start()

    return lose


def older_file(place: Place) -> Callable[[], object]:
    """It comes back with what it had a while ago, as a replica that lacks the tail would."""
    place.keep_copy()
    return place.restore


def notifications_deleted(place: Place) -> Callable[[], object]:
    """DEL of the notification stream."""
    return lambda: place.client.delete(place.keys.notifications)


def what_scripts_wrote(place: Place) -> Callable[[], object]:
    """All that scripts wrote is gone after a restart, as with the ACL of before on Redis 7.0."""

    def lose() -> None:
        mine = [*place.client.scan_iter(place.keys.prefix + ":*"), place.keys.notifications]
        place.client.delete(*mine)
        place.node.kill()
        place.node.start()

    return lose


def group_destroyed(place: Place) -> Callable[[], object]:
    """XGROUP DESTROY."""
    return lambda: place.client.xgroup_destroy(place.keys.control, place.keys.group)


def control_deleted(place: Place) -> Callable[[], object]:
    """DEL of the control stream."""
    return lambda: place.client.delete(place.keys.control)


WAYS = [
    (emptied, BOTH), (without_files, BOTH), (older_file, BOTH),
    (notifications_deleted, {"notification stream"}),
    (what_scripts_wrote, {"notification stream"}),
    (group_destroyed, {"group"}), (control_deleted, {"control stream"}),
]  # fmt: skip


@pytest.mark.parametrize(("way", "parts"), WAYS)
def test_a_worker_that_lives_says_what_redis_forgot(
    place: Place, way: Callable[[Place], Callable[[], object]], parts: set[str]
) -> None:
    """Each part once, with what was known and what is left; it is on record, and it continues."""
    with place.rig.relay() as run:
        place.relays("a", "b")
        first = place.rig.notifications()[-1]["entry"]
        lose = way(place)
        place.relays("c", "d")
        before = place.rig.notifications()[-1]["entry"]
        lose()
        until(lambda: set(place.lost()) == parts, f"{parts} are told")
        place.relays("e")
        looked(run)
        assert sorted(run.observer.forgotten) == place.lost() == sorted(parts)
    known = {one["lost"]: (one["known"], one["found"]) for one in place.records()}
    if "notification stream" in parts:
        kept = first if way is older_file else "0-0"
        assert known["notification stream"] == (before, kept)
    if "control stream" in parts:
        entry = place.rig.sent["b"] if way is older_file else "0-0"
        assert known["control stream"] == (place.rig.sent["d"], entry)
    assert all(one["what"] == "forgot" and one["whole_until"] for one in place.records())


@pytest.mark.parametrize(
    ("way", "part"),
    [
        (what_scripts_wrote, "notes"), (notifications_deleted, "notification stream"),
        (group_destroyed, "group"), (control_deleted, "control stream"),
    ],
)  # fmt: skip
def test_a_worker_that_begins_says_what_redis_forgot(
    place: Place, way: Callable[[Place], Callable[[], object]], part: str
) -> None:
    """By what lies beside the streams; the one after it has nothing to tell any more."""
    with place.rig.relay():
        place.relays("a", "b")
    way(place)()
    for name in ("c", "d"):
        with place.rig.relay() as run:
            until(lambda: place.lost() == [part], f"{part} is told")
            place.relays(name)
            looked(run)
    assert place.lost() == [part]


def test_a_publish_into_what_is_left_tells(place: Place) -> None:
    """The stream loses its tail between two looks, and the worker publishes: that tells."""
    place.rig.lease_s = 3600.0
    with place.rig.relay() as run:
        place.relays("a", "b")
        copy: Any = place.client.dump(place.keys.notifications)
        place.relays("c")
        place.client.restore(place.keys.notifications, 0, copy, replace=True)
        place.relays("d")
        until(lambda: run.observer.forgotten == ["notification stream"], "it is told")
    (record,) = place.records()
    assert record["found"] == place.rig.notifications()[1]["entry"]


@pytest.mark.parametrize(
    ("way", "parts"), [(older_file, BOTH), (what_scripts_wrote, {"notification stream"})]
)
def test_what_is_lost_is_told_before_it_goes_on(
    place: Place, way: Callable[[Place], Callable[[], object]], parts: set[str]
) -> None:
    """After an outage the worker looks at once, whatever its lease: what it saw comes first."""
    place.rig.lease_s = 3600.0
    with place.rig.relay():
        place.relays("a")
        lose = way(place)
        place.relays("b")
        lose()
        until(place.lost, "something is told")
        place.relays("c")
        until(lambda: set(place.lost()) == parts, "that, and nothing else")


def test_two_workers_that_saw_the_same_tell_it_once(place: Place) -> None:
    """The owner and the one that stands by both knew: one of them says it."""
    with place.rig.relay() as owner:
        place.relays("a", "b")
        with place.rig.relay() as other:
            looked(other)
            place.client.flushdb()
            until(lambda: set(place.lost()) == BOTH, "it is told")
            place.relays("c")
            looked(owner)
            looked(other)
        told = owner.observer.forgotten + other.observer.forgotten
    assert sorted(told) == place.lost() == sorted(BOTH)


def test_who_stood_by_tells_what_the_owner_cannot(place: Place) -> None:
    """The owner dies with the server, which comes back older: the next one knows of the tail."""
    with place.rig.relay(lease_s=60) as owner:  # so a busy machine lets nobody else have it
        place.relays("a")
        place.keep_copy()
        place.relays("b")
        with place.rig.relay() as other:
            looked(other)
            assert other.observer.count("active") == 0
            place.node.kill()
            owner.stop()
            place.restore()
            place.client.delete(place.keys.lease)  # as when it has run out
            until(lambda: set(place.lost()) == BOTH, "it is told")


# --- what is told afterwards ---------------------------------------------------------------------


def test_log_status_and_audit_tell_it(place: Place) -> None:
    """At error level, in text and as JSON; an audit vouches for what came after only."""
    cli = Cli(place.node.url, place.directory, place.client)
    worker = cli.argv(
        "run", "--redis", place.node.url, "--lease", "0.6", "--source-store",
        f"file://{place.directory}/source", "--fleet-store", f"file://{place.directory}/fleet",
    )  # fmt: skip
    assert place.cli("status", "--json").object()["forgotten"] == []
    with _logged(worker, place.directory / "log") as lines:
        place.relays("a", "b")
        assert place.cli("audit").code == 0
        place.client.flushdb()
        until(lambda: set(place.lost()) == BOTH, "it is told")
        place.relays("c")
        until(lambda: len(_said(lines())) == len(BOTH), "it is logged")
    fields = ("lost", "stream", "known", "found", "whole_until")
    forgotten = place.cli("status", "--json").object()["forgotten"][::-1]
    for said, told, record in zip(_said(lines()), forgotten, place.records(), strict=True):
        assert (said["level"], said["lost"], said["of"]) == (
            "error", record["lost"], record["stream"]
        )  # fmt: skip
        assert "FeedGap" in said["detail"] or said["lost"] == "control stream"
        assert {name: told[name] for name in fields} == {name: record[name] for name in fields}
    text = place.cli("status").out
    assert text.count("REDIS FORGOT") == len(BOTH)
    assert forgotten[0]["noticed"] in text

    ran = place.cli("audit")
    assert ran.code == 3
    assert "Redis forgot" in ran.err
    assert "may be missing here" in ran.out
    assert "not for what Redis forgot" in ran.out
    summary = place.cli("audit", "--json").objects()[-1]["summary"]
    assert summary["forgotten"] == forgotten[::-1]
    after = place.rig.add("x")
    assert place.cli("audit", "--since", after).code == 0


def _said(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in lines if one["event"] == "Redis forgot"]


@contextmanager
def _logged(argv: list[str], path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    with path.open("wb") as log, subprocess.Popen(argv, stderr=log) as process:
        try:
            yield lambda: [
                json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")
            ]
        finally:
            process.terminate()
            process.wait(60)


# --- no false alarm ------------------------------------------------------------------------------


def nothing(place: Place) -> None:
    """Time passes."""
    assert place.client.ping()


def trimmed_to_nothing(place: Place) -> None:
    """XTRIM MAXLEN 0 of both streams."""
    for stream in (place.keys.control, place.keys.notifications):
        place.client.xtrim(stream, maxlen=0, approximate=False)


def deleted_by_hand(place: Place) -> None:
    """XDEL of the newest of each."""
    for stream in (place.keys.control, place.keys.notifications):
        found: Any = place.client.xrevrange(stream, count=1)
        place.client.xdel(stream, found[0][0])


def moved_ahead(place: Place) -> None:
    """XSETID of both streams, a second beyond the highest ID that each gave."""
    for stream in (place.keys.control, place.keys.notifications):
        info: Any = place.client.xinfo_stream(stream)
        highest_ms = int(info["last-generated-id"].split(b"-")[0])
        place.node.call("XSETID", stream, f"{highest_ms + 1000}-0")


def started_again(place: Place) -> None:
    """The server dies and comes back with all that it had."""
    place.node.kill()
    place.node.start()


def trimmed_by_policy(place: Place) -> None:
    """The sidecar's own trimming takes all but the last."""
    policies = dict.fromkeys(("control", "notifications", "dead"), Policy(length=1))
    trim_once(Retention(place.client, place.client, place.keys, policies, dedup_window_s=0))


def lease_lost(place: Place) -> None:
    """Somebody deletes lease and fence: another worker may take over."""
    place.client.delete(place.keys.lease, place.keys.fence)


@pytest.mark.parametrize(
    "event",
    [
        nothing, trimmed_to_nothing, deleted_by_hand, moved_ahead, started_again,
        trimmed_by_policy, lease_lost,
    ],
)  # fmt: skip
def test_what_loses_nothing_is_no_alarm(place: Place, event: Callable[[Place], None]) -> None:
    """On an empty server first; then a live worker, one that stands by, and one that follows."""
    with place.rig.relay() as run, place.rig.relay() as other:
        place.relays("a", "b", "c")
        looked(run)
        event(place)
        place.relays("d")
        for one in (run, other):
            looked(one)
    event(place)
    with place.rig.relay() as run:
        place.relays("e")
        looked(run)
    assert place.lost() == []
    assert place.cli("status", "--json").object()["forgotten"] == []


def test_a_replica_that_takes_over_with_all_there_was_is_no_alarm(
    place: Place, tmp_path: Path
) -> None:
    """Promoted in step, and served under the same address: an incarnation begins, and no alarm."""
    replica = server(tmp_path, *DURABLE)
    with place.rig.relay() as run:
        place.relays("a", "b")
        looked(run)
        try:
            replica.start("--replicaof", "127.0.0.1", str(place.node.port))
            until(lambda: replica.call("ROLE")[3] == "connected", "it is connected")
            place.relays("c")
            ends = place.client.info("replication")["master_repl_offset"]
            until(lambda: int(replica.call("ROLE")[4]) >= ends, "it has all")
            until(lambda: _is_on_disk(replica), "and has written it down")
            replica.call("REPLICAOF", "NO", "ONE")
        finally:
            replica.kill()
        place.node.kill()
        shutil.rmtree(place.node.directory)
        shutil.copytree(replica.directory, place.node.directory)
        place.node.start()
        place.relays("d")
        looked(run)
    noted: Any = place.client.hget(place.keys.incarnations, "list")
    assert len(parse(noted)) > 1
    assert place.lost() == []


def _is_on_disk(node: Node) -> bool:
    persistence: Any = node.call("INFO", "persistence")
    return all(
        persistence[name] == 0
        for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    )


def test_another_notification_stream_has_a_history_of_its_own(place: Place) -> None:
    """One control stream is relayed into two streams: what one of them lost is not the other's."""
    second = Rig(place.node.url, place.client, notify="other:notifications", lease_s=0.6)
    with place.rig.relay() as one, second.relay() as two:
        place.relays("a", "b")
        eventually(lambda: second.published() == ["a", "b"])
        place.client.delete(place.keys.notifications)
        until(lambda: place.lost() == ["notification stream"], "it is told")
        place.relays("c")
        looked(one)
        looked(two)
    assert two.observer.forgotten == []
    assert not place.client.exists(second.keys.tenures)

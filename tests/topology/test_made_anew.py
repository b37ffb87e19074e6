"""A notification stream that lost its memory, or its tail, and continues: no reader skips unseen.

Each way to lose it on real servers; published into by the worker's own script, read by both faces.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.feed import Applied, Cursor, FeedGap, FileCursor, RedisCursor
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Outbound, Publisher
from sidecar.redis.readers import passed
from sidecar.redis.retention import Policy, Retention
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.incarnations import Incarnation, parse
from tests.cli.harness import Cli
from tests.sidecar.faces import FACES
from tests.sidecar.harness import trim_once
from tests.topology.harness import Node, server, until

pytestmark = pytest.mark.server

KEYS: Final = Keys.of("control:events", "control:notifications")
N: Final = KEYS.notifications
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


def publish(node: Node, *event_ids: str, highest: int = 0) -> list[int]:
    """Publish by a worker that just started; return the control_versions."""
    with redis.Redis.from_url(node.url, protocol=2) as client:
        one = Publisher(client, KEYS, lease_s=60, dedup_window_s=3600)
        one._highest = highest
        assert one.acquire() is not None
        events = [
            Outbound(
                identity_digest(event_id) * 2,
                json.dumps({"id": 0, "event_id": event_id, "type": "run.abort"})[:-1].encode()
                + b',"control_version":',
                Origin(f"{KEYS.control}/1-0"), b"",
            )
            for event_id in event_ids
        ]  # fmt: skip
        found = [verdict.control_version for verdict in one.publish(events, EntryId("0-0"))]
        one.release()
    return found


class Place:
    """A server, and a second one for whoever needs a replica."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.first = server(directory, *arguments)
        self.second = server(directory, *arguments)
        self.copy = directory / "copy"

    @property
    def client(self) -> redis.Redis:
        """A connection to the first."""
        return redis.Redis.from_url(self.first.url, protocol=2)

    def follow_first(self) -> None:
        """Let the second be a replica of the first, in step."""
        self.second.start("--replicaof", "127.0.0.1", str(self.first.port))
        until(lambda: self.second.call("ROLE")[3] == "connected", "the replica is connected")
        until(lambda: self.second.call("EXISTS", N), "the replica has the stream")

    def promoted(self) -> Node:
        """Make the second a master, as it is."""
        self.second.call("REPLICAOF", "NO", "ONE")
        return self.second

    def keep_copy(self) -> None:
        """Copy what the first has on disk."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.first.directory, self.copy)

    def restored(self) -> Node:
        """Start the first with the copy."""
        self.first.kill()
        shutil.rmtree(self.first.directory)
        shutil.copytree(self.copy, self.first.directory)
        self.first.start()
        return self.first


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """The servers; the first one runs."""
    place = Place(tmp_path, *getattr(request, "param", ()))
    with ExitStack() as stack:
        for node in (place.first, place.second):
            stack.callback(node.kill)
        place.first.start()
        yield place


@pytest.fixture(params=FACES)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[Node], Any]]:
    """Makes a feed, of either face."""
    with ExitStack() as stack:

        def make(node: Node) -> Any:
            feed = FACES[request.param](node.url)
            stack.callback(feed.close)
            return feed

        yield make


def ids(found: Any) -> list[str]:
    """Return the event_ids."""
    return [n.event_id for n in found]


def cursors(cursor: Cursor, place: Place, directory: Path) -> dict[str, int]:
    """Return a cursor as each way to keep it gives it back, and as a mere number."""
    file, key = FileCursor(directory / "cursor"), RedisCursor(place.first.url, "cursor")
    file.store(cursor)
    key.store(cursor)
    with closing(sqlite3.connect(":memory:")) as db:
        applied = Applied(db)
        applied.advance(cursor)
        kept = {"file": file.load(), "redis": key.load(), "applied": applied.cursor}
    assert {Cursor, *map(type, kept.values())} == {Cursor}
    return {"carried": cursor, "number": int(cursor), **kept}


def _after(done: object, place: Place) -> Node:
    assert done
    return place.first


def noted(client: redis.Redis) -> list[Incarnation]:
    """Return the stream's incarnations."""
    found: Any = client.hget(KEYS.incarnations, "list")
    return parse(found)


def emptied(place: Place) -> Callable[[], Node]:
    """FLUSHALL."""
    return lambda: _after(place.client.flushall(), place)


def deleted(place: Place) -> Callable[[], Node]:
    """DEL of the stream alone."""
    return lambda: _after(place.client.delete(N), place)


def renamed(place: Place) -> Callable[[], Node]:
    """RENAME: the stream is put aside."""
    return lambda: _after(place.client.rename(N, "aside"), place)


def emptied_and_made(place: Place) -> Callable[[], Node]:
    """FLUSHALL, and a group on the stream, which makes an empty one."""

    def lose() -> Node:
        place.client.flushall()
        place.client.xgroup_create(N, "mine", mkstream=True)
        return place.first

    return lose


def put_back(place: Place) -> Callable[[], Node]:
    """RESTORE: an older copy of the stream, beside keys that know of more."""
    copy: Any = place.client.dump(N)
    return lambda: _after(place.client.restore(N, 0, copy, replace=True), place)


def older_snapshot(place: Place) -> Callable[[], Node]:
    """An older RDB file is restored."""
    place.client.save()
    place.keep_copy()
    return place.restored


def promoted_without_tail(place: Place) -> Callable[[], Node]:
    """A replica that lacks the tail is promoted."""
    place.follow_first()
    place.promoted()
    return lambda: place.second


EVERYTHING: Final = (emptied, deleted, renamed, emptied_and_made)
ITS_TAIL: Final = (put_back, older_snapshot, promoted_without_tail)


@pytest.mark.parametrize("loss", [*EVERYTHING, *ITS_TAIL])
def test_a_cursor_of_a_lost_history_is_told(
    place: Place, make: Callable[[Node], Any], loss: Callable[..., Any], tmp_path: Path
) -> None:
    """Whatever was lost, and however the cursor was kept: it raises, and those of now continue."""
    publish(place.first, "e0", "e1", "e2")
    kept = make(place.first).poll().cursor
    lose = loss(place)
    publish(place.first, "e3", "e4")
    lost = make(place.first).poll().cursor
    before = cursors(lost, place, tmp_path) | {"kept": kept}
    node = lose()
    new = publish(node, "e5", "e6", "e7")
    for name, cursor in before.items():
        if name == "kept" and loss in ITS_TAIL:
            for one in (kept, int(kept)):
                assert ids(make(node).poll(one)) == ["e5", "e6", "e7"], name
            continue
        for read in (make(node).poll, lambda since: next(make(node).follow(since))):
            with pytest.raises(FeedGap) as found:
                read(cursor)
            assert (found.value.kind, found.value.cursor) == ("made_anew", lost if cursor == lost
                                                              else kept), name  # fmt: skip
    assert ids(make(node).poll())[-3:] == ["e5", "e6", "e7"]
    for cursor in (new[0], Cursor(new[0], make(node).poll().cursor.incarnation)):
        assert ids(make(node).poll(cursor)) == ["e6", "e7"]


@pytest.mark.parametrize("place", [DURABLE], indirect=True)
def test_an_older_append_only_file_is_told(place: Place, make: Callable[[Node], Any]) -> None:
    """Restored from an older copy of it, the stream is another history, too."""
    publish(place.first, "e0")
    place.keep_copy()
    publish(place.first, "e1")
    lost = make(place.first).poll().cursor
    place.restored()
    publish(place.first, "e2", "e3")
    for cursor in (lost, int(lost)):
        with pytest.raises(FeedGap) as found:
            make(place.first).poll(cursor)
        assert found.value.kind == "made_anew"


@pytest.mark.parametrize("loss", [emptied, deleted, renamed, put_back])
def test_a_follower_that_is_there_is_told(
    place: Place, make: Callable[[Node], Any], loss: Callable[..., Any]
) -> None:
    """It followed all along, and the loss comes between two of its reads."""
    publish(place.first, "e0")
    lose = loss(place)
    publish(place.first, "e1")
    following = make(place.first).follow()
    assert ids([next(following), next(following)]) == ["e0", "e1"]
    publish(lose(), "e2", "e3")
    with pytest.raises(FeedGap) as found:
        next(following)
    assert found.value.kind == "made_anew"


def test_a_follower_that_is_blocked_meanwhile_is_told(
    place: Place, make: Callable[[Node], Any]
) -> None:
    """It waits in Redis for the next notification, and what wakes it is of another history."""
    publish(place.first, "e0")
    following = make(place.first).follow()
    assert ids([next(following)]) == ["e0"]

    def lose() -> None:
        until(lambda: place.client.info("clients")["blocked_clients"], "someone waits")
        place.client.flushall()
        publish(place.first, "e1", "e2")

    late = threading.Thread(target=lose)
    late.start()
    with pytest.raises(FeedGap):
        next(following)
    late.join()


def test_a_clock_that_is_behind_hides_nothing_from_a_cursor_that_is_kept_whole(
    place: Place, make: Callable[[Node], Any], tmp_path: Path
) -> None:
    """The new history has the very numbers of the lost one: a carried cursor is told all the same.

    A mere number is not: it names a notification that is there.
    """
    publish(place.first, "e0")
    place.follow_first()
    ahead = publish(place.first, "e1")[0] + 3600 * 10**6
    until(lambda: place.second.call("XLEN", N) == 2, "the replica has it")
    node = place.promoted()
    (lost,) = publish(place.first, "e2", highest=ahead)
    before = cursors(make(place.first).poll().cursor, place, tmp_path)
    assert lost in publish(node, "e3", "e4", highest=ahead)
    del before["number"]
    for cursor in before.values():
        with pytest.raises(FeedGap) as found:
            make(node).poll(cursor)
        assert found.value.kind == "made_anew"


@pytest.mark.parametrize("loss", [deleted, renamed, put_back])
def test_a_clock_that_is_behind_gives_no_number_that_was_given(
    place: Place, loss: Callable[..., Any]
) -> None:
    """What was published last is noted beside the stream: a new worker begins above it."""
    publish(place.first, "e0")
    lose = loss(place)
    ahead = int(time.time() * 1e6) + 3600 * 10**6
    (given,) = publish(place.first, "e1", highest=ahead)
    assert publish(lose(), "e2", "e3") == [given + 1, given + 2]


def test_a_replica_without_the_tail_begins_above_what_its_readers_passed(place: Place) -> None:
    """A reader that is there before the first notification says what the lost tail was."""
    publish(place.first, "e0")
    lose = promoted_without_tail(place)
    ahead = int(time.time() * 1e6) + 3600 * 10**6
    (lost,) = publish(place.first, "e1", highest=ahead)
    node = lose()
    with redis.Redis.from_url(node.url, protocol=2) as client:
        passed(client, KEYS, "away", 2, 60)
        passed(client, KEYS, "fleet", lost, 60)
        passed(client, KEYS, "wrong", ahead + 2 * 86400 * 10**6, 60)
        client.hset(KEYS.readers, "garbage", "x")
        client.sadd(KEYS.registered, "garbage", "nobody")
        client.sadd(KEYS.reader("garbage"), "x")
    assert publish(node, "e2", "e3") == [lost + 1, lost + 2]


def test_a_replica_without_the_tail_and_without_readers_goes_by_its_clock(place: Place) -> None:
    """Where nobody says what was lost, a new worker's numbers may lie below it: by the clock."""
    publish(place.first, "e0")
    lose = promoted_without_tail(place)
    ahead = int(time.time() * 1e6) + 3600 * 10**6
    (lost,) = publish(place.first, "e1", highest=ahead)
    (new,) = publish(lose(), "e2")
    assert new < lost


@pytest.mark.parametrize("place", [DURABLE], indirect=True)
@pytest.mark.parametrize("change", ["restarted", "promoted"])
def test_nothing_lost_is_no_gap(
    place: Place, make: Callable[[Node], Any], change: str, tmp_path: Path
) -> None:
    """A server that starts again, or takes over with all there was: every cursor continues."""
    publish(place.first, "e0", "e1")
    found = make(place.first).poll()
    node = place.first
    if change == "promoted":
        place.follow_first()
        node = place.promoted()
    before = [cursors(Cursor(n, found.cursor.incarnation), place, tmp_path)
              for n in (found[0].control_version, found.cursor)]  # fmt: skip
    if change == "restarted":
        node.kill()
        node.start()
    publish(node, "e2")
    with redis.Redis.from_url(node.url, protocol=2) as client:
        assert len(noted(client)) == 2
    for wanted, kept in zip((["e1", "e2"], ["e2"]), before, strict=True):
        for name, cursor in kept.items():
            assert ids(make(node).poll(cursor)) == wanted, name


def test_an_ordinary_life_is_one_incarnation(place: Place, make: Callable[[Node], Any]) -> None:
    """Workers that follow each other, trimming, and numbers that are times raise no gap."""
    for n in range(5):
        publish(place.first, f"a{n}", f"b{n}")
    found = make(place.first).poll()
    with place.client as client:
        assert len(noted(client)) == 1
        between = found[1].control_version + 1  # a time, between two runs
        assert ids(make(place.first).poll(between))[:2] == ["a1", "b1"]
        policies = {"control": Policy(), "notifications": Policy(length=4), "dead": Policy()}
        trim_once(Retention(client, client, KEYS, policies, dedup_window_s=0))
        publish(place.first, "last")
        cursor = found[5].control_version
        for since in (cursor, Cursor(cursor, found.cursor.incarnation)):
            assert ids(make(place.first).poll(since))[0] == "a3"
        with pytest.raises(FeedGap) as gap:
            make(place.first).poll(found[4].control_version)
        assert gap.value.kind == "trimmed"
        assert len(noted(client)) == 1


def test_a_stream_of_an_older_release_goes_on(place: Place, make: Callable[[Node], Any]) -> None:
    """Nobody noted its incarnation: from the first publish on it has one, and no cursor is lost."""
    before = publish(place.first, "e0", "e1")
    place.client.delete(KEYS.incarnations)
    numbers = [make(place.first).poll().cursor, *before]
    assert numbers[0].incarnation == ""
    for since in numbers[1:]:
        make(place.first).poll(since)
    publish(place.first, "e2")
    assert [ids(make(place.first).poll(n))[-1] for n in numbers] == ["e2"] * 3
    lose = put_back(place)
    (lost,) = publish(place.first, "e3")
    lose()
    publish(place.first, "e4")
    with pytest.raises(FeedGap) as found:
        make(place.first).poll(lost)
    assert found.value.kind == "made_anew"


def test_many_losses_take_no_more_room_than_some(place: Place, make: Callable[[Node], Any]) -> None:
    """The oldest incarnations are told apart no more, and what is there is read all the same."""
    numbers = [publish(place.first, "e0")[0]]
    oldest = make(place.first).poll().cursor
    for n in range(1, 80):
        place.client.hdel(KEYS.incarnations, "server")
        numbers += publish(place.first, f"e{n}")
    incarnations = noted(place.client)
    assert len(incarnations) == 64
    assert len(make(place.first).poll(oldest)) == 79
    for number in numbers[:-1]:
        assert make(place.first).poll(number)
    with pytest.raises(FeedGap):
        make(place.first).poll(numbers[3] + 1)  # in a stretch of which nobody can tell any more


def test_what_a_person_wrote_there_stops_nobody(place: Place, make: Callable[[Node], Any]) -> None:
    """A key of another type, or a list of nonsense, is replaced by the next publish."""
    publish(place.first, "e0")
    cursor = int(make(place.first).poll().cursor)
    place.client.set(KEYS.incarnations, "x")
    publish(place.first, "e1")
    assert ids(make(place.first).poll(cursor)) == ["e1"]
    place.client.hset(KEYS.incarnations, mapping={"list": "x\ny", "last": "z"})
    publish(place.first, "e2")
    assert ids(make(place.first).poll(cursor)) == ["e1", "e2"]
    assert len(noted(place.client)) == 1


def test_a_reader_beyond_a_stream_made_anew_does_not_keep_it(place: Place) -> None:
    """Registered with a cursor of the lost history, it neither blocks trimming nor leads it on."""
    client = place.client
    ahead = publish(place.first, "e0")[0] + 3600 * 10**6
    (lost,) = publish(place.first, "e1", highest=ahead)
    client.hset(KEYS.trimmed, N, f"{lost // 1000}-{lost % 1000}")
    client.delete(N, KEYS.incarnations)
    new = publish(place.first, "e2", "e3", "e4")
    passed(client, KEYS, "lost", lost, 3600)
    assert new[-1] < lost
    policies = {"control": Policy(), "notifications": Policy(length=1), "dead": Policy()}
    trim_once(Retention(client, client, KEYS, policies, dedup_window_s=0))
    assert client.xlen(N) == 1
    noted: Any = client.hget(KEYS.trimmed, N)
    assert noted.decode() == f"{new[1] // 1000}-{new[1] % 1000}"


def test_a_login_that_must_not_see_it_reads_on(
    place: Place, make: Callable[[Node], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An ACL of an older release: the feed warns, once, that it could not notice."""
    publish(place.first, "e0", "e1")
    place.client.acl_setuser(
        "old", enabled=True, nopass=True, commands=["+@all"], keys=[N, KEYS.trimmed]
    )
    first = make(place.first).poll().cursor
    node = Node("", place.first.port, place.copy)
    url = node.url.replace("://", "://old:x@")
    feed = type(make(place.first))(url)
    with closing(feed):
        assert ids(feed.poll()) == ["e0", "e1"]
        assert feed.poll(first) == feed.poll(int(first)) == []
    warnings = [one.getMessage() for one in caplog.records if one.name == "sidecar.feed"]
    assert len(warnings) == 1
    assert KEYS.incarnations in warnings[0]


@pytest.mark.parametrize("loss", [emptied, put_back])
def test_tail_follow_says_that_it_was_made_anew(
    place: Place, tmp_path: Path, loss: Callable[..., Any]
) -> None:
    """A position of the lost history ends with 3; a time or a count goes with what there is."""
    sidecar = Cli(place.first.url, tmp_path, place.client, {"SIDECAR_REDIS": place.first.url})
    publish(place.first, "e0")
    lose = loss(place)
    (lost,) = publish(place.first, "e1")
    lose()
    publish(place.first, "e2", "e3")
    for more in ((), ("--follow",)):
        ran = sidecar("tail", "--since", str(lost), *more)
        assert ran.code == 3
        assert "lost" in ran.err
    for since in (("--since", "1h", "-n", "1"), ("-n", "2"), ("--since", "0", "-n", "1")):
        assert sidecar("tail", *since).code == 0


def test_a_time_at_which_the_server_was_away_is_no_lost_position(
    place: Place, tmp_path: Path
) -> None:
    """`tail --since` a time between the last notification and a restart begins with what came."""
    sidecar = Cli(place.first.url, tmp_path, place.client, {"SIDECAR_REDIS": place.first.url})
    (last,) = publish(place.first, "e0")
    place.client.hdel(KEYS.incarnations, "server")
    publish(place.first, "e1")
    at = datetime.fromtimestamp((last + 2) / 1e6, UTC).isoformat(timespec="microseconds")
    ran = sidecar("tail", "--json", "--since", at)
    assert [n["event_id"] for n in ran.objects()] == ["e1"]
    assert sidecar("tail", "--since", str(last + 1)).code == 3

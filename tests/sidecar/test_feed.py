"""The feed of a fleet controller, and the producer, against a real server."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import store
from sidecar.feed import (
    Applied,
    AsyncFeed,
    Feed,
    FeedGap,
    FileCursor,
    Notification,
    RedisCursor,
    SidecarError,
    Unreachable,
)
from sidecar.producer import Producer
from sidecar.wire.event import Rejected
from sidecar.worker import app, logs
from sidecar.worker.settings import build
from tests.servers import named_stores

NOTIFICATIONS = "control:notifications"


@pytest.fixture
def producer(redis_url: str, tmp_path: Path) -> Producer:
    """A producer whose store is the worker's source."""
    return Producer(redis_url, "control:events", store.open_url((tmp_path / "source").as_uri()))


@pytest.fixture
def feed(redis_url: str, tmp_path: Path) -> Feed:
    """A feed that resolves in the fleet's store."""
    return Feed(redis_url, store=store.open_url((tmp_path / "fleet").as_uri()))


def relay(redis_url: str, tmp_path: Path) -> None:
    """Let a worker publish what there is."""
    settings = build(redis=redis_url, **named_stores(tmp_path), drain=True)
    assert app.run(settings, logs.configure("error"), threading.Event()) == 0


def test_from_producer_to_controller(
    producer: Producer, feed: Feed, redis_url: str, tmp_path: Path
) -> None:
    """What a producer publishes comes out of the feed, in order, resolved and verified."""
    for n in range(3):
        producer.publish(
            type="key.changed", ref="keys/1", data=b"%d" % n, manifest=b"m", tenant_id="t",
            event_id=f"e{n}", traceparent="00-a-b-01", region="eu",
        )  # fmt: skip
    relay(redis_url, tmp_path)
    found = feed.poll()
    assert [n.event_id for n in found] == ["e0", "e1", "e2"]
    assert [feed.resolve(n) for n in found] == [(b"0", b"m"), (b"1", b"m"), (b"2", b"m")]
    assert found[0].origin.startswith("control:events/")
    assert found[0].traceparent == "00-a-b-01"
    assert found[0].model_extra == {"region": "eu"}
    assert feed.poll(found[0].control_version) == found[1:]
    assert feed.poll(found[-1].control_version) == []
    assert feed.poll(limit=2) == found[:2]


def test_a_producer_that_sends_again_is_published_once(
    producer: Producer, feed: Feed, redis_url: str, tmp_path: Path
) -> None:
    """The same event_id, sent again by a producer that retries, has one notification."""
    for _ in range(2):
        producer.publish(type="run.abort", event_id="once")
    relay(redis_url, tmp_path)
    assert [n.event_id for n in feed.poll()] == ["once"]


def published(client: Any, *ids: int) -> None:
    """Append notifications with these control_versions."""
    for cv in ids:
        event = b'{"id":0,"event_id":"e%d","type":"run.abort","control_version":%d}' % (cv, cv)
        entry = f"{cv // 1000}-{cv % 1000}"
        client.xadd(NOTIFICATIONS, {"event": event, "origin": "control:events/1-0"}, id=entry)


def test_a_server_that_is_away(tmp_path: Path) -> None:
    """A poll and a publish say that Redis cannot be reached; the artifact is there already."""
    source = store.open_url((tmp_path / "source").as_uri())
    with pytest.raises(Unreachable):
        Feed("redis://127.0.0.1:1").poll()
    with pytest.raises(Unreachable):
        Producer("redis://127.0.0.1:1", "s", source).publish(type="t", ref="a", data=b"d")
    assert source.exists("a")


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "stack.activated"},
        {"type": "run.abort", "version": 2**63},
        {"type": "run.abort", "note": "\ud800"},
        {"type": "run.abort", "note": float("nan")},
        {"type": "run.abort", "note": b"bytes"},
        {"type": "run.abort", "event_id": "a\nb"},
    ],
)
def test_a_producer_refuses_before_it_writes(
    producer: Producer, client: Any, fields: dict[str, Any]
) -> None:
    """An event that breaks a rule is refused before its artifact is put or it is appended."""
    with pytest.raises(Rejected):
        producer.publish(ref="a", data=b"d", **fields)
    assert client.exists("control:events") == 0


def test_a_producer_passes_wide_numbers_on(
    producer: Producer, feed: Feed, client: Any, redis_url: str, tmp_path: Path
) -> None:
    """An unknown field with an integer of any width comes through digit by digit."""
    producer.publish(type="run.abort", wide=12345678901234567890123)
    relay(redis_url, tmp_path)
    ((_, fields),) = client.xrange(NOTIFICATIONS)
    assert b'"wide":12345678901234567890123,' in fields[b"event"]
    assert len(feed.poll()) == 1


# --- filters, and the position -----------------------------------------------------------------


def plant(client: Any, number: int, **fields: str) -> int:
    """Append the notification that has the control_version 1000 * number; return that."""
    event = {"id": 0, "event_id": f"e{number}", "type": "key.changed",
             "control_version": 1000 * number, **fields}  # fmt: skip
    entry: Any = {"event": json.dumps(event), "origin": f"control:events/{number}-0"}
    client.xadd(NOTIFICATIONS, entry, id=f"{number}-0")
    return 1000 * number


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"tenant": "a"}, [1, 3]),
        ({"type": "run.abort"}, [3]),
        ({"ref_prefix": "rows/x"}, [1, 4]),
        ({"ref_prefix": "rows/x/"}, [1, 4]),
        ({"tenant": "a", "type": "nothing"}, []),
    ],
)
def test_a_feed_is_for_what_it_was_asked(
    client: Any, redis_url: str, wanted: dict[str, Any], found: list[int]
) -> None:
    """Filters leave out the rest; the position moves over it, so that it is not read again."""
    plant(client, 1, tenant_id="a", artifact_ref="rows/x", checksum="sha256:" + "0" * 64)
    plant(client, 2, tenant_id="b", artifact_ref="rows/xy", checksum="sha256:" + "0" * 64)
    plant(client, 3, tenant_id="a", type="run.abort")
    last = plant(client, 4, artifact_ref="rows/x/1", checksum="sha256:" + "0" * 64)
    feed = Feed(redis_url, **wanted)
    assert [n.control_version // 1000 for n in feed.poll()] == found
    assert feed.position == last
    one_by_one = Feed(redis_url, **wanted)
    polled: list[Notification] = []
    while page := one_by_one.poll(one_by_one.position, limit=1):
        polled += page
    assert [n.control_version // 1000 for n in polled] == found


def test_the_position_is_never_ahead_of_what_was_yielded(client: Any, redis_url: str) -> None:
    """While the consumer works at one, the position does not lie past it."""
    first, _ = plant(client, 1, tenant_id="a"), plant(client, 2, tenant_id="b")
    third = plant(client, 3, tenant_id="a")
    feed = Feed(redis_url, tenant="a")
    following = feed.follow()
    assert next(following).control_version == feed.position == first
    assert next(following).control_version == feed.position == third


# --- asyncio -----------------------------------------------------------------------------------


def test_the_async_face_reads_the_same(producer: Producer, redis_url: str, tmp_path: Path) -> None:
    """Poll, follow, resolve, open and passed: the same names, awaited."""
    for n in range(3):
        producer.publish(
            type="key.changed", ref="k", data=b"%d" % n, manifest=b"m", event_id=f"e{n}"
        )
    relay(redis_url, tmp_path)
    fleet = store.open_url((tmp_path / "fleet").as_uri())

    async def read() -> tuple[list[str], list[str], list[bytes]]:
        feed = AsyncFeed(redis_url, store=fleet, reader="r")
        polled = await feed.poll()
        followed: list[str] = []
        async for notification in feed.follow():
            followed.append(notification.event_id)
            if len(followed) == len(polled):
                break
        assert feed.position == polled[-1].control_version
        artifacts = await asyncio.gather(*map(feed.resolve, polled))
        with await feed.open(polled[0]) as reader:
            assert reader.read() == b"0"
        await feed.passed(feed.position)
        with pytest.raises(FeedGap):
            await feed.poll(2**52)
        await feed.close()
        return [n.event_id for n in polled], followed, [a.data for a in artifacts]

    assert asyncio.run(read()) == (["e0", "e1", "e2"], ["e0", "e1", "e2"], [b"0", b"1", b"2"])


def test_a_cancelled_read_leaves_the_feed_in_order(client: Any, redis_url: str) -> None:
    """A task that gives up waiting at any moment disturbs no later read."""

    async def read() -> list[int]:
        feed = AsyncFeed(redis_url)
        plant(client, 1)
        for pause_s in (0.0, 0.001, 0.01, 0.05):
            waiting = asyncio.create_task(feed.poll(1000, wait_s=1.0))
            await asyncio.sleep(pause_s)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        plant(client, 2)
        found = [n.control_version for n in await feed.poll()]
        await feed.close()
        return found

    assert asyncio.run(read()) == [1000, 2000]


def test_the_async_face_outlives_a_broken_connection(client: Any, redis_url: str) -> None:
    """A follower whose connection is cut continues where it was."""

    async def read() -> list[int]:
        feed, found = AsyncFeed(redis_url), []
        plant(client, 1)
        async for notification in feed.follow():
            found.append(notification.control_version)
            if len(found) == 3:
                break
            client.client_kill_filter(_type="normal", skipme=True)
            plant(client, len(found) + 1)
        await feed.close()
        return found

    assert asyncio.run(read()) == [1000, 2000, 3000]


# --- cursors -----------------------------------------------------------------------------------


def note(number: int) -> Notification:
    """Return a notification."""
    return Notification(event_id=f"e{number}", type="run.abort", control_version=number)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return a controller's own database."""
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        yield db


def test_what_was_applied_is_no_news(db: sqlite3.Connection, tmp_path: Path) -> None:
    """An event is news once, whatever its control_version; a rollback takes its note with it."""
    applied = Applied(db)
    assert applied.cursor == 0
    with db:
        assert applied.is_news(note(1))
    assert applied.is_news(note(2))
    db.rollback()
    with closing(sqlite3.connect(tmp_path / "db")) as opened_again:
        again = Applied(opened_again)
        assert again.cursor == 1
        assert again.is_news(note(2))
        assert not again.is_news(note(1).model_copy(update={"control_version": 3}))
        assert again.cursor == 3


def test_behind_a_snapshot_what_comes_after_it_is_news_again(db: sqlite3.Connection) -> None:
    """Who begins anew with a snapshot applies again what the snapshot does not have."""
    applied = Applied(db)
    assert [applied.is_news(note(n)) for n in (1, 2, 3)] == [True] * 3
    applied.move_to(2)
    assert applied.cursor == 2
    assert [applied.is_news(note(n)) for n in (2, 3)] == [False, True]


def test_the_cursor_advances_over_what_brings_nothing(db: sqlite3.Connection) -> None:
    """It moves forward only, and what was applied is still known."""
    applied = Applied(db)
    assert applied.is_news(note(5))
    applied.advance(9)
    assert applied.cursor == 9
    applied.advance(7)
    assert applied.cursor == 9
    assert not applied.is_news(note(5).model_copy(update={"control_version": 10}))


def remembered(db: sqlite3.Connection) -> int:
    """Return how many events the guard knows."""
    (count,) = db.execute("SELECT count(*) FROM sidecar_applied").fetchone()
    return int(count)


def test_what_was_applied_long_ago_is_forgotten(db: sqlite3.Connection) -> None:
    """The table is as large as what `remember_s` has, however long a controller runs."""
    applied, second = Applied(db, remember_s=100), 1_000_000
    for number in range(1, 1001):
        assert applied.is_news(note(number * second))
        assert remembered(db) <= 101
    assert not applied.is_news(note(950 * second))
    assert applied.is_news(note(850 * second))


def test_no_notification_forgets_much(db: sqlite3.Connection) -> None:
    """A table that an earlier release left shrinks by one row with each that comes."""
    forever, second = Applied(db, remember_s=None), 1_000_000
    for number in range(1, 101):
        forever.is_news(note(number * second))
    assert remembered(db) == 100
    applied = Applied(db, remember_s=1)
    applied.is_news(note(1000 * second))
    assert remembered(db) == 99
    applied.is_news(note(1000 * second + 1))
    assert remembered(db) == 98


@pytest.mark.parametrize("remember_s", [0, -1, math.inf, math.nan])
def test_a_time_that_is_none_is_refused(db: sqlite3.Connection, remember_s: float) -> None:
    """To remember nothing would apply twice; for ever is None."""
    with pytest.raises(ValueError, match="remember_s"):
        Applied(db, remember_s=remember_s)


@pytest.mark.parametrize("options", [{}, {"isolation_level": None}])
def test_an_advance_is_committed_by_its_caller(tmp_path: Path, options: dict[str, Any]) -> None:
    """It belongs to the transaction that applies, first or last in it: both last, or neither."""
    with closing(sqlite3.connect(tmp_path / "db", **options)) as db:
        applied = Applied(db)
        with suppress(KeyboardInterrupt), db:
            applied.advance(9)
            raise KeyboardInterrupt
        assert (applied.cursor, db.in_transaction) == (0, False)
        with db:
            applied.advance(9)
        assert db.in_transaction is False
    with closing(sqlite3.connect(tmp_path / "db", **options)) as db:
        assert Applied(db).cursor == 9


@pytest.mark.parametrize("options", [{}, {"isolation_level": None}])
def test_what_is_rolled_back_was_not_applied(tmp_path: Path, options: dict[str, Any]) -> None:
    """The change, the note and the cursor go together, with either kind of connection."""
    with closing(sqlite3.connect(tmp_path / "db", **options)) as db:
        db.execute("CREATE TABLE mine (x)")
        applied = Applied(db)
        with suppress(KeyboardInterrupt), db:
            assert applied.is_news(note(1))
            db.execute("INSERT INTO mine VALUES (1)")
            raise KeyboardInterrupt
    with closing(sqlite3.connect(tmp_path / "db", **options)) as db:
        applied = Applied(db)
        assert (applied.cursor, db.execute("SELECT count(*) FROM mine").fetchone()) == (0, (0,))
        with db:
            assert applied.is_news(note(1))
        assert applied.cursor == 1


@pytest.mark.parametrize("cut", range(17))
def test_a_torn_file_is_no_cursor(tmp_path: Path, cut: int) -> None:
    """A file that lost its end is refused, where it would read as a lower cursor, too."""
    cursor = FileCursor(tmp_path / "cursor")
    cursor.store(1_795_000_000_123_456)
    whole = (tmp_path / "cursor").read_bytes()
    (tmp_path / "cursor").write_bytes(whole[:cut])
    with pytest.raises(SidecarError, match="remove it"):
        cursor.load()


def test_a_file_cursor_is_whole_or_the_one_before(tmp_path: Path) -> None:
    """A crash while it is stored leaves the old one; what is no cursor is refused."""
    path = tmp_path / "cursor"
    cursor = FileCursor(path)
    assert cursor.load() == 0
    cursor.store(7)
    (tmp_path / ".cursor.part").write_text("9")  # a crash before the rename
    assert FileCursor(path).load() == 7
    cursor.store(8)
    assert FileCursor(path).load() == 8
    path.write_text("8x")
    with pytest.raises(SidecarError, match="remove it to begin with a snapshot"):
        cursor.load()


def test_a_cursor_in_redis(redis_url: str, client: Any, tmp_path: Path) -> None:
    """It is there for the next one; another value at its key is refused."""
    assert RedisCursor(redis_url, "cursor").load() == 0
    RedisCursor(redis_url, "cursor").store(7)
    assert RedisCursor(redis_url, "cursor").load() == 7
    client.set("cursor", "x")
    with pytest.raises(SidecarError, match="not a control_version"):
        RedisCursor(redis_url, "cursor").load()
    with pytest.raises(Unreachable):
        RedisCursor(f"unix://{tmp_path}/nobody", "cursor").load()


def test_it_is_light_to_import() -> None:
    """A controller that imports the feed brings in no worker, no command line and no backend."""
    program = "import sys, sidecar.feed; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    heavy = {"typer", "rich", "structlog", "prometheus_client", "sidecar.worker", "sidecar.ops",
             "sidecar.cli", "store.file", "store.object"}  # fmt: skip
    assert not heavy & set(ran.stdout.split())

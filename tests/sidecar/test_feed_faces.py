"""Both faces of the feed, by one suite, against a real server."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

import store
from sidecar.feed import FeedGap, ForeignEntry, UsageError, registration
from sidecar.redis import bounded
from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.readers import registered
from store.memory import MemoryStore
from tests.sidecar.faces import FACES
from tests.sidecar.harness import eventually
from tests.topology.harness import server

NOTIFICATIONS = "control:notifications"
KEYS = Keys.of("control:events", NOTIFICATIONS)
Make = Callable[..., Any]


@pytest.fixture(params=FACES)
def make(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a feed, of either face, that resolves in the fleet's store."""
    fleet = store.open_url((tmp_path / "fleet").as_uri())
    with ExitStack() as stack:

        def make(url: str = redis_url, **options: Any) -> Any:
            feed = FACES[request.param](url, **({"store": fleet} | options))
            stack.callback(feed.close)
            return feed

        yield make


@pytest.fixture
def feed(make: Make) -> Any:
    """A feed without options."""
    return make()


def published(client: Any, *ids: int, stream: str = NOTIFICATIONS, **fields: str) -> None:
    """Append notifications with these control_versions."""
    for cv in ids:
        event = {"id": 0, "event_id": f"e{cv}", "type": "run.abort", "control_version": cv} | fields
        entry = f"{cv // 1000}-{cv % 1000}"
        body = {"event": json.dumps(event), "origin": "control:events/1-0"}
        client.xadd(stream, body, id=entry)


def versions(found: Any) -> list[int]:
    """Return the control_versions."""
    return [n.control_version for n in found]


class Streamless(MemoryStore):
    """A store that pins, and does not stream."""

    capabilities = frozenset({store.Capability.PINNED_GET})


# --- waking up, and what it outlives ---------------------------------------------------------


def test_follow_wakes_and_outlives_a_broken_connection(feed: Any, client: Any) -> None:
    """A follower whose connection is cut continues where it was, without a gap or a repeat."""
    published(client, 1000)
    following = feed.follow()
    assert next(following).control_version == 1000
    client.client_kill_filter(_type="normal", skipme=True)
    published(client, 2000)
    assert next(following).control_version == 2000


def test_a_follower_that_waits_is_woken(feed: Any, client: Any) -> None:
    """What is appended while a follower is blocked in Redis reaches it."""
    following = feed.follow()
    late = threading.Thread(target=publish_once_blocked, args=(client, 1000))
    late.start()
    assert next(following).control_version == 1000
    late.join()


def publish_once_blocked(client: Any, cv: int) -> None:
    """Append a notification as soon as someone waits for it."""
    eventually(lambda: client.info("clients")["blocked_clients"], "someone waits")
    published(client, cv)


def test_poll_waits_for_the_first(feed: Any, client: Any) -> None:
    """A poll that may wait returns what comes meanwhile; one that may not, nothing."""
    assert feed.poll() == feed.poll(wait_s=0.001) == []
    late = threading.Thread(target=publish_once_blocked, args=(client, 1000))
    late.start()
    assert versions(feed.poll(wait_s=20)) == [1000]
    late.join()


def test_a_server_that_is_started_again(make: Make, tmp_path: Path) -> None:
    """A follower outlives the server, and continues without a gap or a repeat when it is back."""
    node = server(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    node.start()

    def start_again() -> None:
        node.start()
        publish_once_blocked(connect(node.url), 3000)

    try:
        with redis.Redis.from_url(node.url) as client:
            published(client, 1000, 2000)
            following = make(node.url).follow()
            assert versions([next(following), next(following)]) == [1000, 2000]
            node.kill()
            late = threading.Thread(target=start_again)
            late.start()
            assert next(following).control_version == 3000
            late.join()
    finally:
        node.kill()


def test_a_server_that_lost_everything(make: Make, tmp_path: Path) -> None:
    """A follower of a server that comes back empty is told of the gap."""
    node = server(tmp_path)
    node.start()
    try:
        with redis.Redis.from_url(node.url) as client:
            published(client, 1000)
            following = make(node.url).follow()
            next(following)
            node.kill()
            node.start()
            with pytest.raises(FeedGap, match="no stream"):
                next(following)
    finally:
        node.kill()


def test_an_outage_is_told_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A follower warns when its server goes away, whatever it tries, and tells when it is back."""
    caplog.set_level("INFO", "sidecar.feed")
    node = server(tmp_path)
    secret = node.url.replace("://", "://default:secret@")

    def start_later() -> None:
        eventually(lambda: caplog.records)
        time.sleep(0.5)  # so long several tries fail, of which none may warn again
        node.start()
        publish_once_blocked(connect(secret), 1000)

    late = threading.Thread(target=start_later)
    late.start()
    try:
        assert versions([next(make(secret).follow())]) == [1000]
        late.join()
    finally:
        node.kill()
    away, _absent, back = caplog.records
    assert (away.levelname, back.levelname) == ("WARNING", "INFO")
    shown = node.url
    assert away.getMessage().startswith(f"waiting: {shown} cannot be reached (Error 111")
    assert back.getMessage() == f"{shown} is back"


def test_a_login_that_is_refused_is_not_waited_out(make: Make, redis_url: str) -> None:
    """A follower whose password is wrong says so instead of trying for ever."""
    wrong = make(redis_url.replace("://", "://:wrong@"))
    with pytest.raises(UsageError, match="refuses the login"):
        next(wrong.follow())


# --- gaps, and what is no notification -------------------------------------------------------


def test_a_cursor_before_what_was_trimmed_is_a_gap(feed: Any, client: Any) -> None:
    """A trim that someone made by hand is told to a reader that it overtook, and to no other."""
    published(client, 1000, 2000, 3000, 4000)
    client.xtrim(NOTIFICATIONS, minid="3", approximate=False)
    with pytest.raises(FeedGap):
        feed.poll(1000)
    assert versions(feed.poll(0)) == [3000, 4000]
    assert versions(feed.poll(3000)) == [4000]


def test_a_noted_trim_is_no_gap_for_who_has_read_it(feed: Any, client: Any) -> None:
    """With the trim noted, a reader whose cursor is where it ended continues."""
    published(client, 1000, 2000, 3000)
    client.xtrim(NOTIFICATIONS, minid="3", approximate=False)
    client.hset("{control:notifications}:trimmed", NOTIFICATIONS, "2-0")
    assert versions(feed.poll(2000)) == [3000]
    with pytest.raises(FeedGap):
        feed.poll(1000)


def test_a_stream_that_lost_its_tail_is_a_gap(feed: Any, client: Any) -> None:
    """A cursor above the stream's end, or of a stream that is gone, raises: nothing is skipped."""
    published(client, 1000)
    with pytest.raises(FeedGap, match="tail"):
        feed.poll(2000)
    client.delete(NOTIFICATIONS)
    with pytest.raises(FeedGap, match="no stream"):
        feed.poll(1000)


def test_a_gap_tells_which_and_where(feed: Any, client: Any) -> None:
    """A gap says whether the beginning or the tail is gone, and where the stream lies now."""
    with pytest.raises(FeedGap) as nothing:
        feed.poll(1000)
    published(client, 1000, 2000, 3000, 4000)
    client.xtrim(NOTIFICATIONS, minid="3", approximate=False)
    with pytest.raises(FeedGap) as trimmed:
        feed.poll(1000)
    with pytest.raises(FeedGap) as lost:
        next(feed.follow(9000))
    client.xtrim(NOTIFICATIONS, maxlen=0, approximate=False)
    with pytest.raises(FeedGap) as emptied:
        feed.poll(1000)
    gaps = [found.value for found in (nothing, trimmed, lost, emptied)]
    assert [(gap.kind, gap.cursor, gap.first, gap.end) for gap in gaps] == [
        ("tail_lost", 1000, 1, 0),
        ("trimmed", 1000, 3000, 4000),
        ("tail_lost", 9000, 3000, 4000),
        ("trimmed", 1000, 4001, 4000),
    ]


def test_an_entry_of_no_sidecar_stops_the_feed_there(feed: Any, client: Any) -> None:
    """What is before a foreign entry is read; then it is told, with the cursor that passes it."""
    published(client, 1000)
    client.xadd(NOTIFICATIONS, {"strange": "entry"}, id="2-0")
    published(client, 3000)
    assert versions(feed.poll()) == [1000]
    with pytest.raises(ForeignEntry, match="since=2000"):
        feed.poll(1000)
    following = feed.follow()
    assert next(following).control_version == 1000
    with pytest.raises(ForeignEntry, match="since=2000"):
        next(following)
    assert versions(feed.poll(2000)) == [3000]


def test_an_entry_whose_id_is_no_cursor_is_foreign(feed: Any, client: Any) -> None:
    """An entry that someone copied under another ID is refused: its cursor would lead astray."""
    event = '{"id":0,"event_id":"e","type":"run.abort","control_version":1000}'
    client.xadd(NOTIFICATIONS, {"event": event, "origin": "control:events/1-0"}, id="2-0")
    with pytest.raises(ForeignEntry, match="since=2000"):
        feed.poll()


@pytest.mark.parametrize("cursor", [5, 1_700_000_000, 1_700_000_000_000, 1_700_000_000 * 10**9])
def test_a_number_that_never_was_a_cursor(make: Make, client: Any, cursor: int) -> None:
    """The gap of a count, of seconds, milliseconds or nanoseconds says what a cursor is."""
    published(client, 1_790_000_000_000_000)
    began = b"ab 0 1790000000000000\n"
    client.hset(Keys.of("", NOTIFICATIONS).incarnations, "list", began)
    with pytest.raises(FeedGap, match=r"never was one.*microseconds.* 1790000000000000"):
        make().poll(since=cursor)
    with pytest.raises(FeedGap, match=r"of another stream.* 1790000000000000"):
        make().poll(since=1_700_000_000_000_000)


# --- artifacts -------------------------------------------------------------------------------


def test_resolving_needs_an_artifact_and_a_store(make: Make, client: Any) -> None:
    """A notification without artifact, and a feed without store, are errors that say so."""
    published(client, 1000)
    feed = make()
    (found,) = feed.poll()
    with pytest.raises(ValueError, match="names no artifact"):
        feed.resolve(found)
    named = found.model_copy(update={"artifact_ref": "a", "checksum": "sha256:" + "0" * 64})
    with pytest.raises(UsageError, match="was given none"):
        make(store=None).resolve(named)
    with pytest.raises(store.NotFound):
        feed.resolve(named)


@pytest.mark.parametrize("keeps", [MemoryStore, Streamless])
def test_large_artifacts_are_opened(make: Make, client: Any, keeps: type[MemoryStore]) -> None:
    """An opened artifact is the pinned one, whatever was put at its ref since."""
    fleet = keeps()
    fleet.put("a/b", b"data", b"manifest")
    fleet.put("a/b", b"newer", b"manifest")
    pin = {"artifact_ref": "a/b", "checksum": store.checksum_of(b"data")}
    published(client, 1000, **pin, manifest_checksum=store.checksum_of(b"manifest"))
    feed = make(store=fleet)
    (found,) = feed.poll()
    with feed.open(found) as reader:
        assert (reader.read(2), reader.read(), reader.manifest) == (b"da", b"ta", b"manifest")
    with pytest.raises(store.NotFound):
        feed.open(found.model_copy(update={"artifact_ref": "a"}))


# --- filters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "found"),
    [
        ({"tenant": "t_1"}, [1000, 3000]),
        ({"tenant": ["t_1", "t_2"]}, [1000, 2000, 3000]),
        ({"type": {"key.changed"}}, [2000, 3000]),
        ({"tenant": ("t_1",), "type": "key.changed"}, [3000]),
        ({"ref_prefix": "rows/keys"}, [2000, 3000]),
        ({"ref_prefix": "rows/keys/t_1/"}, [3000]),
        ({"ref_prefix": "rows/key"}, []),
        ({"tenant": [""]}, [4000]),
        ({"tenant": None, "type": None, "ref_prefix": ""}, [1000, 2000, 3000, 4000]),
    ],
)
def test_filters(make: Make, client: Any, only: dict[str, Any], found: list[int]) -> None:
    """A feed gives what fits all its filters, and its cursor passes what does not."""
    published(client, 1000, tenant_id="t_1")
    published(client, 2000, tenant_id="t_2", type="key.changed", artifact_ref="rows/keys/t_2")
    published(client, 3000, tenant_id="t_1", type="key.changed", artifact_ref="rows/keys/t_1")
    published(client, 4000)
    batch = make(**only).poll()
    assert (versions(batch), batch.cursor, batch.more) == (found, 4000, False)


@pytest.mark.parametrize("option", ["tenant", "type"])
@pytest.mark.parametrize("empty", [[], set(), ""])
def test_a_filter_that_is_empty_is_refused(make: Make, option: str, empty: Any) -> None:
    """A set of names that came out empty does not read everything."""
    with pytest.raises(UsageError, match=f"{option}=.* is empty; leave it out"):
        make(**{option: empty})


def test_a_poll_reads_on_until_something_fits(make: Make, client: Any) -> None:
    """A poll is empty only when nothing that fits is there, however much there is besides."""
    published(client, *range(1000, 2000, 10))
    published(client, 2000, tenant_id="t_1")
    published(client, *range(3000, 4000, 100), 4000)
    feed = make(tenant="t_1")
    batch = feed.poll(limit=7)
    assert (versions(batch), batch.more) == ([2000], True)
    last = feed.poll(batch.cursor, limit=1)
    assert (last, last.cursor) == ([], 4000)


def test_a_filtered_tail_moves_the_cursor(make: Make, client: Any) -> None:
    """What was filtered out may be trimmed without a gap, across a reconnect, too."""
    feed = make(tenant="t_1")
    batches = feed.batches()
    published(client, 1000, tenant_id="t_1")
    assert versions(next(batches)) == [1000]
    published(client, 2000, 3000)
    empty = next(batches)
    assert (empty, empty.cursor) == ([], 3000)
    client.hset(KEYS.trimmed, NOTIFICATIONS, "3-0")
    client.xtrim(NOTIFICATIONS, minid="4", approximate=False)
    client.client_kill_filter(_type="normal", skipme=True)
    published(client, 4000, tenant_id="t_1")
    assert versions(next(batches)) == [4000]
    assert versions(feed.poll(empty.cursor)) == [4000]


# --- the registered reader -------------------------------------------------------------------


def test_a_follower_registers_where_it_begins(make: Make, client: Any) -> None:
    """A reader is known before anything comes to it, as one that needs what is after its cursor."""
    published(client, 500)

    def publish_once_registered() -> None:
        eventually(lambda: registered(client, KEYS))
        published(client, 1000)

    late = threading.Thread(target=publish_once_registered)
    late.start()
    assert next(make(reader="c1").follow(500)).control_version == 1000
    late.join()
    assert positions(client) == {"c1": 500}


def test_a_cursor_in_a_gap_registers_nothing(make: Make, client: Any) -> None:
    """Who has to begin anew keeps nothing from being trimmed until then, and then from there."""
    published(client, 1000, 2000)
    feed = make(reader="c1")
    with pytest.raises(FeedGap):
        next(feed.follow(9000))
    assert positions(client) == {}
    next(feed.follow(1000))
    assert positions(client) == {"c1": 1000}


def test_a_full_redis_registers_the_reader_later(
    make: Make, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While Redis has no memory a reader reads, warns once, and is registered when it has some."""
    caplog.set_level("INFO", "sidecar.feed")
    published(client, 1000, 2000, 3000)
    feed = make(reader="c1")
    client.config_set("maxmemory", 1)
    try:
        following = feed.follow()
        assert versions([next(following), next(following)]) == [1000, 2000]
        feed.passed(1000)
        feed.passed(2000)
        assert positions(client) == {}
    finally:
        client.config_set("maxmemory", 0)
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "no note of the reader 'c1'" in warning.getMessage()
    assert "maxmemory" in warning.getMessage()
    published(client, 4000)
    assert versions([next(following), next(following)]) == [3000, 4000]
    assert positions(client) == {"c1": 2000}
    assert caplog.records[-1].getMessage().endswith("has taken note of the reader 'c1'")


def test_a_reader_that_may_not_register_is_told(make: Make, client: Any, redis_url: str) -> None:
    """A reader whose user may not note its position is refused, not left unprotected."""
    published(client, 1000)
    client.acl_setuser(
        "meek", reset=True, enabled=True, nopass=True, keys=["*"], categories=["+@all"],
        commands=["-getset"],
    )  # fmt: skip
    try:
        feed = make(redis_url.replace("://", "://meek:x@"), reader="c1")
        with pytest.raises(UsageError, match="lacks a permission"):
            next(feed.follow())
        with pytest.raises(UsageError, match="lacks a permission"):
            feed.passed(1000)
    finally:
        client.acl_deluser("meek")


def test_a_note_that_does_not_get_through_is_told_later(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader that passes something while Redis is away continues, and is not forgotten."""
    node = server(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    node.start()
    try:
        with redis.Redis.from_url(node.url) as client:
            published(client, 1000)
            feed = make(node.url, reader="c1")
            following = feed.follow()
            next(following)
            node.kill()
            feed.passed(1000)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            node.start()
            late = threading.Thread(target=publish_once_blocked, args=(client, 2000))
            late.start()
            next(following)
            late.join()
            assert positions(client) == {"c1": 1000}
    finally:
        node.kill()


def test_a_server_that_takes_no_writes_can_be_followed(make: Make, client: Any) -> None:
    """What refuses a note for a while, such as a lack of memory, ends no controller."""
    published(client, 1000)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        feed = make(reader="c1")
        following = feed.follow()
        next(following)
        feed.passed(1000)
    finally:
        client.config_set("maxmemory", before)
    published(client, 2000)
    next(following)
    assert positions(client) == {"c1": 1000}


def test_only_a_reader_with_a_name_can_pass(feed: Any) -> None:
    """A feed without the name of a reader says so, and can be read as before."""
    with pytest.raises(UsageError, match="needs a name"):
        feed.passed(1000)
    assert feed.poll() == []


def positions(client: Any) -> dict[str, int]:
    """Return what each registered reader has passed."""
    return {reader.name: reader.control_version for reader in registered(client, KEYS).good}


def test_an_idle_reader_does_not_expire(
    make: Make, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that nothing comes to says that it is there, and claims no more than it passed."""
    monkeypatch.setattr(registration, "HEARTBEAT_S", 0)
    feed = make(reader="c1")
    feed.passed(500)
    (before,) = registered(client, KEYS).good
    published(client, 500, 1000)
    following = feed.follow(500)
    assert next(following).control_version == 1000
    (after,) = registered(client, KEYS).good
    assert after.seen_us > before.seen_us
    assert after.control_version == 500


def test_a_stream_that_is_not_there_is_waited_for(
    make: Make, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and no reader of it is noted: its name may be mistyped."""
    feed, keys = make(reader="r"), Keys.of("", NOTIFICATIONS)
    feed.passed(0)
    client.delete(keys.registered)
    for _ in range(2):
        assert feed.poll() == []
    feed.passed(1)
    assert not client.exists(keys.registered)
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert NOTIFICATIONS in caplog.text
    published(client, 1_790_000_000_000_000)
    assert len(feed.poll()) == 1
    feed.passed(1)
    assert client.exists(keys.registered)


def test_a_giant_among_the_notifications_takes_no_memory(
    make: Make, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as a foreign one, as it would be with little in it; and what follows is read."""
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(bounded, "MOST_KEPT_BYTES", 2 << 20)
    published(client, 1000)
    filler = "x" * (1 << 20)
    giant = [part for number in range(16) for part in (f"f{number}", filler)]
    client.execute_command("XADD", NOTIFICATIONS, "1-1", *giant)
    published(client, 1002)
    feed = make()
    tracemalloc.start()
    try:
        assert versions(feed.poll()) == [1000]
        with pytest.raises(ForeignEntry) as told:
            feed.poll(1000)
        assert versions(feed.poll(told.value.cursor)) == [1002]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told.value.cursor == 1001
    assert peak < 8 << 20


def test_what_is_too_much_at_once_is_read_by_fewer(
    make: Make, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left out, and the connection stays in step."""
    monkeypatch.setattr(bounded, "MOST_BYTES", 6 << 10)
    monkeypatch.setattr(bounded, "MOST_KEPT_BYTES", 12 << 10)
    every = list(range(1000, 1040))
    published(client, *every, tenant_id="t" * 200)
    feed, cursor, found = make(), 0, []
    while page := feed.poll(cursor):
        found += versions(page)
        cursor = page.cursor
    assert found == every

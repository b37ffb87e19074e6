"""What became of an event, and waiting for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import store
from sidecar.errors import Unreachable
from sidecar.ops.readership import Readership
from sidecar.producer import Producer
from sidecar.redis import awaiting, holdups
from sidecar.redis.awaiting import Awaiting, Outcome, Sought
from sidecar.redis.client import Client, Side, connect
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held, Members
from sidecar.redis.readers import passed
from sidecar.wire.event import Rejected, content_digest, decode
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import EntryId
from tests import servers
from tests.sidecar.harness import eventually
from tests.sidecar.test_feed import relay

STREAM: Final = "control:events"
KEYS: Final = Keys.of(STREAM, "control:notifications")
NOW_MS: Final = 1_791_234_567_890
LONG_S: Final = 60.0


def event(event_id: str = "e", **more: Any) -> dict[str, Any]:
    """Return a small event."""
    return {"event_id": event_id, "type": "run.abort", "tenant_id": "t", **more}


def publish(
    client: redis.Redis, body: dict[str, Any], ms: int = NOW_MS, origin: str = "1-0"
) -> int:
    """Append a notification, and nothing to the index; return its control_version."""
    raw = json.dumps({"id": 0, **body, "control_version": ms * 1000}, separators=(",", ":"))
    fields: dict[Any, Any] = {"event": raw, "origin": f"{STREAM}/{origin}"}
    client.xadd(KEYS.notifications, fields, id=f"{ms}-0")
    return ms * 1000


def remember(client: redis.Redis, body: dict[str, Any], control_version: int) -> None:
    """Note an event in the index."""
    digest = identity_digest(body["event_id"])
    content = content_digest(decode({b"event": json.dumps(body).encode()})[1])
    client.hset(KEYS.seen(digest), digest[2:], content + str(control_version).encode())


def bury(client: redis.Redis, body: dict[str, Any] | bytes, origin: str = "1-0") -> None:
    """Append a dead letter."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields: dict[Any, Any] = {
        "event": raw, "reason": "artifact_missing", "detail": "nothing there",
        "origin": f"{STREAM}/{origin}", "attempts": "1", "first_seen": "x", "dead_at": "x",
    }  # fmt: skip
    client.xadd(KEYS.dead, fields)


@contextmanager
def asking(url: str, sought: Sought, kind: type[Awaiting] = Awaiting) -> Iterator[Awaiting]:
    """Return what waits for an event."""
    with closing(connect(url)) as control:
        yield kind(Side(control, url), url, [KEYS], sought)


def looked(url: str, sought: Sought, timeout_s: float = 0.0) -> Outcome:
    """Return what is known of an event now."""
    with asking(url, sought) as one:
        return one.outcome(timeout_s)


@contextmanager
def waiting(
    url: str, client: redis.Redis, sought: Sought, kind: type[Awaiting] = Awaiting
) -> Iterator[Future[Outcome]]:
    """Wait for an event in a thread; begin once that blocks."""
    with asking(url, sought, kind) as one, ThreadPoolExecutor(1) as pool:
        future = pool.submit(one.outcome, LONG_S)
        eventually(lambda: future.done() or blocked(client))
        yield future


def blocked(client: redis.Redis) -> bool:
    """Tell whether somebody blocks."""
    return int(client.info("clients")["blocked_clients"]) > 0


# --- looking ------------------------------------------------------------------------------------


def test_what_the_index_knows_is_published(redis_url: str, client: redis.Redis) -> None:
    """Also when its notification has been trimmed."""
    remember(client, event(), 17)
    assert looked(redis_url, Sought("e")) == Outcome("published", "e", 17)
    ours = Sought("e", origin=f"{STREAM}/1-0")
    assert looked(redis_url, ours) == Outcome("published", "e", 17)


def test_a_dead_letter_tells_reason_and_fix(redis_url: str, client: redis.Redis) -> None:
    """The newest of the event counts, and a later notification counts in its place."""
    bury(client, event("other"))
    bury(client, event(artifact_ref="r", checksum="sha256:" + "0" * 64))
    found = looked(redis_url, Sought("e"))
    assert (found.state, found.reason, found.detail) == (
        "dead",
        "artifact_missing",
        "nothing there",
    )
    assert "sidecar store exists r" in found.fix
    remember(client, event(), 17)
    assert looked(redis_url, Sought("e")).state == "published"


def test_what_was_sent_again_after_it_died_waits(redis_url: str, client: redis.Redis) -> None:
    """A dead letter is no end where the event is in the control stream once more."""
    bury(client, event())
    client.xadd(STREAM, {"event": json.dumps(event())})
    assert looked(redis_url, Sought("e")).state == "waiting"


def test_what_died_behind_an_unfinished_entry_is_dead(redis_url: str, client: redis.Redis) -> None:
    """Its own entry, above the lowest unfinished one, is not the event sent again."""
    client.xadd(STREAM, {"event": json.dumps(event("held"))}, id="1-0")
    client.xadd(STREAM, {"event": json.dumps(event())}, id="1-1")
    client.set(KEYS.low, "1-0")
    bury(client, event(), "1-1")
    assert looked(redis_url, Sought("e")).state == "dead"
    client.xadd(STREAM, {"event": json.dumps(event())}, id="1-2")
    assert looked(redis_url, Sought("e")).state == "waiting"


def test_a_broken_event_is_found_by_what_can_be_read(redis_url: str, client: redis.Redis) -> None:
    """Its dead letter has the event_id, whatever else is wrong."""
    bury(client, b'{"event_id":"e","version":"x"}')
    bury(client, b"no JSON")
    found = looked(redis_url, Sought("e"))
    assert (found.state, found.event_id) == ("dead", "e")
    assert looked(redis_url, Sought("no")).state == "waiting"


def test_a_version_of_a_stack_is_found_in_all_notifications(
    redis_url: str, client: redis.Redis
) -> None:
    """Of its tenant and of that version alone; a dead one too."""
    for at in range(1500):
        publish(client, event(f"e{at}", stack_id="web", version=at), NOW_MS + at)
    publish(client, event("of another", tenant_id="u", stack_id="web", version=7), NOW_MS + 9000)
    found = looked(redis_url, Sought("", "t", "web", 7))
    assert found == Outcome("published", "e7", (NOW_MS + 7) * 1000)
    bury(client, event("dead", stack_id="web", version=8000))
    assert looked(redis_url, Sought("", "t", "web", 8000)).state == "dead"


# --- being woken ----------------------------------------------------------------------------------


def test_a_notification_wakes_it(redis_url: str, client: redis.Redis) -> None:
    """The entry itself, for the index says nothing here; others do not end the wait."""
    with waiting(redis_url, client, Sought("ž")) as future:
        publish(client, event("other"), NOW_MS)
        eventually(lambda: blocked(client))
        assert not future.done()
        body = event("ž", x={"event_id": "ž"})
        raw = json.dumps(body | {"control_version": 1}, ensure_ascii=False, separators=(",", ":"))
        client.xadd(KEYS.notifications, {"event": raw, "origin": f"{STREAM}/1-0"}, id=f"{NOW_MS}-1")
        assert future.result(LONG_S).state == "published"


def test_a_dead_letter_wakes_it(redis_url: str, client: redis.Redis) -> None:
    """That of the event, and no other's."""
    with waiting(redis_url, client, Sought("e")) as future:
        bury(client, event("other"))
        bury(client, event())
        assert future.result(LONG_S).reason == "artifact_missing"


@pytest.mark.parametrize("plant", [publish, bury])
def test_nothing_is_missed_between_the_look_and_the_wait(
    redis_url: str, client: redis.Redis, plant: Callable[..., Any]
) -> None:
    """What comes after it was looked, and before it is waited, is read."""

    class Late(Awaiting):
        def _looked(self, client_: Client) -> Outcome | None:
            found = super()._looked(client_)
            plant(client, event())
            return found

    with asking(redis_url, Sought("e"), Late) as one:
        assert one.outcome(LONG_S).state in ("published", "dead")


def test_of_what_was_sent_just_now_a_repeat_is_told_from_a_conflict(
    redis_url: str, client: redis.Redis
) -> None:
    """Another entry's notification is the end of a repeat; with other content it is none."""
    content = content_digest(decode({b"event": json.dumps(event()).encode()})[1])
    mine = Sought("e", origin=f"{STREAM}/2-0", content=content)
    with waiting(redis_url, client, mine) as future:
        at = publish(client, event(stack_id="another content"))
        eventually(lambda: blocked(client))
        bury(client, event(), "2-0")
        assert future.result(LONG_S).state == "dead"
    client.delete(KEYS.notifications, KEYS.dead)
    with waiting(redis_url, client, mine) as future:
        publish(client, event())
        assert future.result(LONG_S) == Outcome("duplicate", "e", at)
    remember(client, event(), at)
    assert looked(redis_url, mine) == Outcome("duplicate", "e", at)
    assert looked(redis_url, mine._replace(content=b"x" * 16)).state == "waiting"


def test_it_outlives_a_redis_that_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, so that each ID lies below what was read: it looks again, and not only once it has
    read in vain for the time of a block.
    """
    monkeypatch.setattr(awaiting, "BLOCK_S", 10 * LONG_S)
    with servers.running(servers.usual()) as first:
        log = [redis.Redis(port=first.port)]
        publish(log[0], event("before"), NOW_MS + 10**9)
        with waiting(first.url, log[0], Sought("e")) as future:
            first.process.kill()
            first.process.wait()
            log[0].close()
            with (
                servers.running(servers.usual(), port=first.port),
                redis.Redis(port=first.port) as client,
            ):
                publish(client, event(), NOW_MS)
                remember(client, event(), NOW_MS * 1000)
                assert future.result(LONG_S).state == "published"


def test_streams_that_were_emptied_meanwhile_are_noticed(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an outage too, once a read has blocked for so long."""
    monkeypatch.setattr(awaiting, "BLOCK_S", 0.05)
    publish(client, event("before"), NOW_MS + 10**9)
    with waiting(redis_url, client, Sought("e")) as future:
        client.delete(KEYS.notifications)
        publish(client, event())
        remember(client, event(), NOW_MS * 1000)
        assert future.result(LONG_S).state == "published"


def test_a_redis_that_is_away_at_the_end_is_no_outcome() -> None:
    """It is neither dead nor waiting: nobody knows."""
    with pytest.raises(Unreachable):
        looked(f"redis://127.0.0.1:{servers.free_port()}/0", Sought("e"))


# --- what it waits for ----------------------------------------------------------------------------


def why(redis_url: str) -> str:
    """Return what the event waits for."""
    found = looked(redis_url, Sought("e"))
    assert found.state == "waiting"
    return found.waits_for


def test_it_is_said_what_it_waits_for(redis_url: str, client: redis.Redis) -> None:
    """Each cause in its turn, the one that holds it back first."""
    assert "nothing of that name in control:events" in why(redis_url)
    client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    for event_id in ("a", "b", "e"):
        client.xadd(STREAM, {"event": json.dumps(event(event_id))})
    assert why(redis_url) == "no worker serves control:events"
    with closing(connect(redis_url)) as ours:
        members = Members(ours, KEYS, name="host:1", serves=[STREAM], lease_s=LONG_S)
        members.beat([STREAM])
        assert "no worker has read it yet: 2 entries are before it" in why(redis_url)
        client.xreadgroup(KEYS.group, "worker", {STREAM: ">"})
        assert why(redis_url) == "a worker has read it and works on it"
        held = Held(f"{STREAM}/1-0", "t", "a", "nothing at r", 3, "since", "then", outage=False)
        members.beat([STREAM], held=[held])
        assert "held back: a was tried 3 times" in why(redis_url)
        client.hset(KEYS.paused, "t", json.dumps({"reason": "why", "since": "s", "by": "me"}))
        assert "the tenant 't' is paused since s by me: why" in why(redis_url)
        client.hset(KEYS.halt, mapping={"reason": "full stop", "since": "s", "by": "me"})
        assert "control:events is halted since s by me: full stop" in why(redis_url)


# --- readers and producers ---------------------------------------------------------------------


def test_a_reader_that_was_seen_to_have_passed_has_passed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says later; all are those that there are when it is first looked."""
    with closing(connect(redis_url)) as client:
        passed(client, KEYS, "a", 10, 60)
        passed(client, KEYS, "b", 9, 60)
        readers = Readership(client, KEYS, None)
        assert readers.passed(10, 0) == {"a": True, "b": False}
        passed(client, KEYS, "a", 1, 60)
        passed(client, KEYS, "c", 1, 60)
        monkeypatch.setattr("time.sleep", lambda _: passed(client, KEYS, "b", 10, 60))
        assert readers.passed(10, LONG_S) == {"a": True, "b": True}
        assert Readership(client, KEYS, ["nobody"]).passed(10, 0) == {"nobody": False}


def test_a_producer_asks_what_became_of_what_it_sent(redis_url: str, tmp_path: Path) -> None:
    """Published, a repeat of that, a conflict with it, and what nobody sent."""
    source = store.open_url((tmp_path / "source").as_uri())
    with closing(Producer(redis_url, STREAM, source)) as producer:

        def sent(tenant: str, type_: str = "key.changed") -> Outcome:
            producer.publish(type=type_, tenant_id=tenant, event_id="e")
            worker = threading.Thread(target=relay, args=(redis_url, tmp_path))
            worker.start()
            found = producer.outcome("e", LONG_S)
            worker.join()
            return found

        first = sent("t")
        assert first.state == "published"
        assert EntryId.of_version(first.control_version).ms > NOW_MS
        assert sent("t") == Outcome("duplicate", "e", first.control_version)
        assert sent("u").reason == "id_conflict"
        assert producer.outcome("unsent", 0).state == "waiting"
        with closing(Producer(redis_url, STREAM, source)) as other:
            assert other.outcome("e", 0) == first


def test_what_no_event_can_have_is_refused(redis_url: str) -> None:
    """By the field's name."""
    with (
        closing(Producer(redis_url, STREAM, store.open_url("memory:"))) as producer,
        pytest.raises(Rejected, match="event_id: it is no text"),
    ):
        producer.outcome("\udc80", 0)


def test_a_producer_remembers_a_bounded_number(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with what it sends."""
    monkeypatch.setattr("sidecar.producer.direct.MOST_REMEMBERED", 3)
    with closing(Producer(redis_url, STREAM, store.open_url("memory:"))) as producer:
        for number in range(10):
            producer.publish(type="run.abort", event_id=f"e{number}")
        assert list(producer._sent) == ["e7", "e8", "e9"]


def test_unfinished_entries_are_looked_through_from_the_lowest(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies before it is finished; and no more is read than a bound."""
    for at, event_id in enumerate(("e", "a", "b", "c"), start=1):
        client.xadd(STREAM, {"event": json.dumps(event(event_id))}, id=f"{at}-0")
    client.set(KEYS.low, "2-0")
    with closing(connect(redis_url)) as ours:
        side = Side(ours, redis_url)

        def place(name: str) -> str | None:
            found = holdups.unfinished(side, ours, KEYS, Sought(name).is_event)
            return found and found.id

        assert place("e") is None
        assert place("c") == "4-0"
        monkeypatch.setattr(holdups, "MOST_SCANNED", 2)
        assert place("c") is None

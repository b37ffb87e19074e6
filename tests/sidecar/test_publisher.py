"""What the scripts write: fence, lease, publish once, dead letters, and the keys they use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from sidecar.errors import UsageError
from sidecar.redis.keys import Keys, hash_tagged
from sidecar.redis.lease import Fenced
from sidecar.redis.publisher import (
    Buried,
    Halted,
    Letter,
    Outbound,
    Outcome,
    Publisher,
    Seen,
    dead_mark,
    is_dead,
    origin_digest,
)
from sidecar.redis.scan import server_time_us
from sidecar.redis.source import Entry
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin
from sidecar.wire.incarnations import parse
from sidecar.worker.letter import cut

KEYS = Keys.of("control:events", "control:notifications")
NOW = "2026-11-22T12:00:00.000Z"


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to the real, empty server."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def publisher(client: redis.Redis, *, lease_s: float = 60, window_s: float = 3600) -> Publisher:
    """Return a publisher that owns nothing yet."""
    return Publisher(client, KEYS, lease_s=lease_s, dedup_window_s=window_s)


def owner(client: redis.Redis, **options: float) -> Publisher:
    """Return a publisher that owns the control stream."""
    found = publisher(client, **options)
    assert found.acquire() is not None
    return found


def identity(event_id: str, content: str = "content") -> bytes:
    """Return the digests of an event_id and of its content."""
    return identity_digest(event_id) + identity_digest(content)


def outbound(event_id: str, content: str = "content", trace: bytes = b"") -> Outbound:
    """Return an event to publish."""
    text = json.dumps({"id": 0, "event_id": event_id, "type": "t"})[:-1] + ',"control_version":'
    return Outbound(
        identity(event_id, content), text.encode(), Origin(f"control:events/{event_id}"), trace
    )


def entry_of(raw: bytes) -> Entry:
    """Return an entry with this value of `event`."""
    return Entry(EntryId("1-0"), {b"event": raw})


def letter(origin: str, event_id: str = "", content: str = "content", raw: bytes = b"{") -> Letter:
    """Return a dead letter."""
    found = identity(event_id, content) if event_id else b""
    return Letter(
        Origin(origin),
        found,
        {"event": raw, "origin": origin, "attempts": 0, "reason": "malformed"},
        mark=dead_mark(entry_of(raw)),
    )


def bury(
    by: Publisher, *letters: Letter, max_in_a_row: int = 100, low: str = "0-0"
) -> list[Buried]:
    """Bury letters."""
    return by.bury(letters, EntryId(low), max_in_a_row=max_in_a_row, now=NOW)


def clock_of(client: redis.Redis) -> int:
    """Return the server's time in microseconds."""
    answer: Any = client.time()
    seconds, microseconds = answer
    return int(seconds) * 1_000_000 + int(microseconds)


def entries(
    client: redis.Redis, key: str = KEYS.notifications
) -> list[tuple[str, dict[bytes, bytes]]]:
    """Return the entries of a stream."""
    found: Any = client.xrange(key)
    return [(entry_id.decode(), fields) for entry_id, fields in found]


# --- lease and fence -----------------------------------------------------------------------------


def test_one_owner_at_a_time(server: redis.Redis) -> None:
    """While a lease runs nobody else gets it; its owner may ask again."""
    first, second = publisher(server), publisher(server)
    assert first.acquire() == 0
    assert second.acquire() is None
    assert first.acquire() == 0
    assert first.renew() == ""
    with pytest.raises(Fenced):
        second.renew()


def test_a_lease_that_ran_out_is_taken_over(server: redis.Redis) -> None:
    """When the lease is gone another owner takes over, and the first is fenced for good."""
    first, second = owner(server), publisher(server)
    server.delete(KEYS.lease)
    assert second.acquire() == 1
    for act in (
        first.renew,
        lambda: first.publish([outbound("a")], EntryId("1-0")),
        lambda: bury(first, letter("s/1-0")),
    ):
        with pytest.raises(Fenced):
            act()
    assert first.acquire() is None
    first.release()
    assert server.exists(KEYS.lease)
    assert not server.exists(KEYS.notifications, KEYS.dead, KEYS.low)


def test_an_owner_whose_lease_ran_out_unnoticed_goes_on(server: redis.Redis) -> None:
    """The fence, not the lease, decides: with no successor the owner still publishes."""
    first = owner(server)
    server.delete(KEYS.lease)
    assert first.publish([outbound("a")], EntryId("1-0"))[0].outcome is Outcome.PUBLISHED
    assert first.renew() == ""
    assert server.exists(KEYS.lease)


def test_a_lost_fence_fences(server: redis.Redis) -> None:
    """A Redis that lost its memory has no fence, and nobody publishes without."""
    first = owner(server)
    server.flushall()
    with pytest.raises(Fenced):
        first.publish([outbound("a")], EntryId("1-0"))
    with pytest.raises(Fenced):
        bury(first, letter("s/1-0"))
    with pytest.raises(Fenced):
        first.renew()
    assert server.dbsize() == 0


def test_the_fence_is_compared_whole(server: redis.Redis) -> None:
    """A token that begins alike is another's."""
    first = owner(server)
    token: Any = server.get(KEYS.fence)
    for other in (token[:-1], token + b"0", b"", token.upper() + b" "):
        server.set(KEYS.fence, other)
        with pytest.raises(Fenced):
            first.publish([outbound("a")], EntryId("1-0"))


def test_the_lease_expires_and_the_fence_does_not(server: redis.Redis) -> None:
    """The lease has an expiry of its length, the fence none."""
    owner(server, lease_s=60)
    remaining: Any = server.pttl(KEYS.lease)
    assert 0 < remaining <= 60_000
    assert server.ttl(KEYS.fence) == -1


def test_a_released_lease_is_free_at_once(server: redis.Redis) -> None:
    """After a release the next owner need not wait, and counts no crash."""
    first, second = owner(server), publisher(server)
    first.release()
    assert second.acquire() == 0
    first.release()
    assert second.renew() == ""


def test_owners_that_die_are_counted_until_one_settles(server: redis.Redis) -> None:
    """Owners that end without settling or releasing are counted, in a row."""
    for expected in range(4):
        assert publisher(server).acquire() == expected
        server.delete(KEYS.lease)
    last = publisher(server)
    assert last.acquire() == 4
    last.settle()
    server.delete(KEYS.lease)
    assert publisher(server).acquire() == 0


def test_running_alone_is_counted_per_entry(server: redis.Redis) -> None:
    """The count of deaths alone is that of one entry, and begins anew with another."""
    one = owner(server)
    assert [one.run_alone(EntryId("1-0")) for _ in range(3)] == [0, 1, 2]
    assert one.run_alone(EntryId("2-0")) == 0
    assert one.run_alone(EntryId("1-0")) == 0
    one.settle()
    assert one.run_alone(EntryId("1-0")) == 0


# --- publish -------------------------------------------------------------------------------------


def test_publish(server: redis.Redis) -> None:
    """An event becomes an entry whose ID, stamp and answer are one number."""
    one = owner(server)
    before = clock_of(server)
    (verdict,) = one.publish([outbound("a", trace=b"00-ab")], EntryId("7-3"))
    stamp = verdict.control_version
    assert before <= stamp <= clock_of(server)
    assert verdict.outcome is Outcome.PUBLISHED
    ((entry_id, fields),) = entries(server)
    assert entry_id == f"{stamp // 1000}-{stamp % 1000}"
    assert fields.keys() == {b"event", b"origin", b"traceparent"}
    assert json.loads(fields[b"event"])["control_version"] == stamp
    assert fields[b"traceparent"] == b"00-ab"
    assert fields[b"origin"] == b"control:events/a"
    assert server.get(KEYS.low) == b"7-3"
    assert one.lowest_unfinished() == "7-3"


def test_without_a_trace_there_is_no_field_for_it(server: redis.Redis) -> None:
    """An event without traceparent makes an entry without."""
    owner(server).publish([outbound("a")], EntryId("1-0"))
    assert entries(server)[0][1].keys() == {b"event", b"origin"}


def test_a_duplicate_answers_with_the_first_control_version(server: redis.Redis) -> None:
    """The same event again, in one run or later, by whomever, is not published again."""
    one = owner(server)
    first, again, other = one.publish([outbound("a"), outbound("a"), outbound("b")], EntryId("1-0"))
    assert again == (Outcome.DUPLICATE, first.control_version)
    assert other.outcome is Outcome.PUBLISHED
    server.delete(KEYS.lease)
    two = owner(server)
    assert two.publish([outbound("a")], EntryId("1-0")) == [
        (Outcome.DUPLICATE, first.control_version)
    ]
    known = Outbound(identity("b"), b"", Origin("s/2-0"), b"")
    assert two.publish([known], EntryId("1-0")) == [(Outcome.DUPLICATE, other.control_version)]
    assert len(entries(server)) == 2


def test_what_could_not_be_appended_is_not_remembered(server: redis.Redis) -> None:
    """When the append fails, the event is not taken for published: sent again, it is."""
    server.acl_setuser(
        "reader", reset=True, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-xadd"]
    )
    one = owner(server)
    with redis.Redis(
        port=server.get_connection_kwargs()["port"], username="reader", password="any", protocol=2
    ) as barred:
        other = publisher(barred)
        server.delete(KEYS.lease)
        assert other.acquire() is not None
        with pytest.raises(redis.ResponseError, match="script"):
            other.publish([outbound("a")], EntryId("1-0"))
    server.acl_deluser("reader")
    server.delete(KEYS.lease)
    assert one.acquire() is not None
    (verdict,) = one.publish([outbound("a")], EntryId("1-0"))
    assert verdict.outcome is Outcome.PUBLISHED


def test_what_begins_no_incarnation_is_not_remembered(server: redis.Redis, redis_url: str) -> None:
    """An event whose incarnation could not be noted is published as soon as it can be."""
    server.acl_setuser(
        "reader", reset=True, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hset"]
    )
    try:
        with redis.Redis.from_url(redis_url, protocol=2, username="reader", password="x") as client:
            denied = owner(client)
            with pytest.raises(redis.ResponseError):
                denied.publish([outbound("e1")], EntryId("5-0"))
            assert not server.keys(f"{KEYS.prefix}:seen:*")
            server.execute_command("ACL SETUSER", "reader", "+hset")  # type: ignore[no-untyped-call]
            [verdict] = denied.publish([outbound("e1")], EntryId("5-0"))
            assert verdict.outcome is Outcome.PUBLISHED
    finally:
        server.acl_deluser("reader")


@contextmanager
def without(server: redis.Redis, redis_url: str, right: str) -> Iterator[tuple[Publisher, Any]]:
    """Yield an owner that loses a right, and what gives it back."""
    server.acl_setuser(
        "meek", reset=True, enabled=True, nopass=True, keys=["*"], commands=["+@all"]
    )
    change: Any = server.execute_command
    try:
        with redis.Redis.from_url(redis_url, protocol=2, username="meek", password="x") as client:
            one = owner(client)
            change("ACL SETUSER", "meek", f"-{right}")
            yield one, lambda: change("ACL SETUSER", "meek", f"+{right}")
    finally:
        server.acl_deluser("meek")


def test_what_could_not_be_appended_begins_no_incarnation(
    server: redis.Redis, redis_url: str
) -> None:
    """A stream that is made anew after that begins one with the first control_version it gives.

    Else each number below would be of a history that was lost, for readers again and again.
    """
    ahead_ms = server_time_us(server) // 1000 + 86_400_000
    with without(server, redis_url, "xadd") as (one, give_back):
        server.xadd(KEYS.notifications, {"hello": "world"}, id=f"{ahead_ms}-5")
        for _ in range(2):
            with pytest.raises(redis.ResponseError):
                one.publish([outbound("a")], EntryId("1-0"))
            assert set(server.hgetall(KEYS.incarnations)) <= {b""}
            server.delete(KEYS.notifications)
        give_back()
        [verdict] = one.publish([outbound("a")], EntryId("1-0"))
    noted: Any = server.hget(KEYS.incarnations, "list")
    [begun] = parse(noted)
    assert begun.began == verdict.control_version


@pytest.mark.parametrize("right", ["hmget", "info", "hget", "xrange"])
def test_a_right_lost_for_a_moment_changes_no_history(
    server: redis.Redis, redis_url: str, right: str
) -> None:
    """What cannot be read is not taken for damage: nothing is removed, or begun anew."""
    first = owner(server)
    first.publish([outbound("e1")], EntryId("5-0"))
    before = server.hgetall(KEYS.incarnations)
    first.release()
    with without(server, redis_url, right) as (one, give_back):
        with suppress(redis.ResponseError):
            one.publish([outbound("e2")], EntryId("6-0"))
        with suppress(redis.ResponseError):
            assert one.look(FIRST).incarnations
        give_back()
        one.publish([outbound("e2"), outbound("e3")], EntryId("6-0"))
        after = server.hgetall(KEYS.incarnations)
    assert {name: after[name] for name in (b"server", b"list")} == {
        name: before[name] for name in (b"server", b"list")
    }


@pytest.mark.parametrize("right", ["hdel", "hgetall"])
def test_a_right_lost_as_the_stream_is_made_anew_is_waited_for(
    server: redis.Redis, redis_url: str, right: str
) -> None:
    """A note of trimming beyond what the new stream has yet is not true of it; readers count."""
    first = owner(server)
    first.publish([outbound("e1")], EntryId("5-0"))
    first.release()
    ahead = clock_of(server) + 3_600_000_000
    server.hset(KEYS.trimmed, KEYS.notifications, f"{ahead}-0")
    server.hset(KEYS.readers, "r", f"{ahead} {clock_of(server)} 60")
    server.delete(KEYS.notifications)
    with without(server, redis_url, right) as (one, give_back):
        with pytest.raises(redis.ResponseError):
            one.publish([outbound("e2")], EntryId("6-0"))
        assert not server.exists(KEYS.notifications)
        give_back()
        (verdict,) = one.publish([outbound("e2")], EntryId("6-0"))
    assert verdict.control_version > ahead
    assert not server.hexists(KEYS.trimmed, KEYS.notifications)


@pytest.mark.parametrize("garbage", ["incarnations", "trimmed", "archived", "readers"])
def test_a_key_of_another_kind_stops_no_publish(server: redis.Redis, garbage: str) -> None:
    """What is beside the notifications gives way, or is passed over."""
    key = getattr(KEYS, garbage)
    server.set(key, "x")
    (verdict,) = owner(server).publish([outbound("e1")], EntryId("5-0"))
    assert verdict.outcome is Outcome.PUBLISHED
    assert server.type(key) == (b"hash" if garbage == "incarnations" else b"string")


def test_other_content_is_a_conflict(server: redis.Redis) -> None:
    """A used event_id with other content is a conflict; the rest of the run is done."""
    one = owner(server)
    one.publish([outbound("a")], EntryId("1-0"))
    run = [outbound("b"), outbound("a", "other"), outbound("c")]
    before, conflict, after = one.publish(run, EntryId("2-0"))
    assert before.outcome is after.outcome is Outcome.PUBLISHED
    assert conflict == (Outcome.CONFLICT, 0)
    assert one.seen([identity_digest("a")])[0] == Seen(
        identity_digest("content"), one.publish([outbound("a")], EntryId("3-0"))[0].control_version
    )


def test_low_is_noted_only_when_all_is_done(server: redis.Redis) -> None:
    """The lowest unfinished entry moves on only when the whole run is published."""
    one = owner(server)
    one.publish([outbound("a")], EntryId("1-0"))
    one.publish([outbound("a", "other"), outbound("b")], EntryId("2-0"))
    assert one.lowest_unfinished() == "1-0"
    one.publish([Outbound(identity("never"), b"", Origin("s/1-0"), b"")], EntryId("3-0"))
    assert one.lowest_unfinished() == "1-0"
    one.publish([outbound("a")], EntryId("4-0"))
    assert one.lowest_unfinished() == "4-0"


def test_a_forgotten_event_ends_the_run(server: redis.Redis) -> None:
    """What was taken for known and is not must be done in full; nothing behind it goes first."""
    one = owner(server)
    known = Outbound(identity("gone"), b"", Origin("s/1-0"), b"")
    verdicts = one.publish([outbound("a"), known, outbound("b")], EntryId("1-0"))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.PUBLISHED, Outcome.FORGOTTEN]
    assert len(entries(server)) == 1


def test_a_halted_stream_publishes_nothing(server: redis.Redis) -> None:
    """While the stream is halted nothing is published or buried; renewing tells why."""
    one = owner(server)
    server.hset(KEYS.halt, "reason", "by hand")
    with pytest.raises(Halted):
        one.publish([outbound("a")], EntryId("1-0"))
    with pytest.raises(Halted):
        bury(one, letter("s/1-0"))
    assert one.renew() == "by hand"
    assert not server.exists(KEYS.notifications, KEYS.dead, KEYS.low)
    assert one.seen([identity_digest("a")]) == [None]


def test_an_index_entry_looks_like_the_contract_says(server: redis.Redis) -> None:
    """The index holds content digest and position, in shards that do not expire."""
    one = owner(server, window_s=100)
    (verdict,) = one.publish([outbound("a")], EntryId("1-0"))
    digest = identity_digest("a")
    shard = KEYS.seen(digest)
    assert shard.startswith("{control:notifications}:seen:")
    value: Any = server.hget(shard, digest[2:])
    assert value == identity_digest("content") + str(verdict.control_version).encode()
    assert server.ttl(shard) == -1
    assert one.seen([digest, identity_digest("b")]) == [
        Seen(identity_digest("content"), verdict.control_version),
        None,
    ]


# --- the clock -----------------------------------------------------------------------------------


def test_the_clock_rises_within_a_run(server: redis.Redis) -> None:
    """Each event of a run gets a number of its own, rising."""
    one = owner(server)
    stamps = [
        v.control_version
        for v in one.publish([outbound(f"e{n}") for n in range(1500)], EntryId("1-0"))
    ]
    assert stamps == sorted(set(stamps))
    assert [entry_id for entry_id, _ in entries(server)] == [
        f"{s // 1000}-{s % 1000}" for s in stamps
    ]


@pytest.mark.parametrize(
    ("last", "expected"),
    [("{ms}-0", 1), ("{ms}-998", 999), ("{ms}-999", 1000), ("{ms}-5000", 1000)],
)
def test_the_clock_rises_above_the_streams_end(
    server: redis.Redis, last: str, expected: int
) -> None:
    """When the stream's last ID lies in the future the next is one above it, deleted or not."""
    ms = clock_of(server) // 1000 + 1_000_000
    for keep in (True, False):
        server.delete(KEYS.notifications, KEYS.incarnations, KEYS.fence, KEYS.lease)
        entry_id: Any = server.xadd(KEYS.notifications, {"x": "y"}, id=last.format(ms=ms))
        if not keep:
            server.xdel(KEYS.notifications, entry_id)
        (verdict,) = owner(server).publish([outbound(f"{keep}")], EntryId("1-0"))
        assert verdict.control_version == ms * 1000 + expected


def test_the_clock_rises_above_the_workers_own_highest(server: redis.Redis) -> None:
    """After Redis lost its memory and its time the worker's own highest still counts."""
    one = owner(server)
    ahead = clock_of(server) + 10_000_000_000
    server.xadd(KEYS.notifications, {"x": "y"}, id=f"{ahead // 1000}-{ahead % 1000}")
    (first,) = one.publish([outbound("a")], EntryId("1-0"))
    server.flushall()
    assert one.acquire() is not None
    (second,) = one.publish([outbound("b")], EntryId("1-0"))
    assert second.control_version == first.control_version + 1
    (third,) = one.publish([outbound("b")], EntryId("1-0"))
    (fourth,) = one.publish([outbound("c")], EntryId("1-0"))
    assert (third.outcome, fourth.control_version) == (
        Outcome.DUPLICATE,
        second.control_version + 1,
    )


# --- dead letters --------------------------------------------------------------------------------


def test_bury_once_an_origin(server: redis.Redis) -> None:
    """An origin has one letter, in one run or over many."""
    one = owner(server)
    assert bury(one, letter("s/1-0"), letter("s/2-0"), letter("s/1-0"), low="1-5") == [
        Buried.WRITTEN, Buried.WRITTEN, Buried.ALREADY,
    ]  # fmt: skip
    assert bury(one, letter("s/2-0")) == [Buried.ALREADY]
    assert len(entries(server, KEYS.dead)) == 2
    assert entries(server, KEYS.dead)[0][1] == {
        b"event": b"{", b"origin": b"s/1-0", b"attempts": b"0",
        b"reason": b"malformed",
    }  # fmt: skip
    (seen,) = one.seen([origin_digest("s/1-0")])
    assert seen is not None
    assert seen.content_digest == dead_mark(entry_of(b"{"))
    assert server.ttl(KEYS.seen(origin_digest("s/1-0"))) == -1


def test_an_id_given_again_to_another_entry_has_a_letter_of_its_own(server: redis.Redis) -> None:
    """Once each time: the mark is of the entry that the stream has now."""
    one = owner(server)
    first, other = letter("s/1-0"), letter("s/1-0", raw=b"[")
    assert bury(one, first, other, other) == [Buried.WRITTEN, Buried.WRITTEN, Buried.ALREADY]
    assert [fields[b"event"] for _, fields in entries(server, KEYS.dead)] == [b"{", b"["]
    (seen,) = one.seen([origin_digest("s/1-0")])
    assert is_dead(seen, entry_of(b"["))
    assert not is_dead(seen, entry_of(b"{"))


def test_a_giant_is_marked_by_what_its_letter_has_of_it(server: redis.Redis) -> None:
    """Recovery has the whole of it, the worker has cut it."""
    one = owner(server)
    whole = entry_of(b"x" * (2 * MAX_ENTRY_BYTES))
    assert bury(one, letter("s/1-0", raw=cut(whole).raw_event)) == [Buried.WRITTEN]
    (seen,) = one.seen([origin_digest("s/1-0")])
    assert is_dead(seen, whole)
    assert is_dead(seen, cut(whole))


def test_what_was_deleted_before_it_was_read_may_be_any_entry(server: redis.Redis) -> None:
    """Nothing is known of it: it has one letter with whatever had its ID."""
    one, gone = owner(server), Entry(EntryId("1-0"), {})
    lost = replace(letter("s/1-0"), mark=dead_mark(gone))
    assert bury(one, letter("s/1-0"), lost) == [Buried.WRITTEN, Buried.ALREADY]
    (seen,) = one.seen([origin_digest("s/1-0")])
    assert is_dead(seen, gone)
    assert bury(one, replace(lost, origin=Origin("s/2-0")), letter("s/2-0")) == [
        Buried.WRITTEN, Buried.ALREADY,
    ]  # fmt: skip


def test_the_mark_of_an_older_release_counts_for_any_entry(server: redis.Redis) -> None:
    """It does not say which entry it is of; what is no mark at all counts for none."""
    one = owner(server)
    origin = origin_digest("s/1-0")
    server.hset(KEYS.seen(origin), origin[2:], b"-" * 16 + b"7")
    assert is_dead(one.seen([origin])[0], entry_of(b"anything"))
    assert bury(one, letter("s/1-0")) == [Buried.ALREADY]
    one.publish([outbound("origin s/2-0")], EntryId("1-0"))
    assert bury(one, letter("s/2-0")) == [Buried.WRITTEN]


def test_bury_never_what_is_published(server: redis.Redis) -> None:
    """An event that is published gets no letter; other content under its ID does."""
    one = owner(server)
    one.publish([outbound("a")], EntryId("1-0"))
    assert bury(one, letter("s/1-0", "a")) == [Buried.PUBLISHED]
    assert bury(one, letter("s/2-0", "b")) == [Buried.WRITTEN]
    assert bury(one, letter("s/3-0", "a", "other")) == [Buried.WRITTEN]
    assert len(entries(server, KEYS.dead)) == 2


def test_bury_notes_low(server: redis.Redis) -> None:
    """A letter notes the lowest unfinished entry."""
    one = owner(server)
    bury(one, letter("s/1-0"), low="5-0")
    assert one.lowest_unfinished() == "5-0"


def test_bury_notes_the_lowest_of_all_that_follow(server: redis.Redis) -> None:
    """Letters that are not in the order of their entries never pass over an unwritten one."""
    one = owner(server)
    run = [letter("s/10-0"), letter("s/5-0"), letter("s/4-0")]
    assert bury(one, *run, low="20-0", max_in_a_row=1) == [Buried.HALTED_NOW]
    assert one.lowest_unfinished() == "4-0"


def test_letters_in_a_row_halt(server: redis.Redis) -> None:
    """The last letter allowed halts the stream, and those behind it are not written."""
    one = owner(server)
    letters = [letter(f"s/{n}-0") for n in range(1, 6)]
    assert bury(one, *letters, max_in_a_row=3) == [
        Buried.WRITTEN, Buried.WRITTEN, Buried.HALTED_NOW,
    ]  # fmt: skip
    assert len(entries(server, KEYS.dead)) == 3
    halt: Any = server.hgetall(KEYS.halt)
    assert (halt[b"reason"], halt[b"since"], halt[b"by"]) == (
        b"3 dead letters in a row, the last for malformed", NOW.encode(), b"sidecar",
    )  # fmt: skip
    assert one.renew().startswith("3 dead letters")


def test_letters_of_many_tenants_pause_them_in_one_run(server: redis.Redis) -> None:
    """Behind the letter that pauses a tenant none of its own is written; those of others are."""
    one, run = owner(server), "a b a b a b a a b b c"
    letters = [
        replace(letter(f"s/{n}-0"), tenant=tenant) for n, tenant in enumerate(run.split(), 1)
    ]
    server.config_resetstat()
    found = bury(one, *letters, low="99-0", max_in_a_row=4)
    stats: Any = server.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    written, paused, not_now = Buried.WRITTEN, Buried.PAUSED_NOW, Buried.NOT_NOW
    assert found == [written] * 6 + [paused, not_now, paused, not_now, written]
    assert len(entries(server, KEYS.dead)) == 9
    assert sorted(one.paused()) == ["a", "b"]
    assert one.lowest_unfinished() == "8-0"
    assert bury(one, letters[-1], max_in_a_row=4) == [Buried.ALREADY]


def test_a_publish_resets_the_count(server: redis.Redis) -> None:
    """Dead letters in a row are counted until something is published; a duplicate is not that."""
    one = owner(server)
    bury(one, letter("s/1-0"), letter("s/2-0"), max_in_a_row=3)
    one.publish([outbound("a")], EntryId("1-0"))
    assert bury(one, letter("s/3-0"), letter("s/4-0"), max_in_a_row=3) == [Buried.WRITTEN] * 2
    one.publish([outbound("a")], EntryId("1-0"))
    bury(one, letter("s/4-0"), letter("s/5-0", "a"), max_in_a_row=3)
    assert one.renew() == ""
    assert bury(one, letter("s/6-0"), max_in_a_row=3) == [Buried.HALTED_NOW]


def test_zero_never_halts(server: redis.Redis) -> None:
    """With a limit of zero nothing is counted."""
    one = owner(server)
    assert bury(one, *[letter(f"s/{n}-0") for n in range(1, 120)], max_in_a_row=0) == (
        [Buried.WRITTEN] * 119
    )
    assert one.renew() == ""


def test_a_letter_that_fails_leaves_no_mark(server: redis.Redis) -> None:
    """When the letter cannot be written its origin does not count as buried."""
    one = owner(server)
    server.set(KEYS.dead, "in the way")
    with pytest.raises(redis.ResponseError):
        bury(one, letter("s/1-0"))
    server.delete(KEYS.dead)
    assert bury(one, letter("s/1-0")) == [Buried.WRITTEN]


def test_letters_in_a_row_halt_whatever_cannot_be_noted(
    server: redis.Redis, redis_url: str
) -> None:
    """Letters are written and count, also where the lowest unfinished entry cannot be noted."""
    with without(server, redis_url, "set") as (one, _), pytest.raises(redis.ResponseError):
        bury(one, letter("s/1-0"), letter("s/2-0"), max_in_a_row=2)
    assert server.xlen(KEYS.dead) == 2
    assert server.hexists(KEYS.halt, "reason")


def test_a_letter_that_cannot_be_marked_is_not_written(server: redis.Redis, redis_url: str) -> None:
    """A letter whose origin could not be remembered is none: its event may be published later."""
    server.acl_setuser(
        "meek", reset=True, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hset"]
    )
    try:
        with redis.Redis.from_url(redis_url, protocol=2, username="meek", password="x") as client:
            denied = owner(client)
            with pytest.raises(redis.ResponseError):
                bury(denied, letter("s/1-0"))
            assert not server.exists(KEYS.dead)
            server.execute_command("ACL SETUSER", "meek", "+hset")  # type: ignore[no-untyped-call]
            assert bury(denied, letter("s/1-0")) == [Buried.WRITTEN]
    finally:
        server.acl_deluser("meek")


def test_a_publish_that_fails_leaves_no_mark(server: redis.Redis) -> None:
    """When the notification cannot be written its event does not count as published."""
    one = owner(server)
    server.set(KEYS.notifications, "in the way")
    with pytest.raises(redis.ResponseError):
        one.publish([outbound("a")], EntryId("1-0"))
    server.delete(KEYS.notifications)
    (verdict,) = one.publish([outbound("a")], EntryId("1-0"))
    assert verdict.outcome is Outcome.PUBLISHED


def test_no_memory_left(server: redis.Redis) -> None:
    """A server without memory refuses, and afterwards everything is done once."""
    one = owner(server)
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            one.publish([outbound("a")], EntryId("1-0"))
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            bury(one, letter("s/1-0"))
    finally:
        server.config_set("maxmemory", 0)
    assert one.publish([outbound("a")], EntryId("1-0"))[0].outcome is Outcome.PUBLISHED
    assert bury(one, letter("s/1-0")) == [Buried.WRITTEN]


def test_bytes_pass_through_the_scripts(server: redis.Redis) -> None:
    """Scripts splice: any bytes and large numbers come out as they went in."""
    one = owner(server)
    strange = b'{"event_id":"\xc3\xa9","x":12345678901234567890,"y":[],"z":1e2,"control_version":'
    (verdict,) = one.publish(
        [Outbound(identity("é"), strange, Origin("s/é"), b"\x00\xff")], EntryId("1-0")
    )
    fields = entries(server)[0][1]
    assert fields[b"event"] == strange + str(verdict.control_version).encode() + b"}"
    assert fields[b"traceparent"] == b"\x00\xff"
    assert fields[b"origin"] == "s/é".encode()


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["control:notifications", "{fleet}:n", "n{fleet}", "a{b}c{d}", "{{a}b", "é", "}{x}"]
)
@pytest.mark.parametrize("control", ["control:events", "{other}:s", "a}b{"])
def test_all_keys_share_a_slot(name: str, control: str) -> None:
    """Every key that a script takes lies in the notification stream's slot of a Cluster."""
    keys = Keys.of(control, name)
    names = [
        keys.notifications, keys.dead, keys.fence, keys.lease, keys.low, keys.halt, keys.redriven,
        keys.seen(b"\x00" * 16), keys.seen(b"\xff" * 16),
    ]  # fmt: skip
    assert len({key_slot(key.encode()) for key in names}) == 1
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["{", "}", "{}", "a{}b", "{a", "a}", "{}{a}", "a}b"])
def test_stray_braces_are_refused(name: str) -> None:
    """A notification stream whose slot no other key could share is refused."""
    with pytest.raises(UsageError, match="brace"):
        hash_tagged(name)


def test_key_names() -> None:
    """The public key names are those of the contract."""
    keys = Keys.of("S", "N")
    assert keys.group == "sidecar:N"
    assert (keys.fence, keys.lease) == ("{N}:fence:S", "{N}:lease:S")
    assert (keys.low, keys.halt, keys.dead) == ("{N}:low:S", "{N}:halt:S", "{N}:dead")
    assert Keys.of("S", "{N}x").fence == "{N}x:fence:S"
    assert Keys.of("S", "N", "D").dead == "D"


def test_every_script_documents_its_interface() -> None:
    """Each script begins with a header of keys, arguments and answers, and hard-codes no key."""
    scripts = [
        found for found in files("sidecar.redis").joinpath("lua").iterdir()
        if found.name.endswith(".lua")
    ]  # fmt: skip
    assert {"acquire.lua", "bury.lua", "publish.lua", "release.lua", "renew.lua"} <= {
        script.name for script in scripts
    }
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        header = text[: text.index("\nif ") if "\nif " in text else None]
        comment = [line for line in header.splitlines() if line.startswith("--")]
        for word in ("KEYS", "ARGV", "Answer"):
            assert any(word in line for line in comment), (script.name, word)
        code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        assert "cjson.encode" not in code  # a number would lose digits, [] become {}
        assert "control:" not in code


def test_a_letter_that_fails_is_not_passed_over_by_the_next(server: redis.Redis) -> None:
    """The lowest unfinished entry stays where it is when a letter of a run cannot be written."""
    one = owner(server)
    one.publish([outbound("a")], EntryId("5-1"))
    server.set(KEYS.dead, "in the way")
    with pytest.raises(redis.ResponseError):
        bury(one, letter("s/5-1"), letter("s/5-2"))
    assert server.get(KEYS.low) == b"5-1"

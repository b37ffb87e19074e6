"""Trimming: by age and by length, never what someone needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from sidecar.feed import Feed, FeedGap
from sidecar.redis import retention as retention_module
from sidecar.redis.damage import trimmed_streams
from sidecar.redis.keys import Keys
from sidecar.redis.memory import memories
from sidecar.redis.readers import LONGEST_TTL_S, passed, registered
from sidecar.redis.retention import ROUND, Policy, Retention, parse_policy
from sidecar.redis.scan import server_time_us, stream_info
from sidecar.redis.trimmed import gone_field, note_trimmed, taken_by_hand
from sidecar.wire.ids import LAST
from tests.sidecar.harness import trim_once

KEYS = Keys.of("control:events", "control:notifications")
EVERYTHING = Policy(length=0)
NOTHING = Policy()


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to the real, empty server."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def fill(client: redis.Redis, stream: str, count: int, first: int = 1) -> None:
    """Append entries with the IDs first-0, first+1-0 and so on."""
    pipeline = client.pipeline()
    for ms in range(first, first + count):
        pipeline.xadd(stream, {"event": "{}"}, id=f"{ms}-0")
    pipeline.execute()


def test_huge_entries_are_trimmed_in_rounds_of_few(server: redis.Redis) -> None:
    """Redis holds no more of them at once than have 8 MiB; in the end all go."""
    for _ in range(20):
        server.xadd(KEYS.dead, {"event": "x" * (3 << 20)})
    for policy in (Policy(length=10), Policy(age_s=0)):
        retention = Retention(server, server, KEYS, {"dead": policy}, dedup_window_s=0)
        first = retention.trim_one("dead")
        assert (0 < first.removed < 8, first.more) == (True, True)
        while retention.trim_one("dead").more:
            pass
        assert server.xlen(KEYS.dead) == (policy.length or 0)


def ids(client: redis.Redis, stream: str) -> list[int]:
    """Return the milliseconds of what is there."""
    found: Any = client.xrange(stream)
    return [int(entry_id.split(b"-")[0]) for entry_id, _ in found]


def trim(
    client: redis.Redis,
    *,
    control: Policy = NOTHING,
    notifications: Policy = NOTHING,
    dead: Policy = NOTHING,
    dedup_window_s: float = 0,
) -> int:
    """Trim until there is nothing more to trim; return how much went."""
    policies = {"control": control, "notifications": notifications, "dead": dead}
    retention = Retention(client, client, KEYS, policies, dedup_window_s=dedup_window_s)
    removed = 0
    while True:
        trimmed = trim_once(retention)
        removed += sum(one.removed for one in trimmed)
        if not any(one.more for one in trimmed):
            return removed


def noted(client: redis.Redis, stream: str) -> str | None:
    """Return up to where trimming is noted."""
    found: Any = client.hget(KEYS.trimmed, stream)
    return found and str(found.decode())


def finished(client: redis.Redis, up_to: int) -> None:
    """Have the group read and acknowledge what comes before `up_to`, and note it as the lowest."""
    client.xgroup_create(KEYS.control, KEYS.group, f"{up_to - 1}-0", mkstream=True)
    client.set(KEYS.low, f"{up_to - 1}-1")


def test_each_stream_is_trimmed_by_its_policy(server: redis.Redis) -> None:
    """By length or by age, whichever takes more; how far it went is noted; the rest stays."""
    old_ms = 1_500_000_000_000
    for stream in (KEYS.control, KEYS.notifications, KEYS.dead):
        fill(server, stream, 10, old_ms + 1)
    finished(server, old_ms + 11)
    now_ms = server_time_us(server) // 1000
    server.xadd(KEYS.dead, {"event": "{}"}, id=f"{now_ms}-0")
    trim(
        server,
        control=Policy(length=4),
        notifications=Policy(age_s=3600, length=20),
        dead=Policy(age_s=3600),
    )
    assert ids(server, KEYS.control) == [old_ms + number for number in (7, 8, 9, 10)]
    assert ids(server, KEYS.notifications) == []
    assert ids(server, KEYS.dead) == [now_ms]
    assert [noted(server, s) for s in (KEYS.control, KEYS.notifications, KEYS.dead)] == [
        f"{old_ms + 6}-0", f"{old_ms + 10}-0", f"{old_ms + 10}-0",
    ]  # fmt: skip


@pytest.mark.server
@pytest.mark.parametrize("first", [1, 1_700_000_000, 1_700_000_000_000_000])
def test_ids_that_are_no_times_are_of_no_age(server: redis.Redis, first: int) -> None:
    """Row numbers, seconds and microseconds are not trimmed by age until something old follows
    them, and that is told; by length they are.
    """
    fill(server, KEYS.control, 10, first)
    finished(server, first + 10)
    age = {"control": Policy(age_s=60)}
    trimmed = Retention(server, server, KEYS, age, dedup_window_s=0).trim_one("control")
    assert trimmed.removed == 0
    assert trimmed.blocked_by == {"ids"}
    assert trim(server, control=Policy(age_s=60, length=4)) == 6
    if first < (old_ms := 1_500_000_000_000):
        fill(server, KEYS.control, 1, old_ms)
        server.xgroup_setid(KEYS.control, KEYS.group, f"{old_ms}-0")
        server.set(KEYS.low, f"{old_ms}-1")
        assert trim(server, control=age["control"]) == 5


def test_never_trims_nothing(server: redis.Redis) -> None:
    """Without a limit all stays, and streams that are not there are not made."""
    assert trim(server, control=EVERYTHING, notifications=EVERYTHING, dead=EVERYTHING) == 0
    assert server.dbsize() == 0
    fill(server, KEYS.dead, 5)
    assert trim(server) == 0


def test_what_a_group_has_not_acknowledged_stays(server: redis.Redis) -> None:
    """Neither unread nor pending entries go, of no group that is on the stream."""
    fill(server, KEYS.control, 10)
    finished(server, 9)
    server.xgroup_create(KEYS.control, "other", "0-0")
    server.xreadgroup("other", "me", {KEYS.control: ">"}, count=7)
    server.xack(KEYS.control, "other", "1-0", "2-0", "3-0", "5-0")
    trim(server, control=EVERYTHING)
    assert ids(server, KEYS.control) == [4, 5, 6, 7, 8, 9, 10]
    server.xack(KEYS.control, "other", "4-0", "6-0", "7-0")
    trim(server, control=Policy(length=0))
    assert ids(server, KEYS.control) == [8, 9, 10]
    server.xgroup_destroy(KEYS.control, "other")
    trim(server, control=EVERYTHING)
    assert ids(server, KEYS.control) == [9, 10]


def test_what_the_relay_has_not_finished_stays(server: redis.Redis) -> None:
    """The lowest unfinished entry is a floor, though the group was set beyond it."""
    fill(server, KEYS.control, 10)
    finished(server, 11)
    server.set(KEYS.low, "4-0")
    trim(server, control=EVERYTHING)
    assert ids(server, KEYS.control) == list(range(4, 11))


@pytest.mark.server
@pytest.mark.parametrize("low", [None, "4-0", "10-1", "5000-0"])
def test_without_the_relays_group_all_stays(server: redis.Redis, low: str | None) -> None:
    """A stream that was made anew is unread, whatever was noted of the one before it."""
    fill(server, KEYS.control, 10)
    server.xgroup_create(KEYS.control, "other", "10-0")
    if low:
        server.set(KEYS.low, low)
    assert trim(server, control=EVERYTHING) == 0


@pytest.mark.server
def test_a_floor_beyond_the_streams_end_permits_nothing(server: redis.Redis) -> None:
    """The lowest unfinished entry, or the group's position, of a stream that came further."""
    fill(server, KEYS.control, 10)
    server.xgroup_create(KEYS.control, KEYS.group, "10-0")
    server.set(KEYS.low, "12-0")
    assert trim(server, control=EVERYTHING) == 0
    server.set(KEYS.low, "10-1")
    server.xgroup_setid(KEYS.control, KEYS.group, "12-0")
    assert trim(server, control=EVERYTHING) == 0
    server.xgroup_setid(KEYS.control, KEYS.group, "10-0")
    assert trim(server, control=EVERYTHING) == 10


def test_what_a_reader_has_not_passed_stays(server: redis.Redis) -> None:
    """The slowest registered reader is the floor, until it has passed on or expired."""
    fill(server, KEYS.notifications, 10)
    passed(server, KEYS, "slow", 3000, ttl_s=60)
    passed(server, KEYS, "quick", 9000, ttl_s=60)
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(4, 11))
    passed(server, KEYS, "slow", 5000, ttl_s=60)
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(6, 11))
    heard = server_time_us(server) - 61 * 10**6
    server.set(KEYS.reader("slow"), f"5000 {heard} 60")
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == [10]
    assert [(r.name, r.expired) for r in registered(server, KEYS).good] == [
        ("quick", False),
        ("slow", True),
    ]


def test_a_reader_of_an_older_release_counts_until_it_expires(server: redis.Redis) -> None:
    """Its line in the common hash is a floor; the key of the same reader replaces it."""
    fill(server, KEYS.notifications, 10)
    now_us = server_time_us(server)
    server.hset(KEYS.readers, "old", f"3000 {now_us} 60")
    server.hset(KEYS.readers, "gone", f"1000 {now_us - 61 * 10**6} 60")
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(4, 11))
    server.sadd(KEYS.registered, "old")  # as anybody may: a name alone replaces nothing
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(4, 11))
    passed(server, KEYS, "old", 7000, ttl_s=60)
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(8, 11))


def test_no_reader_protects_for_ever(server: redis.Redis) -> None:
    """One that wrote of years expires as the longest time that a reader may have."""
    fill(server, KEYS.notifications, 10)
    heard = server_time_us(server) - LONGEST_TTL_S * 10**6 - 10**6
    server.set(KEYS.reader("years"), f"0 {heard} 999999999")
    server.sadd(KEYS.registered, "years")
    assert [one.expired for one in registered(server, KEYS).good] == [True]
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == []


def test_names_of_nobody_are_swept_away(server: redis.Redis) -> None:
    """However many names somebody adds, trimming sees the readers, and the names go."""
    fill(server, KEYS.notifications, 10)
    passed(server, KEYS, "slow", 3000, ttl_s=60)
    server.sadd(KEYS.registered, "", "x" * 100_000, *map(str, range(5000)))
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == list(range(4, 11))
    assert server.smembers(KEYS.registered) == {b"", b"slow"}


def test_what_deduplication_needs_stays(server: redis.Redis) -> None:
    """A notification younger than the deduplication window is never trimmed."""
    now_ms = server_time_us(server) // 1000
    fill(server, KEYS.notifications, 5, first=now_ms - 100_000)
    fill(server, KEYS.notifications, 5, first=now_ms - 10_000)
    trim(server, notifications=Policy(age_s=0, length=0), dedup_window_s=60)
    assert ids(server, KEYS.notifications) == [now_ms - 10_000 + i for i in range(5)]


def test_a_group_on_the_notifications_counts_as_well(server: redis.Redis) -> None:
    """Who reads notifications through a consumer group loses none to trimming."""
    fill(server, KEYS.notifications, 5)
    server.xgroup_create(KEYS.notifications, "controllers", "2-0")
    trim(server, notifications=EVERYTHING)
    assert ids(server, KEYS.notifications) == [3, 4, 5]


def test_a_long_backlog_goes_round_by_round(server: redis.Redis) -> None:
    """However much there is to trim, one round takes little, and the note is exact each time."""
    fill(server, KEYS.dead, 2 * ROUND + 500)
    policies = dict.fromkeys(("control", "notifications"), NOTHING) | {"dead": EVERYTHING}
    retention = Retention(server, server, KEYS, policies, dedup_window_s=0)
    seen = []
    for _ in range(3):
        trimmed = trim_once(retention)[2]
        seen.append((trimmed.removed, trimmed.more, noted(server, KEYS.dead)))
    assert seen == [
        (ROUND, True, f"{ROUND}-0"),
        (ROUND, True, f"{2 * ROUND}-0"),
        (500, False, f"{2 * ROUND + 500}-0"),
    ]
    assert trim_once(retention)[2].removed == 0


def after_noting(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], object]) -> None:
    """Call `hook` each time when a note of how far trimming goes has just been written."""
    note = note_trimmed

    def noting(*what: Any) -> None:
        note(*what)
        hook()

    monkeypatch.setattr(retention_module, "note_trimmed", noting)


def test_the_note_comes_first_and_never_goes_back(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far trimming went is known before anything goes, whatever is noted later."""
    fill(server, KEYS.dead, 5)
    policies = {"dead": Policy(length=2)}
    retention = Retention(server, server, KEYS, policies, dedup_window_s=0)
    seen: list[Any] = []
    there = partial(ids, server, KEYS.dead)
    after_noting(monkeypatch, lambda: seen.append((noted(server, KEYS.dead), there())))
    assert retention.trim_one("dead").removed == 3
    assert seen == [("3-0", [1, 2, 3, 4, 5])]
    server.hset(KEYS.trimmed, KEYS.dead, "12-0")
    trim(server, dead=EVERYTHING)
    assert noted(server, KEYS.dead) == "12-0"


@pytest.mark.server
def test_a_stream_that_comes_in_place_of_the_one_looked_at_is_not_trimmed(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has read it, however low its IDs are."""
    fill(server, KEYS.control, 5, first=10)
    finished(server, 15)

    def replace() -> None:
        server.delete(KEYS.control)
        fill(server, KEYS.control, 3)

    after_noting(monkeypatch, replace)
    retention = Retention(server, server, KEYS, {"control": EVERYTHING}, dedup_window_s=0)
    assert retention.trim_one("control").removed == 0
    assert ids(server, KEYS.control) == [1, 2, 3]


@pytest.mark.server
@pytest.mark.parametrize("position", ["0-0", "2-0", "5-0"])
def test_a_group_that_comes_meanwhile_is_not_trimmed_over(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch, position: str
) -> None:
    """The groups are asked in the step that trims, not only before it was noted."""
    fill(server, KEYS.dead, 5)
    retention = Retention(server, server, KEYS, {"dead": EVERYTHING}, dedup_window_s=0)
    after_noting(monkeypatch, lambda: server.xgroup_create(KEYS.dead, "late", position))
    unread = ids(server, KEYS.dead)[int(position[0]) :]
    assert retention.trim_one("dead").removed == 5 - len(unread)
    assert ids(server, KEYS.dead) == unread


@pytest.mark.server
def test_a_group_at_the_highest_id_needs_nothing(server: redis.Redis) -> None:
    """A position that no ID lies above is no reason to keep what is finished."""
    fill(server, KEYS.dead, 5)
    server.xgroup_create(KEYS.dead, "far", LAST)
    assert trim(server, dead=EVERYTHING) == 5


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("never", Policy()),
        ("age=7d", Policy(age_s=7 * 86400)),
        ("length=1000", Policy(length=1000)),
        (" length=1000, age=90s ", Policy(90, 1000)),
        ("age=7d,full=1d", Policy(604800, full_s=86400)),
        ("full=1h,length=1", Policy(length=1, full_s=3600)),
    ],
)
def test_policies_are_read(text: str, policy: Policy) -> None:
    """Age, length, the age of a server that is nearly full, several of them, or never."""
    assert parse_policy(text) == policy == parse_policy(str(policy))


def test_to_keep_more_when_there_is_less_room_is_refused() -> None:
    """`full` is for less than `age`."""
    with pytest.raises(ValueError, match="full is for less than age"):
        parse_policy("age=1d,full=7d")


@pytest.mark.parametrize(
    "text", ["", "7d", "age", "age=", "age=x", "length=-1", "age=1d;length=2", "full=1"]
)
def test_other_policies_are_refused(text: str) -> None:
    """What is no policy is refused with what to write."""
    with pytest.raises(ValueError, match="write"):
        parse_policy(text)


@pytest.mark.parametrize("kind", ["control", "notifications", "dead"])
def test_a_server_that_is_nearly_full_keeps_less(server: redis.Redis, kind: str) -> None:
    """`full=` holds from 85 % of maxmemory on, and `age=` below it; floors hold in any case."""
    now_ms = server_time_us(server) // 1000
    stream = {"control": KEYS.control, "notifications": KEYS.notifications, "dead": KEYS.dead}[kind]
    fill(server, stream, 10, now_ms - 3600_000)
    if kind == "control":
        finished(server, now_ms - 3600_000 + 5)
    elif kind == "notifications":
        server.xgroup_create(stream, "reader", f"{now_ms - 3600_000 + 4}-0")
    policies = {kind: Policy(age_s=86400, full_s=60)}
    retention = Retention(server, server, KEYS, policies, dedup_window_s=0)
    (memory,) = memories([("", server)])
    try:
        server.config_set("maxmemory", int(memory.used_bytes * 1.5))
        roomy = retention.trim_one(kind)
        server.config_set("maxmemory", int(memory.used_bytes * 1.1))
        trimmed = retention.trim_one(kind)
    finally:
        server.config_set("maxmemory", 0)
    assert (roomy.removed, roomy.early) == (0, False)
    assert (trimmed.removed, trimmed.early) == (10 if kind == "dead" else 5, True)


@pytest.mark.server
@pytest.mark.parametrize("how", ["trimmed", "deleted", "neither"])
def test_what_people_take_where_trimming_ended_is_a_gap(server: redis.Redis, how: str) -> None:
    """A cursor at that very place is no safer than others; before Redis 7.0 nobody can tell."""
    stream = KEYS.notifications
    for number in range(1, 9):
        event = {"event_id": f"e{number}", "type": "run.abort", "control_version": number * 1000}
        server.xadd(stream, {"event": json.dumps(event), "origin": "c/1-1"}, id=f"{number}-0")
    trim(server, notifications=Policy(length=5))
    assert noted(server, stream) == "3-0"
    if how == "trimmed":
        server.xtrim(stream, minid="6-0", approximate=False)
    if how == "deleted":
        server.xdel(stream, "4-0", "5-0")
    counts = server.xinfo_stream(stream).get("entries-added") is not None
    with Feed(_url_of(server)) as feed:
        if counts and how != "neither":
            with pytest.raises(FeedGap, match="begins only at 6000") as told:
                feed.poll(3000)
            assert told.value.kind == "trimmed"
        else:
            found = [one.control_version for one in feed.poll(3000)]
            assert found[0] == (4000 if how == "neither" else 6000)
        trim(server, notifications=Policy(length=1))
        assert [one.control_version for one in feed.poll(7000)] == [8000], "counted anew"
        with pytest.raises(FeedGap):
            feed.poll(6000)


@pytest.mark.server
def test_what_is_counted_as_gone_is_what_will_have_gone(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noted before anything goes: who trims further in between has taken the rest."""
    fill(server, KEYS.dead, 9)
    server.xdel(KEYS.dead, "2-0", "7-0")
    after_noting(monkeypatch, lambda: server.xtrim(KEYS.dead, minid="6-0", approximate=False))
    retention = Retention(server, server, KEYS, {"dead": Policy(length=5)}, dedup_window_s=0)
    retention.trim_one("dead")
    assert noted(server, KEYS.dead) == "3-0"
    told = server.hget(KEYS.trimmed, gone_field(KEYS.dead))
    info = stream_info(server, KEYS.dead)
    assert info is not None
    if info.added is None:
        assert told is None
    else:
        assert told == b"3-0 4"
        assert taken_by_hand(server, KEYS, KEYS.dead, info)
    assert trimmed_streams(server, KEYS) == {KEYS.dead}


def _url_of(server: redis.Redis) -> str:
    options = server.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options.get('db') or 0}"

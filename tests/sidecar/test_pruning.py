"""The deduplication index is bounded by its window, and forgets nothing within it."""

from __future__ import annotations

from typing import Any, Final

import pytest
import redis

from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.pruning import (
    ROUND,
    SHORTEST_US,
    TURNS_A_WINDOW,
    Pruned,
    Pruning,
    forgotten_until,
    memory_of,
)
from sidecar.redis.publisher import Letter, Outbound, Outcome, Publisher, origin_digest
from sidecar.redis.scan import server_time_us
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from tests.servers import usual

KEYS: Final = Keys.of("control:events", "control:notifications")
WINDOW_S: Final = 1000.0
CONTENT: Final = b"c" * 16


def _turn_of(client: redis.Redis, number: int) -> None:
    """Give one shard its turn, and those that come next."""
    step_us = int(WINDOW_S * 1e6) // (TURNS_A_WINDOW * SHARDS)
    now = server_time_us(client) // step_us
    last_turn = now - (now - number) % SHARDS
    client.set(KEYS.pruned, (last_turn - 1) * step_us)
    Pruning(client, KEYS, dedup_window_s=WINDOW_S).prune()


def _remember(client: redis.Redis, shard: str, ages_s: dict[str, float]) -> None:
    """Have a shard remember events of these ages, as an older release would."""
    now = server_time_us(client)
    stamps: Any = {name: CONTENT + b"%d" % (now - int(age * 1e6)) for name, age in ages_s.items()}
    client.hset(shard, mapping=stamps)
    client.expire(shard, int(WINDOW_S))


def _fields(client: redis.Redis, shard: str) -> set[str]:
    found: Any = client.hkeys(shard)
    return {name.decode() for name in found}


def _noted(client: redis.Redis) -> Pruned:
    noted: Any = client.get(KEYS.pruned)
    pruned = Pruned.parse(noted)
    assert pruned is not None
    return pruned


def test_what_is_older_than_the_window_goes(client: redis.Redis) -> None:
    """Of every shard, what is younger than the window stays, and what is older goes."""
    ages_s = {"new": 0, "within": WINDOW_S - 200, "old": WINDOW_S + 1, "older": 1e6}
    shards = [KEYS.seen(number.to_bytes(2)) for number in (0, 1, SHARDS // 2, SHARDS - 1)]
    for shard in shards:
        _remember(client, shard, ages_s)

    pruning = Pruning(client, KEYS, dedup_window_s=WINDOW_S)
    while pruning.prune():
        pass

    for shard in shards:
        assert _fields(client, shard) == {"new", "within"}
        assert client.ttl(shard) == -1, "a shard that expires forgets more than pruning does"


def test_a_shard_that_grew_too_large_is_packed_again(client: redis.Redis) -> None:
    """What an older version let grow beyond a packed hash is packed once most of it is pruned."""
    client.config_set("hash-max-ziplist-entries", 128)
    shard = KEYS.seen((7).to_bytes(2))
    _remember(client, shard, {f"old {n}": WINDOW_S + 1 for n in range(250)} | {"new": 0})
    packed = b"ziplist" if usual() == "redis-6.2" else b"listpack"
    assert client.object("ENCODING", shard) == b"hashtable"

    _turn_of(client, 7)

    assert _fields(client, shard) == {"new"}
    assert client.object("ENCODING", shard) == packed
    assert client.ttl(shard) == -1


def test_an_index_in_use_never_holds_more_than_its_window(client: redis.Redis) -> None:
    """Shards that are written all the time lose what is older."""
    shard = KEYS.seen((3).to_bytes(2))
    publisher = Publisher(client, KEYS, lease_s=60, dedup_window_s=WINDOW_S)
    publisher.acquire()
    for round_ in range(5):
        _remember(client, shard, {f"{round_} {n}": WINDOW_S + 1 for n in range(20)})
        event_id = f"e{round_}"
        identity = b"\x00\x03" + identity_digest(event_id)[2:] + identity_digest("content")
        publisher.publish(
            [Outbound(identity, b'{"control_version":', Origin(event_id), b"")], EntryId("1-0")
        )
        _turn_of(client, 3)
        count: Any = client.hlen(shard)
        assert count == round_ + 1


def test_nothing_within_the_window_is_forgotten(client: redis.Redis) -> None:
    """After pruning, a repeat is absorbed and an origin has no second dead letter."""
    publisher = Publisher(client, KEYS, lease_s=60, dedup_window_s=WINDOW_S)
    publisher.acquire()
    identity = identity_digest("a") + identity_digest("content")
    event = Outbound(identity, b'{"control_version":', Origin("s/1-0"), b"")
    publisher.publish([event], EntryId("1-0"))
    letter = Letter(Origin("s/2-0"), b"", {"event": b"{", "reason": "malformed"})
    publisher.bury([letter], EntryId("3-0"), max_in_a_row=0, now="now")

    for digest in (identity, origin_digest("s/2-0")):
        _turn_of(client, int.from_bytes(digest[:2]))

    (again,) = publisher.publish([event], EntryId("1-0"))
    assert again.outcome is Outcome.DUPLICATE
    assert publisher.seen([origin_digest("s/2-0")]) != [None]


def test_workers_share_the_turns(client: redis.Redis) -> None:
    """Who prunes next continues where the last one, or another, left it; what is due is told."""
    one, two = (Pruning(client, KEYS, dedup_window_s=WINDOW_S) for _ in range(2))
    step_us = int(WINDOW_S * 1e6) // (TURNS_A_WINDOW * SHARDS)
    turn = server_time_us(client) // step_us - 2 * ROUND
    client.set(KEYS.pruned, turn * step_us)
    for n in range(1, ROUND + 1):
        _remember(client, KEYS.seen(((turn + n) % SHARDS).to_bytes(2)), {"old": WINDOW_S + 1})

    assert one.prune()
    assert not list(client.scan_iter("*:seen:*"))
    assert _noted(client).until_us == (turn + ROUND) * step_us
    while two.prune():
        pass
    assert _noted(client).until_us >= (turn + 2 * ROUND) * step_us


@pytest.mark.parametrize("noted", [b"nonsense", b"-1", b"9" * 30, b""])
def test_a_position_that_is_nonsense_harms_nothing(client: redis.Redis, noted: bytes) -> None:
    """Whatever stands where pruning notes how far it is, it continues."""
    client.set(KEYS.pruned, noted)
    pruning = Pruning(client, KEYS, dedup_window_s=WINDOW_S)
    pruning.prune()
    client.set(KEYS.pruned, server_time_us(client) - 10_000_000)
    assert pruning.prune()


def test_a_shard_that_is_no_hash_keeps_no_other_from_its_turn(client: redis.Redis) -> None:
    """What is no hash in the place of a shard stays; the shards beside it are pruned."""
    client.lpush(KEYS.seen((4).to_bytes(2)), "nonsense")
    for number in (3, 5):
        _remember(client, KEYS.seen(number.to_bytes(2)), {"old": WINDOW_S + 1})

    _turn_of(client, 3)

    assert list(client.scan_iter("*:seen:*")) == [KEYS.seen((4).to_bytes(2)).encode()]


def test_a_clock_that_stepped_back_keeps_no_turn_for_ever(client: redis.Redis) -> None:
    """A note that lies ahead is none: all shards have their turn, and then it is right again."""
    step_us = int(WINDOW_S * 1e6) // (TURNS_A_WINDOW * SHARDS)
    _remember(client, KEYS.seen((5).to_bytes(2)), {"old": WINDOW_S + 1})
    client.set(KEYS.pruned, server_time_us(client) + 10**12)
    pruning = Pruning(client, KEYS, dedup_window_s=WINDOW_S)
    while pruning.prune():
        pass
    assert not client.exists(KEYS.seen((5).to_bytes(2)))
    assert _noted(client).until_us // step_us <= server_time_us(client) // step_us


def test_a_short_window_leaves_redis_to_others(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the window is, no more shards have their turn than a thousand a second."""
    now_us = server_time_us(client)
    monkeypatch.setattr("sidecar.redis.pruning.server_time_us", lambda _: now_us)
    client.set(KEYS.pruned, now_us - 100 * SHORTEST_US)
    assert not Pruning(client, KEYS, dedup_window_s=1).prune()


DAY_S: Final = 86_400


def _prune_at(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, noted: str, *, window_s: float = 7 * DAY_S
) -> int:
    """Prune once at what the server's clock says now, and for ever; return that."""
    now_us = server_time_us(client)
    monkeypatch.setattr("sidecar.redis.pruning.server_time_us", lambda _: now_us)
    client.set(KEYS.pruned, noted.format(now=now_us - 60_000_000, ago=now_us - 4 * DAY_S * 10**6))
    Pruning(client, KEYS, dedup_window_s=window_s).prune()
    return now_us


@pytest.mark.server
@pytest.mark.parametrize(
    ("noted", "held_s", "longer"),
    [
        ("{now} 1", 0, False),
        ("{now} 1", 8 * DAY_S, False),
        ("{now} 1", 12 * DAY_S, True),
        ("{ago} 1", 0, True),
        ("{now}", 0, True),
        ("garbage", 0, True),
    ],
)
def test_it_is_noted_until_when_the_index_remembers_for_very_long(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, noted: str, held_s: int, longer: bool
) -> None:
    """For an anchor stands still, pruning was late, or nobody knows: until a round from now."""
    now_us = server_time_us(client)
    client.hset(KEYS.anchors, "a", f"1-1 - {now_us - held_s * 10**6}")
    now_us = _prune_at(client, monkeypatch, noted)
    until = _noted(client).overlong_us
    assert until is not None
    assert until > now_us if longer else until == 1


@pytest.mark.server
def test_versions_ahead_of_the_clock_are_remembered_as_long(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted then is a control_version: it lies after all that is published."""
    ahead = EntryId.of_version(server_time_us(client) + DAY_S * 10**6 * 365)
    client.xadd(KEYS.notifications, {"event": "{}"}, id=ahead)
    _prune_at(client, monkeypatch, "garbage")
    assert EntryId.of_version(_noted(client).overlong_us or 0) > ahead


@pytest.mark.server
@pytest.mark.parametrize("noted", ["", "garbage", "{now}", "{ago} 1", "{ahead} 1"])
def test_nobody_can_tell_how_long_an_index_remembered_that_nobody_prunes(
    client: redis.Redis, noted: str
) -> None:
    """Nor one that an older release pruned; else what is noted counts."""
    now_us, day_us = server_time_us(client), DAY_S * 10**6
    at = {"now": now_us, "ago": now_us - 4 * day_us, "ahead": now_us + day_us}
    client.set(KEYS.pruned, noted.format(**at))
    assert memory_of(client, KEYS, now_us, 7 * DAY_S).overlong == LAST
    client.set(KEYS.pruned, f"{now_us} 1001")
    assert memory_of(client, KEYS, now_us, 7 * DAY_S).overlong == "1-1"


@pytest.mark.server
def test_it_is_noted_what_may_be_forgotten(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended before the window and the oldest anchor; restoring an older anchor
    changes that no more.
    """
    window_us = 7 * DAY_S * 10**6
    assert forgotten_until(client, KEYS) == 0
    now_us = _prune_at(client, monkeypatch, "{now} 1")
    assert forgotten_until(client, KEYS) == now_us - window_us
    older_us = now_us - 2 * window_us
    client.hset(KEYS.anchors, "a", f"1-1 - {older_us}")
    _prune_at(client, monkeypatch, "{now} 1")
    assert forgotten_until(client, KEYS) == older_us
    _prune_at(client, monkeypatch, f"{{now}} 1 {older_us + 1}")
    assert forgotten_until(client, KEYS) == older_us + 1
    client.delete(KEYS.pruned)
    client.hset(KEYS.pruned, "another", "kind of key")
    assert forgotten_until(client, KEYS) == 0


def _began(client: redis.Redis) -> EntryId:
    """Return before when nothing had ended, as an audit learns it."""
    return memory_of(client, KEYS, server_time_us(client), 7 * DAY_S).began


@pytest.mark.server
def test_it_is_noted_before_when_nothing_had_ended(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When pruning began; earlier with a clock that is set back, for what ends then is older."""
    assert _began(client) == FIRST, "nobody has noted it"
    now_us = _prune_at(client, monkeypatch, "garbage")
    assert _began(client) == EntryId.of(now_us // 1000)
    client.xadd(KEYS.dead, {"event": "{"}, id="1000-7")
    now_us = _prune_at(client, monkeypatch, "{now} 1 1 5000")
    assert _began(client) == "5-0"
    now_us = _prune_at(client, monkeypatch, f"{{now}} 1 1 {now_us + 10**9}")
    assert _began(client) == EntryId.of(now_us // 1000)


@pytest.mark.server
def test_what_ended_before_pruning_began_tells_since_when(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all of it is there; where some was trimmed nobody can tell, nor before Redis 7.0."""
    client.xadd(KEYS.dead, {"event": "{"}, id="1000-7")
    client.xadd(KEYS.notifications, {"event": "{"}, id="2000-7")
    _prune_at(client, monkeypatch, "{now} 1 1")
    assert _began(client) == (FIRST if usual() == "redis-6.2" else "1000-0")
    client.xtrim(KEYS.dead, maxlen=0, approximate=False)
    _prune_at(client, monkeypatch, "{now} 1 1")
    assert _began(client) == FIRST

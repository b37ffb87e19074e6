"""The register of workers: who is there, who is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from sidecar.redis.keys import Keys
from sidecar.redis.members import Members, registered_workers

KEYS = Keys.of("control:events", "control:notifications")


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to the real, empty server."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def members(client: redis.Redis, name: str, clock: Clock) -> Members:
    """Return one worker's view of the register."""
    return Members(client, KEYS, name=name, serves=["a", "b"], lease_s=2, clock=clock)


def test_workers_see_each_other(server: redis.Redis) -> None:
    """Each sees what the others serve and own, and not itself; who leaves is gone at once."""
    clock = Clock()
    one, two = members(server, "one", clock), members(server, "two", clock)
    assert one.beat({"a"}) == []
    (seen,) = two.beat(set())
    assert (seen.name, sorted(seen.owns), sorted(seen.serves)) == ("one", ["a"], ["a", "b"])
    assert [member.name for member in one.beat({"a"})] == ["two"]
    two.leave()
    assert one.beat({"a"}) == []
    assert [member.name for member in registered_workers(server, KEYS)] == ["one"]


def test_a_worker_tells_with_which_key_it_signs(server: redis.Redis) -> None:
    """Its id, or that it has none; of one that does not say, nothing is known."""
    for name, signs in (("one", "0123456789abcdef"), ("two", "")):
        Members(server, KEYS, name=name, serves=["a"], lease_s=2, signs=signs).beat(set())
    server.hset(KEYS.workers, "3", '{"name": "three", "serves": [], "owns": []}')
    found = {one.name: one.signs for one in registered_workers(server, KEYS)}
    assert found == {"one": "0123456789abcdef", "two": "", "three": None}


def test_who_is_silent_is_gone_and_comes_back(server: redis.Redis) -> None:
    """Silent for longer than a lease and a half is gone; a beat, and it is there again."""
    clock = Clock()
    one, two = members(server, "one", clock), members(server, "two", clock)
    two.beat(set())
    assert len(one.beat(set())) == 1
    clock.now += 3
    assert len(one.beat(set())) == 1
    clock.now += 0.1
    assert one.beat(set()) == []
    two.beat(set())
    assert len(one.beat(set())) == 1


def test_the_dead_are_forgotten(server: redis.Redis) -> None:
    """Who was killed is taken off the register after a while, and an old register expires."""
    clock = Clock()
    one, two = members(server, "one", clock), members(server, "two", clock)
    two.beat(set())
    one.beat(set())
    clock.now += 21
    one.beat(set())
    assert [member.name for member in registered_workers(server, KEYS)] == ["one"]
    assert 0 < server.ttl(KEYS.workers) <= 21


def test_what_is_no_workers_is_left_out(server: redis.Redis) -> None:
    """Lines that no worker wrote are ignored."""
    held = {"entry": "s/1-0", "tenant_id": "t", "event_id": "e", "error": "", "attempts": 1,
            "since": 1, "next_at": "", "outage": False}  # fmt: skip
    told = json.dumps({"name": "x", "serves": [], "owns": [], "held": [held]})
    for raw in ("", "{", "[]", "{}", '{"name":"x","serves":1,"owns":2}', told):
        server.hset(KEYS.workers, f"x{raw}", raw)
    assert members(server, "one", Clock()).beat(set()) == []

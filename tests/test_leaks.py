"""A test that leaves a connection open fails, and is told where that was opened."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import redis

from tests import leaks


def test_what_was_left_open_is_named_by_its_place(redis_url: str) -> None:
    """The place is the line that opened it, and it is closed; what was closed is not named."""
    with leaks.watched() as left_open:
        with redis.Redis.from_url(redis_url) as closed:
            closed.ping()
        left = redis.Redis.from_url(redis_url)
        left.ping()
        (place,) = left_open()
        assert place.startswith("  tests/test_leaks.py:18 in test_what_was_left_open_is")
        assert left_open() == []


def test_what_another_thread_uses_stays_open(redis_url: str) -> None:
    """A command that ends in one thread closes no connection that another made meanwhile."""
    with leaks.closed(), ThreadPoolExecutor(1) as pool:
        other = redis.Redis.from_url(redis_url)
        pool.submit(other.ping).result()
        (used,) = other.connection_pool._available_connections
    assert used._sock is not None
    other.close()

"""The bad network of the fire does what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.proxy import CALM, Proxy, Weather
from tests.servers import Server

ONCE = Retry(NoBackoff(), 0)


@pytest.mark.parametrize(
    ("weather", "seen"),
    [
        (CALM, None),
        (replace(CALM, delay=1), None),
        (replace(CALM, drop=1), redis.ConnectionError),
        (replace(CALM, cut=1), redis.ConnectionError),
        (replace(CALM, half_open=1), redis.TimeoutError),
    ],
    ids=["calm", "delay", "drop", "cut", "half-open"],
)
def test_a_connection_meets_the_weather(
    redis_server: Server, weather: Weather, seen: type[Exception] | None
) -> None:
    """A request through the proxy is answered, closed in the middle, or never answered."""
    proxy = Proxy(redis_server.port, seed=1, weather=weather)
    patience_s = 0.5 if weather.half_open else 60.0
    with (
        proxy.running(),
        redis.Redis(port=proxy.port, socket_timeout=patience_s, retry=ONCE) as client,
    ):
        if seen is None:
            assert client.ping()
        else:
            with pytest.raises(seen):
                client.ping()
    assert bool(proxy.counts) == (weather != CALM)


def test_a_server_that_is_away_is_away_behind_the_proxy(redis_server: Server) -> None:
    """A connection to a server that does not listen is closed, and the next is accepted."""
    proxy = Proxy(1, seed=1, weather=CALM)
    with proxy.running():
        for _ in range(2):
            with (
                redis.Redis(port=proxy.port, retry=ONCE) as client,
                pytest.raises(redis.ConnectionError),
            ):
                client.ping()
        proxy.target_port = redis_server.port
        with redis.Redis(port=proxy.port) as client:
            assert client.ping()

"""The query of a Redis URL: what may be given there, and what is refused, with its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
import redis

from sidecar.errors import UsageError
from sidecar.feed import AsyncFeed, Feed
from sidecar.producer import Producer
from sidecar.redis.client import connect, connect_async
from sidecar.redis.url_options import allowed
from store.memory import MemoryStore
from tests import servers
from tests.fuzz.urls import SECRET

SHORT_S: Final = 0.2
FACES: Final[dict[str, Callable[[str], Any]]] = {
    "connect": connect, "connect_async": connect_async, "feed": Feed, "async feed": AsyncFeed,
    "producer": lambda url: Producer(url, "s", MemoryStore()),
}  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize("open_", FACES.values(), ids=FACES)
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("protocol=3", "protocol .* none that may be given"),
        ("decode_responses=true", "decode_responses .* socket_timeout"),
        ("retry_on_error=x", "retry_on_error"),
        ("health_check_interval=3", "health_check_interval"),
        ("sockettimeout=3", "is socket_timeout meant"),
        ("colour=red", "an option in its query is none"),
        ("ssl_ca_certs=/x", "write rediss://"),
        ("sentinel_password=x", "sentinel_password"),
        ("socket_timeout=1&socket_timeout=2", "socket_timeout .* given twice"),
        ("username=", "username .* empty"),
    ],
)
def test_what_may_not_be_given_is_refused_by_name(
    open_: Callable[[str], Any], query: str, why: str
) -> None:
    """Whichever face connects, the option is named, with the nearest that there is, or all."""
    with pytest.raises(UsageError, match=why):
        open_(f"redis://127.0.0.1:1/0?{query}")


@pytest.mark.unit
@pytest.mark.parametrize("open_", FACES.values(), ids=FACES)
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h/0?db=3", "db"),
        ("redis://h/3?db=0", "db"),
        ("rediss://:secret@h?password=other", "password"),
        ("redis+cluster://user:secret@h?username=other", "username"),
        ("unix://:secret@/run/redis.sock?password=other", "password"),
    ],
)
def test_what_stands_before_the_query_is_no_other_in_it(
    open_: Callable[[str], Any], url: str, name: str
) -> None:
    """Neither wins in silence: a worker would read another database than is meant."""
    with pytest.raises(UsageError, match=f"{name} .* given twice") as refused:
        open_(url)
    assert "secret" not in str(refused.value)


SCHEMES: Final = ("redis", "unix", "rediss", "redis+cluster", "rediss+sentinel")


@pytest.mark.unit
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_value_is_refused_and_not_repeated(scheme: str) -> None:
    """Of each option that is no text."""
    where = "/run/redis.sock" if scheme == "unix" else "h/m" if "sentinel" in scheme else "h"
    texts = {"username", "password", "ssl_password", "sentinel_username", "sentinel_password"}
    for name in allowed(scheme).keys() - texts:
        for value in (SECRET, "-1", "nan", "1e9"):
            with pytest.raises(UsageError, match=f"{name} in its query: ") as refused:
                connect(f"{scheme}://{where}?{name}={value}", key="k")
            assert SECRET not in str(refused.value)


def test_all_that_may_be_given_is_taken(redis_url: str) -> None:
    """A server that needs none of it is reached with all of it."""
    query = "socket_timeout=9&socket_connect_timeout=9&socket_keepalive=no&db=0"
    with connect(f"{redis_url}?{query}") as client:
        assert client.ping()


def test_a_time_out_is_added_to_a_block(redis_url: str) -> None:
    """A poll of an idle stream waits for longer than the URL's time-out, and raises nothing."""
    url = f"{redis_url}?socket_timeout={SHORT_S}"
    with Feed(url) as feed:
        assert feed.poll(wait_s=2 * SHORT_S) == []

    async def poll() -> list[Any]:
        async with AsyncFeed(url) as feed:
            return await feed.poll(wait_s=2 * SHORT_S)

    assert asyncio.run(poll()) == []


def test_a_short_time_out_ends_what_does_not_block() -> None:
    """It is still what a command without a block may take."""
    with (
        servers.running(servers.usual()) as server,
        connect(f"{server.url}?socket_timeout={SHORT_S}") as client,
        redis.Redis.from_url(server.url) as other,
    ):
        client.ping()
        other.client_pause(5000)
        with pytest.raises(redis.TimeoutError):
            client.set("a", "b")

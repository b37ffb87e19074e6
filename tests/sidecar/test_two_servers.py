"""Control and notification stream on two servers, and one worker that is cut off from the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis

from sidecar.redis.keys import Keys
from sidecar.redis.members import registered_workers
from sidecar.worker.settings import build
from tests import servers
from tests.faults.proxy import CALM, Proxy, Weather
from tests.sidecar.harness import (
    CONTROL,
    NOTIFICATIONS,
    AtWork,
    Rig,
    at_work,
    eventually,
)

STREAMS = (CONTROL, "control:other")
CUT = Weather(drop=1, cut=0, half_open=0, delay=0)
SILENT = Weather(drop=0, cut=0, half_open=1, delay=0)
KEYS = Keys.of(CONTROL, NOTIFICATIONS)


@pytest.fixture
def notify() -> Iterator[redis.Redis]:
    """The second server, for all that is the notification stream's."""
    with servers.running(servers.usual()) as server, redis.Redis(port=server.port) as client:
        yield client


def worker(
    control_port: int, notify: redis.Redis, stores: dict[str, str]
) -> AbstractContextManager[AtWork]:
    """Run a worker of both streams."""
    port = notify.connection_pool.connection_kwargs["port"]
    settings = build(
        redis=f"redis://127.0.0.1:{control_port}/0", notify_redis=f"redis://127.0.0.1:{port}/0",
        streams=STREAMS, lease_s=1.0, **stores,
    )  # fmt: skip
    return at_work(settings)


def owners(notify: redis.Redis) -> list[Any]:
    """Return which token holds each lease."""
    return [notify.get(Keys.of(stream, NOTIFICATIONS).lease) for stream in STREAMS]


def served(notify: redis.Redis) -> list[int]:
    """Return how many streams each worker says that it can serve, ascending."""
    return sorted(len(member.serves) for member in registered_workers(notify, KEYS))


@pytest.mark.parametrize(
    "weather",
    [pytest.param(CUT, id="cut"), pytest.param(SILENT, id="silent", marks=pytest.mark.proof)],
)
def test_who_alone_is_cut_off_leaves_its_streams_to_a_healthy_worker(
    rig: Rig, stores: dict[str, str], notify: redis.Redis, weather: Weather
) -> None:
    """The owner that cannot reach the control side gives its streams up, and is given none."""
    port = int(rig.client.connection_pool.connection_kwargs["port"])
    proxy = Proxy(port, 1, CALM)
    with proxy.running(), worker(proxy.port, notify, stores):
        eventually(lambda: None not in owners(notify))
        sick = {*owners(notify)}
        with worker(port, notify, stores):
            eventually(lambda: len({*owners(notify)} - sick - {None}) == 1, "a stream each")
            proxy.weather = weather
            for stream in STREAMS:
                rig.client.xadd(stream, {"event": f'{{"event_id":"{stream}","type":"run.abort"}}'})
            eventually(lambda: notify.xlen(NOTIFICATIONS) == len(STREAMS))
            eventually(lambda: {*owners(notify)}.isdisjoint(sick | {None}))
            eventually(lambda: served(notify) == [0, 2], "it says what it cannot serve")
            proxy.weather = CALM
            eventually(lambda: served(notify) == [2, 2], "it can serve again")
    assert not notify.hexists(KEYS.halt, "unclean")

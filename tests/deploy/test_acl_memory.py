"""A stolen login that may write a value may write a large one: what a worker reads is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.redis.client import connect
from sidecar.redis.damage import Damaged
from sidecar.redis.halts import FIELDS
from sidecar.redis.publisher import Publisher
from sidecar.redis.tenants import MOST_PAUSED
from sidecar.wire.event import MAX_ENTRY_BYTES
from sidecar.worker.settings import build
from tests import servers
from tests.deploy.harness import KEYS, NOTIFY_STREAM, ON_EACH_SERVER, STREAM, Server
from tests.sidecar.harness import at_work, eventually

LARGE: Final = b"x" * (8 << 20)
LITTLE_BYTES: Final = 1 << 20
FIELDS_OF_HALT: Final = (
    *FIELDS, "tenants", "dead_in_a_row", "unclean", "alone", "alone_deaths",
)  # fmt: skip


@pytest.fixture
def worker(server: Server) -> Iterator[Publisher]:
    """A worker as far as it reads what a halter may write."""
    with closing(server.client("sidecar")) as client:
        yield Publisher(client, KEYS, lease_s=60, dedup_window_s=60)


def sent_bytes(admin: redis.Redis) -> int:
    """Return how much the server has answered so far."""
    stats: Any = admin.info("stats")
    return int(stats["total_net_output_bytes"])


def looked(worker: Publisher) -> str:
    """Do what each tenure and each renewal does; return why the stream is halted."""
    worker.acquire()
    worker.run_alone(worker.lowest_unfinished() or "1-1")  # type: ignore[arg-type]
    worker.settle()
    halted = worker.renew()
    worker.paused()
    worker.check_tenants()
    return halted


def test_large_values_of_a_stolen_halter_reach_no_worker(server: Server, worker: Publisher) -> None:
    """A worker that took a value of half a GiB whole, four times over, ended there."""
    with closing(server.client("admin")) as admin, closing(server.client("halter")) as thief:
        looked(worker)
        before = sent_bytes(admin)
        for field in FIELDS_OF_HALT:
            thief.hset(KEYS.halt, field, LARGE)
        thief.hsetnx(KEYS.paused, "t", LARGE)
        thief.hsetnx(KEYS.paused, LARGE.decode(), "long")
        assert looked(worker), "it is halted all the same"
        assert list(worker.paused()) == ["t"], "and so is the tenant"
        assert sent_bytes(admin) - before < LITTLE_BYTES


def test_more_paused_tenants_than_anybody_pauses_stop_and_fill_no_memory(
    server: Server, worker: Publisher
) -> None:
    """Who is not known to be paused is not published: the worker waits, and says what to do."""
    with closing(server.client("admin")) as admin, closing(server.client("halter")) as thief:
        with thief.pipeline(transaction=False) as pipeline:
            for number in range(MOST_PAUSED + 1):
                pipeline.hsetnx(KEYS.paused, f"{number:0>200}", "garbage")
            pipeline.execute()
        before = sent_bytes(admin)
        with pytest.raises(Damaged, match="10001 tenants"):
            worker.paused()
        assert sent_bytes(admin) - before < LITTLE_BYTES


def test_a_worker_outlives_a_stolen_halter(server: Server, tmp_path: Path) -> None:
    """It waits while the stream is halted so, and publishes once that is resumed."""
    stores = {name: (tmp_path / name).as_uri() for name in ("source_store", "fleet_store")}
    settings = build(redis=server.url("sidecar"), lease_s=1.0, **stores)
    with (
        closing(server.client("admin")) as admin, closing(server.client("halter")) as thief,
        at_work(settings),
    ):  # fmt: skip
        eventually(lambda: admin.exists(KEYS.fence))
        thief.hset(KEYS.halt, "reason", LARGE)
        thief.hset(KEYS.halt, "tenants", LARGE)
        eventually(lambda: len(admin.hget(KEYS.halt, "reason") or b"") < len(LARGE))
        thief.hdel(KEYS.halt, "reason")
        server.call("producer", "XADD", STREAM, "*", "event", '{"event_id":"e","type":"run.abort"}')
        eventually(lambda: admin.xlen(NOTIFY_STREAM) == 1)


@pytest.mark.parametrize("kind", ON_EACH_SERVER)
def test_a_server_as_compose_has_it_refuses_large_values(kind: str) -> None:
    """Whoever writes them; what is as large as an entry may be is taken."""
    argument = ("--proto-max-bulk-len", "1mb")
    with servers.running(kind, arguments=argument) as server, connect(server.url) as client:
        client.xadd(STREAM, {"event": b"x" * MAX_ENTRY_BYTES})
        with pytest.raises(redis.RedisError):
            client.xadd(STREAM, {"event": LARGE})
        assert client.xlen(STREAM) == 1

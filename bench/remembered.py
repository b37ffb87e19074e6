"""`python -m bench.remembered`: the bytes of Redis's memory that a remembered event costs.

Events are published as the worker does it, then the notifications are deleted: what is left beyond
the beginning is the deduplication index. `--url` names an empty server; without it, the embedded
one is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import redis

from sidecar.embedded import EmbeddedServer
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.publisher import Outbound, Publisher

BATCH: Final = 500
KEYS: Final = Keys.of("control:events", "control:notifications")
WINDOW_S: Final = 7 * 24 * 3600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.remembered", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--url", default=None, help="an empty server")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url
        if url is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = EmbeddedServer(directory)
            stack.callback(server.close)
            url = server.url
        client: Any = redis.Redis.from_url(url)
        if options.url is None:
            client.config_set("appendonly", "no")
        if client.dbsize():
            raise SystemExit(f"{url} is not empty; name a server that is")
        for count in options.events:
            print(json.dumps(measure(client, count)))
            client.flushall()


def measure(client: Any, count: int) -> dict[str, Any]:  # noqa: ANN401 -- redis-py's own types
    """Publish `count` events; return what the index takes, by two ways of looking."""
    before = int(client.info("memory")["used_memory"])
    publish(client, count)
    client.delete(KEYS.notifications)
    grown = int(client.info("memory")["used_memory"]) - before
    shards = list(client.scan_iter(f"{KEYS.prefix}:seen:*", count=1000))
    pipeline = client.pipeline(transaction=False)
    for shard in shards:
        pipeline.memory_usage(shard)
    return {
        "server": client.info("server").get("valkey_version") or client.info()["redis_version"],
        "events": count,
        "shards": len(shards),
        "bytes_an_event": round(grown / count, 1),
        "bytes_an_event_by_memory_usage": round(sum(pipeline.execute()) / count, 1),
    }


def publish(client: Any, count: int) -> None:  # noqa: ANN401 -- redis-py's own types
    """Publish `count` small events as the worker does, each with an event_id of its own."""
    publisher = Publisher(client, KEYS, lease_s=3600, dedup_window_s=WINDOW_S)
    publisher.acquire()
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        publisher.publish([_outbound(number) for number in numbers], "0-1")
        client.xtrim(KEYS.notifications, maxlen=BATCH, approximate=False)


def _outbound(number: int) -> Outbound:
    identity = identity_digest(f"evt_{number:012}") + identity_digest(f"content {number}")
    return Outbound(identity, b'{"control_version":', f"control:events/{number}-1", b"")


if __name__ == "__main__":
    main()

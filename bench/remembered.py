"""`python -m bench.remembered`: the bytes of Redis's memory that a remembered event costs.

Events are published as the worker does it, then the notifications are deleted: what is left beyond
the beginning is the deduplication index. `--url` names an empty server; without it, the embedded
one is measured.

`--windows 5` publishes for so many windows of `--window` seconds, into so few shards that each gets
`--full` events a window, and prunes as the worker's housekeeping does: what is remembered must be
bounded by the window.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import redis

from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.pruning import Pruning
from sidecar.redis.publisher import Outbound, Publisher
from sidecar.wire.identity import identity_digest

BATCH: Final = 500
KEYS: Final = Keys.of("control:events", "control:notifications")
WINDOW_S: Final = 7 * 24 * 3600.0
BEAT_S: Final = 5 / 3
"""So often does a worker keep house at the default lease."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.remembered", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--url", default=None, help="an empty server")
    parser.add_argument("--windows", type=int, default=0, help="so many windows in a row")
    parser.add_argument("--window", type=float, default=20.0, help="seconds of one of them")
    parser.add_argument("--full", type=int, default=24, help="events a shard and window")
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
        if options.windows:
            over_windows(client, options.events[0], options)
            return
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


def over_windows(client: Any, count: int, options: argparse.Namespace) -> None:  # noqa: ANN401
    """Publish `count` events a window, evenly; print what is remembered at each window's end."""
    before = int(client.info("memory")["used_memory"])
    publisher = Publisher(client, KEYS, lease_s=3600, dedup_window_s=options.window)
    publisher.acquire()
    pruning = Pruning(client, KEYS, dedup_window_s=options.window)
    shards, began, beat = count // options.full, time.monotonic(), 0.0
    for first in range(0, options.windows * count, BATCH):
        due_s = first * options.window / count
        time.sleep(max(0.0, began + due_s - time.monotonic()))
        events = [_outbound(number, shards) for number in range(first, first + BATCH)]
        publisher.publish(events, "0-1")
        if due_s >= beat:
            beat += BEAT_S
            while pruning.prune():
                pass
        if (first + BATCH) % count < BATCH:
            client.delete(KEYS.notifications)
            grown = int(client.info("memory")["used_memory"]) - before
            print(json.dumps({
                "server": client.info("server").get("valkey_version")
                or client.info()["redis_version"],
                "window": (first + BATCH) // count,
                "remembered": sum(map(client.hlen, client.scan_iter(f"{KEYS.prefix}:seen:*"))),
                "MiB": round(grown / 2**20, 1),
                "bytes_an_event_of_a_window": round(grown / count, 1),
                "seconds_late": round(max(0.0, time.monotonic() - began - due_s), 1),
            }), flush=True)  # fmt: skip


def publish(client: Any, count: int) -> None:  # noqa: ANN401 -- redis-py's own types
    """Publish `count` small events as the worker does, each with an event_id of its own."""
    publisher = Publisher(client, KEYS, lease_s=3600, dedup_window_s=WINDOW_S)
    publisher.acquire()
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        publisher.publish([_outbound(number) for number in numbers], "0-1")
        client.xtrim(KEYS.notifications, maxlen=BATCH, approximate=False)


def _outbound(number: int, shards: int = SHARDS) -> Outbound:
    digest = identity_digest(f"evt_{number:012}")
    shard = int.from_bytes(digest[:2]) % shards
    identity = shard.to_bytes(2) + digest[2:] + identity_digest(f"content {number}")
    return Outbound(identity, b'{"control_version":', f"control:events/{number}-1", b"")


if __name__ == "__main__":
    main()

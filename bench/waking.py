"""How soon `Producer.outcome` returns after a notification can be read: `python -m bench.waking`.

A thread waits for an event, and is asleep in its blocking read; then the notification is appended.
Measured from before that is sent to when the thread has the outcome, beside a bare XREAD that is
woken in the same way, which is what no program can beat.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from sidecar.producer import Producer
from sidecar.redis.embedded import EmbeddedServer
from store import open_url

STREAM = "control:notifications"
ROUNDS = 500


def main() -> None:
    """Print both, in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory))
        try:
            _measure(server.url)
        finally:
            server.close()


def _measure(url: str) -> None:
    producer = Producer(url, "control:events", open_url("memory:"))
    bare = redis.Redis.from_url(url, protocol=2)
    ways: dict[str, Callable[[str], object]] = {
        "Producer.outcome": lambda event_id: producer.outcome(event_id, 60),
        "a bare XREAD": lambda _: bare.xread({STREAM: "$"}, block=60_000),
    }
    with redis.Redis.from_url(url) as client:
        client.xadd(STREAM, {"x": "x"}, id="1-0")
        for name, wait in ways.items():
            took = sorted(
                _once(client, wait, f"{name} {number}", number) for number in range(ROUNDS)
            )
            median, high = statistics.median(took), took[int(ROUNDS * 0.99)]
            print(f"{name:20} median {median:.2f} ms  p99 {high:.2f} ms  most {took[-1]:.2f} ms")
            client.delete(STREAM)
            client.xadd(STREAM, {"x": "x"}, id="1-0")


def _once(client: redis.Redis, wait: Callable[[str], object], event_id: str, number: int) -> float:
    """Return how long one took, in milliseconds."""
    ended: list[float] = []
    thread = threading.Thread(target=lambda: (wait(event_id), ended.append(time.perf_counter())))
    thread.start()
    while not client.info("clients")["blocked_clients"]:
        time.sleep(0.001)
    event = (
        f'{{"id":0,"event_id":"{event_id}","type":"run.abort","control_version":{number + 2}000}}'
    )
    began = time.perf_counter()
    client.xadd(STREAM, {"event": event, "origin": "s/1-0"}, id=f"{number + 2}-0")
    thread.join()
    return (ended[0] - began) * 1000


if __name__ == "__main__":
    main()

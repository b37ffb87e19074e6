"""`python -m bench.remote`: a worker over a network, beside a bare client of the same concurrency.

Each request to the fleet's bucket takes as long as you say, on the socket. The worker begins with
one store thread, so the rates are of the second half. The bare client sends what a Put sends, two
requests, from as many threads as the worker usually had requests under way, in its second half:
`auto` tries more threads now and then, and does not keep them. With `--allowed`
the bucket tells those who ask more often than that to slow down, and there is no bare client.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import obstore
import redis
from obstore.store import S3Store

import store
from bench.events import MANIFEST, NOTIFICATIONS, artifact, fill, ref_of
from bench.lap import Lap
from sidecar.redis.embedded import EmbeddedServer
from sidecar.worker import app, logs, settings

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}


@contextmanager
def slow_bucket(delay_s: float, allowed: float) -> Iterator[str]:
    """Run one in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "bench.slow_bucket", str(delay_s), str(allowed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def usual(endpoint: str) -> int:
    """Return how many requests were under way at once, usually, since this was asked before."""
    with urllib.request.urlopen(f"{endpoint}/?usual") as answer:
        return int(answer.read())


def rate(times: list[float]) -> float:
    """Return how many a second there were in the second half; infinitely many in one moment."""
    half = sorted(times)[len(times) // 2 :]
    took_s = half[-1] - half[0]
    return (len(half) - 1) / took_s if took_s else math.inf


def worker(count: int, threads: str) -> tuple[float, float]:
    """Return how many 4 KiB artifacts a worker publishes a second, and the processor's µs each."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        source = store.open_url(Path(directory, "source").as_uri())
        for i in range(count):
            source.put(ref_of(i), artifact(i), MANIFEST)
        server = EmbeddedServer(Path(directory, "redis"))
        try:
            client = redis.Redis.from_url(server.url, decode_responses=True)
            client.config_set("appendonly", "no")
            fill(server.url, count, artifacts=True)
            chosen = settings.build(
                redis=server.url, source_store=Path(directory, "source").as_uri(),
                fleet_store="s3://bucket/fleet", store_threads=threads, drain=True,
            )  # fmt: skip
            lap = Lap()
            if code := app.run(chosen, logs.configure("warning"), threading.Event()):
                raise SystemExit(f"the drain ended with {code}")
            cost = lap.end()
            found = client.xrange(NOTIFICATIONS)
        finally:
            server.close()
    if len(found) != count:
        raise SystemExit(f"{len(found)} of {count} were published")
    published = [int(entry.partition("-")[0]) / 1e3 for entry, _ in found]
    return rate(published), cost.processor_s / count * 1e6


def bare(endpoint: str, count: int, threads: int) -> tuple[float, float]:
    """Return how many times a second two such requests are sent, and the processor's µs each."""
    bucket = S3Store(
        "bucket", prefix="bare", endpoint=endpoint, region="us-east-1", access_key_id="bench",
        secret_access_key="bench", client_options={"allow_http": True},
    )  # fmt: skip
    content = [artifact(i) + MANIFEST + b"h" * 300 for i in range(count)]

    def put(i: int) -> float:
        obstore.put(bucket, f"versions/{i}", content[i])
        obstore.put(bucket, f"refs/{i}", content[i], mode="create")
        return time.time()

    lap = Lap()
    with ThreadPoolExecutor(threads) as pool:
        times = list(pool.map(put, range(count)))
    return rate(times), lap.end().processor_s / count * 1e6


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(prog="python -m bench.remote", description=__doc__)
    options.add_argument("--delay", type=float, default=0.05, help="seconds a request takes")
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--store-threads", default="auto")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--allowed", type=float, default=0, help="requests a second; 0: all")
    chosen = options.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for _ in range(chosen.rounds):
        with slow_bucket(chosen.delay, chosen.allowed) as endpoint:
            os.environ.update({**KEYS, "AWS_ENDPOINT_URL": endpoint})
            usual(endpoint)
            ours, processor_us = worker(chosen.count, chosen.store_threads)
            at_once = usual(endpoint)
            print(
                f"load {os.getloadavg()[0]:.0f}: worker {ours:.0f}/s, {processor_us:.0f} µs each,"
                f" {at_once} requests at once"
            )
            if chosen.allowed:
                print(f"  {2 * ours / chosen.allowed:.2f} of what is allowed, all published")
                continue
            theirs, processor_us = bare(endpoint, chosen.count, at_once)
            print(
                f"  bare {theirs:.0f}/s, {processor_us:.0f} µs each;"
                f" worker/bare {ours / theirs:.2f}", flush=True
            )  # fmt: skip


if __name__ == "__main__":
    main()

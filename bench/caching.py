"""`python -m bench.caching`: what a cache beside the feed saves the store, and what a hit takes.

Controllers, each a process of its own, begin at once and resolve the same artifacts of 4 KiB, from
a bucket whose every request takes 20 ms on the socket, by one cache. Then one does so without a
cache, and one with a cache of its own and with `prefetch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

import store
from bench.events import MANIFEST, NOTIFICATIONS, artifact, ref_of
from bench.remote import KEYS, slow_bucket
from sidecar.feed import Cache, CacheFigures, Feed
from sidecar.redis.embedded import EmbeddedServer
from sidecar.redis.fleet import STORE
from sidecar.redis.keys import Keys
from sidecar.wire.ids import EntryId
from store import Capability, versioned

FLEET = "s3://bucket/fleet"
MAX_BYTES = 1 << 30
BASE = 1_790_000_000_000_000
WRITERS = 64


def reads_of(endpoint: str) -> int:
    """Return how many objects were asked for since this was asked before."""
    with urllib.request.urlopen(f"{endpoint}/?reads") as answer:
        return int(answer.read())


def publish(url: str, count: int) -> None:
    """Put so many artifacts, and append their notifications."""
    fleet = versioned(store.open_url(FLEET), Capability.IDENTITY)
    assert fleet
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda i: fleet.put(ref_of(i), artifact(i), MANIFEST), range(count)))
    with redis.Redis.from_url(url) as client:
        client.hset(Keys.of("", NOTIFICATIONS).fleet, STORE.decode(), fleet.identity or "")
        for i in range(count):
            cv = BASE + 1000 * i
            event = {
                "id": i, "event_id": f"e{i}", "type": "key.changed", "tenant_id": "t",
                "artifact_ref": ref_of(i), "checksum": store.checksum_of(artifact(i)),
                "manifest_checksum": store.checksum_of(MANIFEST), "control_version": cv,
            }  # fmt: skip
            fields: dict[Any, Any] = {"event": json.dumps(event), "origin": "s/1-0"}
            client.xadd(NOTIFICATIONS, fields, id=EntryId.of_version(cv))


def controller(url: str, directory: str, ahead: int) -> None:
    """Resolve all there is, once told to; print what each took, in ms, hits and misses apart."""
    cache = Cache(directory, MAX_BYTES) if directory else None
    with Feed(url, store=store.open_url(FLEET, create=False), cache=cache) as feed:
        batch = feed.poll(limit=1_000_000)
        print("ready", flush=True)
        sys.stdin.readline()
        took: dict[bool, list[float]] = {True: [], False: []}
        began = time.perf_counter()
        for n in feed.prefetch(batch, ahead=ahead) if ahead else batch:
            before, start = cache.figures().hits if cache else 0, time.perf_counter()
            feed.resolve(n)
            is_hit = bool(cache and cache.figures().hits > before)
            took[is_hit].append((time.perf_counter() - start) * 1000)
        whole = time.perf_counter() - began
    done = cache.figures() if cache else CacheFigures(misses=len(batch))
    found = {"hits": took[True], "misses": took[False], "s": whole}
    print(json.dumps(found | {"reads": done.misses + done.prefetched}), flush=True)


def run(count: int, *arguments: str) -> list[Any]:
    """Run so many controllers at once; return what they print."""
    command = [sys.executable, "-m", "bench.caching", "--controller", *arguments]
    pipe = subprocess.PIPE
    ours = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    for one in ours:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
    for one in ours:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
    found = [json.loads(one.communicate()[0]) for one in ours]
    assert all(one.returncode == 0 for one in ours)
    return found


def measure(url: str, endpoint: str, controllers: int, artifacts: int) -> None:
    """Print what the controllers cost the store, and how long what takes."""
    with tempfile.TemporaryDirectory() as directory:
        reads_of(endpoint)
        plain = run(1, url, "", "0")[0]
        each = (reads_of(endpoint) - 2) / artifacts  # without the store's format and identity
        read = statistics.median(plain["misses"])
        print(f"load {os.getloadavg()[0]:.0f}: without a cache a read takes {read:.2f} ms and"
              f" {each:.2f} requests; {artifacts:,} take {plain['s']:.1f} s")  # fmt: skip
        print(f"{controllers} controllers, {artifacts:,} artifacts each; with the requests of each"
              " that looks whether there is a store, and which")  # fmt: skip
        shared = f"{directory}/shared"
        for kind, cache, ahead in (
            ("with one cache", shared, "0"), ("without", "", "0"),
            ("with one cache, and prefetch(ahead=8)", f"{shared} ahead", "8"),
        ):  # fmt: skip
            found = run(controllers, url, cache, ahead)
            last = max(one["s"] for one in found)
            print(f"  {kind}: {sum(one['reads'] for one in found):,} were read, with"
                  f" {reads_of(endpoint):,} requests; the last controller was done in {last:.1f} s,"
                  f" load {os.getloadavg()[0]:.0f}")  # fmt: skip
        warm = run(1, url, shared, "0")[0]
        hit = statistics.median(warm["hits"])
        high = sorted(warm["hits"])[int(len(warm["hits"]) * 0.99)]
        print(f"a hit takes {hit:.3f} ms (99th percentile {high:.3f}), {hit / read:.4f} of a read;"
              f" {artifacts:,} take {warm['s']:.2f} s")  # fmt: skip
        for ahead in ("8", "32"):
            one = run(1, url, f"{directory}/{ahead}", ahead)[0]
            print(f"an empty cache, prefetch(ahead={ahead}): {one['s']:.2f} s,"
                  f" {plain['s'] / one['s']:.1f} times as fast as without")  # fmt: skip


def main() -> None:
    """Measure, or be one of the controllers."""
    options = argparse.ArgumentParser(prog="python -m bench.caching", description=__doc__)
    options.add_argument("--controllers", type=int, default=50)
    options.add_argument("--artifacts", type=int, default=1000)
    options.add_argument("--delay", type=float, default=0.02, help="seconds a request takes")
    options.add_argument("--controller", nargs=3, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.controller:
        url, directory, ahead = chosen.controller
        return controller(url, directory, int(ahead))
    with tempfile.TemporaryDirectory() as directory, slow_bucket(chosen.delay, 0) as endpoint:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": endpoint})
        server = EmbeddedServer(Path(directory))
        try:
            publish(server.url, chosen.artifacts)
            measure(server.url, endpoint, chosen.controllers, chosen.artifacts)
        finally:
            server.close()


if __name__ == "__main__":
    main()

"""What is measured. Each contender is one function, run in a process of its own.

`python -m bench.contenders NAME DIRECTORY COUNT` prints what COUNT events cost (`bench.lap.Cost`),
with Redis, whose URL is in `BENCH_REDIS`, filled and artifacts put before the clock starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis

from bench import rivals
from bench.events import CONTROL, MANIFEST, NOTIFICATIONS, artifact, fill, ref_of
from bench.lap import Cost, Lap
from bench.sink import sink

URL: Final = "BENCH_REDIS"
"""The variable with the URL: its password is nobody else's to read off a list of processes."""

# --- limits --------------------------------------------------------------------------------------


def bare_loop(url: str, _directory: Path, count: int) -> Cost:
    """XREADGROUP 500, then one Lua call that appends and acknowledges: no check of anything."""
    client: Any = redis.Redis.from_url(url)
    fill(url, count, artifacts=False)
    client.xgroup_create(CONTROL, "bare", "0")
    script = client.register_script(
        "for i = 1, #ARGV, 2 do redis.call('XADD', KEYS[2], '*', 'event', ARGV[i + 1])"
        " redis.call('XACK', KEYS[1], 'bare', ARGV[i]) end"
    )
    lap = Lap()
    while True:
        answer = client.xreadgroup("bare", "worker", {CONTROL: ">"}, count=500)
        if not answer:
            return lap.end()
        args = [part for entry, fields in answer[0][1] for part in (entry, fields[b"event"])]
        script(keys=[CONTROL, NOTIFICATIONS], args=args)


def raw_writer(_url: str, directory: Path, count: int) -> Cost:
    """Data and manifest into one file, fsync, rename, fsync of the directory; one by one."""
    blobs = [artifact(i) for i in range(count)]
    lap = Lap()
    for i, data in enumerate(blobs):
        descriptor = os.open(directory / "temp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, data + MANIFEST)
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(directory / "temp", directory / f"{i}")
        folder = os.open(directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return lap.end()


# --- the sidecar ---------------------------------------------------------------------------


def relay(url: str, directory: Path, count: int) -> Cost:
    """`sidecar run --drain`, events without artifact, default log level."""
    fill(url, count, artifacts=False)
    return _drain(url, directory)


def relay_not_traced(url: str, directory: Path, count: int) -> Cost:
    """The same of events with a traceparent, without `--traces`."""
    fill(url, count, artifacts=False, sampled_every=100)
    return _drain(url, directory)


def relay_traced(url: str, directory: Path, count: int) -> Cost:
    """The same with `--traces`, each hundredth event sampled, a collector beside it."""
    return _traced(url, directory, count, sampled_every=100)


def relay_traced_all(url: str, directory: Path, count: int) -> Cost:
    """The same with each event sampled."""
    return _traced(url, directory, count, sampled_every=1)


def relay_signed(url: str, directory: Path, count: int) -> Cost:
    """The same with `--sign-key`."""
    fill(url, count, artifacts=False)
    return _drain(url, directory, sign_key=_sign_key(directory))


def relay_beside_trouble(url: str, directory: Path, count: int) -> Cost:
    """The same, until all are published, beside a tenant whose artifacts are missing."""
    from sidecar.worker import app, logs, settings

    fill(url, count, artifacts=False, trouble=True)
    stop = threading.Event()
    chosen = settings.build(redis=url, **_stores(directory), retry_budget_s=3600)
    log = logs.configure("info")
    client: Any = redis.Redis.from_url(url)
    lap = Lap()
    worker = threading.Thread(target=app.run, args=(chosen, log, stop))
    worker.start()
    while client.xlen(NOTIFICATIONS) < count:
        time.sleep(0.005)
    cost = lap.end()
    stop.set()
    worker.join()
    return cost


def full_job(url: str, directory: Path, count: int) -> Cost:
    """`sidecar run --drain`, 4 KiB artifacts from file store to file store, durable."""
    _produce(url, directory, count)
    return _drain(url, directory)


def full_job_signed(url: str, directory: Path, count: int) -> Cost:
    """The same with `--sign-key`."""
    _produce(url, directory, count)
    return _drain(url, directory, sign_key=_sign_key(directory))


def _produce(url: str, directory: Path, count: int) -> None:
    import store

    source = store.open_url((directory / "source").as_uri())
    for i in range(count):
        source.put(ref_of(i), artifact(i), MANIFEST)
    fill(url, count, artifacts=True)


def idle_latency(url: str, directory: Path, count: int) -> Cost:
    """Median seconds from an entry appended to an idle stream to its notification, read."""
    import store
    from sidecar.worker import app, logs, settings

    stop = threading.Event()
    chosen = settings.build(redis=url, **_stores(directory))
    log = logs.configure("info")
    source = store.open_url(chosen.source_url)
    worker = threading.Thread(target=app.run, args=(chosen, log, stop))
    worker.start()
    client: Any = redis.Redis.from_url(url, socket_timeout=20)
    latencies = []
    cursor = b"0"
    for i in range(count):
        time.sleep(random.uniform(0.005, 0.03))
        data = artifact(i)
        source.put(ref_of(i), data, MANIFEST)
        event = {
            "event_id": f"evt_{i}",
            "type": "hostname.revoked",
            "artifact_ref": ref_of(i),
            "checksum": f"sha256:{hashlib.sha256(data).hexdigest()}",
        }
        began = time.perf_counter()
        client.xadd(CONTROL, {"event": json.dumps(event)})
        answer = client.xread({NOTIFICATIONS: cursor}, block=10_000)
        latencies.append(time.perf_counter() - began)
        cursor = answer[0][1][-1][0]
    stop.set()
    worker.join()
    return Cost(statistics.median(latencies[count // 10 :]), 0.0, 0)


# --- the feed ------------------------------------------------------------------------------------


def bare_reader(url: str, _directory: Path, count: int) -> Cost:
    """XREAD by redis-py, a thousand entries at a time; nothing is decoded or checked."""
    return _read_bare(url, count, lambda _: None)


def validating_reader(url: str, _directory: Path, count: int) -> Cost:
    """The same loop, each entry validated as the feed does; no gaps, no reconnects."""
    from sidecar.wire.notification import Notification

    return _read_bare(url, count, Notification.of_entry)


def _read_bare(url: str, count: int, check: Callable[[dict[bytes, bytes]], object]) -> Cost:
    client: Any = redis.Redis.from_url(url, protocol=2)
    _fill_notifications(url, count)
    cursor, seen = b"0", 0
    lap = Lap()
    while seen < count:
        ((_, entries),) = client.xread({NOTIFICATIONS: cursor}, count=1000)
        for _, fields in entries:
            check(fields)
        cursor, seen = entries[-1][0], seen + len(entries)
    return lap.end()


def feed(url: str, _directory: Path, count: int) -> Cost:
    """`Feed.follow` from the beginning: each notification validated, gaps looked for."""
    from sidecar.feed import Feed

    _fill_notifications(url, count)
    following = Feed(url).follow()
    lap = Lap()
    for _ in range(count):
        next(following)
    return lap.end()


def async_feed(url: str, _directory: Path, count: int) -> Cost:
    """`AsyncFeed.follow`, the same."""
    from sidecar.feed import AsyncFeed

    async def follow() -> Cost:
        async with AsyncFeed(url) as feed:
            seen = 0
            lap = Lap()
            async for _ in feed.follow():
                seen += 1
                if seen == count:
                    break
            return lap.end()

    _fill_notifications(url, count)
    return asyncio.run(follow())


def feed_wakeup(url: str, _directory: Path, count: int) -> Cost:
    """Median seconds from a notification appended to an idle stream to `Feed.follow`'s yield."""
    from sidecar.feed import Feed

    client: Any = redis.Redis.from_url(url)
    latencies = []
    began = 0.0

    def append() -> None:
        nonlocal began
        time.sleep(random.uniform(0.005, 0.03))
        now_us = time.time_ns() // 1000
        began = time.perf_counter()
        client.xadd(NOTIFICATIONS, _notification(0, now_us), id=_entry_id(now_us))

    following = Feed(url).follow()
    for _ in range(count):
        writer = threading.Thread(target=append)
        writer.start()
        next(following)
        latencies.append(time.perf_counter() - began)
        writer.join()
    return Cost(statistics.median(latencies[count // 10 :]), 0.0, 0)


def _fill_notifications(url: str, count: int) -> None:
    """Append `count` notifications of artifacts, as a worker would."""
    pipeline = redis.Redis.from_url(url).pipeline(transaction=False)
    first_us = time.time_ns() // 1000 - count
    for i in range(count):
        pipeline.xadd(NOTIFICATIONS, _notification(i, first_us + i), id=_entry_id(first_us + i))  # type: ignore[arg-type]
        if i % 5000 == 0:
            pipeline.execute()
    pipeline.execute()


def _notification(i: int, control_version: int) -> dict[str, str]:
    event = {
        "id": i,
        "event_id": f"evt_{i:012}",
        "type": "stack.activated",
        "tenant_id": f"t_{i % 20}",
        "stack_id": "web",
        "version": i + 1,
        "artifact_ref": ref_of(i),
        "checksum": f"sha256:{i:064x}",
        "manifest_checksum": f"sha256:{i:064x}",
        "created_at": "2026-11-22T12:00:00.000Z",
        "control_version": control_version,
    }
    return {"event": json.dumps(event, separators=(",", ":")), "origin": f"{CONTROL}/{i + 1}-0"}


def _entry_id(control_version: int) -> str:
    return f"{control_version // 1000}-{control_version % 1000}"


def _stores(directory: Path) -> dict[str, str]:
    return {f"{name}_store": (directory / name).as_uri() for name in ("source", "fleet")}


def _prune(url: str) -> None:
    """Look at every shard of the index, as a worker does once where none ever ran."""
    from sidecar.redis.client import connect
    from sidecar.redis.keys import Keys
    from sidecar.redis.pruning import Pruning

    client = connect(url)
    pruning = Pruning(client, Keys.of(CONTROL, NOTIFICATIONS), dedup_window_s=7 * 86400)
    while pruning.prune():
        pass
    client.close()


def _traced(url: str, directory: Path, count: int, sampled_every: int) -> Cost:
    fill(url, count, artifacts=False, sampled_every=sampled_every)
    with sink() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        return _drain(url, directory, traces=True)


def _sign_key(directory: Path) -> Path:
    from sidecar.wire.keyfiles import new_pair

    directory.mkdir(parents=True, exist_ok=True)
    new_pair(directory / "key")
    return directory / "key"


def _drain(url: str, directory: Path, **more: object) -> Cost:
    from sidecar.worker import app, logs, settings

    chosen = settings.build(redis=url, **_stores(directory), drain=True, **more)
    log = logs.configure("info")
    _prune(url)
    lap = Lap()
    code = app.run(chosen, log, threading.Event())
    if code:
        raise SystemExit(f"the drain ended with {code}")
    return lap.end()


CONTENDERS: dict[str, Callable[[str, Path, int], Cost]] = {
    function.__name__: function
    for function in (
        bare_loop,
        raw_writer,
        relay,
        relay_not_traced,
        relay_traced,
        relay_traced_all,
        relay_signed,
        relay_beside_trouble,
        full_job,
        full_job_signed,
        *rivals.RIVALS,
        idle_latency,
        bare_reader,
        validating_reader,
        feed,
        async_feed,
        feed_wakeup,
    )
}

if __name__ == "__main__":
    name, directory, count = sys.argv[1:]
    print(json.dumps(CONTENDERS[name](os.environ[URL], Path(directory), int(count))))

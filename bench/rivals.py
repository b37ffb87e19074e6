"""What a good engineer writes without the sidecar, for the same job and with the same flushes.

None of them fences, retries, writes dead letters or keeps versions. What each promises of an
artifact and of an event that comes again is its `PROMISES`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import redis

from bench.events import CONTROL, MANIFEST, NOTIFICATIONS, artifact, fill, ref_of
from bench.lap import Cost, Lap

BATCH = 500
THREADS = 8

PUBLISH = """
for i = 1, #ARGV, 3 do
  if redis.call('SET', KEYS[3] .. ARGV[i + 1], '1', 'NX', 'EX', 604800) then
    redis.call('XADD', KEYS[2], '*', 'event', ARGV[i + 2])
  end
  redis.call('XACK', KEYS[1], 'rival', ARGV[i])
end
"""
KEYS = [CONTROL, NOTIFICATIONS, "seen:"]

_FLUSHED = "file and directory flushed before it is published"
_ONCE = "once, while the server remembers"
PROMISES = {
    "bare_loop": "no artifacts; repeats are published again",
    "decoding_loop": f"no artifacts; {_ONCE}",
    "by_hand": f"{_FLUSHED}; {_ONCE}",
    "by_hand_async": f"{_FLUSHED}; {_ONCE}",
    "faststream_relay": "no artifacts; repeats are published again",
    "faststream_relay_batches": "no artifacts; repeats are published again",
    "faststream_full": f"{_FLUSHED}; repeats are published again",
    "faststream_batches": f"{_FLUSHED}; repeats are published again",
    "raw_writer": "file and directory flushed; no events",
}


class Files:
    """Data and manifest in one file an artifact, under two directories."""

    def __init__(self, directory: Path, count: int) -> None:
        """Put `count` artifacts at the source, before any clock starts."""
        self._source, self._fleet = directory / "source", directory / "fleet"
        self._made: set[str] = set()
        self._fleet.mkdir()
        for i in range(count):
            path = self._source / ref_of(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(artifact(i) + MANIFEST)

    def carry(self, event: dict[str, Any]) -> None:
        """Read, verify, write aside, flush, name, flush the name."""
        ref = event["artifact_ref"]
        content = (self._source / ref).read_bytes()
        if f"sha256:{hashlib.sha256(content[: -len(MANIFEST)]).hexdigest()}" != event["checksum"]:
            raise ValueError(ref)
        path = f"{self._fleet}/{ref}"
        folder = os.path.dirname(path)
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        descriptor = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(f"{path}.tmp", path)
        flush(folder)

    def carry_all(self, events: Sequence[dict[str, Any]]) -> None:
        """Carry one after the other."""
        for event in events:
            self.carry(event)


def flush(folder: str) -> None:
    """Flush the names in a directory."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dealt(events: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """Deal events to the threads: one hand-over a thread and batch."""
    return [events[n::THREADS] for n in range(THREADS)]


def decoded(entries: Any) -> tuple[list[dict[str, Any]], list[Any]]:  # noqa: ANN401 -- redis-py's
    """Return the events of entries, and what `PUBLISH` takes of them."""
    events = [orjson.loads(fields[b"event"]) for _, fields in entries]
    args = [
        part
        for (entry_id, fields), event in zip(entries, events, strict=True)
        for part in (entry_id, event["event_id"], fields[b"event"])
    ]
    return events, args


def decoding_loop(url: str, _directory: Path, count: int) -> Cost:
    """XREADGROUP 500, decoded, then one script that deduplicates, appends and acknowledges."""
    fill(url, count, artifacts=False)
    return _by_hand(url, lambda _: None)


def by_hand(url: str, directory: Path, count: int) -> Cost:
    """The same loop with eight threads that verify and store, a batch at a time."""
    files = Files(directory, count)
    fill(url, count, artifacts=True)
    with ThreadPoolExecutor(THREADS) as pool:
        return _by_hand(url, lambda events: list(pool.map(files.carry_all, dealt(events))))


def _by_hand(url: str, store_all: Any) -> Cost:  # noqa: ANN401 -- a callable of events
    client: Any = redis.Redis.from_url(url)
    client.xgroup_create(CONTROL, "rival", "0")
    script = client.register_script(PUBLISH)
    lap = Lap()
    while True:
        answer = client.xreadgroup("rival", "worker", {CONTROL: ">"}, count=BATCH)
        if not answer:
            return lap.end()
        events, args = decoded(answer[0][1])
        store_all(events)
        script(keys=KEYS, args=args)


def by_hand_async(url: str, directory: Path, count: int) -> Cost:
    """Asyncio with eight threads: the next batch is read while one is stored."""
    files = Files(directory, count)
    fill(url, count, artifacts=True)
    return asyncio.run(_by_hand_async(url, files))


async def _by_hand_async(url: str, files: Files) -> Cost:
    client: Any = redis.asyncio.Redis.from_url(url)
    await client.xgroup_create(CONTROL, "rival", "0")
    script = client.register_script(PUBLISH)
    loop = asyncio.get_running_loop()

    def read() -> asyncio.Task[Any]:
        return asyncio.create_task(
            client.xreadgroup("rival", "worker", {CONTROL: ">"}, count=BATCH)
        )

    with ThreadPoolExecutor(THREADS) as pool:
        lap, reading = Lap(), read()
        while answer := await reading:
            reading = read()
            events, args = decoded(answer[0][1])
            stored = (loop.run_in_executor(pool, files.carry_all, few) for few in dealt(events))
            await asyncio.gather(*stored)
            await script(keys=KEYS, args=args)
        cost = lap.end()
    await client.aclose()
    return cost


# --- FastStream ----------------------------------------------------------------------------------


def faststream_relay(url: str, _directory: Path, count: int) -> Cost:
    """FastStream 0.7, one by one: a group's subscriber that publishes what it gets."""
    fill(url, count, artifacts=False)
    return asyncio.run(_faststream(url, count, None, batch=False))


def faststream_relay_batches(url: str, _directory: Path, count: int) -> Cost:
    """The same by batches of 500, published in one pipeline each."""
    fill(url, count, artifacts=False)
    return asyncio.run(_faststream(url, count, None, batch=True))


def faststream_full(url: str, directory: Path, count: int) -> Cost:
    """FastStream one by one, with files flushed in its handler."""
    files = Files(directory, count)
    fill(url, count, artifacts=True)
    return asyncio.run(_faststream(url, count, files, batch=False))


def faststream_batches(url: str, directory: Path, count: int) -> Cost:
    """FastStream by batches of 500, with files flushed by eight threads."""
    files = Files(directory, count)
    fill(url, count, artifacts=True)
    return asyncio.run(_faststream(url, count, files, batch=True))


async def _faststream(url: str, count: int, files: Files | None, *, batch: bool) -> Cost:
    from faststream import AckPolicy
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(url, logger=None)
    client: Any = redis.Redis.from_url(url)
    client.xgroup_create(CONTROL, "fast", "0")
    loop, pool, seen = asyncio.get_running_loop(), ThreadPoolExecutor(THREADS), 0
    done: asyncio.Future[None] = loop.create_future()

    async def relay_all(messages: list[dict[str, Any]]) -> None:
        nonlocal seen
        try:
            if files:
                events = [orjson.loads(message["event"]) for message in messages]
                stored = (loop.run_in_executor(pool, files.carry_all, few) for few in dealt(events))
                await asyncio.gather(*stored)
            async with connection.pipeline(transaction=False) as pipe:
                for message in messages:
                    await broker.publish(message, stream=NOTIFICATIONS, pipeline=pipe)
                await pipe.execute()
        except BaseException as error:  # it would be logged, and the rest waited for
            done.set_exception(error)
            raise
        seen += len(messages)
        if seen == count:
            done.set_result(None)

    subscribed = broker.subscriber(
        stream=StreamSub(CONTROL, group="fast", consumer="worker", max_records=BATCH, batch=batch),
        ack_policy=AckPolicy.ACK,
        no_reply=True,
    )
    if batch:
        subscribed(relay_all)
    else:

        async def relay_one(message: dict[str, Any]) -> None:
            await relay_all([message])

        subscribed(relay_one)

    lap = Lap()
    connection: Any = await broker.connect()
    await broker.start()
    await asyncio.wait_for(done, 120)
    cost = lap.end()
    await broker.stop()
    pool.shutdown()
    return cost


RIVALS = (
    decoding_loop, by_hand, by_hand_async, faststream_relay, faststream_relay_batches,
    faststream_full, faststream_batches,
)  # fmt: skip

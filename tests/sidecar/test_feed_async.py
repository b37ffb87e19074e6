"""What only the asyncio face of the feed can do wrong: block its loop, and be cancelled."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

from sidecar.feed import AsyncFeed
from sidecar.redis.readers import registered
from store import Artifact, checksum_of
from store.memory import MemoryStore
from tests.sidecar.test_feed_faces import KEYS, published, versions


def test_many_wait_in_one_loop(redis_url: str, client: Any) -> None:
    """Tasks that follow and poll at once do not hold each other up."""

    async def run() -> list[int]:
        async with AsyncFeed(redis_url) as feed:

            async def first() -> int:
                return (await anext(feed.follow())).control_version

            async def polled() -> int:
                return versions(await feed.poll(wait_s=20))[0]

            tasks = [asyncio.create_task(one()) for one in (first, polled) * 5]
            while client.info("clients")["blocked_clients"] < len(tasks):
                await asyncio.sleep(0.005)
            published(client, 1000)
            return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [1000] * 10


def test_cancelled_anywhere(redis_url: str, client: Any) -> None:
    """After a call that was cancelled, wherever, the next gets its own answer."""
    published(client, *range(1000, 1100))

    async def run() -> None:
        rng = random.Random(7)
        async with AsyncFeed(redis_url, reader="c") as feed:
            for round_ in range(300):
                since = rng.randrange(1000, 1100)
                task = asyncio.create_task(_one_of(feed, since, rng.random()))
                for _ in range(rng.randrange(30)):
                    await asyncio.sleep(0)
                await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or not task.exception(), task
                await feed.passed(round_)
                ((_, passed, *_),) = registered(client, KEYS).good
                assert passed == round_
                assert versions(await feed.poll(since)) == list(range(since + 1, 1100))

    asyncio.run(run())


async def _one_of(feed: AsyncFeed, since: int, chance: float) -> object:
    if chance < 0.3:
        return await feed.poll(since)
    if chance < 0.5:
        return await feed.poll(1099, wait_s=20)
    if chance < 0.7:
        await feed.passed(0)
        return None
    async for _ in feed.follow(since):
        pass
    return None


def test_a_follower_ends_when_it_is_cancelled(redis_url: str) -> None:
    """A cancellation is never lost, at whatever step of waiting it comes."""

    async def run() -> None:
        async with AsyncFeed(redis_url) as feed:
            for steps in range(150):
                task = asyncio.create_task(_one_of(feed, 0, 1.0))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=60)
                assert done, f"lost after {steps} steps"

    asyncio.run(run())


def test_a_store_is_asked_in_a_thread(redis_url: str, client: Any) -> None:
    """A store that takes long holds up no other task of the loop."""

    class Slow(MemoryStore):
        def get(self, ref: str, **pin: Any) -> Artifact:
            assert others.wait(60), "no other task runs"
            return super().get(ref, **pin)

    async def run() -> Artifact:
        asyncio.get_running_loop().call_later(0.01, others.set)
        async with AsyncFeed(redis_url, store=fleet) as feed:
            (found,) = await feed.poll()
            return await feed.resolve(found)

    others = threading.Event()
    fleet = Slow()
    fleet.put("a", b"data", b"m")
    published(client, 1000, artifact_ref="a", checksum=checksum_of(b"data"))
    assert asyncio.run(run()) == (b"data", b"m")

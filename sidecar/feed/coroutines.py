"""The feed for a controller on asyncio: the names of `Feed`, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import closing, suppress
from typing import Any, TypeVar, overload

from sidecar.feed.face import BLOCK_S, PAGE, POLL_LIMIT, Face, Following, as_it_comes
from sidecar.feed.reading import Batch, FeedGap
from sidecar.feed.state import Followed, State, StateBegins
from sidecar.redis import readers
from sidecar.redis.bounded import TooMuch
from sidecar.redis.client import AsyncClient, Client, connect, connect_async
from sidecar.redis.errors import NotPermitted, Outage, Refused, translated
from sidecar.redis.fleet import STORE
from sidecar.wire.notification import Notification
from store import Artifact, ArtifactReader

T = TypeVar("T")


class AsyncFeed(Face[AsyncClient]):
    """Reads one notification stream, for the tasks of one event loop.

    Each method does and raises what that of `Feed` does, and may be cancelled at any moment.
    Close it, or use it as an asynchronous context manager.
    """

    _connect = staticmethod(connect_async)

    async def poll(self, since: int = 0, *, wait_s: float = 0.0, limit: int = POLL_LIMIT) -> Batch:
        """Return at most `limit` notifications above `since`, ascending; see `Feed.poll`."""
        since, deadline = self._known(since), time.monotonic() + wait_s
        with translated(self._url):
            batch = await self._read(since, limit, 0.0)
            while not batch and (batch.more or time.monotonic() < deadline):
                left_s = 0.0 if batch.more else deadline - time.monotonic()
                batch = await self._read(batch.cursor, limit, min(left_s, BLOCK_S))
        self.position = batch.cursor
        return batch

    async def state(self) -> State:
        """Return the newest notification of each subject; see `Feed.state`.

        A thread reads it, on a connection of its own. To iterate it blocks where it is large.
        """
        with translated(self._url):
            found = await self._look()
        self.position = found.cursor
        return found

    @overload
    def follow(self, since: int = 0) -> AsyncGenerator[Notification, None]: ...
    @overload
    def follow(
        self, since: int = 0, *, state: bool, again: bool = False
    ) -> AsyncGenerator[Followed, None]: ...
    async def follow(
        self, since: int = 0, *, state: bool = False, again: bool = False
    ) -> AsyncGenerator[Followed, None]:
        """Yield notifications above `since` as they come, for ever; see `Feed.follow`."""
        gap, allowed = None, self._may_again(state=state, again=again)
        while True:
            if state and not since:
                found = await self._state_in_time()
                yield StateBegins(gap)
                for notification in found:
                    yield notification
                since = self.position = found.cursor
                yield found.ends()
            try:
                async for notification in self._follow(since):
                    yield notification
            except FeedGap as error:
                gap, since = self._again(error, allowed=allowed), 0

    async def _state_in_time(self) -> State:
        """Return the state once Redis is there; what comes after it is kept for the reader."""
        at, found = Following(0), list[State]()
        while not found:
            with translated(self._url):
                try:
                    found.append(await self._look())
                except Outage as error:
                    self._away(error)
                    await asyncio.sleep(at.failed())
        self._back()
        if self._registration.name:
            await self.passed(found[0].cursor)
        return found[0]

    async def _look(self) -> State:
        await self._compare_store()
        return await asyncio.to_thread(self._read_apart)

    def _read_apart(self) -> State:
        with self._apart() as client:
            return self._read_state(client)

    def _apart(self) -> Client:
        """Return a client of its own for a thread."""
        client = connect(self._url, key=self._keys.notifications, block_s=BLOCK_S)
        as_it_comes(client)
        return client

    async def _follow(self, since: int) -> AsyncGenerator[Notification, None]:
        async for batch in self.batches(since):
            for notification in batch:
                self.position = self._at(notification, batch)
                yield notification
            self.position = batch.cursor

    async def batches(self, since: int = 0) -> AsyncGenerator[Batch]:
        """Do what `follow` does in batches; see `Feed.batches`."""
        self._begin(since)
        at = Following(self._known(since))
        while True:
            with translated(self._url):
                try:
                    batch = await self._read(at.cursor, PAGE, at.wait_s)
                    await self._heartbeat()  # not before: a cursor in a gap is no reader's
                except Outage as error:
                    self._away(error)
                    await asyncio.sleep(at.failed())
                    continue
            self._back()
            if at.moved(batch):
                yield batch

    async def resolve(self, notification: Notification) -> Artifact:
        """Return the artifact that the notification pins, verified; see `Feed.resolve`."""
        with self._span(notification):
            if found := await self._in_cache(self._artifacts.cached, notification):
                return found
            await self._compare_store()
            return await asyncio.to_thread(self._artifacts.get, notification)

    async def open(self, notification: Notification) -> ArtifactReader:
        """Open what `resolve` would return; see `Feed.open`.

        Reading it blocks: `await asyncio.to_thread(reader.read, size)`.
        """
        with self._span(notification):
            if found := await self._in_cache(self._artifacts.cached_reader, notification):
                return found
            await self._compare_store()
            return await asyncio.to_thread(self._artifacts.open, notification)

    async def prefetch(
        self, notifications: Iterable[Notification], *, ahead: int = 8
    ) -> AsyncGenerator[Notification, None]:
        """Yield what is given, while the next of it comes into the cache; see `Feed.prefetch`."""
        with closing(self._artifacts.ahead(notifications, ahead)) as coming:
            for notification in coming:
                yield notification

    async def _in_cache(
        self, find: Callable[[Notification], T | None], notification: Notification
    ) -> T | None:
        return await asyncio.to_thread(find, notification) if self._artifacts.cache else None

    async def passed(self, control_version: int) -> None:
        """Note that this reader needs nothing up to `control_version` more; see `Feed.passed`."""
        self._registration.owe(control_version)
        with translated(self._url):
            try:
                await self._heartbeat()
            except Outage as error:
                self._away(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> AsyncFeed:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def _read(self, since: int, limit: int, wait_s: float) -> Batch:
        async with self._client.pipeline(transaction=False) as pipeline:
            self._reading.ask(pipeline, since, limit, wait_s)
            answers = await pipeline.execute(raise_on_error=False)
        if any(isinstance(one, TooMuch) for one in answers):
            return await asyncio.to_thread(self._read_cut, since, limit)
        return self._reading.batch(answers, since)

    def _read_cut(self, since: int, limit: int) -> Batch:
        """Read what is too much for a coroutine's connection: entries are cut on another."""
        with self._apart() as client:
            return self._reading.read(client, since, limit)

    async def _compare_store(self) -> None:
        """Compare the store with the one that is noted, once; see `Feed`."""
        if not self._artifacts.is_fleets:
            with suppress(*Outage):
                noted = await self._noted_store()
                await asyncio.to_thread(self._artifacts.check_store, noted, self._url)

    async def _noted_store(self) -> Any:  # noqa: ANN401 -- redis-py's answer
        with suppress(NotPermitted):
            return await self._client.hget(self._keys.fleet, STORE.decode())
        return None

    async def _heartbeat(self) -> None:
        position = self._due()
        if position is None:
            return
        try:
            await self._tell(position)
        except Refused as error:
            self._registration.refused(error, self._url)

    async def _tell(self, control_version: int) -> None:
        seconds, microseconds = await self._client.time()
        value = readers.value(
            control_version, seconds * 10**6 + microseconds, self._registration.ttl_s
        )
        async with self._client.pipeline(transaction=False) as both:
            readers.note(both, self._keys, self._registration.name, value)
            await both.execute()
        self._told(control_version)

"""The feed's two faces, for one suite of tests: `AsyncFeed` driven as if it were a `Feed`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, Final

from sidecar.feed import AsyncFeed, Feed


class Driven:
    """An `AsyncFeed` of which each call runs until it is done."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._feed = AsyncFeed(*args, **options)

    @property
    def position(self) -> int:
        """That of the feed."""
        return self._feed.position

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._feed, name)
        if name in ("follow", "batches"):
            return lambda *args, **options: self._each(method(*args, **options))
        if name == "prefetch":
            return lambda *args, **options: self._all(method(*args, **options))
        return lambda *args, **options: self._runner.run(method(*args, **options))

    def _each(self, each: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            yield self._runner.run(_next(each))

    def _all(self, each: AsyncGenerator[Any, None]) -> Iterator[Any]:
        """Yield what comes up to the end; who closes this closes that."""
        try:
            yield from self._each(each)
        except StopAsyncIteration:
            return
        finally:
            self._runner.run(each.aclose())

    def close(self) -> None:
        """Close the feed and end its loop."""
        self._runner.run(self._feed.close())
        self._runner.close()


async def _next(each: AsyncIterator[Any]) -> Any:
    return await anext(each)


FACES: Final[dict[str, Callable[..., Any]]] = {"Feed": Feed, "AsyncFeed": Driven}

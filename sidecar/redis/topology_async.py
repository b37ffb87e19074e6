"""The connections of `topology`, for asyncio: they go the same ways, by the same URLs."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from sidecar.redis.bounded import AsyncBoundedParser, TooMuch
from sidecar.redis.topology import Place, Route, Steering


class _Steered(Steering, AbstractConnection):
    """Goes where its route says, and leaves a node that is not the one to write to."""

    def __init__(self, *, route: Route | None = None, **options: Any) -> None:  # noqa: ANN401 -- redis-py
        super().__init__(**options, parser_class=AsyncBoundedParser)
        self._route = route

    async def connect_check_health(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- redis-py
        if self._route is not None and not self.is_connected:
            # What knows the way is asked by blocking connections, a second each at most.
            self.host, self.port = await asyncio.to_thread(self._route.find)
        try:
            await super().connect_check_health(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._raise_with_node(error)

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 -- redis-py's
        await super().on_connect_check_health(check_health)
        if self._route is not None:
            await self.send_command("ROLE", check_health=False)
            self._check_role(await self.read_response())

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 -- redis-py's
        cancelled = _cancellations()
        parser: Any = self._parser
        parser.begin()
        try:
            await super().send_packed_command(command, check_health)
        except redis.ConnectionError as error:
            self._raise_with_node(error)
        if _cancellations() > cancelled:
            # Before Python 3.12 asyncio.wait_for, which redis-py sends with, may swallow one.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 -- redis-py
        try:
            return await super().read_response(*args, **options)
        except redis.ConnectionError as error:
            self._raise_with_node(error)
        except TooMuch:
            await self.disconnect(nowait=True)  # it stands in the middle of the answer
            raise
        except redis.ResponseError as error:
            problem = self._problem(error)
            if problem is None:
                raise
            await self.disconnect(nowait=True)
            raise problem from error


def _cancellations() -> int:
    """Return how often the task that runs was cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class _SteeredTCP(_Steered, Connection):
    pass


class _SteeredSSL(_Steered, SSLConnection):
    pass


class _SteeredUnix(_Steered, UnixDomainSocketConnection):
    pass


_STEERED: Final = (
    (redis.SSLConnection, _SteeredSSL),
    (redis.UnixDomainSocketConnection, _SteeredUnix),
    (redis.Connection, _SteeredTCP),
)


def connection_class(place: Place) -> type[AbstractConnection]:
    """Return the class that connects to `place` from a coroutine."""
    return next(ours for base, ours in _STEERED if issubclass(place.connection_class, base))

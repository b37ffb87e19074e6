"""redis-py's client without what a simulated connection does not need: retries, metrics, locks.

A run sends thousands of commands, and most of their cost lay there. What the product sees is the
same: the same commands, answers and errors, and a broken connection is closed as redis-py does.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.simulation.wire import SimulatedConnection


class SwiftRedis(redis.Redis):
    """`redis.Redis` on one connection at a time, kept for the next command."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its parsed answer. Raises as redis-py does."""
        pool: Any = self.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*args)
            answer = connection.read_response()
            options.pop("keys", None)  # those are for a cache
            callbacks: dict[str, Any] = self.response_callbacks
            parse = callbacks.get(args[0])
            return parse(answer, **options) if parse else answer
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


def swift_client(**options: Any) -> redis.Redis:
    """Return a client whose connections are made with `options`."""
    client: Any = copy(model())  # redis-py fills its table of callbacks one by one
    client.response_callbacks = dict(client.response_callbacks)
    client.connection_pool = SwiftPool(
        connection_class=SimulatedConnection, protocol=2, retry=Retry(NoBackoff(), 0), **options
    )
    return client  # type: ignore[no-any-return]


@cache
def model() -> redis.Redis:
    """Make the client that others are copies of. A run must not be the one that makes it."""
    model: Any = SwiftRedis(connection_pool=SwiftPool(protocol=2))
    model.response_callbacks = dict(model.response_callbacks)  # without a case to fold
    return model  # type: ignore[no-any-return]


class SwiftPool(redis.ConnectionPool):
    """A pool without locks: in a simulation one task runs at a time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: list[Any] = []
        self._all: list[Any] = []

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return a connection that is idle, or a new one; it is connected."""
        if self._idle:
            connection = self._idle.pop()
            if connection.is_ready():
                return connection
        else:
            connection = self.connection_class(**self.connection_kwargs)
            self._all.append(connection)
        try:
            connection.connect()
            if not _is_clean(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self._idle.append(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        self._idle.append(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all connections, or those that are idle."""
        for connection in self._all if inuse_connections else self._idle:
            connection.disconnect()


def _is_clean(connection: Any) -> bool:
    """Tell whether a connection is neither broken nor has an answer that nobody took."""
    try:
        return not connection.can_read()
    except (redis.ConnectionError, redis.TimeoutError):
        return False

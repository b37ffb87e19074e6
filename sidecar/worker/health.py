"""The HTTP face: /livez, /readyz, /metrics, and what else it is given.

Liveness never asks a dependency: a restart fixes no Redis. It asks whether each loop goes round, or
is stuck, which a restart fixes. Readiness of a sidecar counts for its
whole pod, so by default it only says that the worker runs; `/readyz?strict` is for operators who
want a relay that waits for Redis, or is halted, to take the pod out of service.

A client that reaches the port may be no friend. One thread serves all connections (asyncio's
streams), so many at most: the oldest goes when there is one more, so a probe always gets its
answer. Each has a deadline for all that it does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sidecar.errors import UsageError
from sidecar.wire.units import address_of
from sidecar.worker.metrics import State

MAX_CONNECTIONS: Final = 32
DEADLINE_S: Final = 10.0
"""For a whole connection, from its beginning to the last byte of the answer."""
MAX_REQUEST_BYTES: Final = 16 * 1024
BACKLOG: Final = 512
"""How many connections the kernel keeps for a moment in which this process is busy."""
AT_ONCE: Final = 8
"""So many are accepted before the oldest are let go: beyond the limit there are never many more."""
BACKGROUND: Final = "background work"
"""What stands in the place of a stream's name for work beside relaying, while some of it fails."""
FAILING: Final = "failing"
_NOT_READY: Final = frozenset({"waiting", "recovering", "halted", FAILING})


class Answer(NamedTuple):
    """What an address shows."""

    status: int
    kind: str
    body: bytes
    headers: tuple[str, ...] = ()
    """Those that it has beside its kind and its length, a line each."""


class HealthServer:
    """Serves health and metrics until it is closed.

    `stuck` says what is, or died, a line each; nothing while all live.

    Raises `UsageError` when the address cannot be bound.
    """

    def __init__(
        self, address: str, *, stuck: Callable[[], Sequence[str]],
        states: Callable[[], Mapping[str, State]], metrics: Callable[[], bytes],
        more: Mapping[str, Callable[[str], Answer]] = MappingProxyType({}),
        deadline_s: float = DEADLINE_S,
    ) -> None:  # fmt: skip
        """`more` answers at other addresses, at once: it is given the query."""
        self._answers: Mapping[str, Callable[[str], Answer]] = {
            "/livez": lambda _: _live(stuck()),
            "/readyz": lambda query: _ready(states(), strict="strict" in query),
            "/metrics": lambda _: Answer(200, "text/plain; version=0.0.4", metrics()),
            **more,
        }
        self._deadline_s = deadline_s
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._socket = _bound(address)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.set_exception_handler(_told)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._connected, sock=self._socket, backlog=AT_ONCE, limit=MAX_REQUEST_BYTES
        )
        self._socket.listen(BACKLOG)  # to asyncio it is also how many it accepts in one go
        async with server:
            await self._closing.wait()
            for writer in self._open:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) == MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            with suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(self._deadline_s):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        """Return the whole answer to a request."""
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        if method not in ("GET", "HEAD"):
            return _sent(Answer(405, "text/plain", b"GET or HEAD\n"), has_body=True)
        with suppress(ValueError):  # what is no URL is no address of ours
            url = urlsplit(rest.rpartition(" ")[0])
            if url.path in self._answers:
                return _sent(self._answers[url.path](url.query), has_body=method == "GET")
        there = " ".join(self._answers).encode()
        return _sent(Answer(404, "text/plain", there + b"\n"), has_body=method == "GET")


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report a bug; without a free descriptor asyncio waits a second and accepts again."""
    if not isinstance(context.get("exception"), OSError | asyncio.CancelledError):
        loop.default_exception_handler(context)


def _bound(address: str) -> socket.socket:
    """Return a socket that listens; `:PORT` and `[::]:PORT` mean all addresses, of both families.

    Raises `UsageError`.
    """
    host, port = address_of(address)
    is_both = host in ("", "::") and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_both or ":" in host else socket.AF_INET
    at = ("::" if is_both else host or "0.0.0.0", port)  # noqa: S104 -- asked for by `:PORT`
    try:
        return socket.create_server(at, family=family, backlog=BACKLOG, dualstack_ipv6=is_both)
    except (OSError, ValueError) as error:  # a name that can be no host's is a UnicodeError
        said = error.strerror if isinstance(error, OSError) else "no host can be called so"
        raise UsageError(
            f"--http {address}: {said or error}; is the port in use? Choose another"
        ) from error


def _sent(answer: Answer, *, has_body: bool) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.kind}", f"Content-Length: {len(answer.body)}",
        *answer.headers, "Connection: close", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + (answer.body if has_body else b"")


def _live(stuck: Sequence[str]) -> Answer:
    if not stuck:
        return Answer(200, "text/plain", b"ok\n")
    return Answer(503, "text/plain", "".join(f"{line}\n" for line in stuck).encode())


def _ready(states: Mapping[str, State], *, strict: bool) -> Answer:
    not_ready = strict and any(state.state in _NOT_READY for state in states.values())
    body = {
        stream: {"state": state.state, "detail": state.detail} for stream, state in states.items()
    }
    raw = json.dumps(body).encode() + b"\n"
    return Answer(503 if not_ready else 200, "application/json", raw)

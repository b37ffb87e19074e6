"""The HTTP face: /livez, /readyz, /metrics.

Liveness never asks a dependency: a restart fixes no Redis. It asks whether each loop goes round, or
is stuck, which a restart fixes. Readiness of a sidecar counts for its
whole pod, so by default it only says that the worker runs; `/readyz?strict` is for operators who
want a relay that waits for Redis, or is halted, to take the pod out of service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

from sidecar.errors import UsageError
from sidecar.worker.metrics import State

BACKGROUND: Final = "background work"
"""What stands in the place of a stream's name for work beside relaying, while some of it fails."""
FAILING: Final = "failing"
_NOT_READY: Final = frozenset({"waiting", "recovering", "halted", FAILING})


class HealthServer:
    """Serves health and metrics until it is closed.

    `stuck` says what is, or died, a line each; nothing while all live.

    Raises `UsageError` when the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        stuck: Callable[[], Sequence[str]],
        states: Callable[[], Mapping[str, State]],
        metrics: Callable[[], bytes],
    ) -> None:
        host, _, port = address.rpartition(":")
        if ":" not in address or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- the highest port
            raise UsageError(f"--http {address!r}: write HOST:PORT, say 127.0.0.1:9464")

        class Handler(_Handler):
            answers = {  # noqa: RUF012 -- fixed for the server's life
                "/livez": lambda _: _live(stuck()),
                "/readyz": lambda query: _ready(states(), strict="strict" in query),
                "/metrics": lambda _: (200, "text/plain; version=0.0.4", metrics()),
            }

        try:
            self._server = ThreadingHTTPServer((host.strip("[]") or "0.0.0.0", int(port)), Handler)  # noqa: S104 -- asked for by `:PORT`
        except OSError as error:
            raise UsageError(
                f"--http {address}: {error.strerror or error}; is the port in use? Choose another"
            ) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    answers: Mapping[str, Callable[[str], tuple[int, str, bytes]]] = {}
    timeout = 10

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        answer = self.answers.get(url.path)
        if answer is None:
            status, kind, body = 404, "text/plain", b"/livez /readyz /metrics\n"
        else:
            status, kind, body = answer(url.query)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds; the log is not for them."""


def _live(stuck: Sequence[str]) -> tuple[int, str, bytes]:
    if not stuck:
        return 200, "text/plain", b"ok\n"
    return 503, "text/plain", "".join(f"{line}\n" for line in stuck).encode()


def _ready(states: Mapping[str, State], *, strict: bool) -> tuple[int, str, bytes]:
    not_ready = strict and any(state.state in _NOT_READY for state in states.values())
    body = {
        stream: {"state": state.state, "detail": state.detail} for stream, state in states.items()
    }
    return (503 if not_ready else 200, "application/json", json.dumps(body).encode() + b"\n")

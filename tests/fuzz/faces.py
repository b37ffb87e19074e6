"""Requests to the HTTP face: each has one whole answer or none, and the next one its own."""

from __future__ import annotations

import functools
import logging
import re
import socket
from typing import Final, NamedTuple

from hypothesis import strategies as st

from sidecar.worker.health import MAX_REQUEST_BYTES, HealthServer
from sidecar.worker.metrics import State
from tests.fuzz.running import Fuzzer

PATIENCE_S: Final = 30.0
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 (200|404|405) [A-Za-z ]+\r\nContent-Type: [^\r\n]+\r\nContent-Length: (\d+)\r\n"
    rb"Connection: close\r\n\r\n(.*)", re.DOTALL,
)  # fmt: skip
_MARK: Final = "planted-by-the-client"


class Request(NamedTuple):
    """What a client sends, and whether it says that nothing follows."""

    sent: bytes
    ends: bool


_odd = st.text(st.characters(max_codepoint=255), max_size=12).map(lambda text: _MARK + text)
_methods = st.sampled_from([
    "GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "", "GET GET", "PRI",
]) | _odd  # fmt: skip
_targets = st.sampled_from([
    "/livez", "/readyz?strict", "/metrics", "/", "*", "", "//", "/livez/", "/livez?" + "a" * 9000,
    "http://[", "http://[::1/livez", "/%2e%2e/etc/passwd", "/../../etc/passwd", "/\x00", "/livez#x",
    "http://evil/livez", "/readyz?strict=" + "%ff" * 400, "\\livez", "/livez;x", "/metrics?\u00ff",
]) | _odd.map(lambda text: f"/{text}")  # fmt: skip
_versions = st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2", "HTTP/9999999999", ""])
_headers = st.sampled_from([
    "", "Host: a\r\n", "Host: a\r\nHost: b\r\n", "Content-Length: -1\r\n",
    "X: y\r\n" * 900,
    "Content-Length: 99999999999999999999\r\n", "Transfer-Encoding: chunked\r\n",
    ": \r\n",
    "X: " + "y" * MAX_REQUEST_BYTES + "\r\n", " folded\r\n", "X:\ty\n\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade\r\n", "Range: bytes=0-,0-,0-,0-\r\n", "\x00\r\n",
])  # fmt: skip
_ends = st.sampled_from(["\r\n", "\n", "", "\r", "\r\n\r\n", "\r\nGET /livez HTTP/1.1\r\n\r\n"])
_requests = st.builds(
    lambda *parts: "{} {} {}{}{}{}".format(*parts).encode("latin-1"),
    _methods, _targets, _versions, st.sampled_from(["\r\n", "\n", "\r"]), _headers, _ends,
)  # fmt: skip
REQUESTS: Final = st.builds(
    Request, _requests | st.binary(max_size=200) | st.just(b"A" * (4 * MAX_REQUEST_BYTES)),
    st.booleans(),
)  # fmt: skip


class _Kept(logging.Handler):
    """Keeps what is logged: an exception in the server's thread shows there alone."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


@functools.cache
def _served() -> tuple[HealthServer, _Kept]:
    kept = _Kept()
    logging.getLogger("asyncio").addHandler(kept)
    server = HealthServer(
        "127.0.0.1:0", stuck=list, states=lambda: {"s": State("active", "")}, metrics=bytes,
        deadline_s=0.2,
    )  # fmt: skip
    return server, kept


def _asked(port: int, request: Request) -> bytes:
    """Return all that comes back."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        try:
            client.sendall(request.sent)
            if request.ends:
                client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                found += piece
        except OSError:
            pass  # how a client hears that it was let go with bytes unread
    return found


def check(request: Request) -> int:
    """Send it, and a probe after it."""
    server, kept = _served()
    found = _asked(server.port, request)
    if found:
        answer = _ANSWER.fullmatch(found)
        assert answer, found
        assert len(answer[3]) in (0, int(answer[2])), found
        assert _MARK.encode() not in found
    for _ in range(20):  # on a busy machine the deadline may be over before it is read
        if b"ok" in _asked(server.port, Request(b"GET /livez HTTP/1.1\r\n\r\n", ends=False)):
            break
    else:
        raise AssertionError("no probe has an answer any more")
    assert not kept.records
    return 1


FUZZER: Final = Fuzzer("faces", REQUESTS, check)

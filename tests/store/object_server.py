"""An S3 server for the tests, and a proxy before it that misbehaves as told."""

from __future__ import annotations

import http.client
import importlib.util
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit
from xml.etree import ElementTree

from tests.servers import START_TIMEOUT_S, free_port, missing, started

CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "AKIDFORTESTS",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_REGION": "us-east-1",
}
# Moto looks for a signature, and not at it.
_SIGNED: Final = (
    "AWS4-HMAC-SHA256 Credential=AKIDFORTESTS/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
)

_MOTO: Final = """
from moto import backends, server
modules = tuple(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: modules
server.MotoRequestHandler.log_request = lambda *_, **__: None
server.main()
"""
"""Moto's server, which looks through a directory of 170 services at each request, and logs it: a
quarter of its time, and it takes a tenth of what all tests do."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A moto server that runs."""

    endpoint: str
    scheme: str = "s3"

    @property
    def environment(self) -> dict[str, str]:
        """What leads the backend here."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def forget(self) -> None:
        """Empty it: it keeps large objects in open files."""
        self.request("POST", "moto-api/reset", b"")

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"b{uuid.uuid4().hex}"
        self.make(name)
        return name

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        self.request("PUT", bucket)

    def remove(self, bucket: str) -> None:
        """Remove a bucket, which is empty."""
        self.request("DELETE", bucket)

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request behind the store's back and return the answer's body."""
        request = urllib.request.Request(
            f"{self.endpoint}/{path}",
            data=body,
            method=method,
            headers={"Authorization": _SIGNED, "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content

    def keys(self, bucket: str) -> list[str]:
        """Return every key of a bucket that has at most 1000."""
        listing = ElementTree.fromstring(self.request("GET", f"{bucket}?list-type=2"))
        return [element.text or "" for element in listing.iter() if element.tag.endswith("}Key")]

    def read(self, bucket: str, key: str) -> bytes:
        """Return what lies at a key."""
        return self.request("GET", f"{bucket}/{quote(key)}")

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write a key."""
        self.request("PUT", f"{bucket}/{quote(key)}", content)

    def delete(self, bucket: str, key: str) -> None:
        """Remove a key."""
        self.request("DELETE", f"{bucket}/{quote(key)}")


@contextmanager
def running() -> Iterator[S3Server]:
    """Run moto's S3 server in a process of its own, on a free loopback port."""
    for module in ("moto", "flask", "obstore"):
        if importlib.util.find_spec(module) is None:
            missing(f"moto's server, or obstore ({module})")
    port = free_port()
    process = started(
        sys.executable,
        "-c",
        _MOTO,
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        server = S3Server(f"http://127.0.0.1:{port}")
        _wait_for(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 2 * START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError):
            server.request("GET", "moto-api/data.json")
            return
        time.sleep(0.02)
    raise RuntimeError("moto's server does not start")


class HasEndpoint(Protocol):
    """Any server."""

    @property
    def endpoint(self) -> str:
        """Its URL on the loopback interface."""
        ...


class Exchange(BaseHTTPRequestHandler):
    """One request through the proxy; a fault decides what becomes of it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy
    body: bytes
    pieces = 1
    pause_s = 0.0

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):  # the client may have given up
            self.server.fault_for(self)(self)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""

    def fetch(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Have the real server answer: status, headers and body."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=30)
        try:
            upstream.request(self.command, self.path, self.body, dict(self.headers.items()))
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, cut_at: int | None = None
    ) -> None:
        """Send an answer, all of it or its first bytes, and then cut the connection."""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "date"}:
                self.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), str(len(body)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body if cut_at is None else body[:cut_at])
        if cut_at is not None:
            self.close_connection = True

    def send_body(self, body: bytes) -> None:
        """Send it, in pieces if the fault says so."""
        piece_bytes = len(body) // self.pieces + 1
        for at in range(0, len(body), piece_bytes):
            if at:
                self.server.over.wait(self.pause_s)
            self.wfile.write(body[at : at + piece_bytes])


Fault = Callable[[Exchange], None]


def passed(exchange: Exchange) -> None:
    """Let the request through."""
    exchange.answer(*exchange.fetch())


def trickling(pieces: int, pause_s: float) -> Fault:
    """Send the answer's body in so many pieces, with pauses between."""

    def fault(exchange: Exchange) -> None:
        exchange.pieces, exchange.pause_s = pieces, pause_s
        passed(exchange)
        exchange.pieces = 1

    return fault


def status(code: int, name: str = "Injected", message: str = "injected") -> Fault:
    """Answer with this status in the server's stead."""
    body = f"<Error><Code>{name}</Code><Message>{message}</Message></Error>".encode()
    return lambda exchange: exchange.answer(code, [("Content-Type", "application/xml")], body)


def cut_at(size_bytes: int) -> Fault:
    """Cut the connection after so many bytes of the answer's body."""
    return lambda exchange: exchange.answer(*exchange.fetch(), cut_at=size_bytes)


def lost_reply(exchange: Exchange) -> None:
    """Have the request applied, then cut the connection without an answer."""
    exchange.fetch()
    exchange.close_connection = True


def lost_in_the_service(exchange: Exchange) -> None:
    """Have the request applied, then answer as if it had failed."""
    exchange.fetch()
    status(500, "InternalError")(exchange)


def said_in_the_body(exchange: Exchange) -> None:
    """Apply nothing, and say so after the status was sent, as S3 does of slow requests."""
    status(200, "InternalError")(exchange)


def twice(exchange: Exchange) -> None:
    """Have the request applied two times, and pass on the second answer."""
    exchange.fetch()
    passed(exchange)


def late(delay_s: float) -> Fault:
    """Answer after a while."""

    def fault(exchange: Exchange) -> None:
        exchange.server.over.wait(delay_s)
        passed(exchange)

    return fault


def cut_short(size_bytes: int) -> Fault:
    """Answer with the beginning of the body, and a Content-Length that says that this is all."""

    def fault(exchange: Exchange) -> None:
        code, headers, body = exchange.fetch()
        exchange.answer(code, headers, body[:size_bytes])

    return fault


def refused(exchange: Exchange) -> None:
    """Cut the connection before anything was applied."""
    exchange.close_connection = True


def silent(exchange: Exchange) -> None:
    """Never answer, as long as the client waits and the test runs."""
    exchange.server.over.wait(START_TIMEOUT_S)
    exchange.close_connection = True


def held(released: threading.Event) -> Fault:
    """Have the request applied only once `released` is set, long after the client has gone."""

    def fault(exchange: Exchange) -> None:
        released.wait(START_TIMEOUT_S)
        exchange.fetch()
        exchange.server.late.release()
        exchange.close_connection = True

    return fault


def unconditional(exchange: Exchange) -> None:
    """Do as services do that know no conditional writes: ignore the condition."""
    for name in ("If-Match", "If-None-Match"):
        del exchange.headers[name]
    passed(exchange)


def unquoted_only(exchange: Exchange) -> None:
    """Do as Ceph does: refuse each condition on a tag in quotes."""
    tag = exchange.headers.get("If-Match", "")
    if tag.startswith('"'):
        status(412, "PreconditionFailed")(exchange)
        return
    if tag:
        exchange.headers.replace_header("If-Match", f'"{tag}"')
    passed(exchange)


def no_tag_fits(exchange: Exchange) -> None:
    """Refuse each condition on a tag."""
    refuses = "If-Match" in exchange.headers
    (status(412, "PreconditionFailed") if refuses else passed)(exchange)


def silent_after(size_bytes: int) -> Fault:
    """Send so many bytes of the answer's body, and then no more."""

    def fault(exchange: Exchange) -> None:
        exchange.answer(*exchange.fetch(), cut_at=size_bytes)
        silent(exchange)

    return fault


@dataclass(slots=True)
class _Planned:
    method: str
    part: str
    fault: Fault
    left: int


@dataclass
class _State:
    plan: list[_Planned] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)


class Proxy(ThreadingHTTPServer):
    """Passes requests on, except those that a fault was planned for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: SplitResult) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream_port = upstream.port
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}{upstream.path}"
        self.over = threading.Event()
        self.late = threading.Semaphore(0)
        """Counts the requests that were held and are applied by now."""
        self._state = _State()
        self._lock = threading.Lock()

    def plan(self, method: str, part: str, fault: Fault, *, times: int = 1, skip: int = 0) -> None:
        """Apply `fault` to the next requests of `method` (any: "") whose path has `part` in it."""
        with self._lock:
            if skip:
                self._state.plan.append(_Planned(method, part, passed, skip))
            self._state.plan.append(_Planned(method, part, fault, times))

    def seen(self, method: str = "", part: str = "") -> int:
        """Return how many such requests came."""
        with self._lock:
            return sum(each[0].startswith(method) and part in each[1] for each in self._state.seen)

    def heal(self) -> None:
        """Forget what was planned and seen."""
        with self._lock:
            self._state = _State()

    def fault_for(self, exchange: Exchange) -> Fault:
        """Return what is to be done with a request."""
        path = unquote(exchange.path)
        with self._lock:
            self._state.seen.append((exchange.command, path))
            for planned in self._state.plan:
                matches = exchange.command.startswith(planned.method) and planned.part in path
                if matches and planned.left:
                    planned.left -= 1
                    return planned.fault
        return passed

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what this is for."""


@contextmanager
def proxy_before(server: HasEndpoint) -> Iterator[Proxy]:
    """Run a proxy before `server`, on a port of its own."""
    with Proxy(urlsplit(server.endpoint)) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.over.set()
            proxy.shutdown()
            thread.join()

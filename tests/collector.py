"""A collector of OTLP: over a socket, by HTTP, in protobuf, as a real one."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


@dataclass(frozen=True)
class Seen:
    """A span, as it was received."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    began_ns: int
    ended_ns: int
    about: dict[str, Any]
    links: tuple[str, ...]
    is_error: bool
    resource: dict[str, Any]


class Collector:
    """What was received so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Seen] = []
        self.requests = 0
        self.status = 200
        self.before_answer: Callable[[], object] = lambda: None

    def named(self, name: str) -> list[Seen]:
        """Return the spans of this name."""
        return [one for one in self.spans if one.name == name]

    def take(self, body: bytes) -> None:
        """Decode a request."""
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_seen(one, resource) for one in scope.spans]


def _attributes(found: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in found}


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        KINDS[span.kind], span.start_time_unix_nano, span.end_time_unix_nano,
        _attributes(span.attributes), tuple(link.span_id.hex() for link in span.links),
        span.status.code == 2, resource,
    )  # fmt: skip


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen for as long as the block lasts."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests += 1
            collector.before_answer()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if collector.status == 200:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()

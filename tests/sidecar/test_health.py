"""The HTTP face, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from sidecar.errors import UsageError
from sidecar.telemetry.catalogue import STATES
from sidecar.worker import settings
from sidecar.worker.health import MAX_CONNECTIONS, HealthServer
from sidecar.worker.metrics import Metrics, State, StreamMetrics
from store import Unavailable
from tests.sidecar.harness import eventually


@contextmanager
def serving(
    address: str = "127.0.0.1:0",
    *,
    stuck: Sequence[str] = (),
    states: dict[str, State] | None = None,
    metrics: Callable[[], bytes] = lambda: b"",
) -> Iterator[int]:
    """Serve on a free port; yield the port."""
    server = HealthServer(
        address, stuck=lambda: stuck, states=lambda: states or {}, metrics=metrics
    )
    try:
        yield server.port
    finally:
        server.close()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes, str]:
    """Return status, body and content type."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Type"]
    finally:
        connection.close()


def answered(port: int) -> bool:
    """Tell whether a request in time has its answer."""
    with suppress(OSError, http.client.HTTPException):
        return get(port, "/livez")[0] == 200
    return False


def test_liveness() -> None:
    """Liveness is whether every relay goes round, and nothing else; it names what does not."""
    with serving(states={"s": State("waiting", "Redis is away")}) as port:
        assert get(port, "/livez")[0] == 200
    with serving(stuck=["a: stuck for 75 s", "a relay died"]) as port:
        assert get(port, "/livez")[:2] == (503, b"a: stuck for 75 s\na relay died\n")


@pytest.mark.parametrize("state", STATES)
def test_readiness(state: str) -> None:
    """Readiness is strict on demand only, and always tells each stream's state and why."""
    with serving(states={"a": State("active", ""), "b": State(state, "why")}) as port:
        status, body, kind = get(port, "/readyz")
        assert (status, kind) == (200, "application/json")
        assert json.loads(body) == {
            "a": {"state": "active", "detail": ""},
            "b": {"state": state, "detail": "why"},
        }
        strict = get(port, "/readyz?strict")[0]
        assert strict == (503 if state in ("waiting", "recovering", "halted") else 200)
        assert get(port, "/readyz?strict=1")[0] == strict


def test_other_paths() -> None:
    """Another path is 404 and names those that there are."""
    with serving() as port:
        status, body, _ = get(port, "/")
        assert status == 404
        assert b"/livez" in body


def test_metrics_are_served() -> None:
    """Metrics come in Prometheus's text format, with everything that a relay told."""
    metrics = Metrics()
    told = StreamMetrics(metrics, "control:events")
    told.read(3)
    told.committed("published", 2)
    told.committed("artifact_missing", 1)
    told.retried(Unavailable("x"))
    told.retried(KeyError("x"))
    told.stored(0.01)
    told.state("halted", "why")
    told.gauge(window=1, held=2, longest_s=3)
    with serving(metrics=metrics.exposition) as port:
        status, body, kind = get(port, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    lines = body.decode().splitlines()
    stream = 'stream="control:events"'
    for line in (
        f"sidecar_entries_read_total{{{stream}}} 3.0",
        f'sidecar_entries_finished_total{{outcome="published",{stream}}} 2.0',
        f'sidecar_entries_finished_total{{outcome="dead",{stream}}} 1.0',
        f'sidecar_dead_letters_total{{reason="artifact_missing",{stream}}} 1.0',
        f'sidecar_retries_total{{error_type="Unavailable",{stream}}} 1.0',
        f'sidecar_retries_total{{error_type="other",{stream}}} 1.0',
        f'sidecar_state{{state="halted",{stream}}} 1.0',
        f'sidecar_state{{state="active",{stream}}} 0.0',
        f"sidecar_window_entries{{{stream}}} 1.0",
        f"sidecar_held_tenants{{{stream}}} 2.0",
        f"sidecar_held_longest_seconds{{{stream}}} 3.0",
        f'sidecar_stage_duration_seconds_count{{stage="store",{stream}}} 1.0',
    ):
        assert any(set(line) <= set(found) and _same(line, found) for found in lines), line
    assert told.now == State("halted", "why")
    assert told.take_counts() == {"read": 3, "published": 2, "dead": 1, "retries": 2}
    assert told.take_counts() == {}


def _same(line: str, found: str) -> bool:
    """Compare two samples whose labels may be in another order."""

    def parts(text: str) -> tuple[str, frozenset[str], str]:
        name, _, rest = text.partition("{")
        labels, _, value = rest.partition("} ")
        return name, frozenset(labels.split(",")), value

    return parts(line) == parts(found)


@pytest.mark.parametrize("address", ["9464", "host", "127.0.0.1:", "127.0.0.1:x", ":70000"])
def test_addresses_that_are_none(address: str) -> None:
    """What is no HOST:PORT is refused in words."""
    with pytest.raises(UsageError, match=r"^--http: that is no address; write HOST:PORT"):
        settings.build(http=address)


def test_a_port_in_use() -> None:
    """A port that is taken is a usage error that says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="in use"):
            HealthServer(
                f"127.0.0.1:{taken.getsockname()[1]}",
                stuck=list, states=dict, metrics=bytes,
            )  # fmt: skip


def test_a_client_that_says_nothing_blocks_nobody() -> None:
    """A connection that sends nothing keeps no other from its answer."""
    with serving() as port, socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/livez")[0] == 200


def test_a_client_that_is_there_at_the_end_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its connection ends with the server, and that is no bug to be reported."""
    with ExitStack() as clients:
        with serving() as port:
            clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            get(port, "/livez")  # connections are accepted in their order
        assert not caplog.records


def exchanged(port: int, sent: bytes) -> bytes:
    """Send some bytes and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HEAD /livez HTTP/1.1\r\n\r\n", b"200"), (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /livez HTTP/1.1\r\n\r\n", b"405"), (b"\xff\x00\r\n\r\n", b"405"),
        (b"GET\r\n\r\n", b"404"), (b"GET http://[ HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"404"),
    ],
)  # fmt: skip
def test_any_request_has_an_answer(sent: bytes, status: bytes) -> None:
    """A request gets a status, whatever it asks; HEAD gets no body."""
    with serving() as port:
        head, _, body = exchanged(port, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert bool(body) is not sent.startswith(b"HEAD")


def test_a_request_without_end_is_let_go() -> None:
    """A request that grows too long, or takes too long, ends its connection and no other."""
    server = HealthServer(
        "127.0.0.1:0", stuck=list, states=dict, metrics=lambda: b"", deadline_s=0.2
    )
    try:
        assert exchanged(server.port, b"GET /livez HT") == b""
        with suppress(ConnectionError):
            assert exchanged(server.port, b"x" * (1 << 20)) == b""
        eventually(lambda: answered(server.port))  # on a busy machine 0.2 s may be too short
    finally:
        server.close()


def test_the_oldest_connection_goes_first() -> None:
    """With all connections taken the next one is served, and the oldest is closed."""
    with serving() as port, ExitStack() as stack:
        taken = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            for _ in range(MAX_CONNECTIONS)
        ]
        assert get(port, "/livez")[0] == 200
        with suppress(ConnectionError):
            assert taken[0].recv(1) == b""
        taken[-1].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert taken[-1].recv(12) == b"HTTP/1.1 200"


HAS_IPV6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        (":0", ["127.0.0.1"]),
        pytest.param(":0", ["127.0.0.1", "::1"], marks=HAS_IPV6),
        pytest.param("[::]:0", ["127.0.0.1", "::1"], marks=HAS_IPV6),
        pytest.param("[::1]:0", ["::1"], marks=HAS_IPV6),
        ("localhost:0", ["127.0.0.1"]),
    ],
)
def test_addresses_of_both_families(address: str, hosts: Sequence[str]) -> None:
    """No host, or `[::]`, is all addresses: IPv4 and IPv6 have an answer; `[::1]` is that one."""
    with serving(address) as port:
        assert [get(port, "/livez", host)[0] for host in hosts] == [200] * len(hosts)


@pytest.mark.parametrize("sent", [b"", b"GET /li", b"GET /livez HTTP/1.1\r\n\r\n"])
def test_a_probe_that_resets_leaves_no_traceback(
    sent: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """At whatever point it does: the next one has its answer, and nothing is logged."""
    with serving() as port:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                probe.sendall(sent)
        assert answered(port)
    assert (capfd.readouterr().err, caplog.text) == ("", "")

"""The status page, asked over HTTP: what it costs, what it keeps, what it lets through."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import structlog

from sidecar.errors import Unreachable, UsageError
from sidecar.worker.health import HealthServer
from sidecar.worker.metrics import State
from sidecar.worker.settings import build
from sidecar.worker.statuspage import MAX_ROWS, MAX_TEXT, StatusPage
from tests.sidecar.harness import eventually

HOURS_S = 7200.0


@contextmanager
def page(collect: Callable[[], dict[str, Any]], *, every_s: float = 0.001) -> Iterator[int]:
    """Serve a page of what `collect` returns; yield the port."""
    states = {"control:events": State("active", "")}
    shown = StatusPage("host:1", lambda: states, structlog.get_logger(), every_s=every_s)
    server = HealthServer(
        "127.0.0.1:0", stuck=list, states=lambda: states, metrics=bytes, more=shown.answers()
    )
    shown.begin(collect)
    try:
        yield server.port
    finally:
        server.close()
        shown.close()


def get(port: int, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    """Return the answer, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def status(port: int) -> dict[str, Any]:
    """Return what the page is drawn from."""
    found: dict[str, Any] = json.loads(get(port, "/status.json")[1])
    return found


def test_it_is_off_unless_asked_for_and_needs_a_port() -> None:
    """Without --http there is nothing that could serve it."""
    assert not build().http_status_page
    with pytest.raises(UsageError, match=r"--http-status-page: it needs --http"):
        build(http_status_page=True)
    assert build(http_status_page=True, http=":0").http_status_page


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/status.json"])
def test_no_answer_lets_a_foreign_script_in(path: str) -> None:
    """The policy allows the page's own files; nothing is kept, guessed, or shown in a frame."""
    with page(dict) as port:
        answer, body = get(port, path)
        assert answer.status == 200
        assert body
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert get(port, path, "POST")[0].status == 405


def test_nothing_of_the_page_comes_from_elsewhere() -> None:
    """No file names another host."""
    with page(dict) as port:
        for path in ("/", "/page.js", "/page.css"):
            assert b"//" not in get(port, path)[1].replace(b"\n// ", b"")


def test_however_many_look_it_is_collected_once_in_a_while() -> None:
    """Of a hundred requests the first leads to a collection, and those that follow get it."""
    calls = count(1)
    with page(lambda: {"call": next(calls)}, every_s=HOURS_S) as port:
        eventually(lambda: status(port)["status"] is not None)
        for _ in range(100):
            assert status(port)["status"] == {"call": 1}
    assert next(calls) == 2


def test_nobody_looks_nothing_is_collected() -> None:
    """A page that is served costs nothing until it is asked for; probes do not ask for it."""
    calls = count(1)
    with page(lambda: {"call": next(calls)}) as port:
        for path in ("/livez", "/readyz", "/metrics", "/"):
            assert get(port, path)[0].status == 200
    assert next(calls) == 1


def test_a_collection_that_takes_long_is_followed_by_a_long_rest() -> None:
    """It is worth at most a tenth of one thread: the rest is ten times as long."""
    shown = StatusPage("host:1", dict, structlog.get_logger(), every_s=0)
    waited: list[float | None] = []

    def rest(timeout: float | None = None) -> bool:
        waited.append(timeout)
        return True

    took = threading.Event()
    shown._closing.wait = rest  # type: ignore[method-assign]
    shown.begin(lambda: {"late": took.wait(0.05)})
    shown.answers()["/status.json"]("")
    eventually(lambda: waited)
    shown.close()
    assert waited[0]
    assert waited[0] >= 0.5


def test_a_redis_that_does_not_answer_holds_up_no_probe() -> None:
    """The page says what it has so far, at once."""
    answers = threading.Event()

    def collect() -> dict[str, Any]:
        answers.wait(60)
        return {"there": True}

    with page(collect) as port:
        assert status(port)["status"] is None
        assert get(port, "/livez")[0].status == 200
        answers.set()
        eventually(lambda: status(port)["status"] == {"there": True})


@pytest.mark.parametrize("error", [Unreachable("redis://h: away"), KeyError("secret")])
def test_what_was_collected_before_stays_with_its_time(error: Exception) -> None:
    """A failure is shown beside it; of a bug the page says no more than where to look."""
    fails = threading.Event()

    def collect() -> dict[str, Any]:
        if fails.is_set():
            raise error
        return {"there": True}

    with structlog.testing.capture_logs() as lines, page(collect) as port:
        eventually(lambda: status(port)["status"] == {"there": True})
        assert status(port)["error"] == ""
        fails.set()
        eventually(lambda: status(port)["error"])
        found, later = status(port), status(port)
        fails.clear()
        eventually(lambda: not status(port)["error"])
    assert found["status"] == {"there": True}
    assert found["as_of"] > "2020"
    assert 0 <= found["age_s"] <= later["age_s"]
    assert "secret" not in found["error"]
    assert bool(lines) == isinstance(error, KeyError)


def test_a_worker_that_starts_says_so() -> None:
    """Before there is anything to collect."""
    shown = StatusPage("host:1", dict, structlog.get_logger())
    found = json.loads(shown.answers()["/status.json"]("").body)
    assert (found["status"], found["as_of"], found["error"]) == (None, None, "the worker starts")
    assert found["worker"]["name"] == "host:1"


def test_hostile_text_is_escaped_and_bounded() -> None:
    """Neither its characters, nor its length or number, get through."""
    hostile = "\x1b[31m\u202e" + "x" * 10_000
    with page(lambda: {"list": [hostile] * 10_000, hostile: (1, None)}) as port:
        eventually(lambda: status(port)["status"] is not None)
        body = get(port, "/status.json")[1]
    assert len(body) < MAX_ROWS * MAX_TEXT * 2
    found = json.loads(body)["status"]
    assert len(found["list"]) == MAX_ROWS
    assert found["list"][0].startswith(r"\x1b[31m\u202ex")
    assert all(name.isprintable() for name in found)

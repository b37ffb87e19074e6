"""Fixtures that all tests share: real servers, started once a worker and emptied between tests."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any, Final

import pytest
import redis
import redis.utils
import structlog
from hypothesis import HealthCheck, settings

from tests import leaks, servers
from tests.servers import PATIENCE_S, Server

# A shell, or nohup, starts what it runs in the background so that it does not hear of these, and
# the processes of tests would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests start Python hundreds of times: it would compile everything anew each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# An example may stand still for a second where others want the processor, too.
settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# For each connection redis-py looks for its own version in files: a sixth of a short test's time.
vars(redis.utils)["get_lib_version"] = cache(redis.utils.get_lib_version)


def _entry_points_on_each_path() -> Callable[..., Any]:
    """Return what reads the packages' entry points once for each path.

    A store's registry reads them anew at each open, and a command opens two: a fifth of its test's
    time, with as many packages as a developer's environment has.
    """
    read = importlib.metadata.entry_points
    by_path = cache(lambda _path, **which: read(**which))
    return lambda **which: by_path(tuple(sys.path), **which)


vars(importlib.metadata)["entry_points"] = _entry_points_on_each_path()

_UNIT = {
    f"tests/{name}.py"
    for name in (
        "sidecar/test_caution", "sidecar/test_event", "sidecar/test_holds", "sidecar/test_moments",
        "sidecar/test_notification", "sidecar/test_ownership", "sidecar/test_policy",
        "sidecar/test_share", "sidecar/test_window", "store/test_healing", "store/test_refs",
    )
}  # fmt: skip
"""Modules that need neither a server nor another process: what `make unit` runs."""


def pytest_sessionstart() -> None:
    """Look for no garbage while tests are collected: there is none, in a quarter of a million
    objects.
    """
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among what was collected."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs against a server of `tests.servers`, by a fixture or by itself; and units."""
    for item in items:
        if item.nodeid.partition("::")[0] in _UNIT:
            item.add_marker("unit")
        if "_servers" in getattr(item, "fixturenames", ()) or hasattr(
            getattr(item, "module", None), "servers"
        ):
            item.add_marker("server")


Servers = Callable[[str], Server]
_CLOSED_FOR_THEM: Final = (
    "tests/cli/", "tests/sidecar/", "tests/topology/test_cluster.py",
    "tests/topology/test_sentinel.py",
)  # fmt: skip
"""Rooms and modules of which not every test closes what it opens yet: to be shortened."""


@pytest.fixture(autouse=True)
def _each_test_has_logs_of_its_own() -> Iterator[None]:
    """Undo what a command that ran in the tests' process did to structlog."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_connection_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a connection open, with the place where that was opened.

    An error that came through a client keeps it, by its traceback, until the garbage is collected:
    what is not closed on the way out stays open for as long as chance will have it.
    """
    with leaks.watched() as left_open:
        yield
    found = left_open()
    if found and not request.node.nodeid.startswith(_CLOSED_FOR_THEM):
        pytest.fail("\n".join(["a connection was left open; it was made", *found]), pytrace=False)


@pytest.fixture(scope="session")
def _servers() -> Iterator[Servers]:
    """Start each kind of server when it is first asked for; stop all at the end."""
    with ExitStack() as stack:
        started: dict[str, Server] = {}

        def get(kind: str) -> Server:
            if kind not in started:
                started[kind] = stack.enter_context(servers.running(kind))
            return started[kind]

        yield get


@pytest.fixture(scope="session")
def redis_server(_servers: Servers) -> Server:
    """A real server: Valkey, the one that the embedded server uses, unless told otherwise."""
    return _servers(servers.usual())


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The URL of a real, empty server."""
    return _emptied(redis_server)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to the real, empty server."""
    with redis.Redis.from_url(redis_url, protocol=2, socket_timeout=PATIENCE_S) as connection:
        yield connection


def _emptied(server: Server) -> str:
    with redis.Redis.from_url(server.url, socket_timeout=PATIENCE_S) as connection:
        connection.flushall()
    return server.url

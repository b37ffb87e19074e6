"""A worker whose log cannot be written: it relays, its health and its exit codes stay the same."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests import servers
from tests.cli.harness import HALT, NOTIFICATIONS, Cli, on_terminal
from tests.proofs import sampled
from tests.sidecar.harness import eventually

EVENTS = 30


def reader_gone() -> int:
    """Return a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def disk_full() -> int:
    """Return a device that is full."""
    return os.open("/dev/full", os.O_WRONLY)


def nobody_reads() -> int:
    """Return a pipe that is full, and whose reader does not read."""
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return writing


def somebody_made_it_non_blocking() -> int:
    """Return such a pipe, non-blocking because of another process that shares it."""
    writing = nobody_reads()
    os.set_blocking(writing, False)
    return writing


WAYS: list[Callable[[], int]] = [
    reader_gone, disk_full, nobody_reads, somebody_made_it_non_blocking,
]  # fmt: skip
each_way = pytest.mark.parametrize(
    "way", sampled(WAYS, ["disk_full", "nobody_reads"], lambda way: way.__name__)
)


def start(
    sidecar: Cli, *args: str, stderr: int, before: Callable[[], object] = int
) -> subprocess.Popen[bytes]:
    """Start a worker that logs a line an event to `stderr`."""
    return subprocess.Popen(
        sidecar.argv("run", "--log-level", "debug", "--retry-budget", "0", *args),
        stderr=stderr,
        env=sidecar._environment(None, "run"),
        preexec_fn=before,  # noqa: PLW1509 -- what runs there takes no lock
    )


def relays(sidecar: Cli, process: subprocess.Popen[bytes], http: str) -> None:
    """Assert that it relays, is live, tells of dropped lines, and ends well when told to."""
    for number in range(EVENTS):
        sidecar.emit(f"e{number}")
    eventually(lambda: sidecar.client.xlen(NOTIFICATIONS) == EVENTS)
    with urlopen(f"http://{http}/livez") as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@each_way
def test_a_log_that_cannot_be_written_stops_nothing(sidecar: Cli, way: Callable[[], int]) -> None:
    """Whatever becomes of its log, a worker relays, is live, and ends with 0 by SIGTERM."""
    http, stderr = f"127.0.0.1:{servers.free_port()}", way()
    process = start(sidecar, "--http", http, stderr=stderr)
    try:
        relays(sidecar, process, http)
    finally:
        process.kill()
        process.wait()
        os.close(stderr)


@each_way
def test_exit_codes_stay(sidecar: Cli, way: Callable[[], int]) -> None:
    """An exit code is the same when what explains it cannot be written."""
    stderr = way()
    try:
        there = ["--redis", f"redis://127.0.0.1:{servers.free_port()}"]
        assert start(sidecar, "--drain", *there, stderr=stderr).wait(60) == 4
        assert start(sidecar, "--drain", stderr=stderr).wait(60) == 0
    finally:
        os.close(stderr)


def test_a_closed_standard_error_stops_nothing(sidecar: Cli) -> None:
    """Standard error may be closed at the start: no file gets its number, and all is relayed."""
    http = f"127.0.0.1:{servers.free_port()}"
    process = start(sidecar, "--http", http, stderr=-3, before=lambda: os.close(2))
    try:
        eventually(lambda: _answers(http))
        assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        relays(sidecar, process, http)
    finally:
        process.kill()
        process.wait()


def _answers(http: str) -> bool:
    host, _, port = http.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_log_at_its_size_limit_stops_nothing(sidecar: Cli, tmp_path: Path) -> None:
    """A log file that may not grow (EFBIG) costs lines, not events."""
    http, path = f"127.0.0.1:{servers.free_port()}", tmp_path / "log"
    path.write_bytes(b"x" * 4096)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    with path.open("ab") as log:
        process = start(sidecar, "--http", http, stderr=log.fileno(), before=limit)
    try:
        relays(sidecar, process, http)
        assert path.stat().st_size == 4096
    finally:
        process.kill()
        process.wait()


def test_dropped_lines_are_counted_and_told(sidecar: Cli) -> None:
    """The metric counts what was dropped, and the first line that goes out again says how many."""
    http, (reading, writing) = f"127.0.0.1:{servers.free_port()}", os.pipe()
    process = start(sidecar, "--http", http, stderr=writing)
    os.close(writing)
    try:
        eventually(lambda: _answers(http))
        number = 0
        while not _dropped(http):  # 64 KiB of pipe and 1 MiB of queue: long event_ids fill them
            for _ in range(200):
                number += 1
                event = {"event_id": f"{number:0250}", "type": "run.abort"}
                sidecar.client.xadd("control:events", {"event": json.dumps(event)})
        eventually(lambda: sidecar.client.xlen(NOTIFICATIONS) == number)
        said: dict[str, Any] = {}
        with os.fdopen(reading, "rb") as log:
            for line in log:
                said = json.loads(line)
                if said["event"] == "log lines were dropped":
                    break
                if said["event"] == "event" and said["entry"]:
                    sidecar.client.xadd("control:events", {"event": "{"})
            assert said["lines"] >= 1
            process.send_signal(signal.SIGTERM)
            log.read()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _dropped(http: str) -> float:
    with urlopen(f"http://{http}/metrics") as answer:
        (line,) = (
            line
            for line in answer.read().decode().splitlines()
            if line.startswith("sidecar_log_lines_dropped_total")
        )
    return float(line.split()[1])


def test_nothing_of_an_orderly_end_is_lost(sidecar: Cli) -> None:
    """What is queued when a worker ends is written first."""
    for number in range(EVENTS):
        sidecar.emit(f"e{number}")
    ran = sidecar.process("run", "--drain", "--log-level", "debug")
    said = [json.loads(line) for line in ran.err.splitlines()]
    assert ran.code == 0
    assert sum(line["event"] == "event" for line in said) == EVENTS
    assert said[-1]["event"] == "summary"


WRITES = """
import logging, sys, threading, warnings
from sidecar.worker import logs
with logs.beside_the_work():
    for _ in range(2000):
        warnings.warn("w" * 200, stacklevel=1)
        logging.getLogger("another").warning("l" * 200)
        print("p" * 200, file=sys.stderr)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_other_write_to_standard_error_blocks(way: Callable[[], int]) -> None:
    """Warnings, other libraries' logging, prints and tracebacks neither block nor fail."""
    stderr = way()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", WRITES], stderr=stderr, timeout=60, check=False
        )
        assert done.returncode == 0
    finally:
        os.close(stderr)


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_the_form_of_the_log_can_be_chosen(sidecar: Cli, way: str) -> None:
    """Lines for a person in a pipe, without colours there, and JSON at a terminal."""
    words = ("--log-format", "console") if way == "flag" else ()
    env = {"SIDECAR_LOG_FORMAT": "console"} if way == "variable" else {}
    ran = sidecar("run", "--drain", *words, env=env)
    assert ran.code == 0
    assert re.search(r"^\d\d:\d\d:\d\d \[info +\] started ", ran.err, re.MULTILINE)
    assert "\x1b" not in ran.err
    if way == "flag":
        _, seen = on_terminal(sidecar, "run", "--drain", "--log-format", "json", stream="stderr")
        assert all(json.loads(line) for line in seen.splitlines())


@pytest.mark.parametrize("words", [
    ("run", "--drain"),
    pytest.param(("status",), marks=pytest.mark.slow),
    pytest.param(("run", "--help"), marks=pytest.mark.slow),
])  # fmt: skip
def test_no_color_is_honoured(sidecar: Cli, words: tuple[str, ...]) -> None:
    """With NO_COLOR set nothing that is shown at a terminal has a colour; without, it has some."""
    stream = "stderr" if "--drain" in words else "stdout"
    sidecar.client.hset(HALT, mapping={"reason": "a red one", "by": "x", "since": "y"})
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        _, seen = on_terminal(sidecar, *words, stream=stream, env=env)
        assert seen
        assert bool(re.search(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|9[0-7])[;m]", seen)) == coloured

"""Commands with no server named: they find the embedded one."""

from __future__ import annotations

import signal
import time

from tests.cli.harness import TIMEOUT_S, Cli


def test_commands_find_the_server_that_run_started(sidecar: Cli) -> None:
    """With a data directory and nothing else, a worker, a producer and a reader meet."""
    sidecar.url = ""
    with sidecar.running("run") as worker:
        _wait_until_ready(sidecar)
        event = sidecar.bring("e1", "keys/1", b"k")
        ran = sidecar("tail", "--since", "0", "-n", "1", "-f", "--resolve", "--json")
        assert ran.object()["checksum"] == event["checksum"]
        (stream,) = sidecar("status", "--json").object()["streams"]
        assert stream["owner_alive"]
        assert sidecar("dead", "ls").code == 0
        assert sidecar("store", "get", "keys/1").raw == b"k"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(TIMEOUT_S) == 0
    assert sidecar("status").code == 4


def _wait_until_ready(sidecar: Cli) -> None:
    """Wait for its lease: the server answers before the worker has made its stores."""
    deadline = time.monotonic() + TIMEOUT_S
    while not _is_at_work(sidecar):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_at_work(sidecar: Cli) -> bool:
    ran = sidecar("status", "--json")
    return ran.code == 0 and ran.object()["streams"][0]["owner_alive"] is True

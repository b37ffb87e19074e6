"""What the probes of the manifests see of a real worker whose Redis is away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.errors import Unreachable, UsageError
from tests import servers
from tests.deploy.harness import Server, containers

WAIT_S: Final = 60.0


@contextmanager
def _worker(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sidecar run` with two stores of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar", "run", "--data-dir", str(directory),
         *servers.stores(directory), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def _ask(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _wait_for(port: int, path: str, status: int, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            found, body = _ask(port, path)
            if found == status:
                return body
        time.sleep(0.02)
    pytest.fail(f"{path} never answered {status}; the worker ended with {process.poll()}")


def _probes() -> dict[str, Any]:
    worker = containers("sidecar")["sidecar"]
    return {name: probe for name, probe in worker.items() if name.endswith("Probe")}


def test_a_worker_whose_redis_is_away_waits(tmp_path: Path) -> None:
    """All probes of the manifest succeed, `/readyz?strict` does not, and SIGTERM ends it with 0."""
    port, nobody = servers.free_port(), servers.free_port()
    options = ("--http", f"127.0.0.1:{port}", "--redis", f"redis://127.0.0.1:{nobody}/0")
    with _worker(tmp_path, *options) as process:
        body = _wait_for(port, "/readyz?strict", 503, process)
        assert json.loads(body)["control:events"]["state"] == "waiting"
        probes = _probes()
        assert set(probes) == {"startupProbe", "livenessProbe", "readinessProbe"}
        for path in ("/livez", "/readyz", *(p["httpGet"]["path"] for p in probes.values())):
            assert _ask(port, path)[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_worker_that_no_one_watches_does_not_wait(tmp_path: Path) -> None:
    """Without `--http` an unreachable Redis ends it, with the code that systemd tries again on."""
    nobody = servers.free_port()
    with _worker(tmp_path, "--redis", f"redis://127.0.0.1:{nobody}/0") as process:
        assert process.wait(WAIT_S) == Unreachable.exit_code == 4


def test_a_wrong_login_ends_a_worker_that_is_watched(server: Server, tmp_path: Path) -> None:
    """A password that is wrong is not waited for, so the startup probe must not come too early."""
    wrong = f"redis://sidecar:wrong@127.0.0.1:{server.port}/0"
    http = f"127.0.0.1:{servers.free_port()}"
    with _worker(tmp_path / "data", "--http", http, "--redis", wrong) as process:
        assert process.wait(WAIT_S) == UsageError.exit_code == 2
    assert _probes()["startupProbe"]["initialDelaySeconds"] > 1

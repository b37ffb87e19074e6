"""A real PostgreSQL for the tests: a cluster of their own, on a socket in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest

from tests.servers import START_TIMEOUT_S, missing, started

INSTALLED: Final = "/usr/lib/postgresql/*/bin"
"""Where Debian puts what is not on the PATH."""
SETTINGS: Final = (
    "listen_addresses=", "fsync=off", "max_prepared_transactions=10", "autovacuum=off",
    "shared_buffers=16MB", "deadlock_timeout=10s", "lock_timeout=60s",
)  # fmt: skip


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL; without it skip the test, or fail it in CI.

    Not where .ci/run could not install it, and says so by SIDECAR_TEST_WITHOUT.
    """
    found = sorted(Path("/").glob(f"{INSTALLED[1:]}/{name}"), key=lambda path: len(str(path)))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    if path is None and "postgresql" in os.environ.get("_SIDECAR_TEST_WITHOUT", ""):
        pytest.skip("PostgreSQL could not be installed")
    return path or missing(f"PostgreSQL's {name}")


def as_nobody(directory: str) -> dict[str, Any]:
    """Return as whom to run what refuses to be run by root, and give them a directory."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class Server:
    """A server that takes everybody for who they say they are, in a directory of its own."""

    def __init__(self, directory: str, *settings: str) -> None:
        self.url = f"postgresql://owner@/postgres?host={quote(directory, safe='')}"
        self._directory, self._someone = directory, as_nobody(directory)
        self._words = [word for one in (*SETTINGS, *settings) for word in ("-c", one)]
        self._process: subprocess.Popen[bytes] | None = None
        words = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=owner"]
        subprocess.run(
            [program("initdb"), f"--pgdata={directory}/data", *words],
            check=True, capture_output=True, cwd=directory, **self._someone,
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where, log = self._directory, Path(self._directory) / "log"
        with log.open("ab") as out:
            self._process = started(
                program("postgres"), "-D", f"{where}/data", "-k", where, *self._words,
                stdout=out, stderr=out, cwd=where, start_new_session=True, **self._someone,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url).close()
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')[-500:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions first, SIGQUIT ends it at once."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_TIMEOUT_S)


@contextmanager
def served(*settings: str) -> Iterator[Server]:
    """Run a server."""
    program("initdb")
    with tempfile.TemporaryDirectory(prefix="sidecar-pg-", ignore_cleanup_errors=True) as directory:
        server = Server(directory, *settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def running(*settings: str) -> Iterator[str]:
    """Run a server; yield its URL."""
    with served(*settings) as server:
        yield server.url

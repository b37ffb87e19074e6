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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.servers import START_TIMEOUT_S, missing

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


@contextmanager
def running(*settings: str) -> Iterator[str]:
    """Run a server that takes everybody for who they say they are; yield its URL."""
    initdb, postgres = program("initdb"), program("postgres")
    with tempfile.TemporaryDirectory(prefix="sidecar-pg-") as directory:
        someone = as_nobody(directory)
        data, log = f"{directory}/data", Path(directory) / "log"
        words = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=owner"]
        subprocess.run(
            [initdb, f"--pgdata={data}", *words],
            check=True, capture_output=True, cwd=directory, **someone,
        )  # fmt: skip
        options = [word for one in (*SETTINGS, *settings) for word in ("-c", one)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [postgres, "-D", data, "-k", directory, *options],
                stdout=out, stderr=out, cwd=directory, start_new_session=True, **someone,
            )  # fmt: skip
        try:
            url = f"postgresql://owner@/postgres?host={quote(directory, safe='')}"
            _wait_for(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # fast: sessions are ended, too
            process.wait(START_TIMEOUT_S)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')[-500:]}")

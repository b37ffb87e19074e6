"""A test that leaves a connection open fails, and is told where that was opened; and nothing stays
of a run that is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from tests import leaks
from tests.proofs import sampled
from tests.servers import missing
from tests.sidecar.harness import eventually

SERVERS = {
    "redis": "from tests.servers import running, usual; started = running(usual())",
    "postgresql": "from tests.postgres import running; started = running()",
    "s3": "from tests.store.object_server import running; started = running()",
}
"""Runs, as far as they have come: the server of each answers."""
STARTED = """
from threading import Thread
thread = Thread(target=started.__enter__)
thread.start()
thread.join()
print(flush=True)
input()
"""


def test_what_was_left_open_is_named_by_its_place(redis_url: str) -> None:
    """The place is the line that opened it, and it is closed; what was closed is not named."""
    with leaks.watched() as left_open:
        with redis.Redis.from_url(redis_url) as closed:
            closed.ping()
        left = redis.Redis.from_url(redis_url)
        left.ping()
        (place,) = left_open()
        assert place.startswith("  tests/test_leaks.py:46 in test_what_was_left_open_is")
        assert left_open() == []


def test_what_another_thread_uses_stays_open(redis_url: str) -> None:
    """A command that ends in one thread closes no connection that another made meanwhile."""
    with leaks.closed(), ThreadPoolExecutor(1) as pool:
        other = redis.Redis.from_url(redis_url)
        pool.submit(other.ping).result()
        (used,) = other.connection_pool._available_connections
    assert used._sock is not None
    other.close()


@pytest.mark.parametrize("which", sampled([*SERVERS], ["redis"]))
def test_a_server_dies_with_the_run_that_started_it(which: str) -> None:
    """Also when that is killed, and can end nothing; not with the thread that started it."""
    shutil.which("setpriv") or missing("setpriv (Debian: util-linux)")
    script = SERVERS[which] + STARTED
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL runs as somebody else than root
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1], env={**os.environ, "TMPDIR": directory},
        ) as run:  # fmt: skip
            assert run.stdout
            assert run.stdout.readline() == b"\n"
            (server,) = psutil.Process(run.pid).children()
            assert server.status() != psutil.STATUS_ZOMBIE
            run.kill()
            eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)

"""Fixtures of the tests of deploy/."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.deploy.harness import DEPLOY, Server, path_of, run_server, wait_until_up


@pytest.fixture(params=servers.kinds())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with the users that `deploy/secrets.sh` made."""
    port = servers.free_port()
    secrets = tmp_path / "secrets"
    subprocess.run(
        ["sh", str(DEPLOY / "secrets.sh"), str(secrets), f"127.0.0.1:{port}"],
        check=True,
        capture_output=True,
    )
    acl = (secrets / "users.acl").read_text()
    process = run_server(path_of(request.param), acl, tmp_path, port)
    server = Server(port, secrets, tmp_path)
    try:
        wait_until_up(lambda: server.call("health", "PING"), process)
        yield server
    finally:
        process.kill()
        process.wait()

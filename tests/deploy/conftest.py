"""Fixtures of the tests of deploy/."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.deploy.harness import DEPLOY, Server, run_server, wait_until_up


@pytest.fixture(params=[servers.usual()])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with the users that `deploy/secrets.sh` made.

    A test may ask for the kind "cluster": a Cluster of one node.
    """
    is_cluster = request.param == "cluster"
    port = servers.free_port()
    kind, scheme = ("valkey", "redis+cluster") if is_cluster else (request.param, "redis")
    secrets = tmp_path / "secrets"
    subprocess.run(
        ["sh", str(DEPLOY / "secrets.sh"), str(secrets), f"127.0.0.1:{port}", scheme],
        check=True,
        capture_output=True,
    )
    acl = (secrets / "users.acl").read_text()
    options = ("--cluster-enabled", "yes") if is_cluster else ()
    process = run_server(servers.path_of(kind), acl, tmp_path, port, *options)
    server = Server(port, secrets, tmp_path, is_cluster=is_cluster)
    try:
        wait_until_up(lambda: server.call("health", "PING"), process)
        if is_cluster:
            server.call("admin", "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until_up(lambda: server.call("admin", "EXISTS", "a"), process)
        yield server
    finally:
        process.kill()
        process.wait()

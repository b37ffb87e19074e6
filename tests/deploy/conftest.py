"""Fixtures of the tests of deploy/."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import servers
from tests.deploy.harness import DEPLOY, Server, run_server, wait_until_up


@pytest.fixture(scope="session")
def _secrets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What `deploy/secrets.sh` makes, once a scheme: a hundred processes. URLs lack the port."""

    @cache
    def made(scheme: str) -> Path:
        directory = tmp_path_factory.mktemp("deploy") / "secrets"
        command = ["sh", str(DEPLOY / "secrets.sh"), str(directory), "127.0.0.1:PORT", scheme]
        subprocess.run(command, check=True, capture_output=True)
        return directory

    return made


def _with_port(secrets: Path, copy: Path, port: int) -> Path:
    """Copy the secrets for a server that listens there."""
    copy.mkdir()
    for path in secrets.iterdir():
        (copy / path.name).write_text(path.read_text().replace(":PORT/", f":{port}/"))
        (copy / path.name).chmod(0o444)
    return copy


@pytest.fixture(params=[servers.usual()])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, _secrets: Callable[[str], Path]
) -> Iterator[Server]:
    """A server with the users that `deploy/secrets.sh` made.

    A test may ask for the kind "cluster": a Cluster of one node.
    """
    is_cluster = request.param == "cluster"
    port = servers.free_port()
    kind, scheme = ("valkey", "redis+cluster") if is_cluster else (request.param, "redis")
    secrets = _with_port(_secrets(scheme), tmp_path / "secrets", port)
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

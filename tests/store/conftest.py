"""An S3 server for the tests of this directory, started once a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store import object_server
from tests.store.object_server import Proxy, S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A moto server in a process of its own."""
    with object_server.running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, empty, and an environment that leads to it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_server
    s3_server.forget()


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, and an environment that leads to the proxy."""
    with object_server.proxy_before(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy

"""The services, each started when it is first asked for, and stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

import pytest

from tests.store import object_server
from tests.store.buckets import Buckets
from tests.store.object_server import Proxy, S3Server, proxy_before
from tests.store.services import azurite, ceph, gcs
from tests.store.services.service import Service

SERVICES = [
    pytest.param(module, id=name, marks=[pytest.mark.slow, pytest.mark.xdist_group(name)])
    for name, module in (("radosgw", ceph), ("azurite", azurite), ("gcs", gcs))
]
MOTO = pytest.param(object_server, id="moto")


@pytest.fixture(scope="session")
def started(request: pytest.FixtureRequest) -> Iterator[Callable[[ModuleType], Buckets]]:
    """Start each service when it is first asked for; stop all at the end."""
    with ExitStack() as stack:
        running: dict[ModuleType, Buckets] = {}

        def get(module: ModuleType) -> Buckets:
            if module is object_server:
                moto: Buckets = request.getfixturevalue("s3_server")
                return moto
            if module not in running:
                running[module] = stack.enter_context(module.running())
            return running[module]

        yield get


@contextmanager
def leading_to(service: Buckets, monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    """Have the environment lead to a service."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    yield service
    if isinstance(service, S3Server):
        service.forget()


@pytest.fixture(params=SERVICES)
def s3(
    request: pytest.FixtureRequest,
    started: Callable[[ModuleType], Buckets],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Buckets]:
    """Each service in turn, and an environment that leads there."""
    with leading_to(started(request.param), monkeypatch) as service:
        yield service


@pytest.fixture
def proxy(s3: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the service, and an environment that leads to the proxy."""
    with proxy_before(s3) as proxy:
        monkeypatch.setenv(s3.variable, proxy.endpoint)
        yield proxy

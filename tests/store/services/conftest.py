"""The services, each started when it is first asked for, and stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType

import pytest

from tests.store.object_server import Proxy, proxy_before
from tests.store.services import azurite, ceph
from tests.store.services.service import Service

SERVICES = [
    pytest.param(module, id=name, marks=pytest.mark.xdist_group(name))
    for name, module in (("radosgw", ceph), ("azurite", azurite))
]


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[ModuleType], Service]]:
    """Start each service when it is first asked for; stop all at the end."""
    with ExitStack() as stack:
        running: dict[ModuleType, Service] = {}

        def get(module: ModuleType) -> Service:
            if module not in running:
                running[module] = stack.enter_context(module.running())
            return running[module]

        yield get


@pytest.fixture(params=SERVICES)
def s3(
    request: pytest.FixtureRequest,
    started: Callable[[ModuleType], Service],
    monkeypatch: pytest.MonkeyPatch,
) -> Service:
    """Each service in turn, and an environment that leads there."""
    service = started(request.param)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    return service


@pytest.fixture
def proxy(s3: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the service, and an environment that leads to the proxy."""
    with proxy_before(s3) as proxy:
        monkeypatch.setenv(s3.variable, proxy.endpoint)
        yield proxy

"""Fixtures of the sidecar's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.sidecar.harness import Rig


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Rig:
    """A rig on the real, empty server, with two memory stores."""
    return Rig(redis_url, client)


@pytest.fixture
def every_rig(every_server: str) -> Iterator[Rig]:
    """A rig on each kind of server in turn."""
    with redis.Redis.from_url(every_server, protocol=2) as client:
        yield Rig(every_server, client)

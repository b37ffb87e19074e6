"""Fixtures of the sidecar's tests."""

from __future__ import annotations

import pytest
import redis

from tests.sidecar.harness import Rig


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Rig:
    """A rig on the real, empty server, with two memory stores."""
    return Rig(redis_url, client)

"""Fixtures of the sidecar's tests."""

from __future__ import annotations

import pytest
import redis

import store
from store import registry
from tests.sidecar.harness import Rig, note_nothing_to_prune


@pytest.fixture
def rig(redis_url: str, client: redis.Redis) -> Rig:
    """A rig on the real, empty server, with two memory stores."""
    return Rig(redis_url, client)


@pytest.fixture
def stores(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Register the rig's stores; return the settings that name them."""
    monkeypatch.setattr(registry, "_registered", {})
    store.register("source", lambda _: rig.source)
    store.register("fleet", lambda _: rig.fleet)
    note_nothing_to_prune(rig.client, rig.keys)
    return {"source_store": "source:", "fleet_store": "fleet:"}

"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from sidecar.redis import client as product
from tests.cli.harness import Cli
from tests.servers import PATIENCE_S


@pytest.fixture
def sidecar(
    redis_url: str, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    monkeypatch.setattr(product, "TIMEOUT_S", PATIENCE_S)  # in this process a command waits longer
    return Cli(redis_url, tmp_path, client)

"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.cli.harness import Cli


@pytest.fixture
def sidecar(redis_url: str, client: redis.Redis, tmp_path: Path) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    return Cli(redis_url, tmp_path, client)

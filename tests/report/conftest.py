"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.cli.harness import Cli
from tests.report.browser import Browser, driver


@pytest.fixture
def sidecar(redis_url: str, client: redis.Redis, tmp_path: Path) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    return Cli(redis_url, tmp_path, client)


@pytest.fixture(scope="session")
def window() -> Iterator[Callable[..., Browser]]:
    """What opens windows of a browser."""
    with driver() as opened:
        yield opened


@pytest.fixture
def browser(window: Callable[..., Browser]) -> Browser:
    """A window of a browser."""
    return window()

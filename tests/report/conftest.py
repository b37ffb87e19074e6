"""Fixtures of the tests of pages that a browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cli.harness import Cli
from tests.report.browser import Browser, driver


@pytest.fixture
def sidecar(redis_url: str, client: redis.Redis, tmp_path: Path) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    return Cli(redis_url, tmp_path, client)


@pytest.fixture(scope="module")
def _window() -> Iterator[Browser]:
    """One window for a module's tests: to start a browser costs more than most of them do, and so
    does one that stays open.
    """
    with driver() as opened:
        yield opened()


@pytest.fixture
def browser(_window: Browser) -> Browser:
    """A window of a browser, as if it was new."""
    return _window.afresh()

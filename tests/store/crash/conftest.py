"""Where the tests of crashes work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.crash.memory import in_memory


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory of the test's own, in memory where that can be."""
    with in_memory() as directory:
        yield directory

"""Databases for the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outbox.places import KINDS, Place


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Place]:
    """An empty outbox in each kind of database, with a Redis and a source store."""
    made = KINDS[request.param](tmp_path, redis_url)
    yield made
    made.close()

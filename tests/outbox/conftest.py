"""Databases for the outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests import postgres
from tests.outbox.places import KINDS, Place, PostgresPlace


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[str], str]]:
    """Give the URL of the server that a kind of database is in, started when first asked for."""
    with ExitStack() as stack:

        @cache
        def started(kind: str) -> str:
            return stack.enter_context(postgres.running()) if kind == "postgres" else ""

        yield started


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, server_of: Callable[[str], str]
) -> Iterator[Place]:
    """An empty outbox in each kind of database, with a Redis and a source store."""
    made = KINDS[request.param](tmp_path, redis_url, server_of(request.param))
    yield made
    made.close()


@pytest.fixture
def pg(tmp_path: Path, redis_url: str, server_of: Callable[[str], str]) -> Iterator[PostgresPlace]:
    """An empty outbox in PostgreSQL."""
    made = PostgresPlace(tmp_path, redis_url, server_of("postgres"))
    yield made
    made.close()

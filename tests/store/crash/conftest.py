"""Where the states after a crash are made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where there is one: what is durable is modelled, no disk is asked."""
    shared = "/dev/shm"
    where = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="store-crash-") as directory:
        yield Path(directory)

"""Directories in memory: what is durable is modelled, and no disk has to be waited for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = "/dev/shm"


@contextmanager
def in_memory() -> Iterator[Path]:
    """Make a directory for the block, in memory where that can be."""
    where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="store-crash-") as directory:
        yield Path(directory)

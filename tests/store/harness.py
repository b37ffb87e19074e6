"""What the tests of stores share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from store import Artifact
from store.memory import MemoryStore


def flip(store: object, ref: str) -> None:
    """Flip the last bit of the data that is current at a memory store's ref."""
    assert isinstance(store, MemoryStore)
    entry = store._entries[ref]
    assert entry.current
    stored = entry.versions[entry.current]
    data = bytearray(stored.artifact.data)
    data[-1] ^= 1
    stored.artifact = Artifact(bytes(data), stored.artifact.manifest)


def open_below(root: Path) -> list[str]:
    """Return what this process has open below `root`: other tests' leavings do not count."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(path for path in found if Path(path).is_relative_to(root))

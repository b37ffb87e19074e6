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


def raw_memory(store: object) -> bytes:
    """Return all blobs of a memory store."""
    assert isinstance(store, MemoryStore)
    kept = [one.artifact for each in store._entries.values() for one in each.versions.values()]
    return b"".join(blob for pair in (*kept, *store.quarantine.values()) for blob in pair)


def raw_files(root: Path) -> bytes:
    """Return the content of all files below a directory."""
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())

"""What the tests of stores share."""

from __future__ import annotations

from store import Artifact
from store.memory import MemoryStore


def flip(store: object, ref: str) -> None:
    """Flip the last bit of the data that is current at a memory store's ref."""
    assert isinstance(store, MemoryStore)
    entry = store._entries[ref]
    stored = entry.versions[entry.current]
    data = bytearray(stored.artifact.data)
    data[-1] ^= 1
    stored.artifact = Artifact(bytes(data), stored.artifact.manifest)

"""The memory backend: the whole contract in a dict, for tests and for trying things out."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from store.contract import (
    Artifact,
    Blob,
    Capability,
    Position,
    StoreConfig,
    Version,
    as_bytes,
    check_pin,
    check_position,
    checksum_of,
)
from store.errors import ConfigError, NotFound
from store.refs import check_ref

if TYPE_CHECKING:
    from collections.abc import Iterator

_Key = tuple[str, str]  # (data checksum, manifest checksum)


@dataclass(slots=True)
class _Stored:
    artifact: Artifact
    stored_at: float


@dataclass(slots=True)
class _Entry:
    """What lies at a ref. `versions` is in the order of their last Put."""

    current: _Key
    position: Position | None
    versions: dict[_Key, _Stored] = field(default_factory=dict)


def open_memory(config: StoreConfig) -> MemoryStore:
    """Open a new, empty store. Raises `ConfigError` for a URL that says more than `memory:`."""
    if config.url not in ("", "memory:", "memory://"):
        raise ConfigError(f"{config.url!r} has options, and memory takes none: write memory:")
    return MemoryStore()


class MemoryStore:
    """Artifacts that live as long as this object. Every capability; safe between threads."""

    name = "memory"
    capabilities = frozenset({Capability.PINNED_GET, Capability.POSITION, Capability.LIST})

    def __init__(self) -> None:
        self.identity = f"memory:{id(self)}"
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def put(
        self, ref: str, data: Blob, manifest: Blob, *, position: Position | None = None
    ) -> None:
        """See `VersionedStore.put`."""
        check_ref(ref)
        check_position(position)
        artifact = Artifact(as_bytes(data), as_bytes(manifest))
        key = (checksum_of(artifact.data), checksum_of(artifact.manifest))
        with self._lock:
            entry = self._entries.setdefault(ref, _Entry(key, position))
            _remember(entry, key, artifact)
            _move(entry, key, position)

    def get(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> Artifact:
        """See `VersionedStore.get`."""
        artifact = self._find(ref, checksum, manifest_checksum)
        if artifact is None:
            version = f" version {checksum} {manifest_checksum or ''}".rstrip()
            raise NotFound(f"memory has no{version if checksum else 'thing'} at ref {ref!r}")
        return artifact

    def exists(
        self, ref: str, *, checksum: str | None = None, manifest_checksum: str | None = None
    ) -> bool:
        """See `VersionedStore.exists`."""
        return self._find(ref, checksum, manifest_checksum) is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list`."""
        if prefix:
            check_ref(prefix)
        with self._lock:
            refs = tuple(self._entries)
        under = f"{prefix}/"
        return (ref for ref in refs if not prefix or ref == prefix or ref.startswith(under))

    def versions(self, ref: str) -> Iterator[Version]:
        """See `VersionedStore.versions`."""
        check_ref(ref)
        with self._lock:
            entry = self._entries.get(ref)
            if entry is None:
                raise NotFound(f"memory has nothing at ref {ref!r}")
            listed = [
                Version(
                    *key,
                    size_bytes=len(stored.artifact.data),
                    manifest_size_bytes=len(stored.artifact.manifest),
                    stored_at=stored.stored_at,
                    current=key == entry.current,
                )
                for key, stored in reversed(entry.versions.items())
            ]
        return iter(listed)

    def _find(
        self, ref: str, checksum: str | None, manifest_checksum: str | None
    ) -> Artifact | None:
        check_ref(ref)
        check_pin(checksum, manifest_checksum)
        with self._lock:
            entry = self._entries.get(ref)
            if entry is None:
                return None
            # The current version counts as the newest, whenever it was stored.
            for key in (entry.current, *reversed(entry.versions)):
                if checksum in (None, key[0]) and manifest_checksum in (None, key[1]):
                    return entry.versions[key].artifact
        return None


def _remember(entry: _Entry, key: _Key, artifact: Artifact) -> None:
    entry.versions.pop(key, None)
    entry.versions[key] = _Stored(artifact, time.time())


def _move(entry: _Entry, key: _Key, position: Position | None) -> None:
    if position is None:
        if entry.current != key:
            entry.current, entry.position = key, None
    elif entry.position is None or position >= entry.position:
        entry.current, entry.position = key, position

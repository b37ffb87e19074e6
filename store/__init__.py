"""Content-addressed artifact store: opaque data and manifest, put together, under a ref.

    import store

    s = store.open_url("file:///var/lib/fleet")
    s.put("stacks/t_123/web/42", data, manifest)
    data, manifest = s.get("stacks/t_123/web/42")

Importing this package imports no backend: that happens when one is opened.
"""

from __future__ import annotations

from typing import cast

from store.contract import (
    Artifact,
    Capability,
    Checked,
    Collected,
    Constructor,
    Limit,
    Listed,
    Pin,
    Position,
    Retention,
    Store,
    StoreConfig,
    Version,
    VersionedStore,
    checksum_of,
)
from store.errors import (
    ChecksumMismatch,
    ConfigError,
    Corrupt,
    InvalidRef,
    NotFound,
    StoreError,
    TooLarge,
    Unavailable,
)
from store.many import delete_all, versions_of
from store.refs import check_ref
from store.registry import open, open_url, register  # noqa: A004 - store.open reads well
from store.streams import CHUNK_BYTES, ArtifactReader, Readable

__all__ = [
    "CHUNK_BYTES",
    "Artifact",
    "ArtifactReader",
    "Capability",
    "Checked",
    "ChecksumMismatch",
    "Collected",
    "ConfigError",
    "Constructor",
    "Corrupt",
    "InvalidRef",
    "Limit",
    "Listed",
    "NotFound",
    "Pin",
    "Position",
    "Readable",
    "Retention",
    "Store",
    "StoreConfig",
    "StoreError",
    "TooLarge",
    "Unavailable",
    "Version",
    "VersionedStore",
    "capabilities",
    "check_ref",
    "checksum_of",
    "delete_all",
    "identity_of",
    "open",
    "open_url",
    "register",
    "versioned",
    "versions_of",
]


def capabilities(store: Store) -> frozenset[Capability]:
    """Return what `store` can do beyond put, get, exists and name: nothing, if it does not say."""
    declared: frozenset[Capability] = getattr(store, "capabilities", frozenset())
    return declared


def identity_of(store: Store) -> str | None:
    """Return the identity of `store`; None when its backend has none. Raises `Unavailable`."""
    found = versioned(store, Capability.IDENTITY)
    return found.identity if found else None


def versioned(store: Store, *needed: Capability) -> VersionedStore | None:
    """Return `store` typed as one that declares all of `needed`, or None if it does not."""
    return cast(VersionedStore, store) if capabilities(store).issuperset(needed) else None

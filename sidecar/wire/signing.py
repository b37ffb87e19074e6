"""Signs notifications, many with one signature, and seals what lies in an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sidecar.wire import seal
from sidecar.wire.keyfiles import FOREVER_US, PublicKey, private_key
from sidecar.wire.signature import MOST_LEAVES, key_id, leaf, message, tree, written


class Signer:
    """Signs with one key."""

    def __init__(self, path: Path) -> None:
        """Read the key. Raises `UsageError` as `private_key`."""
        self._key = private_key(path)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """Return one that signs with the key in a file; None without one. Raises as it does."""
        return cls(path) if path else None

    def signed(self, stream: str, notifications: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the field `signature` of each notification of a stream, given as the values of
        its fields `origin` and `event`.
        """
        leaves = [leaf(origin, event) for origin, event in notifications]
        key, fields = self.key_id.encode(), list[bytes]()
        for first in range(0, len(leaves), MOST_LEAVES):
            root, ways = tree(leaves[first : first + MOST_LEAVES])
            signature = self._key.sign(message(stream, root))
            fields += [written(key, number, signature, way) for number, way in enumerate(ways)]
        return fields

    def sealed(self, stream: str, ref: str, manifest: bytes) -> bytes:
        """Return the manifest of what lies at `ref` in the archive of a stream, with its seal."""
        signature = self._key.sign(seal.message(stream, ref, manifest))
        return seal.sealed(manifest, self.key_id, signature)

    def own(self) -> PublicKey:
        """Return what verifies what it signed."""
        return PublicKey("its own", self.key_id, self._key.public_key(), 0, FOREVER_US, "")

"""The signature of a notification: what is signed, and how that is written. Pure: no keys.

Notifications that are published together are the leaves of a hash tree (RFC 6962), and one Ed25519
signature is over its root, in the form of DSSE. Each notification carries that signature and its
way to the root, so that it is verified by itself:

    1 <key id> <number of the leaf> <base64 of the signature, then of the siblings on the way up>

A signature for each would cost more than all else that a worker does for an event (decision 0054).
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple, Self

FIELD: Final = "signature"
MOST_LEAVES: Final = 64
"""Of a tree that is signed here. A power of two."""
_PAYLOAD_TYPE: Final = b"application/vnd.artifact-sidecar.notifications"
_VERSION: Final = b"1"
_PARTS: Final = 4
_SIGNATURE_BYTES: Final = 64
_HASH_BYTES: Final = 32
_MOST_SIBLINGS: Final = 16
"""On the way of what is read: trees of later releases may be taller."""
_NOBODY: Final = bytes(_HASH_BYTES)
"""In the place of leaves that lack; nothing has this hash."""
_MOST_DIGITS: Final = 5
_KEY_ID_DIGITS: Final = 16
_SIBLINGS: Final = (MOST_LEAVES - 1).bit_length()
_MOST_PACKED_BYTES: Final = -(-(_SIGNATURE_BYTES + _SIBLINGS * _HASH_BYTES) // 3) * 4
MOST_BYTES: Final = len(FIELD) + len("1  63 ") + _KEY_ID_DIGITS + _MOST_PACKED_BYTES
"""What the field takes of a notification, its name with it."""


def key_id(public_key: bytes) -> str:
    """Return the id of a public key, of which these are the 32 bytes: 16 hex digits."""
    return sha256(public_key).hexdigest()[:_KEY_ID_DIGITS]


def leaf(origin: bytes, event: bytes) -> bytes:
    """Return the hash of a notification with these fields, `control_version` and all. 32 bytes."""
    return sha256(b"\0%d %b %b" % (len(origin), origin, event)).digest()


def message(stream: str, root: bytes) -> bytes:
    """Return what is signed: that the notification stream `stream` has what hashes to `root`.

    DSSE's pre-authentication encoding, of a body that is `<length of the name> <name> <root>`.
    """
    name = stream.encode()
    return enveloped(_PAYLOAD_TYPE, b"%d %b %b" % (len(name), name, root))


def enveloped(kind: bytes, body: bytes) -> bytes:
    """Return what is signed of a body, so that it stands for nothing of another kind."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def tree(leaves: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the root over the leaves, and for each the siblings on its way up, lowest first.

    Raises `ValueError` for none, or more than `MOST_LEAVES`.
    """
    level = _filled(leaves)
    levels, ways = [], [b""]
    while len(level) > 1:
        levels.append(level)
        pairs = iter(level)
        level = [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs)]  # noqa: B905 -- two of one iterator
    for below in reversed(levels):
        ways = [below[i ^ 1] + ways[i >> 1] for i in range(len(below))]
    return level[0], ways[: len(leaves)]


def _filled(leaves: Sequence[bytes]) -> list[bytes]:
    """Return the lowest level of a tree: a power of two. Raises as `tree`."""
    if not 0 < len(leaves) <= MOST_LEAVES:
        raise ValueError(f"a tree has 1 to {MOST_LEAVES} leaves, not {len(leaves)}")
    return [*leaves, *[_NOBODY] * ((1 << (len(leaves) - 1).bit_length()) - len(leaves))]


class Signature(NamedTuple):
    """The value of the field `signature`, as it is read."""

    key_id: str
    number: int
    """Of the leaf: its bits tell from the lowest on whether it, or what is above it, is the right
    one of two."""
    signature: bytes
    siblings: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a field. Raises `ValueError` for what is no signature of this form."""
        parts = raw.split(b" ", _PARTS)  # a field of spaces takes no more memory than it has
        if len(parts) != _PARTS or parts[0] != _VERSION:
            raise ValueError("it is no signature of a form that this release knows")
        _, key, number, packed = parts
        if len(key) != _KEY_ID_DIGITS or not (number.isdigit() and len(number) <= _MOST_DIGITS):
            raise ValueError("it names no key, or no leaf")
        signature, siblings = _unpacked(packed)
        if int(number) >> (len(siblings) // _HASH_BYTES):
            raise ValueError("its leaf is not in the tree")
        return cls(key.decode("latin-1"), int(number), signature, siblings)

    def root(self, leaf: bytes) -> bytes:
        """Return the root of the tree in which `leaf` has this place."""
        found, number = leaf, self.number
        for at in range(0, len(self.siblings), _HASH_BYTES):
            sibling = self.siblings[at : at + _HASH_BYTES]
            pair = sibling + found if number & 1 else found + sibling
            found, number = sha256(b"\1" + pair).digest(), number >> 1
        return found


def signer_of(raw: bytes) -> str:
    """Return the id of the key that a field names, without reading the rest; empty for none."""
    version, _, rest = raw.partition(b" ")
    return rest[:_KEY_ID_DIGITS].decode("latin-1") if version == _VERSION else ""


def _unpacked(packed: bytes) -> tuple[bytes, bytes]:
    """Return a signature, and the siblings. Raises `ValueError`."""
    try:
        found = a2b_base64(packed, strict_mode=True)
    except Error:
        raise ValueError("it is no base64") from None
    count, rest = divmod(len(found) - _SIGNATURE_BYTES, _HASH_BYTES)
    if count < 0 or rest or count > _MOST_SIBLINGS:
        raise ValueError("it has another length than a signature and hashes")
    return found[:_SIGNATURE_BYTES], found[_SIGNATURE_BYTES:]


def written(key_id: bytes, number: int, signature: bytes, siblings: bytes) -> bytes:
    """Return the value of the field."""
    return b"1 %b %d %b" % (key_id, number, b2a_base64(signature + siblings, newline=False))

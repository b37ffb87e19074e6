"""The seal of what lies in an archive: a signature over a manifest and the place where it is.

It is the last field of the manifest, and what is signed are the bytes before it:

    {…,"seal":"1 <key id> <base64 of the signature>"}

So nothing is encoded a second time, and who knows no seals reads a manifest with one field more.
Pure: no keys.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from hashlib import sha256
from typing import Final, NamedTuple

from sidecar.wire.signature import enveloped

FIELD: Final = "seal"
_PAYLOAD_TYPE: Final = b"application/vnd.artifact-sidecar.archive"
_SEALED: Final = re.compile(rb'(.*),"seal":"1 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)"\}', re.DOTALL)


class Seal(NamedTuple):
    """A seal as it is read."""

    key_id: str
    signature: bytes
    of: bytes
    """The manifest without it."""


def message(stream: str, ref: str, manifest: bytes) -> bytes:
    """Return what is signed: that the archive of the notification stream `stream` has at `ref` what
    `manifest`, without a seal, says.
    """
    names = b"".join(b"%d %b " % (len(one), one) for one in (stream.encode(), ref.encode()))
    return enveloped(_PAYLOAD_TYPE, names + sha256(manifest).digest())


def sealed(manifest: bytes, key_id: str, signature: bytes) -> bytes:
    """Return a manifest, which is a JSON object and not empty, with its seal."""
    packed = b2a_base64(signature, newline=False)
    return b'%b,"seal":"1 %b %b"}' % (manifest[:-1], key_id.encode(), packed)


def seal_of(manifest: bytes) -> Seal | None:
    """Return the seal of a manifest; None for one without, or with one of another form."""
    found = _SEALED.fullmatch(manifest)
    if not found:
        return None
    body, key, packed = found.groups()
    try:
        signature = a2b_base64(packed, strict_mode=True)
    except Error:
        return None
    return Seal(key.decode(), signature, body + b"}")

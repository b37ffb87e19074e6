"""Files with Ed25519 keys. The library `cryptography` is imported here alone, where it is wanted.

It is the extra `signing`, and without it nothing else is different.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.errors import UsageError
from sidecar.wire.moments import time_us
from sidecar.wire.secretfile import TooLarge, read_secret
from sidecar.wire.signature import key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_BEGIN: Final = "-----BEGIN "
_END: Final = "-----END PUBLIC KEY-----"
_TIMES: Final = ("not-before", "not-after")
_REVOKED: Final = "revoked"
FOREVER_US: Final = 2**63


class PublicKey(NamedTuple):
    """A public key as its file has it."""

    name: str
    """For people: the file's, without its ending."""
    id: str
    key: Ed25519PublicKey
    from_us: int
    """Of notifications with a control_version from this one on it may be the key."""
    until_us: int
    revoked: str
    """Why nothing that it signed is believed, whenever; empty while it is."""

    @property
    def is_limited(self) -> bool:
        """Whether it is the key of some time only."""
        return self.from_us > 0 or self.until_us < FOREVER_US


def private_key(path: Path) -> Ed25519PrivateKey:
    """Return the key that a worker signs with.

    Raises `UsageError`, naming the file and the fix, for anything but a file of the owner's alone
    (its group may read it) that has one Ed25519 key in PEM (PKCS #8), not encrypted.
    """
    text = _text(path)
    if "PUBLIC KEY" in text and "PRIVATE KEY" not in text:
        raise UsageError(f"{path} is a public key; name the private one, which it was made with")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o027:
        raise UsageError(
            f"{path} may be read or changed by others (mode {mode:03o}); chmod 600 {path}, and make"
            " a new key if anybody may have read it"
        )
    if "ENCRYPTED" in text:
        raise UsageError(
            f"{path} is encrypted, and a worker has nobody to ask for its password; write it"
            " without one (openssl pkey), or make another: sidecar sign-key new FILE"
        )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(text.encode(), password=None)
    except Exception as error:
        raise UsageError(
            f"{path} holds no private key in PEM; make one: sidecar sign-key new FILE"
        ) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{path} is no Ed25519 key; make one: sidecar sign-key new FILE")
    return found


def public_key(path: Path) -> PublicKey:
    """Return the key in a file of a trust directory.

    Above the PEM block may stand `not-before: TIME`, `not-after: TIME` (RFC 3339) and
    `revoked: WHY`. Raises `UsageError` for anything else, also for a line below it.
    """
    text = _text(path)
    if "PRIVATE KEY" in text:
        raise UsageError(f"{path} is a private key; it belongs to the worker alone: move it away")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(text[text.index(_BEGIN) :].encode())
    except Exception as error:
        raise UsageError(
            f"{path} holds no public key in PEM; write it again, or move it away"
        ) from error
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{path} is no Ed25519 key; move it away")
    if text.partition(_END)[2].strip():
        raise UsageError(
            f"{path}: something stands below the key, where it counts for nothing; move it above"
        )
    said = _said(path, text[: text.index(_BEGIN)])
    times = [_time(path, name, said[name]) if name in said else None for name in _TIMES]
    return PublicKey(
        path.stem, key_id(found.public_bytes_raw()), found, times[0] or 0,
        FOREVER_US if times[1] is None else times[1], said.get(_REVOKED, ""),
    )  # fmt: skip


def _said(path: Path, head: str) -> dict[str, str]:
    """Return what stands above the key: a line each; empty ones and comments say nothing."""
    said = {}
    for line in head.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not line.strip() or line.startswith("#"):
            continue
        if name not in (*_TIMES, _REVOKED) or not colon or not value or name in said:
            raise UsageError(
                f"{path}: the line {line[:60]!r} says nothing that is known; above the key may"
                " stand not-before: TIME, not-after: TIME and revoked: WHY, each once, and #"
                " comments"
            )
        said[name] = value
    return said


def _time(path: Path, name: str, value: str) -> int:
    found = time_us(value)
    if found is None:
        raise UsageError(
            f"{path}: {name}: {value[:60]!r} is no time; write 2026-11-02T10:00:00Z, with its zone"
        )
    return found


def new_pair(path: Path) -> tuple[Path, str]:
    """Make a key: the private one in `path`, the public one beside it, in `<path>.pub`.

    Returns the latter and the key's id. Raises `UsageError` where a file is there already, or none
    can be written.
    """
    imported()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    made = Ed25519PrivateKey.generate()
    private = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(path.name + ".pub")
    for place, content, mode in ((path, private, 0o600), (beside, public, 0o644)):
        _write(place, content, mode)
    return beside, key_id(made.public_key().public_bytes_raw())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(
            f"{path} is there already, and keys are not overwritten; name another"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another") from None


def _text(path: Path) -> str:
    """Return what stands in a key's file; see that the library is there to read it."""
    imported()
    try:
        text = read_secret(path)
    except (TooLarge, ValueError):
        raise UsageError(f"{path} is no key: it is too large, or no text; name another") from None
    except OSError as error:
        why = "is no file" if error.errno == errno.EINVAL else f"cannot be read: {error.strerror}"
        raise UsageError(f"{path} {why}; name a file with a key in PEM") from None
    if not text:
        raise UsageError(f"{path} is empty; name a file with a key in PEM")
    return text


def imported() -> None:
    """Raise `UsageError` without the library."""
    try:
        import cryptography  # noqa: F401 -- is it there?
    except ModuleNotFoundError:
        raise UsageError(
            "signatures need the library cryptography, which is not there: in a checkout, pip"
            " install '.[signing]'"
        ) from None


def verifies(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Tell whether a key made a signature of a message."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.key.verify(signature, message)
    except InvalidSignature:
        return False
    return True

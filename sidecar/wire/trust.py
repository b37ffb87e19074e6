"""Whom a reader believes: public keys in a directory, and whether a notification is by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from sidecar.errors import UsageError
from sidecar.wire.ids import EntryId
from sidecar.wire.keyfiles import PublicKey, verifies
from sidecar.wire.keyring import Keyring, OneKey
from sidecar.wire.moments import rfc3339
from sidecar.wire.seal import message as seal_message
from sidecar.wire.seal import seal_of
from sidecar.wire.signature import FIELD, Signature, leaf, message, signer_of

_MOST_ROOTS: Final = 64
"""So many signatures are remembered as verified: notifications of one come together."""
_FIELD: Final = FIELD.encode()

Kind = Literal[
    "unsigned", "no_signature", "unknown_key", "revoked", "out_of_date", "altered", "foreign"
]


class Untrusted(Exception):
    """A notification that none of the trusted keys signed for where it lies.

    Never continue past it unseen: somebody forged it, or a worker signs with a key that this reader
    does not know, or with none.

    Attributes:
        kind: `unsigned`; `no_signature`, its field holds none; `unknown_key`, `revoked` or
            `out_of_date`, by what the key's file says; `altered`, what was signed is another
            notification, or one of another stream or position; `foreign`, no sidecar wrote it.
        cursor: the control_version that passes it.

    """

    def __init__(self, words: str, kind: Kind, cursor: int) -> None:
        super().__init__(words)
        self.kind: Kind = kind
        self.cursor = cursor


class BadSeal(Untrusted):
    """A good key's seal over something else: no worker writes that.

    Attributes:
        ref: where it lies in the archive.
        last: the last entry of what lies there.

    """

    def __init__(self, words: str, ref: str, last: EntryId) -> None:
        super().__init__(words, "altered", last.control_version)
        self.ref = ref
        self.last = last


class Trust:
    """The keys that are believed. Safe to use from several threads."""

    def __init__(
        self, directory: str | Path | PublicKey, *, unsigned_until: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Read the keys: each file in `directory` that ends in `.pub` or `.pem` is one. What
        changes there counts within a second or so of reading, with no restart: what can be read of
        it, and what cannot is told in the log (`Keyring`).

        In place of a directory may stand a single key, of which nothing ever changes.

        Up to the control_version `unsigned_until` a notification may lack a signature: from when
        the worker had no key. Raises `UsageError` for a directory without a key, or with a file
        that is none.
        """
        self._keys: Keyring | OneKey = (
            OneKey(directory)
            if isinstance(directory, PublicKey)
            else Keyring(Path(directory), clock)
        )
        self._unsigned_until = unsigned_until
        self._verified: dict[tuple[str, bytes, bytes], None] = {}

    @classmethod
    def of(cls, given: Trust | str | Path | None) -> Trust | None:
        """Return it; of a directory the keys in there. Raises `UsageError`."""
        return given if given is None or isinstance(given, Trust) else cls(given)

    @property
    def names(self) -> dict[str, str]:
        """The names of the keys, by their ids."""
        return self._keys.names

    def lacks(self, key_id: str) -> str:
        """Say why the key with that id is not good for what is signed now; empty where it is."""
        found = self._judged(key_id, EntryId.of_version(time.time_ns() // 1000))
        return "" if isinstance(found, PublicKey) else found[1]

    def check_own(self, key_id: str) -> None:
        """Raise `UsageError` unless the key that one signs with oneself is good now."""
        if why := self.lacks(key_id):
            raise UsageError(
                f"the key that signs is not trusted there: {why}; add its public half, or sign with"
                " another (docs/trust.md)"
            )

    def may_lack(self, at: EntryId) -> bool:
        """Tell whether what lies at `at` may lack a signature."""
        return at.control_version <= self._unsigned_until

    def check(
        self, stream: str, at: EntryId, fields: Mapping[bytes, bytes], *, sealer: str = ""
    ) -> None:
        """Raise `Untrusted` unless a trusted key signed what the entry `at` of a stream has.

        The key with the id `sealer`, if any, says that it has verified just that: it is believed
        where both keys are good, so that it vouches for nothing that it could not have signed.
        """
        raw = fields.get(_FIELD)
        if raw is None and self.may_lack(at):
            return
        event, origin = fields.get(b"event"), fields.get(b"origin")
        if event is None or origin is None:
            raise untrusted(stream, at, "foreign", "no sidecar wrote it")
        if raw is None:
            raise untrusted(stream, at, "unsigned", "it has no signature")
        if not (sealer and self._is_good(sealer, at) and self._is_good(signer_of(raw), at)):
            self._check(stream, at, raw, origin, event)

    def sealer(self, stream: str, ref: str, manifest: bytes, last: EntryId) -> str:
        """Return the id of the key that sealed what lies at `ref` in the archive of a stream, up to
        the entry `last`; empty where none did, or none that is good there.

        Raises `BadSeal` for a seal by a good key over something else.
        """
        found = seal_of(manifest)
        key = self._keys.key(found.key_id) if found else None
        if found is None or key is None or not self._is_good(found.key_id, last):
            return ""
        if verifies(key, found.signature, seal_message(stream, ref, found.of)):
            return found.key_id
        said = f"{key.name} did not seal what lies at {ref} in the archive"
        raise BadSeal(_words(stream, last, said), ref, last)

    def _is_good(self, key_id: str, at: EntryId) -> bool:
        key = self._keys.key(key_id)
        if key is None or key.revoked:
            return False
        return not key.is_limited or key.from_us <= at.control_version <= key.until_us

    def _check(self, stream: str, at: EntryId, raw: bytes, origin: bytes, event: bytes) -> None:
        try:
            found = Signature.parse(raw)
        except ValueError as error:
            said = f"its signature cannot be read: {error}"
            raise untrusted(stream, at, "no_signature", said) from None
        key = self._valid(found.key_id, stream, at)
        # What is signed tells its own place: it is the last that a worker writes.
        is_in_place = event.endswith(b'"control_version":%d}' % at.control_version)
        # No other ID stands for it: 5-1000 would be a second 6-0.
        is_in_place &= at == EntryId.of_version(at.control_version)
        if not (is_in_place and self._is_signed(key, stream, found, leaf(origin, event))):
            said = f"{key.name} did not sign this event, origin, stream and place together"
            raise untrusted(stream, at, "altered", said)

    def _valid(self, key_id: str, stream: str, at: EntryId) -> PublicKey:
        """Return the key with that id, if it was good for that place."""
        found = self._judged(key_id, at)
        if isinstance(found, PublicKey):
            return found
        raise untrusted(stream, at, *found)

    def _judged(self, key_id: str, at: EntryId) -> PublicKey | tuple[Kind, str]:
        """Return the key with that id or, where it is not good for that place, why."""
        key = self._keys.key(key_id)
        if key is None:
            return "unknown_key", self._keys.lacks(key_id)
        if key.revoked:
            return "revoked", f"its key {key.name} is revoked: {key.revoked}"
        if not key.from_us <= at.control_version <= key.until_us:
            return "out_of_date", f"its key {key.name} is not one of {rfc3339(at.control_version)}"
        return key

    def _is_signed(self, key: PublicKey, stream: str, found: Signature, hashed: bytes) -> bool:
        """Tell whether a key signed the tree that a leaf is in; of each tree verified once."""
        root = found.root(hashed)
        # A key may be replaced by another of its name, never by one of its id.
        known = (key.id + stream, found.signature, root)
        if known in self._verified:
            return True
        if not verifies(key, found.signature, message(stream, root)):
            return False
        verified = dict(list(self._verified.items())[1 - _MOST_ROOTS :])
        self._verified = {**verified, known: None}
        return True


def untrusted(stream: str, at: EntryId, kind: Kind, said: str) -> Untrusted:
    """Return what is raised of the entry `at` of a notification stream."""
    return Untrusted(_words(stream, at, said), kind, at.control_version)


def _words(stream: str, at: EntryId, said: str) -> str:
    return f"{stream} has the notification {at}, which is not trusted: {said}"

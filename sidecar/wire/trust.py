"""Whom a reader believes: public keys in a directory, and whether a notification is by one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from sidecar.errors import UsageError
from sidecar.wire.ids import EntryId
from sidecar.wire.keyfiles import PublicKey, public_key, verifies
from sidecar.wire.moments import rfc3339
from sidecar.wire.signature import FIELD, Signature, leaf, message

ENDINGS: Final = (".pem", ".pub")
LOOK_EVERY_S: Final = 1.0
_MOST_KEYS: Final = 1000
_MOST_ROOTS: Final = 64
"""So many signatures are remembered as verified: notifications of one come together."""
_FIELD: Final = FIELD.encode()
_log: Final = logging.getLogger("sidecar.trust")

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


class Trust:
    """The keys that are believed. Safe to use from several threads."""

    def __init__(
        self, directory: str | Path, *, unsigned_until: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Read the keys: each file in `directory` that ends in `.pub` or `.pem` is one. What
        changes there counts within a second or so of reading, with no restart.

        Up to the control_version `unsigned_until` a notification may lack a signature: from when
        the worker had no key. Raises `UsageError` for a directory without a key, or with a file
        that is none.
        """
        self._directory = Path(directory)
        self._unsigned_until = unsigned_until
        self._clock = clock
        self._looked_at = clock()
        self._seen = self._look()
        self._keys = self._read()
        self._verified: dict[tuple[str, bytes, bytes], None] = {}

    @classmethod
    def of(cls, given: Trust | str | Path | None) -> Trust | None:
        """Return it; of a directory the keys in there. Raises `UsageError`."""
        return given if given is None or isinstance(given, Trust) else cls(given)

    @property
    def names(self) -> dict[str, str]:
        """The names of the keys, by their ids."""
        return {one.id: one.name for one in self._keys.values()}

    def check(self, stream: str, at: EntryId, fields: Mapping[bytes, bytes]) -> None:
        """Raise `Untrusted` unless a trusted key signed what the entry `at` of a stream has."""
        raw = fields.get(_FIELD)
        if raw is None and at.control_version <= self._unsigned_until:
            return
        event, origin = fields.get(b"event"), fields.get(b"origin")
        if event is None or origin is None:
            raise untrusted(stream, at, "foreign", "no sidecar wrote it")
        if raw is None:
            raise untrusted(stream, at, "unsigned", "it has no signature")
        self._check(stream, at, raw, origin, event)

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
        key = self._key(key_id)
        if key is None:
            said = f"no key in {self._directory} has the id {key_id!r}"
            raise untrusted(stream, at, "unknown_key", said)
        if key.revoked:
            raise untrusted(stream, at, "revoked", f"its key {key.name} is revoked: {key.revoked}")
        if not key.from_us <= at.control_version <= key.until_us:
            said = f"its key {key.name} is not one of {rfc3339(at.control_version)}"
            raise untrusted(stream, at, "out_of_date", said)
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

    def _key(self, key_id: str) -> PublicKey | None:
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._look_again()
        return self._keys.get(key_id)

    def _look_again(self) -> None:
        """Read the keys anew if a file came, went or changed. What is wrong now is logged, and the
        keys stay as they were: a file may be half written.
        """
        self._looked_at = self._clock()
        try:
            seen = self._look()
            if seen != self._seen:
                self._keys = self._read()
        except UsageError as error:
            _log.warning("the keys stay as they were: %s", error)
            return
        self._seen = seen

    def _look(self) -> dict[str, tuple[int, int, int]]:
        """Return by name what shows that a file is another than before. Raises `UsageError`."""
        try:
            names = sorted(filter(_is_key, os.listdir(self._directory)))
            found = {one: os.stat(self._directory / one) for one in names}
        except OSError as error:
            said = f"{self._directory} cannot be read: {error.strerror}; name a directory with keys"
            raise UsageError(said) from None
        if not 0 < len(found) <= _MOST_KEYS:
            raise UsageError(
                f"{self._directory} has {len(found)} files that end in .pub or .pem; it needs one"
                f" for each key, {_MOST_KEYS} at most"
            )
        return {name: (one.st_mtime_ns, one.st_size, one.st_ino) for name, one in found.items()}

    def _read(self) -> dict[str, PublicKey]:
        keys: dict[str, PublicKey] = {}
        for name in self._look():
            key = public_key(self._directory / name)
            if key.id in keys:
                raise UsageError(
                    f"{self._directory}: {keys[key.id].name} and {key.name} are one key; move one"
                    " of the files away"
                )
            keys[key.id] = key
        return keys


def _is_key(name: str) -> bool:
    return name.endswith(ENDINGS) and not name.startswith(".")


def untrusted(stream: str, at: EntryId, kind: Kind, said: str) -> Untrusted:
    """Return what is raised of the entry `at` of a notification stream."""
    return Untrusted(
        f"{stream} has the notification {at}, which is not trusted: {said}",
        kind,
        at.control_version,
    )

"""The public keys in a directory, as long as a reader runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from sidecar.errors import UsageError
from sidecar.wire.keyfiles import PublicKey, public_key

ENDINGS: Final = (".pem", ".pub")
LOOK_EVERY_S: Final = 1.0
BROKEN_S: Final = 10.0
"""So long a key is believed on whose file is broken: it may be half written."""
_MOST_KEYS: Final = 1000
_log: Final = logging.getLogger("sidecar.trust")


class Keyring:
    """Each file that ends in `.pub` or `.pem` is a key. Safe to use from several threads."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        """Read all. Raises `UsageError` for a directory without a key, or with a file that is none,
        or with one key in two files.
        """
        self.directory = directory
        self._clock = clock
        self._looked_at = clock()
        self._seen = self._look()
        if not self._seen:
            raise UsageError(f"{directory} has 0 files that end in .pub or .pem; put a key there")
        self._files = {name: public_key(directory / name) for name in self._seen}
        for one, other in _twice(self._files.values()):
            raise UsageError(
                f"{directory}: {one.name} and {other.name} are one key; move one of the files away"
            )
        self._keys = _strictest(self._files.values())
        self._broken: dict[str, float] = {}
        """Files that hold no key now, and since when that is known."""
        self._told = set[str]()

    @property
    def names(self) -> dict[str, str]:
        """The names of the keys, by their ids."""
        return {one.id: one.name for one in self._keys.values()}

    def key(self, key_id: str) -> PublicKey | None:
        """Return the key with that id, as its file has it about now."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._look_again()
        return self._keys.get(key_id)

    def lacks(self, key_id: str) -> str:
        """Say that there is no such key, and which file may be why."""
        broken = f"; broken there: {', '.join(sorted(self._broken))}" if self._broken else ""
        return f"no key in {self.directory} has the id {key_id!r}{broken}"

    def _look_again(self) -> None:
        """Take what can be read, revocations above all, and tell what cannot.

        A directory that cannot be read leaves the keys as they were.
        """
        self._looked_at = self._clock()
        try:
            seen = self._look()
        except UsageError as error:
            self._tell({f"the keys stay as they were: {error}"})
            return
        if seen != self._seen or self._broken:
            self._read(seen)
            self._seen = seen

    def _read(self, names: Iterable[str]) -> None:
        files, broken, wrong = dict[str, PublicKey](), dict[str, float](), set[str]()
        for name in names:
            try:
                files[name] = public_key(self.directory / name)
            except UsageError as error:
                since = broken[name] = self._broken.get(name, self._looked_at)
                held = self._files.get(name)
                if held and self._looked_at - since < BROKEN_S:
                    files[name] = held
                    wrong.add(f"{error}; its key is believed for {BROKEN_S:.0f} s more at most")
                else:
                    wrong.add(f"{error}; no key of this file is believed")
        for one, other in _twice(files.values()):
            wrong.add(f"{one.name} and {other.name} are one key; what is stricter counts")
        if not files:
            wrong.add(f"{self.directory} has no keys any more: nothing is believed")
        self._files, self._broken = files, broken
        self._keys = _strictest(files.values())
        self._tell(wrong)

    def _tell(self, wrong: set[str]) -> None:
        """Log what is wrong, once until it is something else."""
        for one in sorted(wrong - self._told):
            _log.warning("%s", one)
        self._told = wrong

    def _look(self) -> dict[str, tuple[int, int, int]]:
        """Return by name what shows that a file is another than before. Raises `UsageError`."""
        try:
            names = sorted(filter(_is_key, os.listdir(self.directory)))
            found = {one: os.stat(self.directory / one) for one in names}
        except OSError as error:
            said = f"{self.directory} cannot be read: {error.strerror}; name a directory with keys"
            raise UsageError(said) from None
        if len(found) > _MOST_KEYS:
            raise UsageError(
                f"{self.directory} has {len(found)} files that end in .pub or .pem; it needs one"
                f" for each key, {_MOST_KEYS} at most"
            )
        return {name: (one.st_mtime_ns, one.st_size, one.st_ino) for name, one in found.items()}


class OneKey:
    """A single key, which stays as it is."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self.names = {key.id: key.name}

    def key(self, key_id: str) -> PublicKey | None:
        """Return it, if that is its id."""
        return self._key if key_id == self._key.id else None

    def lacks(self, key_id: str) -> str:
        """Say that it has another id."""
        return f"the key {key_id!r} is not {self._key.name}"


def _is_key(name: str) -> bool:
    return name.endswith(ENDINGS) and not name.startswith(".")


def _twice(keys: Iterable[PublicKey]) -> list[tuple[PublicKey, PublicKey]]:
    """Return those that are one key."""
    first: dict[str, PublicKey] = {}
    return [(first[one.id], one) for one in keys if first.setdefault(one.id, one) is not one]


def _strictest(keys: Iterable[PublicKey]) -> dict[str, PublicKey]:
    """Return the keys by their ids; of one in two files, what either forbids is forbidden."""
    found: dict[str, PublicKey] = {}
    for one in keys:
        held = found.get(one.id, one)
        found[one.id] = held._replace(
            from_us=max(held.from_us, one.from_us), until_us=min(held.until_us, one.until_us),
            revoked=held.revoked or one.revoked,
        )  # fmt: skip
    return found

"""Records in a fleet's store of tenants that were erased: what went, when, by whom and why.

Under `.sidecar/erased/`, for good: they tell an artifact that was erased from one that was lost. A
record is there before anything goes. It has names and digests, no data: the log has the same names.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sidecar.lines import quoted
from sidecar.wire.bounds import bounded
from sidecar.wire.event import RESERVED
from store import (
    Capability,
    Corrupt,
    Limit,
    NotFound,
    Store,
    StoreError,
    TooLarge,
    VersionedStore,
    versioned,
)

ROOT: Final = f"{RESERVED}erased"
FORMAT: Final = 1
PART_BYTES: Final = 1 << 18
"""So large a part of a record becomes, about."""
_PART: Final = Limit(1 << 20, 0)
_BEGUN: Final = "~begun"


class Erased(NotFound):
    """An artifact is not there because its tenant was erased."""

    def __init__(self, ref: str, how: str) -> None:
        """`how` says with which tenant, when, by whom and why, as an `Erasure` does."""
        super().__init__(ref, how)
        self.how = how

    def __str__(self) -> str:
        """Return it for a person."""
        return f"{self.args[0]!r} was {self.how}"


class Gone(NamedTuple):
    """One version that goes, or went."""

    ref: str
    checksum: str
    manifest_checksum: str
    size_bytes: int


@dataclass(slots=True)
class Erasure:
    """One tenant that was erased, or is being."""

    at: str
    """When it began, RFC 3339."""
    by: str
    """user@host."""
    tenant: str
    reason: str
    stores: list[str] = field(default_factory=list)
    """URLs of the stores that were emptied, without secrets."""
    refs: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Pieces that went, by kind: `record`, `object`, `damaged`, `leftover`."""
    size_bytes: int = 0
    complete: bool = False
    """Whether it came to its end."""
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    """Tells it from others that began at the same moment."""

    @property
    def record(self) -> str:
        """The ref of its record; with `_BEGUN` behind it that of what announced it."""
        return f"{ROOT}/{self.at}~{self.id}"

    def __str__(self) -> str:
        """Return who did it, when and why."""
        whose = f"erased with all of the tenant {self.tenant!r}"
        return f"{whose} at {self.at} by {self.by}, reason given: {quoted(self.reason)}"


def announce(store: VersionedStore, erasure: Erasure, gone: Iterable[Gone]) -> int:
    """Put on record what is about to go, after what was announced of it before; return how much.

    Raises `store.StoreError`: then nothing may go.
    """
    written = sum(1 for _ in _parts(store, erasure))
    count = 0
    for rows in _packed(gone):
        written += 1
        count += len(rows)
        _write(store, f"{erasure.record}/{written:06}", {"versions": rows})
    _write(store, erasure.record + _BEGUN, asdict(erasure))
    return count


def conclude(store: VersionedStore, erasure: Erasure) -> None:
    """Put on record that it came to its end. Raises `store.StoreError`."""
    _write(store, erasure.record, asdict(erasure))
    store.delete(erasure.record + _BEGUN)


def erasures(store: VersionedStore) -> list[Erasure]:
    """Return what is on record, the oldest first. Raises `store.StoreError`."""
    return [_erasure(store, ref) for ref in sorted(_records(set(store.list(ROOT))))]


def announced(store: VersionedStore, erasure: Erasure) -> Iterator[Gone]:
    """Yield what a record names. Raises `store.StoreError`."""
    for ref in _parts(store, erasure):
        yield from _versions(store, ref)


class Erasures:
    """Looks up whether an artifact that is not there was erased; each part is read once."""

    def __init__(self, store: Store) -> None:
        """Of a store that cannot list nothing is known."""
        self._store = versioned(store, Capability.LIST, Capability.PINNED_GET)
        self._known: dict[str, frozenset[bytes]] = {}

    def find(self, ref: str, checksum: str = "") -> Erasure | None:
        """Return the erasure that took this version; without a checksum any version of the ref.

        None also where the records cannot be read: then nobody can tell.
        """
        if self._store is None or ref.startswith(RESERVED):
            return None
        key = _key(ref, checksum)
        with suppress(StoreError):
            refs = set(self._store.list(ROOT))
            for record in sorted(_records(refs), reverse=True):
                parts = _parts_among(refs, record.removesuffix(_BEGUN))
                if any(key in self._named(self._store, part) for part in parts):
                    return _erasure(self._store, record)
        return None

    def _named(self, store: VersionedStore, part: str) -> frozenset[bytes]:
        """Return what a part of a record names."""
        if part not in self._known:
            gone = _versions(store, part)
            pinned = {_key(one.ref, one.checksum) for one in gone}
            self._known[part] = frozenset(pinned | {_key(one.ref, "") for one in gone})
        return self._known[part]

    @contextmanager
    def told(self, ref: str, checksum: str | None = None) -> Iterator[None]:
        """Raise `Erased` in place of a `NotFound` of what was erased."""
        try:
            yield
        except NotFound as error:
            erasure = self.find(ref, checksum or "")
            if erasure:
                raise Erased(ref, str(erasure)) from error
            raise


def erasures_of(store: Store) -> Erasures:
    """Return what looks up there, for those that ask about many artifacts of one store."""
    if not isinstance(store, Hashable):
        return Erasures(store)
    return _remembered(store)


@lru_cache(maxsize=2)
def _remembered(store: Any) -> Erasures:  # noqa: ANN401 -- what can be hashed, and is a store
    return Erasures(store)


def _key(ref: str, checksum: str) -> bytes:
    return hashlib.blake2b(f"{ref}\0{checksum}".encode(), digest_size=16).digest()


def _records(refs: Collection[str]) -> Iterator[str]:
    """Yield the refs of records: of one that is concluded not what announced it."""
    for ref in refs:
        is_record = ref.count("/") == ROOT.count("/") + 1
        if is_record and not (ref.endswith(_BEGUN) and ref.removesuffix(_BEGUN) in refs):
            yield ref


def _parts_among(refs: Iterable[str], record: str) -> list[str]:
    return sorted(ref for ref in refs if ref.startswith(f"{record}/"))


def _parts(store: VersionedStore, erasure: Erasure) -> list[str]:
    return _parts_among(store.list(erasure.record), erasure.record)


def _packed(gone: Iterable[Gone]) -> Iterator[list[Gone]]:
    """Yield lists that are each a part."""
    rows: list[Gone] = []
    size = 0
    for one in gone:
        rows.append(one)
        size += len(one.ref.encode()) + 200
        if size > PART_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _write(store: VersionedStore, ref: str, body: dict[str, Any]) -> None:
    store.put(ref, json.dumps({"format": FORMAT, **body}).encode(), b"")


def _erasure(store: VersionedStore, ref: str) -> Erasure:
    body = _read(store, ref)
    try:
        return Erasure(**body)
    except TypeError as error:
        raise _no_record(ref, error) from error


def _versions(store: VersionedStore, ref: str) -> list[Gone]:
    body = _read(store, ref)
    try:
        return [Gone(str(a), str(b), str(c), int(d)) for a, b, c, d in body["versions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_record(ref, error) from error


def _read(store: VersionedStore, ref: str) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(store.get(ref, **bounded(store, _PART)).data)
        if body.pop("format") != FORMAT:
            raise Corrupt(f"{ref} is of a newer release: read it with that")
    except (ValueError, KeyError, TypeError, AttributeError, TooLarge) as error:
        raise _no_record(ref, error) from error
    return body


def _no_record(ref: str, error: Exception) -> Corrupt:
    return Corrupt(f"{ref} is no record of an erased tenant ({type(error).__name__}): restore it")

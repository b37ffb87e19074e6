"""Records in a store of what went from it: who removed what, when, and by which rules.

Under `.sidecar/removed/`, one for each run of `sidecar store gc` and each pass of a worker that
removed anything. A bounded number of bounded records: the newest stay.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sidecar.wire.bounds import bounded
from sidecar.wire.event import RESERVED
from store import Capability, Corrupt, Limit, NotFound, TooLarge, VersionedStore

ROOT: Final = f"{RESERVED}removed"
FORMAT: Final = 1
MOST_RECORDS: Final = 1000
MOST_NAMED: Final = 100
"""So many refs are named in a record; all are counted."""
_RECORD: Final = Limit(1 << 20, 0)
_BEGUN: Final = "~begun"


@dataclass(slots=True)
class Removal:
    """One run that removed something."""

    at: str
    """When it began, RFC 3339."""
    by: str
    """user@host, or a worker's host:pid."""
    rules: Sequence[str] = ()
    """Keep rules, as they are written."""
    counts: dict[str, int] = field(default_factory=dict)
    """Pieces that went, by kind: `ref`, `version`, `object`, `leftover`."""
    size_bytes: int = 0
    complete: bool = False
    """Whether it came to its end."""
    refs: list[tuple[str, str]] = field(default_factory=list)
    """The first refs that went, each with the checksum of its current version."""
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    """Tells it from others that began at the same moment."""

    @property
    def record(self) -> str:
        """The ref of its record; with `_BEGUN` behind it that of what announced it."""
        return f"{ROOT}/{self.at}~{self.id}"

    def went(self, kind: str, size_bytes: int) -> None:
        """Count a piece."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.size_bytes += size_bytes

    def ref_went(self, ref: str, checksum: str, size_bytes: int) -> None:
        """Count a ref, with all its versions."""
        self.went("ref", size_bytes)
        if len(self.refs) < MOST_NAMED:
            self.refs.append((ref, checksum))


def announce(store: VersionedStore, removal: Removal) -> None:
    """Put it on record before anything goes: a run that is killed is known by it.

    Where the store cannot delete, such a record could not be taken back if nothing goes, and there
    is none. Raises `store.StoreError`: then nothing may go.
    """
    if {Capability.LIST, Capability.DELETE} <= store.capabilities:
        _thin_out(store)
        _put(store, removal.record + _BEGUN, removal)


def put_on_record(store: VersionedStore, removal: Removal) -> None:
    """Keep what went, if anything did and the store can list. Raises `store.StoreError`."""
    if removal.counts and Capability.LIST in store.capabilities:
        _thin_out(store)
        _put(store, removal.record, removal)
    if Capability.DELETE in store.capabilities:
        store.delete(removal.record + _BEGUN)


def _put(store: VersionedStore, ref: str, removal: Removal) -> None:
    body = {"format": FORMAT, **asdict(removal)}
    store.put(ref, json.dumps(body).encode(), b"")


def removals(store: VersionedStore) -> Iterator[Removal]:
    """Yield what is on record, the oldest first.

    Raises `store.StoreError`: `Corrupt` for a record that this release cannot read.
    """
    refs = set(store.list(ROOT))
    for ref in sorted(refs):
        if ref.endswith(_BEGUN) and ref.removesuffix(_BEGUN) in refs:
            continue  # its end is on record, too
        with suppress(NotFound):  # it was thinned out meanwhile
            yield _read(store, ref)


def _thin_out(store: VersionedStore) -> None:
    """Make room for one more, where the store can delete."""
    if Capability.DELETE in store.capabilities:
        for ref in sorted(store.list(ROOT))[: 1 - MOST_RECORDS]:
            store.delete(ref)


def _read(store: VersionedStore, ref: str) -> Removal:
    try:
        body: dict[str, Any] = json.loads(store.get(ref, **bounded(store, _RECORD)).data)
        if body.pop("format") != FORMAT:
            raise Corrupt(f"{ref} is of a newer release: read it with that")
        refs = [(str(name), str(checksum)) for name, checksum in body.pop("refs")]
        return Removal(**body | {"refs": refs})
    except (ValueError, KeyError, TypeError, AttributeError, TooLarge) as error:
        raise Corrupt(f"{ref} is no record of what went ({type(error).__name__})") from error

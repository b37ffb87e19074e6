"""Which logs name what is in a store, as the store knows it: records under `.sidecar/logs/`.

A log is a notification stream on some Redis, with the control streams that lead to it. What its
events name must not be collected, so garbage collection asks every log that is registered, or
removes nothing. Each worker registers its log in the fleet store before it puts anything, and in
the source store, as one that reads there; a log that is gone for good is forgotten by hand, which
is kept, too.

The records are artifacts like others: every backend that lists refs can hold them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final

from sidecar.wire.bounds import bounded
from sidecar.wire.event import RESERVED
from store import (
    Capability,
    Corrupt,
    Limit,
    NotFound,
    Store,
    TooLarge,
    VersionedStore,
    versioned,
)

ROOT: Final = f"{RESERVED}logs"
_RECORD: Final = Limit(1 << 20, 0)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """That a log is gone, by the word of a person."""

    by: str
    at: str
    """RFC 3339."""
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """One log that publishes into the store, or only reads from it."""

    id: str
    """The random id that its Redis keeps beside the stream."""
    stream: str
    """The notification stream's name."""
    redis: str
    """Where the worker that registered it found it, without secrets."""
    registered_at: str
    """RFC 3339."""
    forgotten: Forgotten | None = None
    reads: bool = False
    """Whether the store is its source, and not its fleet's."""

    def __str__(self) -> str:
        """Return it as a person may recognise it."""
        return f"{self.id} ({self.stream} on {self.redis}, since {self.registered_at})"


def keeper_of(store: Store) -> VersionedStore | None:
    """Return the store as one that keeps such records; None when it cannot list them."""
    return versioned(store, Capability.LIST)


def register(store: VersionedStore, log: Log) -> None:
    """Register a log, unless it is. Raises `store.StoreError`."""
    known = None
    with suppress(NotFound, Corrupt):
        known = _read(store, _ref(log.id))
    if known is None or known.forgotten or (known.reads and not log.reads):
        _write(store, log)


def registered(store: VersionedStore) -> list[Log]:
    """Return the logs that are registered, the forgotten ones too, by id.

    Raises `store.StoreError`: a record that cannot be read is a log that cannot be asked.
    """
    refs = (ref for ref in store.list(ROOT) if ref != ROOT)
    return sorted((_read(store, ref) for ref in refs), key=lambda one: one.id)


def archiving(logs: Iterable[Log], stream: str) -> Log | None:
    """Return the log whose archive lies under the name of its notification stream: of those with
    that name the one that was registered first, and is not forgotten.
    """
    alike = [one for one in logs if one.stream == stream and not (one.forgotten or one.reads)]
    return min(alike, key=lambda one: (one.registered_at, one.id), default=None)


def forget(store: VersionedStore, log: Log, forgotten: Forgotten) -> None:
    """Keep that a log is gone. Raises `store.StoreError`."""
    _write(store, replace(log, forgotten=forgotten))


def _ref(log_id: str) -> str:
    return f"{ROOT}/{log_id}"


def _write(store: VersionedStore, log: Log) -> None:
    store.put(_ref(log.id), json.dumps(asdict(log)).encode(), b"")


def _read(store: VersionedStore, ref: str) -> Log:
    try:
        body = json.loads(store.get(ref, **bounded(store, _RECORD)).data)
        forgotten = body["forgotten"] and Forgotten(**body["forgotten"])
        return Log(
            body["id"], body["stream"], body["redis"], body["registered_at"], forgotten,
            reads=body.get("reads") is True,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, TooLarge) as error:
        raise Corrupt(
            f"{ref} is no record of a log ({type(error).__name__}): restore it; removed, that log"
            " is not asked until its worker starts again"
        ) from error

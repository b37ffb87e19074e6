"""What became of an event's artifact in the fleet's store."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from sidecar.stores import explained
from sidecar.wire.erasures import Erased, erasures_of
from sidecar.wire.event import Event
from sidecar.wire.moments import rfc3339
from store import Capability, Corrupt, InvalidRef, NotFound, Version, VersionedStore


class State(StrEnum):
    """Whether an artifact can be had."""

    THERE = "there"
    GONE = "gone"
    """There is a version of the ref, but not this one: it was collected since, or never put."""
    ABSENT = "absent"
    """There is nothing at the ref."""
    CORRUPT = "corrupt"
    ERASED = "erased"
    """With all of its tenant."""


class Put(NamedTuple):
    """An artifact as the store has it now."""

    state: State
    version: Version | None = None
    """None when it is not there, or the store does not list what it has."""
    why: str = ""
    """Of what was erased: "erased with all of the tenant", when, by whom, and why."""

    def __str__(self) -> str:
        """Return it for a person."""
        if self.state is not State.THERE:
            return f"artifact {self.state.value}"
        if self.version is None:
            return "put"
        return f"put {rfc3339(self.version.stored_at * 1e6)}, {self.version.size_bytes:,} bytes"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        found = self.version
        return {
            "state": self.state.value,
            "at": rfc3339(found.stored_at * 1e6) if found else None,
            "size_bytes": found and found.size_bytes,
            "manifest_size_bytes": found and found.manifest_size_bytes,
        }


def put_of(event: Event | None, store: VersionedStore) -> Put | None:
    """Look up the version that an event pins, without reading it; None without an artifact.

    Raises `Unreachable` when the store is away.
    """
    if event is None or not event.artifact_ref:
        return None
    with explained():
        return _put(event, store)


def _put(event: Event, store: VersionedStore) -> Put:
    pinned = event.artifact_ref, event.checksum, event.manifest_checksum or None
    try:
        if Capability.LIST not in store.capabilities:
            there = store.exists(pinned[0], checksum=pinned[1], manifest_checksum=pinned[2])
            return Put(State.THERE) if there else _lacking(event, store, State.GONE)
        found = next((v for v in store.versions(event.artifact_ref) if _is(v, event)), None)
    except Erased as error:
        return Put(State.ERASED, why=error.how)
    except (NotFound, InvalidRef):
        return _lacking(event, store, State.ABSENT)
    except Corrupt:
        return Put(State.CORRUPT)
    return Put(State.THERE, found) if found else _lacking(event, store, State.GONE)


def _lacking(event: Event, store: VersionedStore, state: State) -> Put:
    erasure = erasures_of(store).find(event.artifact_ref, event.checksum)
    return Put(State.ERASED, why=str(erasure)) if erasure else Put(state)


def _is(version: Version, event: Event) -> bool:
    wanted = event.manifest_checksum or version.manifest_checksum
    return (version.checksum, version.manifest_checksum) == (event.checksum, wanted)

"""A segment or a state that an operator takes out of the archive.

Its mark (`history.marks`) is there before it goes, so that no moment looks as if nothing had ever
been there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import orjson

from sidecar.errors import UsageError
from sidecar.history.archive import FORMAT as SEGMENTS
from sidecar.history.archive import ArchiveHistory, Ends, Header, only_in
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.linking import link_to, manifest_of, previous_of
from sidecar.history.marks import FORMAT, Drop, mark_of
from sidecar.history.segments import Damaged
from sidecar.stores import explained
from sidecar.wire.ids import FIRST, EntryId
from store import Capability, versioned

Seal = Callable[[str, bytes], bytes]


class Target(NamedTuple):
    """What is to go."""

    ref: str
    stream: str
    lacking: list[Ends]
    """What nothing else in the archive has of it; of a state what has expired, where no other
    state has that. Else a state only saves reading."""

    @property
    def mark(self) -> str:
        """The ref of its mark."""
        return mark_of(self.ref)


def target_of(archive: ArchiveHistory, ref: str) -> Target:
    """Return the segment or state at `ref`. Raises `UsageError` where there is none such."""
    streams = archive.streams
    for stream in (*streams.control, *streams[1:]):
        contents = archive.contents(stream)
        for name in contents.names:
            if name.ref == ref:
                return Target(ref, stream, only_in(contents, name))
    states = checkpoints_of(archive.store, streams.notifications)
    if ref in states.values():
        others = max((last for last, one in states.items() if one != ref), default=FIRST)
        return Target(ref, streams.notifications, _before(archive, others))
    raise UsageError(
        f"the archive of {streams.notifications} has no segment or state {ref!r}; `sidecar archive"
        " --check` and the errors that readers raise name them"
    )


def _before(archive: ArchiveHistory, last: EntryId) -> list[Ends]:
    """Return what has expired and no state has, the newest of which is that of `last`."""
    expired = archive.contents(archive.streams.notifications).expired
    return [(FIRST.after, expired)] if last < expired else []


def drop(
    archive: ArchiveHistory, target: Target, *, at: str, by: str, reason: str,
    seal: Seal | None = None,
) -> None:  # fmt: skip
    """Put it on record, then remove it. Raises `UsageError`, `Unreachable`, `SidecarError`."""
    deleting = versioned(archive.store, Capability.DELETE)
    if deleting is None:
        raise UsageError(f"--drop: the backend {archive.store.name!r} cannot delete")
    said = Drop(
        format=FORMAT, ref=target.ref, at=at, by=by, reason=reason, previous=_named(archive, target)
    )
    manifest = orjson.dumps(said.model_dump(mode="json"))
    with explained():
        deleting.put(target.mark, b"", seal(target.mark, manifest) if seal else manifest)
        deleting.delete(target.ref)


def _named(archive: ArchiveHistory, target: Target) -> str:
    """Return which segment comes before one, as a link: what it says itself, so that one which is
    gone already is not forgotten with it. Where the next one names another in its place, and so it
    is forged, it is what lies before it now.
    """
    names = archive.names(target.stream)
    name = next((one for one in names if one.ref == target.ref), None)
    if name is None:
        return ""  # a state
    manifest = manifest_of(archive, target.ref)
    itself = link_to(archive, target.stream, target.ref, manifest)
    after = next((one for one in names if one.first > name.last), None)
    is_known = after is None or _previous(manifest_of(archive, after.ref)) in ("", itself)
    there = previous_of(archive, target.stream, name.first)
    return (is_known and _previous(manifest)) or there


def _previous(manifest: bytes | None) -> str:
    """Return what a segment names before it; empty where nobody can read it."""
    try:
        return Header.read(manifest or b"", "it", SEGMENTS).previous
    except Damaged:
        return ""

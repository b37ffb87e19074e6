"""A segment or a state that an operator takes out of the archive, and the mark that tells it.

    <its place>/dropped~<first ID>..<last ID>

Beside a segment the mark tells the gap, by its name alone; its manifest says who did it, when and
why. It is there before anything goes, so that no moment looks as if nothing had ever been there.
Where the worker signs, the mark is sealed as segments are: a thief could explain a theft by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import orjson
from pydantic import Field

from sidecar.errors import SidecarError, UsageError
from sidecar.history.archive import DROPPED, ArchiveHistory, Ends, only_in
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.segments import BaseHeader, Damaged
from sidecar.stores import explained
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import time_us
from sidecar.wire.trust import Trust, Untrusted
from store import Capability, Corrupt, NotFound, TooLarge, VersionedStore, versioned

FORMAT: Final = 1
MOST_REASON_CHARS: Final = 500
Seal = Callable[[str, bytes], bytes]


class Drop(BaseHeader):
    """What the manifest of a mark says."""

    ref: str
    at: str
    """When, RFC 3339."""
    by: str
    """user@host."""
    reason: Annotated[str, Field(max_length=MOST_REASON_CHARS)]


class Target(NamedTuple):
    """What is to go."""

    ref: str
    stream: str
    lacking: list[Ends]
    """What nothing else in the archive has of it; of a state nothing, which only saves reading."""

    @property
    def mark(self) -> str:
        """The ref of its mark."""
        return mark_of(self.ref)


def mark_of(ref: str) -> str:
    """Return the ref of the mark that a segment or state was dropped."""
    place, _, name = ref.rpartition("/")
    return f"{place}/{DROPPED}~{name.partition('~')[0].partition('+')[0]}"


def target_of(archive: ArchiveHistory, ref: str) -> Target:
    """Return the segment or state at `ref`. Raises `UsageError` where there is none such."""
    streams = archive.streams
    for stream in (*streams.control, *streams[1:]):
        contents = archive.contents(stream)
        for name in contents.names:
            if name.ref == ref:
                return Target(ref, stream, only_in(contents, name))
    if ref in checkpoints_of(archive.store, streams.notifications).values():
        return Target(ref, streams.notifications, [])
    raise UsageError(
        f"the archive of {streams.notifications} has no segment or state {ref!r}; `sidecar archive"
        " --check` and the errors that readers raise name them"
    )


def drop(store: VersionedStore, target: Target, said: Drop, seal: Seal | None = None) -> None:
    """Put it on record, then remove it. Raises `UsageError`, `Unreachable`, `SidecarError`."""
    deleting = versioned(store, Capability.DELETE)
    if deleting is None:
        raise UsageError(f"--drop: the backend {store.name!r} cannot delete")
    manifest = orjson.dumps(said.model_dump(mode="json"))
    with explained():
        deleting.put(target.mark, b"", seal(target.mark, manifest) if seal else manifest)
        deleting.delete(target.ref)


class Record(NamedTuple):
    """A mark that was found."""

    said: Drop
    ref: str
    manifest: bytes

    def is_believed(self, trust: Trust | None, notifications: str) -> bool:
        """Tell whether a trusted key sealed it; without keys to trust it is taken at its word."""
        if trust is None:
            return True
        at = EntryId.of_version(time_us(self.said.at) or 0)
        try:
            return bool(trust.sealer(notifications, self.ref, self.manifest, at))
        except Untrusted:
            return False


def dropped(archive: ArchiveHistory, ref: str) -> Record | None:
    """Return what is on record of a ref that was dropped. Raises `Unreachable`."""
    mark = mark_of(ref)
    try:
        manifest = archive.manifest(mark)
        found = Record(Drop.read(manifest, mark, FORMAT), mark, manifest)
    except Damaged:
        return None
    except SidecarError as error:
        if isinstance(error.__cause__, Corrupt | NotFound | TooLarge):
            return None
        raise
    return found if found.said.ref == ref else None

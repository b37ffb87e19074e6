"""The mark that tells that an operator took a segment or a state out of the archive.

    <its place>/dropped~<its name>

Beside a segment the mark tells the gap, by its name alone; its manifest says who did it, when and
why, and what the segment named before it, so that the chain continues through the mark. Where the
worker signs, the mark is sealed as segments are: a thief could explain a theft by it.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from pydantic import Field

from sidecar.errors import SidecarError
from sidecar.history.archive import DROPPED, ArchiveHistory
from sidecar.history.segments import BaseHeader, Damaged
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import time_us
from sidecar.wire.trust import Trust, Untrusted
from store import Corrupt, NotFound, TooLarge

FORMAT: Final = 1
MOST_REASON_CHARS: Final = 500


class Drop(BaseHeader):
    """What the manifest of a mark says."""

    ref: str
    at: str
    """When, RFC 3339."""
    by: str
    """user@host."""
    reason: Annotated[str, Field(max_length=MOST_REASON_CHARS)]
    previous: str = ""
    """The segment before it, as `history.linking` writes it; empty for a first one, or a state."""


def mark_of(ref: str) -> str:
    """Return the ref of the mark that a segment or state was dropped."""
    place, _, name = ref.rpartition("/")
    return f"{place}/{DROPPED}~{name}"


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

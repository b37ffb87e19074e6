"""What a segment of the archive says of the one before it: the links of `history.chain`."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from sidecar.errors import SidecarError
from sidecar.history.archive import DROPPED, ArchiveHistory, Ends, Name, place_of
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.seal import FIELD
from store import Corrupt, NotFound, TooLarge

UNREADABLE: Final = "unreadable"
"""Stands for the hash of a segment that could not be read when the next one was written."""
GONE: Final = "gone"
"""Stands for the hash where the end of the archive was gone when the next segment was written."""
_OF_WRITER: Final = ("previous", "doubted", FIELD)
"""What a manifest says that does not follow from its rows."""
_OF_STORE: Final = (Corrupt, NotFound, TooLarge)


def previous_of(archive: ArchiveHistory, stream: str, first: EntryId) -> str:
    """Return what a segment that begins with `first` says of the one before it; empty for none.

    Raises `Unreachable`.
    """
    before = [name for name in archive.names(stream, anew=True) if name.last < first]
    if not before:
        return ""
    last = max(before, key=_order)
    return link_to(archive, stream, last.ref, manifest_of(archive, last.ref))


class Lost(NamedTuple):
    """What is gone before a segment that is to be written, and was archived."""

    ends: Ends
    word: str

    @property
    def link(self) -> str:
        """What the segment says of the one before it, and tells as gone so."""
        return f"{self.word} {GONE}"


def lost_end(archive: ArchiveHistory, stream: str, reached: EntryId, first: EntryId) -> Lost | None:
    """Return what is gone before a segment that begins with `first`, of a stream that was archived
    up to `reached`; None where that is there, or expired. Raises `Unreachable`.

    What has a mark that it was dropped has its own name, by which a check finds that mark.
    """
    contents = archive.contents(stream, anew=True)
    before = (name.last for name in contents.names if name.last < first)
    last = max(contents.expired, *before, FIRST)
    if last >= reached:
        return None
    for why, name in contents.gone:
        if why == DROPPED and name.last == reached:
            return Lost((name.first, reached), word_of(archive, stream, name.ref).partition("~")[2])
    return Lost((last.after, reached), f"{last.after}..{reached}")


def link_to(archive: ArchiveHistory, stream: str, ref: str, manifest: bytes | None) -> str:
    """Return what the next segment says of the one at `ref`; None is a manifest that is damaged."""
    digest = UNREADABLE if manifest is None else sha256(manifest).hexdigest()
    return f"{word_of(archive, stream, ref)} {digest}"


def kept(archive: ArchiveHistory, ref: str, manifest: bytes) -> bytes:
    """Return the manifest that is at `ref` where that is of the same rows, else `manifest`.

    So one who writes again what is there breaks no chain. Raises `Unreachable`.
    """
    there = manifest_of(archive, ref)
    is_same = there is not None and _but_chain(there) == _but_chain(manifest)
    return there if there is not None and is_same else manifest


def _order(name: Name) -> tuple[EntryId, EntryId, str]:
    return name.last, name.first, name.ref


def word_of(archive: ArchiveHistory, stream: str, ref: str) -> str:
    """Return by which word a segment names the one at `ref`."""
    return ref.removeprefix(place_of(archive.streams.notifications, stream) + "/")


def manifest_of(archive: ArchiveHistory, ref: str) -> bytes | None:
    """Return the manifest of a segment; None for one that is gone or damaged."""
    try:
        return archive.manifest(ref)
    except SidecarError as error:
        if isinstance(error.__cause__, _OF_STORE):
            return None
        raise


def _but_chain(manifest: bytes) -> object:
    """Return what a manifest says of its own rows; None for what is none."""
    try:
        said = orjson.loads(manifest)
        return {key: value for key, value in said.items() if key not in _OF_WRITER}
    except (ValueError, AttributeError):
        return None

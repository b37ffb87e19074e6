"""Each segment of the archive names the one before it, by a hash that covers what that names.

    previous: "<its name> <SHA-256 of its manifest>"

A manifest has the hash of its rows, and so the chain covers all rows of a stream. One who changes a
segment, or takes one out of the middle, would have to write all anew that come after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from sidecar.errors import SidecarError
from sidecar.history.archive import FORMAT, ArchiveHistory, Ends, Header, Name, place_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.sealing import last_of
from sidecar.history.segments import Damaged
from sidecar.redis.times import EARLIEST_MS
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.seal import FIELD
from sidecar.wire.trust import Trust, Untrusted
from store import Corrupt, NotFound, TooLarge

UNREADABLE: Final = "unreadable"
"""Stands for the hash of a segment that could not be read when the next one was written."""
_GONE: Final = "gone"
"""Stands for the hash where the end of the archive was gone when the next segment was written."""
_OF_WRITER: Final = ("previous", "doubted", FIELD)
"""What a manifest says that does not follow from its rows."""
_NO_SEAL: Final = "it has no seal of a trusted key, and segments before it have"
_OF_STORE: Final = (Corrupt, NotFound, TooLarge)


class Fault(NamedTuple):
    """What is wrong with the archive of a stream."""

    stream: str
    segment: str
    """The ref of the segment that tells it."""
    kind: str
    """`changed`, `missing`, `no_predecessor`, `damaged`; with keys `unsealed` or `untrusted`."""
    detail: str


def previous_of(archive: ArchiveHistory, stream: str, first: EntryId) -> str:
    """Return what a segment that begins with `first` says of the one before it; empty for none.

    Raises `Unreachable`.
    """
    before = [name for name in archive.names(stream, anew=True) if name.last < first]
    if not before:
        return ""
    last = max(before, key=_order)
    return link_to(archive, stream, last.ref, _manifest(archive, last.ref))


def lost_end(archive: ArchiveHistory, stream: str, reached: EntryId, first: EntryId) -> Ends | None:
    """Return what is gone before a segment that begins with `first`, of a stream that was archived
    up to `reached`; None where that is there, or expired. Raises `Unreachable`.
    """
    contents = archive.contents(stream, anew=True)
    before = (name.last for name in contents.names if name.last < first)
    last = max(contents.expired, *before, FIRST)
    return (last.after, reached) if last < reached else None


def lost_link(lost: Ends) -> str:
    """Return what a segment says of the one before it that is gone, and tells as gone so."""
    return f"{lost[0]}..{lost[1]} {_GONE}"


def link_to(archive: ArchiveHistory, stream: str, ref: str, manifest: bytes | None) -> str:
    """Return what the next segment says of the one at `ref`; None is a manifest that is damaged."""
    digest = UNREADABLE if manifest is None else sha256(manifest).hexdigest()
    return f"{_word(archive, stream, ref)} {digest}"


def kept(archive: ArchiveHistory, ref: str, manifest: bytes) -> bytes:
    """Return the manifest that is at `ref` where that is of the same rows, else `manifest`.

    So one who writes again what is there breaks no chain. Raises `Unreachable`.
    """
    there = _manifest(archive, ref)
    is_same = there is not None and _but_chain(there) == _but_chain(manifest)
    return there if there is not None and is_same else manifest


def faults_of(archive: ArchiveHistory, stream: str, trust: Trust | None = None) -> Iterator[Fault]:
    """Yield what the chain of a stream tells to be missing or changed. Reads manifests, no rows.

    With keys to trust also what they have not sealed, from the first segment on that they have, and
    what is sealed as something else, states too. Segments of releases without a chain say nothing.
    Raises `Unreachable`.
    """
    yield from _breaks(archive, stream)
    if trust:
        yield from _unsealed(archive, stream, trust)


def _unsealed(archive: ArchiveHistory, stream: str, trust: Trust) -> Iterator[Fault]:
    refs = [(name.last, name.ref) for name in archive.names(stream)]
    if stream == archive.streams.notifications:
        refs += checkpoints_of(archive.store, stream).items()
    is_sealed = False
    for last, ref in sorted(refs):
        manifest = _manifest(archive, ref)
        try:
            found = trust.sealer(archive.streams.notifications, ref, manifest or b"", last)
        except Untrusted as error:
            yield Fault(stream, ref, "untrusted", str(error))
            continue
        if is_sealed and not found:
            yield Fault(stream, ref, "unsealed", _NO_SEAL)
        is_sealed |= bool(found)


def _breaks(archive: ArchiveHistory, stream: str) -> Iterator[Fault]:
    names = sorted(archive.names(stream, anew=True), key=_order)
    by_word = {_word(archive, stream, name.ref): name for name in names}
    digests: dict[str, str] = {}
    is_chained, reached = False, None
    for name in names:
        manifest = _manifest(archive, name.ref)
        digests[name.ref] = sha256(manifest).hexdigest() if manifest is not None else ""
        header = _header(name, manifest)
        if isinstance(header, str):
            yield Fault(stream, name.ref, "damaged", header)
            continue
        if header.previous:
            yield from _broken(archive, stream, name, header.previous, by_word, digests)
        elif is_chained and reached is not None and reached < name.first:
            said = "segments lie before it, and it names none"
            yield Fault(stream, name.ref, "no_predecessor", said)
        is_chained |= bool(header.previous)
        reached = max(reached, name.last) if reached is not None else name.last


def _broken(
    archive: ArchiveHistory, stream: str, name: Name, previous: str, by_word: Mapping[str, Name],
    digests: Mapping[str, str],
) -> Iterator[Fault]:  # fmt: skip
    word, _, digest = previous.partition(" ")
    before = by_word.get(word)
    if before is None:
        # What expires goes oldest first: a mark does not speak for one that is gone by itself.
        last = last_of(word)
        is_first = not any(_expires(one) and one.last < last for one in by_word.values())
        if last > archive.contents(stream).expired or not is_first:
            said = f"the segment before it is gone: {word}"
            yield Fault(stream, name.ref, "missing", said)
    elif digest not in (digests.get(before.ref), UNREADABLE):
        yield Fault(stream, name.ref, "changed", f"the segment before it is another: {word}")


def _expires(name: Name) -> bool:
    """Tell whether a segment goes once it is old: IDs that are no times tell no age."""
    return name.last.ms >= EARLIEST_MS


def _order(name: Name) -> tuple[EntryId, EntryId, str]:
    return name.last, name.first, name.ref


def _word(archive: ArchiveHistory, stream: str, ref: str) -> str:
    return ref.removeprefix(place_of(archive.streams.notifications, stream) + "/")


def _manifest(archive: ArchiveHistory, ref: str) -> bytes | None:
    """Return the manifest of a segment; None for one that is gone or damaged."""
    try:
        return archive.manifest(ref)
    except SidecarError as error:
        if isinstance(error.__cause__, _OF_STORE):
            return None
        raise


def _header(name: Name, manifest: bytes | None) -> Header | str:
    """Return what a manifest says; of what says nothing, why."""
    if manifest is None:
        return "it cannot be read"
    try:
        return Header.read(manifest, name.ref, FORMAT)
    except Damaged as error:
        return str(error)


def _but_chain(manifest: bytes) -> object:
    """Return what a manifest says of its own rows; None for what is none."""
    try:
        said = orjson.loads(manifest)
        return {key: value for key, value in said.items() if key not in _OF_WRITER}
    except (ValueError, AttributeError):
        return None

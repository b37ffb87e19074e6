"""Each segment of the archive names the one before it, by a hash that covers what that names.

    previous: "<its name> <SHA-256 of its manifest>"

A manifest has the hash of its rows, and so the chain covers all rows of a stream. One who changes a
segment, or takes one out of the middle, would have to write all anew that come after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Final, NamedTuple

import orjson

from sidecar.errors import SidecarError
from sidecar.history.archive import FORMAT, ArchiveHistory, Ends, Header, Name, place_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.dropping import dropped
from sidecar.history.sealing import last_of
from sidecar.history.segments import Damaged
from sidecar.redis.times import EARLIEST_MS
from sidecar.wire.ids import FIRST, LAST, EntryId
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
ALL: Final = (FIRST, LAST)


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
    return link_to(archive, stream, last.ref, manifest_of(archive, last.ref))


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
    there = manifest_of(archive, ref)
    is_same = there is not None and _but_chain(there) == _but_chain(manifest)
    return there if there is not None and is_same else manifest


def faults_of(
    archive: ArchiveHistory, stream: str, trust: Trust | None = None, span: Ends = ALL
) -> Iterator[Fault]:
    """Yield what the chain of a stream tells to be missing or changed. Reads manifests, no rows.

    With keys to trust also what they have not sealed, from the first segment on that they have, and
    what is sealed as something else, states too. Segments of releases without a chain say nothing.
    Of a `span` are read the segments in it, those since the newest state before it, and one beside
    these at either end: each names the one before it. Raises `Unreachable`.
    """
    yield from _Look(archive, stream, trust).faults(span)


class _Link(NamedTuple):
    """A segment or a state, in the order in which they were written."""

    last: EntryId
    first: EntryId
    ref: str
    is_state: bool


class _Look:
    """One look at the chain of a stream."""

    def __init__(self, archive: ArchiveHistory, stream: str, trust: Trust | None) -> None:
        self._archive, self._stream, self._trust = archive, stream, trust
        names = archive.names(stream, anew=True)
        self._by_word = {_word(archive, stream, name.ref): name for name in names}
        self._links = [_Link(name.last, name.first, name.ref, is_state=False) for name in names]
        if trust and stream == archive.streams.notifications:
            states = checkpoints_of(archive.store, stream).items()
            self._links += [_Link(last, last, ref, is_state=True) for last, ref in states]
        self._links.sort()
        self._digests: dict[str, str] = {}
        self._is_chained, self._reached = False, FIRST
        self._is_sealed = False

    def faults(self, span: Ends) -> Iterator[Fault]:
        """Yield what is wrong with those that a span needs."""
        needed = self._needed(span)
        older = self._links[: self._links.index(needed[0])] if needed else []
        for one in needed:
            manifest = self._read(one.ref)
            if not one.is_state:
                yield from self._chained(one, manifest)
            if self._trust:
                yield from self._sealed(self._trust, one, manifest, older)

    def _needed(self, span: Ends) -> list[_Link]:
        states = (one.last for one in self._links if one.is_state and one.last <= span[0])
        low = max(states, default=span[0])
        within = [one for one in self._links if one.last >= low and one.first <= span[1]]
        after = (one for one in self._links if not one.is_state and one.first > span[1])
        return [*within, *islice(after, 1)]

    def _chained(self, one: _Link, manifest: bytes | None) -> Iterator[Fault]:
        header = _header(one.ref, manifest)
        if isinstance(header, str):
            yield Fault(self._stream, one.ref, "damaged", header)
            return
        if header.previous:
            yield from self._broken(one, header.previous)
        elif self._is_chained and self._reached < one.first:
            said = "segments lie before it, and it names none"
            yield Fault(self._stream, one.ref, "no_predecessor", said)
        self._is_chained |= bool(header.previous)
        self._reached = max(self._reached, one.last)

    def _broken(self, one: _Link, previous: str) -> Iterator[Fault]:
        word, _, digest = previous.partition(" ")
        before = self._by_word.get(word)
        if before is None:
            # What expires goes oldest first: a mark does not speak for one that is gone by itself.
            last = last_of(word)
            there = self._by_word.values()
            is_first = not any(_expires(name) and name.last < last for name in there)
            if last > self._archive.contents(self._stream).expired or not is_first:
                yield from self._missing(one, word)
        elif digest not in (self._digest(before.ref), UNREADABLE):
            said = f"the segment before it is another: {word}"
            yield Fault(self._stream, one.ref, "changed", said)

    def _missing(self, one: _Link, word: str) -> Iterator[Fault]:
        """Yield that the segment before one is gone, unless it is on record who dropped it."""
        said = f"the segment before it is gone: {word}"
        notifications = self._archive.streams.notifications
        found = dropped(self._archive, f"{place_of(notifications, self._stream)}/{word}")
        if found and found.is_believed(self._trust, notifications):
            return
        if found:
            said += f"; a mark says that {found.said.by} dropped it, and no trusted key sealed that"
        yield Fault(self._stream, one.ref, "missing", said)

    def _sealed(
        self, trust: Trust, one: _Link, manifest: bytes | None, older: list[_Link]
    ) -> Iterator[Fault]:
        try:
            is_sealed = self._seals(trust, one, manifest)
        except Untrusted as error:
            yield Fault(self._stream, one.ref, "untrusted", str(error))
            return
        if not (is_sealed or self._is_sealed):
            # Whether any before it is, the next look for it need not ask again.
            self._is_sealed = any(self._seals_at_all(trust, older.pop()) for _ in range(len(older)))
        if self._is_sealed and not is_sealed:
            yield Fault(self._stream, one.ref, "unsealed", _NO_SEAL)
        self._is_sealed |= is_sealed

    def _seals_at_all(self, trust: Trust, one: _Link) -> bool:
        try:
            return self._seals(trust, one, self._read(one.ref))
        except Untrusted:
            return False

    def _seals(self, trust: Trust, one: _Link, manifest: bytes | None) -> bool:
        """Tell whether a trusted key sealed it. Raises `Untrusted`."""
        notifications = self._archive.streams.notifications
        return bool(trust.sealer(notifications, one.ref, manifest or b"", one.last))

    def _read(self, ref: str) -> bytes | None:
        manifest = manifest_of(self._archive, ref)
        self._digests[ref] = sha256(manifest).hexdigest() if manifest is not None else ""
        return manifest

    def _digest(self, ref: str) -> str:
        if ref not in self._digests:
            self._read(ref)
        return self._digests[ref]


def _expires(name: Name) -> bool:
    """Tell whether a segment goes once it is old: IDs that are no times tell no age."""
    return name.last.ms >= EARLIEST_MS


def _order(name: Name) -> tuple[EntryId, EntryId, str]:
    return name.last, name.first, name.ref


def _word(archive: ArchiveHistory, stream: str, ref: str) -> str:
    return ref.removeprefix(place_of(archive.streams.notifications, stream) + "/")


def manifest_of(archive: ArchiveHistory, ref: str) -> bytes | None:
    """Return the manifest of a segment; None for one that is gone or damaged."""
    try:
        return archive.manifest(ref)
    except SidecarError as error:
        if isinstance(error.__cause__, _OF_STORE):
            return None
        raise


def _header(ref: str, manifest: bytes | None) -> Header | str:
    """Return what a manifest says; of what says nothing, why."""
    if manifest is None:
        return "it cannot be read"
    try:
        return Header.read(manifest, ref, FORMAT)
    except Damaged as error:
        return str(error)


def _but_chain(manifest: bytes) -> object:
    """Return what a manifest says of its own rows; None for what is none."""
    try:
        said = orjson.loads(manifest)
        return {key: value for key, value in said.items() if key not in _OF_WRITER}
    except (ValueError, AttributeError):
        return None

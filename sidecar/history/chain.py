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

from sidecar.history.archive import FORMAT, ArchiveHistory, Ends, Header, Name, place_of
from sidecar.history.checkpoints import checkpoints_of
from sidecar.history.linking import GONE, UNREADABLE, manifest_of, word_of
from sidecar.history.marks import dropped
from sidecar.history.sealing import last_of
from sidecar.history.segments import Damaged
from sidecar.redis.times import EARLIEST_MS
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.trust import Trust, Untrusted

_NO_SEAL: Final = "it has no seal of a trusted key, and segments before it have"
ALL: Final = (FIRST, LAST)


class Fault(NamedTuple):
    """What is wrong with the archive of a stream."""

    stream: str
    segment: str
    """The ref of the segment that tells it."""
    kind: str
    """`changed`, `missing`, `no_predecessor`, `damaged`; with keys `unsealed` or `untrusted`."""
    detail: str


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
        self._by_word = {word_of(archive, stream, name.ref): name for name in names}
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
            if broken := self._broken(header.previous):
                yield Fault(self._stream, one.ref, *broken)
        elif self._is_chained and self._reached < one.first:
            said = "segments lie before it, and it names none"
            yield Fault(self._stream, one.ref, "no_predecessor", said)
        self._is_chained |= bool(header.previous)
        self._reached = max(self._reached, one.last)

    def _broken(self, previous: str) -> tuple[str, str] | None:
        """Return which kind of fault is in what a segment names, and the words; None for none.

        Of what is on record as dropped, the mark says what came before: a drop explains no theft.
        """
        seen = set[str]()
        while previous and previous not in seen:
            seen.add(previous)
            word, _, digest = previous.partition(" ")
            if before := self._by_word.get(word):
                is_same = digest in (self._digest(before.ref), UNREADABLE, GONE)
                return None if is_same else ("changed", f"the segment before it is another: {word}")
            if self._has_expired(last_of(word)):
                return None
            previous, doubt = self._dropped(word)
            if doubt is not None:
                return "missing", f"the segment before it is gone: {word}{doubt}"
        return None

    def _dropped(self, word: str) -> tuple[str, str | None]:
        """Return what came before one that was dropped; else why it counts as missing."""
        notifications = self._archive.streams.notifications
        found = dropped(self._archive, f"{place_of(notifications, self._stream)}/{word}")
        if not found:
            return "", ""
        if found.is_believed(self._trust, notifications):
            return found.said.previous, None
        by = found.said.by
        return "", f"; a mark says that {by} dropped it, and no trusted key sealed that"

    def _has_expired(self, last: EntryId) -> bool:
        """Tell whether what ends there expired. What expires goes oldest first: a mark does not
        speak for what is gone by itself.
        """
        there = self._by_word.values()
        is_first = not any(_expires(name) and name.last < last for name in there)
        return is_first and last <= self._archive.contents(self._stream).expired

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


def _header(ref: str, manifest: bytes | None) -> Header | str:
    """Return what a manifest says; of what says nothing, why."""
    if manifest is None:
        return "it cannot be read"
    try:
        return Header.read(manifest, ref, FORMAT)
    except Damaged as error:
        return str(error)

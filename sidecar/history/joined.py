"""The archive and what is live, as one history: what trimming took is read from the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import ALWAYS, ANY, About, Checkpoint, Gap, Reach
from sidecar.history.live import LiveHistory
from sidecar.history.rows import id_of_line
from sidecar.history.segments import Id, merged, turned
from sidecar.redis.client import Side
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.source import Entry
from sidecar.redis.takeovers import Takeover
from sidecar.wire.ids import FIRST, LAST, EntryId

T = TypeVar("T")


class JoinedHistory:
    """Reads each stream from the archive as far as that goes, and then from Redis."""

    span_us = ALWAYS

    def __init__(self, archive: ArchiveHistory, live: LiveHistory) -> None:
        self.archive, self._live = archive, live
        self.streams = live.streams
        self.store = live.store

    def describe(self) -> str:
        """Name the servers, and that there is an archive."""
        return f"{self._live.describe()} and the archive"

    def now_us(self) -> int:
        """Return the server's clock."""
        return self._live.now_us()

    def is_on(self, other: Side) -> bool:
        """Tell whether another connection leads to the server with the notifications."""
        return self._live.is_on(other)

    def reach(self, stream: str) -> Reach | None:
        """Return from where to where both go, and what neither has."""
        archived, live = self.archive.reach(stream), self._live.reach(stream)
        if archived is None or live is None:
            return archived or live
        # Where trimming ended with the archive, what comes next may be much later: no gap.
        in_step = self._live.is_trimmed_to(stream, archived.last)
        left = [] if in_step else live.missing(archived.last.after, LAST)
        first = min(filter(None, (archived.first, live.first)), default=None)
        last = max(archived.last, live.last)
        return Reach(first, last, (*archived.gaps, *(Gap(*gap[:3]) for gap in left)))

    def entries(
        self, stream: str, first: EntryId = FIRST, last: EntryId = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is archived, then what is not."""
        yield from self._forwards(
            stream, first, last,
            lambda low, high: self.archive.entries(stream, low, high, about=about),
            lambda low, high: self._live.entries(stream, low, high, about=about),
            lambda entry: entry.id.pair,
        )  # fmt: skip

    def lines(self, stream: str, first: EntryId, last: EntryId) -> Iterator[bytes]:
        """Yield what is archived, then what is not."""
        yield from self._forwards(
            stream, first, last,
            lambda low, high: self.archive.lines(stream, low, high),
            lambda low, high: self._live.lines(stream, low, high),
            id_of_line,
        )  # fmt: skip

    def entries_back(
        self, stream: str, last: EntryId = LAST, first: EntryId = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is not archived, the newest first, then what is."""
        begin, is_apart = self._seam(stream)
        after = max(first, begin.after)

        def live() -> Iterator[Entry]:
            if after <= last:
                yield from self._live.entries_back(stream, last, after, about=about)

        def archived() -> Iterator[Entry]:
            yield from self.archive.entries_back(stream, last, first, about=about)

        if is_apart:
            yield from live()
            yield from archived()
        else:
            low = turned(LAST.pair, back=True)
            yield from merged(
                ((low, live), (low, archived)), lambda entry: turned(entry.id.pair, back=True)
            )

    def _forwards(
        self, stream: str, first: EntryId, last: EntryId,
        archived: Callable[[EntryId, EntryId], Iterator[T]],
        live: Callable[[EntryId, EntryId], Iterator[T]], key: Callable[[T], Id],
    ) -> Iterator[T]:  # fmt: skip
        begin, is_apart = self._seam(stream)
        while is_apart and first <= begin:
            yield from archived(first, min(begin, last))
            if begin == LAST:
                return
            first = begin.after
            begin, is_apart = self._seam(stream)  # trimming may have followed meanwhile
        after = max(first, begin.after)
        if is_apart:
            if after <= last:
                yield from live(after, last)
            return
        low = FIRST.pair
        yield from merged(
            ((low, lambda: archived(first, last)), (low, lambda: live(after, last))), key
        )

    def checkpoint(self, last: EntryId) -> Checkpoint | None:
        """Return the archive's newest at or before `last`."""
        return self.archive.checkpoint(last)

    def waiting(self, stream: str, entry_ids: Collection[EntryId]) -> set[EntryId]:
        """Return those that nobody has finished: what is archived may yet wait."""
        return self._live.waiting(stream, entry_ids)

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Ask the deduplication index, then the archive for what that has forgotten."""
        known = self._live.published(event_ids)
        return self.archive.published([one for one in event_ids if one not in known]) | known

    def readers(self) -> Sequence[Reader]:
        """Return those registered in Redis."""
        return self._live.readers()

    def takeovers(self) -> Sequence[Takeover]:
        """Return those on record in Redis."""
        return self._live.takeovers()

    def held(self) -> Sequence[Held]:
        """Return what workers tell in Redis that they hold back."""
        return self._live.held()

    def _seam(self, stream: str) -> tuple[EntryId, bool]:
        """Return up to which ID Redis need not be asked, for the archive has it all, and whether
        all that Redis has lies behind all that is archived.

        It does not where archivers overlapped, or the stream was made anew with lower IDs.
        """
        noted = self._live.archived_to(stream)  # before the names: trimming follows right behind it
        last = self.archive.last(stream, anew=True)
        begin = noted if noted is not None and noted <= last else FIRST
        if begin == last:
            return begin, True
        reach = self._live.reach(stream)
        if reach is None or reach.first is None or reach.first > last:
            return last, True
        return begin, False

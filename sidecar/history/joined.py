"""The archive and what is live, as one history: what trimming took is read from the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import ALWAYS, ANY, About, Checkpoint, Gap, Reach
from sidecar.history.live import LiveHistory
from sidecar.history.rows import id_of_line
from sidecar.history.segments import Id, merged, turned
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, id_after, id_pair

T = TypeVar("T")


class JoinedHistory:
    """Reads each stream from the archive as far as that goes, and then from Redis."""

    span_us = ALWAYS

    def __init__(self, archive: ArchiveHistory, live: LiveHistory) -> None:
        self._archive, self._live = archive, live
        self.streams = live.streams
        self.store = live.store

    def describe(self) -> str:
        """Name the servers, and that there is an archive."""
        return f"{self._live.describe()} and the archive"

    def now_us(self) -> int:
        """Return the server's clock."""
        return self._live.now_us()

    def reach(self, stream: str) -> Reach | None:
        """Return from where to where both go, and what neither has."""
        archived, live = self._archive.reach(stream), self._live.reach(stream)
        if archived is None or live is None:
            return archived or live
        # Where trimming ended with the archive, what comes next may be much later: no gap.
        in_step = self._live.trimmed_to(stream) == archived.last
        left = [] if in_step else live.missing(id_after(archived.last), LAST)
        first = min(filter(None, (archived.first, live.first)), key=id_pair)
        last = max(archived.last, live.last, key=id_pair)
        return Reach(first, last, (*archived.gaps, *(Gap(*gap[:3]) for gap in left)))

    def entries(
        self, stream: str, first: str = FIRST, last: str = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is archived, then what is not."""
        yield from self._forwards(
            stream, first, last,
            lambda low, high: self._archive.entries(stream, low, high, about=about),
            lambda low, high: self._live.entries(stream, low, high, about=about),
            lambda entry: id_pair(entry.id),
        )  # fmt: skip

    def lines(self, stream: str, first: str, last: str) -> Iterator[bytes]:
        """Yield what is archived, then what is not."""
        yield from self._forwards(
            stream, first, last,
            lambda low, high: self._archive.lines(stream, low, high),
            lambda low, high: self._live.lines(stream, low, high),
            id_of_line,
        )  # fmt: skip

    def entries_back(
        self, stream: str, last: str = LAST, first: str = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is not archived, the newest first, then what is."""
        begin, is_apart = self._seam(stream)
        after = max(first, id_after(begin), key=id_pair)

        def live() -> Iterator[Entry]:
            if id_pair(after) <= id_pair(last):
                yield from self._live.entries_back(stream, last, after, about=about)

        def archived() -> Iterator[Entry]:
            yield from self._archive.entries_back(stream, last, first, about=about)

        if is_apart:
            yield from live()
            yield from archived()
        else:
            low = turned(id_pair(LAST), back=True)
            yield from merged(
                ((low, live), (low, archived)), lambda entry: turned(id_pair(entry.id), back=True)
            )

    def _forwards(
        self,
        stream: str,
        first: str,
        last: str,
        archived: Callable[[str, str], Iterator[T]],
        live: Callable[[str, str], Iterator[T]],
        key: Callable[[T], Id],
    ) -> Iterator[T]:
        begin, is_apart = self._seam(stream)
        while is_apart and id_pair(first) <= id_pair(begin):
            yield from archived(first, min(begin, last, key=id_pair))
            first = id_after(begin)
            begin, is_apart = self._seam(stream)  # trimming may have followed meanwhile
        after = max(first, id_after(begin), key=id_pair)
        if is_apart:
            if id_pair(after) <= id_pair(last):
                yield from live(after, last)
            return
        low = id_pair(FIRST)
        yield from merged(
            ((low, lambda: archived(first, last)), (low, lambda: live(after, last))), key
        )

    def checkpoint(self, last: str) -> Checkpoint | None:
        """Return the archive's newest at or before `last`."""
        return self._archive.checkpoint(last)

    def waiting(self, stream: str, entry_ids: Collection[str]) -> set[str]:
        """Return those that nobody has finished: what is archived may yet wait."""
        return self._live.waiting(stream, entry_ids)

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Ask the deduplication index, then the archive for what that has forgotten."""
        known = self._live.published(event_ids)
        return self._archive.published([one for one in event_ids if one not in known]) | known

    def readers(self) -> dict[str, int]:
        """Return those registered in Redis."""
        return self._live.readers()

    def _seam(self, stream: str) -> tuple[str, bool]:
        """Return up to which ID Redis need not be asked, for the archive has it all, and whether
        all that Redis has lies behind all that is archived.

        It does not where archivers overlapped, or the stream was made anew with lower IDs.
        """
        noted = self._live.archived_to(stream)  # before the names: trimming follows right behind it
        last = self._archive.last(stream, anew=True)
        begin = noted if noted is not None and id_pair(noted) <= id_pair(last) else FIRST
        if begin == last:
            return begin, True
        reach = self._live.reach(stream)
        if reach is None or reach.first is None or id_pair(reach.first) > id_pair(last):
            return last, True
        return begin, False

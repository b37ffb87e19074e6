"""The archive and what is live, as one history: what trimming took is read from the archive."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import ALWAYS, ANY, About, Checkpoint, Gap, Reach
from sidecar.history.live import LiveHistory
from sidecar.redis.source import FIRST, LAST, Entry, id_after, id_pair


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
        begin = self._archived_to(stream)
        if id_pair(first) <= id_pair(begin):
            yield from self._archive.entries(stream, first, last, about=about)
        after = max(first, id_after(begin), key=id_pair)
        if id_pair(after) <= id_pair(last):
            yield from self._live.entries(stream, after, last, about=about)

    def lines(self, stream: str, first: str, last: str) -> Iterator[bytes]:
        """Yield what is archived, then what is not."""
        begin = self._archived_to(stream)
        yield from self._archive.lines(stream, first, min(last, begin, key=id_pair))
        yield from self._live.lines(stream, max(first, id_after(begin), key=id_pair), last)

    def entries_back(
        self, stream: str, last: str = LAST, first: str = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is not archived, the newest first, then what is."""
        begin = self._archived_to(stream)
        after = max(first, id_after(begin), key=id_pair)
        if id_pair(after) <= id_pair(last):
            yield from self._live.entries_back(stream, last, after, about=about)
        if id_pair(first) <= id_pair(begin):
            yield from self._archive.entries_back(stream, last, first, about=about)

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

    def _archived_to(self, stream: str) -> str:
        """Return the last ID that is archived now: trimming may follow right behind it."""
        names = self._archive.names(stream, anew=True)
        return max((name.last for name in names), key=id_pair, default=FIRST)

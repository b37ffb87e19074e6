"""How far back a stream goes in Redis, with what the archive has of it."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.history import Reach
from sidecar.wire.ids import FIRST, EntryId


class Extent(NamedTuple):
    """How far back a stream goes, and why not further. In IDs."""

    first: EntryId
    """The oldest entry in Redis; what comes next, when there is none."""
    deleted: EntryId
    """The highest that was deleted by hand, as far as the server tells."""
    whole: bool
    """Whether nothing that it ever had is missing. Never, where the server does not tell."""
    tells: bool
    """Whether the server knows what was deleted: Redis 7.0 and newer, every Valkey."""
    noted: EntryId
    """The highest that trimming took, as the trimmer noted."""
    archived: Reach | None = None
    """What of it the archive has, if that is read, too."""
    taken: bool = False
    """Whether somebody took entries since the trimmer noted how far it went."""

    @property
    def begin(self) -> EntryId:
        """From where on nothing was trimmed that is not archived."""
        if self.whole:
            return FIRST
        archived = self.archived
        if archived is None or self._cut_behind(archived, FIRST):
            return self.first
        lost = [gap.last.after for gap in archived.gaps]
        return max((archived.first or archived.last, *lost))

    def trimmed(self, at: EntryId) -> bool:
        """Tell whether what had the ID `at` was trimmed, rather than deleted or never there."""
        by_hand = self.tells and not self.whole and self.deleted < at < self.first
        return (at <= self.noted or by_hand) and not self._archives(at)

    @property
    def gone(self) -> EntryId:
        """The highest ID that trimming may have taken, and that is not archived."""
        by_hand = self.tells and not self.whole and self.deleted < self.first
        top = max(self.noted, self.first.before) if by_hand else self.noted
        archived = self.archived
        if archived is None or top == FIRST:
            return top
        missing = [gap.last for gap in archived.missing(FIRST, top)]
        missing += [top] if archived.last < top else []
        return max(missing, default=FIRST)

    def cut(self, since: EntryId) -> bool:
        """Tell whether something at or after `since` was trimmed."""
        archived = self.archived
        if archived is None:
            return self._cut(since)
        missing = archived.missing(since, archived.last)
        return bool(missing) or self._cut_behind(archived, since)

    def _cut_behind(self, archived: Reach, since: EntryId) -> bool:
        """Tell whether something was trimmed that came after all that is archived."""
        if self.noted == archived.last and not self.taken:
            return False  # the trimmer took the last that is archived, and nothing since
        return self._cut(max(since, archived.last.after))

    def _cut(self, since: EntryId) -> bool:
        by_hand = self.tells and not self.whole and self.deleted < self.first
        noted = FIRST < self.noted >= since
        return since < self.first and (noted or by_hand)

    def _archives(self, at: EntryId) -> bool:
        archived = self.archived
        if archived is None or at > archived.last:
            return False
        return not archived.missing(at, at)

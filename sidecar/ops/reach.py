"""How far back a stream goes in Redis, with what the archive has of it."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.history import Reach as Archived
from sidecar.wire.expiring import NOTHING
from sidecar.wire.ids import FIRST, id_after, id_before, id_of, key_of


class Reach(NamedTuple):
    """How far back a stream goes, and why not further. All IDs as `key_of` makes them."""

    first: str
    """The oldest entry in Redis; what comes next, when there is none."""
    deleted: str
    """The highest that was deleted by hand, as far as the server tells."""
    whole: bool
    """Whether nothing that it ever had is missing. Never, where the server does not tell."""
    tells: bool
    """Whether the server knows what was deleted: Redis 7.0 and newer, every Valkey."""
    noted: str
    """The highest that trimming took, as the trimmer noted."""
    archived: Archived | None = None
    """What of it the archive has, if that is read, too."""

    @property
    def begin(self) -> str:
        """From where on nothing was trimmed that is not archived."""
        if self.whole:
            return NOTHING
        archived = self.archived
        if archived is None or self._cut_behind(archived, NOTHING):
            return self.first
        lost = [key_of(id_after(gap.last)) for gap in archived.gaps]
        return max((key_of(archived.first or archived.last), *lost))

    def trimmed(self, at: str) -> bool:
        """Tell whether what had the ID `at` was trimmed, rather than deleted or never there."""
        by_hand = self.tells and not self.whole and self.deleted < at < self.first
        return (at <= self.noted or by_hand) and not self._archives(at)

    @property
    def gone(self) -> str:
        """The highest ID that trimming may have taken, and that is not archived."""
        by_hand = self.tells and not self.whole and self.deleted < self.first
        top = max(self.noted, key_of(id_before(id_of(self.first)))) if by_hand else self.noted
        archived = self.archived
        if archived is None or top == NOTHING:
            return top
        missing = [key_of(gap.last) for gap in archived.missing(FIRST, id_of(top))]
        missing += [top] if key_of(archived.last) < top else []
        return max(missing, default=NOTHING)

    def cut(self, since: str) -> bool:
        """Tell whether something at or after `since` was trimmed."""
        archived = self.archived
        if archived is None:
            return self._cut(since)
        missing = archived.missing(id_of(since), archived.last)
        return bool(missing) or self._cut_behind(archived, since)

    def _cut_behind(self, archived: Archived, since: str) -> bool:
        """Tell whether something was trimmed that came after all that is archived."""
        if self.noted == key_of(archived.last):
            return False  # the trimmer took the last that is archived, and nothing since
        return self._cut(max(since, key_of(id_after(archived.last))))

    def _cut(self, since: str) -> bool:
        by_hand = self.tells and not self.whole and self.deleted < self.first
        noted = NOTHING < self.noted >= since
        return since < self.first and (noted or by_hand)

    def _archives(self, at: str) -> bool:
        archived = self.archived
        if archived is None or at > key_of(archived.last):
            return False
        return not archived.missing(id_of(at), id_of(at))

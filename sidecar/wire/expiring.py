"""Whether the end of an entry may have come and gone: trimmed, and forgotten by the index.

Entry IDs of a control stream are positions, never times: producers give their own, and a clock that
once ran ahead leaves a stream ahead for ever. When an entry ended is judged by what was published
of its stream: a tenant's notifications are in entry order. An ID counts as a time only where the
notifications around it agree, and only as exactly as clocks do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.incarnations import FULL, Incarnation
from sidecar.wire.subject import CLOCK_SLACK_MS

LONGEST_ROUND_MS: Final = 66_000
"""A round of pruning takes a quarter of a window, or about so long, if that is longer."""


class Before(NamedTuple):
    """What was published of the entries before one."""

    own: EntryId
    """The notification of its tenant's last entry before it; `FIRST` without any."""
    any: EntryId
    """That of the last entry before it, whosever."""


class Trimmed(NamedTuple):
    """The highest that trimming may have taken, of each kind of end."""

    notifications: EntryId = FIRST
    letters: EntryId = FIRST


class Memory(NamedTuple):
    """What pruning noted of the index."""

    overlong: EntryId = LAST
    """Until then the index may have remembered whatever there was."""
    began: EntryId = FIRST
    """Before, nothing had ended; `FIRST` where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """Up to where ends may be gone that nothing remembers."""

    gone: EntryId
    """The highest notification that may be trimmed and forgotten; `FIRST` when none can be."""
    now: EntryId
    letters: EntryId = FIRST
    """The highest dead letter that may be."""
    repeats: EntryId = FIRST
    """Until when a duplicate of such a notification may have ended."""

    @classmethod
    def of(
        cls, trimmed: Trimmed, now_ms: int, newest: EntryId, window_s: float,
        history: Sequence[Incarnation], memory: Memory,
    ) -> Horizon:  # fmt: skip
        """Judge by how far was trimmed; the index knows all that ended within its window.

        `newest` is the newest notification: versions continue from there if the clock is set back.
        """
        window_ms = int(window_s * 1000)
        ahead_ms = max(now_ms, newest.ms)
        forgotten = EntryId.of(max(0, ahead_ms - window_ms))
        notifications = min(trimmed.notifications, forgotten)
        notifications = FIRST if notifications < _began(history) else notifications
        letters = min(trimmed.letters, forgotten)
        if letters < min(memory.began, trimmed.letters):  # the index is younger than its window
            letters = FIRST
        absorbed_ms = notifications.ms + longest_remembered_ms(window_ms)
        return cls(
            notifications, EntryId.of(now_ms), letters,
            FIRST if notifications == FIRST else max(EntryId.of(absorbed_ms), memory.overlong),
        )  # fmt: skip

    def may_hide(self, entry_id: EntryId, before: Before) -> bool:
        """Tell whether the notification of an entry may be among what is gone: nobody can know."""
        return self._may_hide(self.gone, entry_id, before)

    def may_hide_letter(self, entry_id: EntryId, before: Before) -> bool:
        """Tell whether its dead letter may be: most letters keep no order among notifications."""
        return self.letters != FIRST and not self._agrees(self.letters, entry_id, before)

    def may_hide_first(self, entry_id: EntryId, before: Before) -> bool:
        """Tell whether it may be the duplicate of a notification that is gone."""
        return self._may_hide(self.repeats, entry_id, before)

    def _may_hide(self, gone: EntryId, entry_id: EntryId, before: Before) -> bool:
        if gone == FIRST or before.own > gone:
            return False
        return not self._agrees(gone, entry_id, before)

    def _agrees(self, gone: EntryId, entry_id: EntryId, before: Before) -> bool:
        """Tell whether ID and notifications agree that the entry came after what is gone.

        Those times are of two servers, or of one whose clock was set.
        """
        later = EntryId.of(gone.ms + CLOCK_SLACK_MS)
        return before.any > gone and later < entry_id <= self.now


def longest_remembered_ms(window_ms: int) -> int:
    """Return how long the index remembers at the most, where no `overlong` is noted: its window, a
    round of pruning, and the slack that an anchor and pruning have each.
    """
    return window_ms + max(window_ms // 4, LONGEST_ROUND_MS) + 2 * slack_of(window_ms)


def slack_of(window: int) -> int:
    """Return for how long an anchor may hold, and pruning be late, before that is noted."""
    return window // 2


def _began(history: Sequence[Incarnation]) -> EntryId:
    """Return the first notification that there ever was; `FIRST` when that is not known."""
    if not history or history[0].kept or len(history) >= FULL:
        return FIRST
    return EntryId.of_version(history[0].began)

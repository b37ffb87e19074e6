"""Whether the end of an entry may have come and gone: trimmed, and forgotten by the index.

Entry IDs of a control stream are positions, never times: producers give their own, and a clock that
once ran ahead leaves a stream ahead for ever. When an entry ended is judged by what was published
of its stream: a tenant's notifications are in entry order. An ID counts as a time only where the
notifications around it agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.wire.ids import entry_id_of, id_of, id_pair, key_of
from sidecar.wire.incarnations import FULL, Incarnation

NOTHING: Final = f"{0:020}-{0:020}"
"""As `key_of` makes it, of the ID that lies before all."""
LONGEST_REMEMBERED: Final = 2.25
"""So many windows may pass until the index forgets: pruning takes a quarter of one longer, and a
shard expires after a whole one while no worker runs."""


class Before(NamedTuple):
    """What was published of the entries before one. Notification IDs as `key_of` makes them."""

    own: str
    """The notification of its tenant's last entry before it; `NOTHING` without any."""
    any: str
    """That of the last entry before it, whosever."""


class Trimmed(NamedTuple):
    """The highest that trimming may have taken, of each kind of end. IDs as `key_of` makes them."""

    notifications: str = NOTHING
    letters: str = NOTHING


@dataclass(frozen=True, slots=True)
class Horizon:
    """Up to where ends may be gone that nothing remembers. IDs as `key_of` makes them."""

    gone: str
    """The highest notification that may be trimmed and forgotten; `NOTHING` when none can be."""
    now: str
    letters: str = NOTHING
    """The highest dead letter that may be."""
    repeats: str = NOTHING
    """Until when a duplicate of such a notification may have ended."""

    @classmethod
    def of(
        cls, trimmed: Trimmed, now_ms: int, newest: str, window_s: float,
        history: Sequence[Incarnation],
    ) -> Horizon:  # fmt: skip
        """Judge by how far was trimmed; the index knows all that ended within its window.

        `newest` is the newest notification: versions continue from there if the clock is set back.
        """
        window_ms = int(window_s * 1000)
        ahead_ms = max(now_ms, id_pair(newest)[0])
        forgotten, began = key_of(f"{max(0, ahead_ms - window_ms)}-0"), _began(history)
        notifications = min(trimmed.notifications, forgotten)
        notifications = NOTHING if notifications < began else notifications
        letters = min(trimmed.letters, forgotten)
        if letters < min(began, trimmed.letters):  # one may die before any is published
            letters = NOTHING
        absorbed_ms = id_pair(id_of(notifications))[0] + int(window_ms * LONGEST_REMEMBERED)
        return cls(
            notifications, key_of(f"{now_ms}-0"), letters,
            NOTHING if notifications == NOTHING else key_of(f"{absorbed_ms}-0"),
        )  # fmt: skip

    def may_hide(self, entry_id: str, before: Before) -> bool:
        """Tell whether the notification of an entry may be among what is gone: nobody can know."""
        return self._may_hide(self.gone, entry_id, before)

    def may_hide_letter(self, entry_id: str, before: Before) -> bool:
        """Tell whether its dead letter may be: most letters keep no order among notifications."""
        return self.letters != NOTHING and not self._agrees(self.letters, entry_id, before)

    def may_hide_first(self, entry_id: str, before: Before) -> bool:
        """Tell whether it may be the duplicate of a notification that is gone."""
        return self._may_hide(self.repeats, entry_id, before)

    def _may_hide(self, gone: str, entry_id: str, before: Before) -> bool:
        if gone == NOTHING or before.own > gone:
            return False
        return not self._agrees(gone, entry_id, before)

    def _agrees(self, gone: str, entry_id: str, before: Before) -> bool:
        """Tell whether ID and notifications agree that the entry came after what is gone."""
        return before.any > gone and gone < key_of(entry_id) <= self.now


def _began(history: Sequence[Incarnation]) -> str:
    """Return the first notification that there ever was; `NOTHING` when that is not known."""
    if not history or history[0].kept or len(history) >= FULL:
        return NOTHING
    return key_of(entry_id_of(history[0].began))

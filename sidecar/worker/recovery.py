"""What a tenure finds on the control stream, and what it sets right before it reads.

A group is anybody's who has a Redis client: they read under another name, move its position,
delete consumers, acknowledge, make the stream anew. So a new tenure trusts only what the publish
script noted, the lowest unfinished entry, and the index. The group must have handed out nothing
from there on that is neither pending nor finished; where it has, it delivers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.redis.forgotten import Part
from sidecar.redis.publisher import BURIED, Seen, origin_digest
from sidecar.redis.source import Entry, Pending
from sidecar.wire.identity import identity_of
from sidecar.wire.ids import FIRST, LAST, id_after, id_before, id_pair

PAGE: Final = 200
"""Entries looked at in one go: each may have 16 KiB."""
_NO_TIME_MS: Final = 10**11
"""An entry ID below (in 1973) is no time: someone gave it."""


class Control(Protocol):
    """What the control stream offers for it; see `ControlStream`."""

    def create_group(self, after: str) -> bool:
        """Make the group; False when there is one."""

    def deliver_again(self, after: str) -> None:
        """Set the group's position."""

    def last_delivered(self) -> str:
        """Return the group's position."""

    def was_read(self) -> bool:
        """Tell whether somebody has read from the group."""

    def last_generated(self) -> str:
        """Return the highest ID that the stream ever gave."""

    def last(self) -> str:
        """Return the ID of the newest entry."""

    def pending(self) -> Pending:
        """Return what is pending."""

    def pending_between(self, first: str, last: str) -> set[str]:
        """Return the IDs of what is pending there, under any consumer."""

    def entries(self, first: str, last: str, count: int) -> list[Entry]:
        """Return entries."""

    def first_from(self, entry_id: str) -> str | None:
        """Return the ID of the first entry from there on."""

    def now_ms(self) -> int:
        """Return the server's time."""


class Memory(Protocol):
    """What is remembered on the notification stream's side; see `Publisher`."""

    @property
    def window_s(self) -> float:
        """How long the index remembers."""

    def lowest_unfinished(self) -> str | None:
        """Return the lowest entry that may be unfinished."""

    def forget_lowest(self) -> None:
        """Forget it."""

    def note_lowest(self, low: str) -> None:
        """Note it, where none is noted."""

    def seen(self, event_digests: Sequence[bytes]) -> list[Seen | None]:
        """Look event_ids and origins up in the index."""


class Found(NamedTuple):
    """The control stream as a tenure finds it, once all is set right."""

    pending: Pending
    low: str | None
    """The lowest unfinished entry, where one was noted."""
    last: str
    """The group delivers what comes after."""
    recovers_until: str | None
    """Up to here it delivers entries again that may be finished, or pending already."""


# --- decisions ---------------------------------------------------------------------------------


def is_beyond(position: str, generated: str) -> bool:
    """Tell whether the group's position lies beyond every ID that the stream ever gave."""
    return id_pair(position) > id_pair(generated)


def is_skipped(low: str | None, first: str | None, position: str, lowest_pending: str) -> bool:
    """Tell whether `first`, the entry at or next above `low`, was handed out and is not pending.

    It may be finished; then the index knows it.
    """
    if low is None or first is None or id_pair(low) == id_pair(LAST):
        return False  # of the entry with the highest ID, low cannot tell that it is finished
    if id_pair(first) > id_pair(position):
        return False
    return not lowest_pending or id_pair(lowest_pending) > id_pair(first)


def is_finished(content: bytes, event: Seen | None, origin: Seen | None) -> bool:
    """Tell by what the index knows whether an entry with this content has its end."""
    if origin is not None and origin.content_digest == BURIED:
        return True
    return event is not None and event.content_digest == content


def is_time(entry_id: str) -> bool:
    """Tell whether an entry ID is a time, as the server gives them, rather than a mere number."""
    return id_pair(entry_id)[0] >= _NO_TIME_MS


def may_be_forgotten(entry_id: str, cutoff_ms: int) -> bool:
    """Tell whether the index may have forgotten the end of an entry: it is no proof then."""
    return is_time(entry_id) and id_pair(entry_id)[0] < cutoff_ms


# --- what is done ------------------------------------------------------------------------------


class Recovery:
    """Begins a tenure on one control stream. Methods raise what both its sides raise."""

    def __init__(
        self, stream: str, control: Control, memory: Memory, keep: Callable[[], None],
        log: FilteringBoundLogger, lost: Callable[[Part, str, str], None],
    ) -> None:  # fmt: skip
        """`keep` is called in between while something takes long: to keep the lease.

        `lost` is called with what Redis forgot, up to where all was there, and still is.
        """
        self._stream = stream
        self._control = control
        self._memory = memory
        self._keep = keep
        self._log = log
        self._lost_part = lost

    def begin(self, *, read_to: str | None, trusted: Callable[[Pending, str], bool]) -> Found:
        """Have a group, and have it deliver again what is neither pending nor finished.

        `read_to` is how far this worker has read before, if it has. `trusted` tells of what is
        pending, and of the position, that both are as this worker left them: then nothing in
        between need be looked for.
        """
        low, again = self._have_group()
        pending = self._control.pending()
        if pending.others:
            self._log.warning(
                "entries are pending under other consumers; this worker takes them over",
                consumers=dict(pending.others),
            )
        last = self._control.last_delivered()
        target = None
        if not again:
            target = self._target(low, pending, last, look=not trusted(pending, last))
        if target is not None and target != last:
            self._control.deliver_again(target)
            again, last = True, target
        recovers_until = None
        again = again or (read_to is not None and id_pair(read_to) > id_pair(last))
        if again or id_pair(pending.highest) > id_pair(last):
            # Also when a predecessor set it back, and ended before all was delivered again.
            newest = self._control.last()
            recovers_until = newest if id_pair(newest) > id_pair(last) else None
            self._log.info(
                "the group delivers again what may be unfinished", after=last, until=newest
            )
        if not low:
            # Before anything is read: what is lost with its pending list then is found again.
            self._memory.note_lowest(pending.lowest or id_after(last))
        return Found(pending, low, last, recovers_until)

    def _have_group(self) -> tuple[str | None, bool]:
        """Make the group if there is none.

        Returns the lowest entry that may be unfinished, if one is noted, and whether the group
        begins there.
        """
        low = self._memory.lowest_unfinished()
        after = id_before(low) if low else FIRST
        created = self._control.create_group(after)
        if not low:
            self._look_for_notes()
            return None, False
        generated = self._control.last_generated()
        lower = id_pair(after) > id_pair(generated)
        if (lower or created) and id_pair(after) > id_pair(FIRST):
            self._lost_part(Part.CONTROL if lower else Part.GROUP, after, generated)
        if not (lower or created):
            return low, False
        if (created and lower) or ((lower or is_time(low)) and self._page_has_lost(FIRST, after)):
            self._log.warning("the control stream was made anew: it is read from its beginning")
            self._memory.forget_lowest()
            self._control.deliver_again(FIRST)
            return None, False
        if lower:
            self._log.warning("the control stream lost its end: what came after is gone")
            self._memory.forget_lowest()
            return None, False
        return low, True

    def _look_for_notes(self) -> None:
        """Tell if nothing is noted beside a group that was read: that is noted before any read."""
        if self._control.was_read() and not self._memory.lowest_unfinished():
            self._lost_part(Part.NOTES, self._control.last_delivered(), "")

    def _target(self, low: str | None, pending: Pending, last: str, *, look: bool) -> str | None:
        """Return where the group's position must be set to; None when it is right."""
        after = id_before(low) if low else FIRST
        if is_beyond(last, self._control.last_generated()):
            self._log.warning("the group's position lay beyond the stream's end", position=last)
            return after
        if low is None:
            return None
        if id_pair(last) < id_pair(after):
            # All below the lowest unfinished is finished, unless the stream is another.
            return None if self._page_has_lost(id_after(last), after) else after
        if is_skipped(low, self._control.first_from(low), last, pending.lowest):
            return after
        lost = self._first_lost(low, last) if look else None
        if lost is None:
            return None
        self._log.warning(
            "an entry was handed out, and is neither pending nor finished", entry=lost
        )
        return id_before(lost)

    def _first_lost(self, low: str, last: str) -> str | None:
        """Return the lowest entry from `low` to `last` that is neither pending nor finished."""
        first = max(low, f"{self._cutoff_ms()}-0", key=id_pair) if is_time(low) else low
        while entries := self._control.entries(first, last, PAGE):
            lost = self._lost(entries)
            if lost:
                return lost
            first = id_after(entries[-1].id)
            if len(entries) < PAGE:
                break
            self._keep()
        return None

    def _page_has_lost(self, first: str, last: str) -> bool:
        """Tell whether one of the first entries from `first` to `last` is lost."""
        entries = self._control.entries(first, last, PAGE)
        return bool(entries) and self._lost(entries) is not None

    def _lost(self, entries: Sequence[Entry]) -> str | None:
        pending = self._control.pending_between(entries[0].id, entries[-1].id)
        cutoff_ms = self._cutoff_ms()
        rest = [
            entry for entry in entries
            if entry.id not in pending and not may_be_forgotten(entry.id, cutoff_ms)
        ]  # fmt: skip
        return next(self._unfinished(rest), None) if rest else None

    def _cutoff_ms(self) -> int:
        return max(0, self._control.now_ms() - int(self._memory.window_s * 1000))

    def _unfinished(self, entries: Sequence[Entry]) -> Iterator[str]:
        digests: list[bytes] = []
        contents = []
        for entry in entries:
            origin = origin_digest(f"{self._stream}/{entry.id}")
            identity, content = identity_of(entry.fields)
            digests += (origin, identity or origin)
            contents.append(content)
        seen = self._memory.seen(digests)
        for entry, content, origin_seen, event_seen in zip(
            entries, contents, seen[::2], seen[1::2], strict=True
        ):
            if not is_finished(content, event_seen, origin_seen):
                yield entry.id

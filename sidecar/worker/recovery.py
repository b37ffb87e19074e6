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
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin

PAGE: Final = 200
"""Entries looked at in one go: each may have 16 KiB."""
_NO_TIME_MS: Final = 10**11
"""An entry ID below (in 1973) is no time: someone gave it."""


class Control(Protocol):
    """What the control stream offers for it; see `ControlStream`."""

    def create_group(self, after: EntryId) -> bool:
        """Make the group; False when there is one."""

    def deliver_again(self, after: EntryId) -> None:
        """Set the group's position."""

    def last_delivered(self) -> EntryId:
        """Return the group's position."""

    def was_read(self) -> bool:
        """Tell whether somebody has read from the group."""

    def last_generated(self) -> EntryId:
        """Return the highest ID that the stream ever gave."""

    def last(self) -> EntryId:
        """Return the ID of the newest entry."""

    def pending(self) -> Pending:
        """Return what is pending."""

    def pending_between(self, first: EntryId, last: EntryId) -> set[EntryId]:
        """Return the IDs of what is pending there, under any consumer."""

    def entries(self, first: EntryId, last: EntryId, count: int) -> list[Entry]:
        """Return entries."""

    def first_from(self, entry_id: EntryId) -> EntryId | None:
        """Return the ID of the first entry from there on."""

    def now_ms(self) -> int:
        """Return the server's time."""


class Memory(Protocol):
    """What is remembered on the notification stream's side; see `Publisher`."""

    @property
    def window_s(self) -> float:
        """How long the index remembers."""

    def lowest_unfinished(self) -> EntryId | None:
        """Return the lowest entry that may be unfinished."""

    def forget_lowest(self) -> None:
        """Forget it."""

    def note_lowest(self, low: EntryId) -> None:
        """Note it, where none is noted."""

    def seen(self, event_digests: Sequence[bytes]) -> list[Seen | None]:
        """Look event_ids and origins up in the index."""


class Found(NamedTuple):
    """The control stream as a tenure finds it, once all is set right."""

    pending: Pending
    low: EntryId | None
    """The lowest unfinished entry, where one was noted."""
    last: EntryId
    """The group delivers what comes after."""
    recovers_until: EntryId | None
    """Up to here it delivers entries again that may be finished, or pending already."""


# --- decisions ---------------------------------------------------------------------------------


def is_beyond(position: EntryId, generated: EntryId) -> bool:
    """Tell whether the group's position lies beyond every ID that the stream ever gave."""
    return position > generated


def is_skipped(
    low: EntryId | None, first: EntryId | None, position: EntryId, lowest_pending: EntryId
) -> bool:
    """Tell whether `first`, the entry at or next above `low`, was handed out and is not pending.

    It may be finished; then the index knows it.
    """
    if low is None or first is None or low == LAST:
        return False  # of the entry with the highest ID, low cannot tell that it is finished
    if first > position:
        return False
    return not lowest_pending or lowest_pending > first


def is_finished(content: bytes, event: Seen | None, origin: Seen | None) -> bool:
    """Tell by what the index knows whether an entry with this content has its end."""
    if origin is not None and origin.content_digest == BURIED:
        return True
    return event is not None and event.content_digest == content


def is_time(entry_id: EntryId) -> bool:
    """Tell whether an entry ID is a time, as the server gives them, rather than a mere number."""
    return entry_id.ms >= _NO_TIME_MS


def may_be_forgotten(entry_id: EntryId, cutoff_ms: int) -> bool:
    """Tell whether the index may have forgotten the end of an entry: it is no proof then."""
    return is_time(entry_id) and entry_id.ms < cutoff_ms


# --- what is done ------------------------------------------------------------------------------


class Recovery:
    """Begins a tenure on one control stream. Methods raise what both its sides raise."""

    def __init__(
        self, stream: str, control: Control, memory: Memory, keep: Callable[[], None],
        log: FilteringBoundLogger, lost: Callable[[Part, EntryId, EntryId], None],
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

    def begin(
        self, *, read_to: EntryId | None, trusted: Callable[[Pending, EntryId], bool]
    ) -> Found:
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
        again = again or (read_to is not None and read_to > last)
        if again or pending.highest > last:
            # Also when a predecessor set it back, and ended before all was delivered again.
            newest = self._control.last()
            recovers_until = newest if newest > last else None
            self._log.info(
                "the group delivers again what may be unfinished", after=last, until=newest
            )
        if not low:
            # Before anything is read: what is lost with its pending list then is found again.
            self._memory.note_lowest(pending.lowest or last.after)
        return Found(pending, low, last, recovers_until)

    def _have_group(self) -> tuple[EntryId | None, bool]:
        """Make the group if there is none.

        Returns the lowest entry that may be unfinished, if one is noted, and whether the group
        begins there.
        """
        low = self._memory.lowest_unfinished()
        after = low.before if low else FIRST
        created = self._control.create_group(after)
        if not low:
            self._look_for_notes()
            return None, False
        generated = self._control.last_generated()
        lower = after > generated
        if (lower or created) and after > FIRST:
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
            self._lost_part(Part.NOTES, self._control.last_delivered(), FIRST)

    def _target(
        self, low: EntryId | None, pending: Pending, last: EntryId, *, look: bool
    ) -> EntryId | None:
        """Return where the group's position must be set to; None when it is right."""
        after = low.before if low else FIRST
        if is_beyond(last, self._control.last_generated()):
            self._log.warning("the group's position lay beyond the stream's end", position=last)
            return after
        if low is None:
            return None
        if last < after:
            # All below the lowest unfinished is finished, unless the stream is another.
            return None if self._page_has_lost(last.after, after) else after
        if is_skipped(low, self._control.first_from(low), last, pending.lowest):
            return after
        lost = self._first_lost(low, last) if look else None
        if lost is None:
            return None
        self._log.warning(
            "an entry was handed out, and is neither pending nor finished", entry=lost
        )
        return lost.before

    def _first_lost(self, low: EntryId, last: EntryId) -> EntryId | None:
        """Return the lowest entry from `low` to `last` that is neither pending nor finished."""
        first = max(low, EntryId.of(self._cutoff_ms())) if is_time(low) else low
        while entries := self._control.entries(first, last, PAGE):
            lost = self._lost(entries)
            if lost:
                return lost
            first = entries[-1].id.after
            if len(entries) < PAGE:
                break
            self._keep()
        return None

    def _page_has_lost(self, first: EntryId, last: EntryId) -> bool:
        """Tell whether one of the first entries from `first` to `last` is lost."""
        entries = self._control.entries(first, last, PAGE)
        return bool(entries) and self._lost(entries) is not None

    def _lost(self, entries: Sequence[Entry]) -> EntryId | None:
        pending = self._control.pending_between(entries[0].id, entries[-1].id)
        cutoff_ms = self._cutoff_ms()
        rest = [
            entry for entry in entries
            if entry.id not in pending and not may_be_forgotten(entry.id, cutoff_ms)
        ]  # fmt: skip
        return next(self._unfinished(rest), None) if rest else None

    def _cutoff_ms(self) -> int:
        return max(0, self._control.now_ms() - int(self._memory.window_s * 1000))

    def _unfinished(self, entries: Sequence[Entry]) -> Iterator[EntryId]:
        digests: list[bytes] = []
        contents = []
        for entry in entries:
            origin = origin_digest(Origin.of(self._stream, entry.id))
            identity, content = identity_of(entry.fields)
            digests += (origin, identity or origin)
            contents.append(content)
        seen = self._memory.seen(digests)
        for entry, content, origin_seen, event_seen in zip(
            entries, contents, seen[::2], seen[1::2], strict=True
        ):
            if not is_finished(content, event_seen, origin_seen):
                yield entry.id

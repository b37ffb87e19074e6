"""What one tenure reads of the control stream, and what must be pending there by now.

The group is anybody's who has a Redis client. So whatever this worker did not do itself, someone's
read, acknowledgement, or moved position, is noticed by counting, and the tenure reads again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import takewhile

from sidecar.redis.source import ControlStream, Entry, Pending
from sidecar.wire.ids import FIRST, EntryId
from sidecar.worker.recovery import Found
from sidecar.worker.window import Window


class ReadAgain(Exception):
    """The group is not as this worker left it: read the pending list again from its beginning."""


class Reading:
    """Reads for one tenure. It begins by reading back the whole pending list.

    Methods raise `ReadAgain`, and what `ControlStream` raises.
    """

    def __init__(self, control: ControlStream, window: Window, found: Found) -> None:
        """`found` is how the tenure finds the group; `window` is what is read and unfinished."""
        self._control = control
        self._window = window
        self._pending = found.pending.total
        """Entries that must be on the pending list. Any other number, and someone was there."""
        self._elsewhere = found.pending.elsewhere
        """How many of them at most are pending under other consumers, and to be taken over."""
        self._recovers_until = found.recovers_until
        """Up to here the group delivers entries again that may be finished, or pending already."""
        self._noted_low = found.low
        self._next_new = found.last.after
        self._backlog_end = self._next_new
        self._fresh: list[Entry] = []
        self._scan: EntryId | None = FIRST
        """How far the pending list has been read back; None when that is done."""
        self.everyone = True
        """Whether it is read back for every tenant, or only for those that are behind."""
        self.is_dry = False
        """Whether the last read found no new entry."""

    @property
    def pending(self) -> int:
        """How many entries are pending, as far as this worker knows."""
        return self._pending

    @property
    def reads_back(self) -> bool:
        """Whether the pending list is being read back."""
        return self._scan is not None

    @property
    def recovers(self) -> bool:
        """Whether the group delivers again what may be finished."""
        return self._recovers_until is not None

    @property
    def next_new(self) -> EntryId:
        """The lowest ID that a new entry can have."""
        return self._next_new

    @property
    def read_to(self) -> EntryId:
        """The group's position, as far as this worker knows."""
        return self._next_new.before

    @property
    def lowest(self) -> EntryId:
        """The lowest entry that may have been not admitted yet."""
        found = [self._next_new]
        if self._fresh:
            found.append(self._fresh[0].id)
        if self._scan is not None:
            found.append(max(self._scan.after, self._noted_low))
        return min(found) if len(found) > 1 else self._next_new

    def lowest_pending(self) -> EntryId:
        """Return the lowest entry that is unfinished: `lowest`, but as the pending list tells it.

        While that is read back, what comes behind the part that was read may be finished.
        """
        found = self.check_pending()
        return min(found.lowest or self._next_new, self._next_new)

    def is_past_backlog(self, low: EntryId) -> bool:
        """Tell whether nothing that was there when the tenure began lies at `low` or above."""
        return low >= self._backlog_end

    def may_be_finished(self, entry: Entry, *, back: bool) -> bool:
        """Tell whether an entry, read or read back, may have its end already."""
        is_backlog = back and entry.id < self._backlog_end
        return is_backlog or self._recovers_until is not None

    # --- read ----------------------------------------------------------------------------------

    def back(self, count: int) -> list[Entry]:
        """Read the next entries of the pending list; none when it has been read to its end."""
        if self._scan is None:
            return []
        entries = self._control.read_pending(self._scan, count, elsewhere=self._elsewhere > 0)
        if self.everyone and self._recovers_until:
            # What the group delivers again is not read back before what lies in between.
            entries = list(takewhile(lambda entry: entry.id < self._backlog_end, entries))
        if entries:
            self._scan = entries[-1].id
            return entries
        if not self._recovers_until:
            self._elsewhere = 0
        self._scan, self.everyone = None, False
        return []

    def go_back_to(self, entry_id: EntryId) -> None:
        """Have the pending list read back from behind `entry_id`, at the latest."""
        if self._scan is None or entry_id < self._scan:
            self._scan = entry_id

    def end_back(self) -> None:
        """Read nothing more back: nobody waits for it."""
        self._scan = None

    def new(self, count: int, patience_ms: int | None) -> int:
        """Read up to `count` entries that nobody has read; they are fresh until `take_fresh`.

        Returns how many. None for `patience_ms` is not to wait for any.
        """
        assert not self._fresh, "read and not admitted"  # noqa: S101 -- it would be passed over
        already: Collection[str] = ()
        if self._recovers_until:
            already = self._control.pending_from(self._next_new, count)
        entries = self._control.read_new(count, patience_ms)
        self.is_dry = not entries
        self._fresh = entries
        if entries:
            self._pending += sum(entry.id not in already for entry in entries)
            if self._recovers_until:
                self.check_pending()  # or what is held would be lost with its pending list
            self._check_gap(entries[0].id)
            self._next_new = entries[-1].id.after
        return len(entries)

    def take_fresh(self) -> list[Entry]:
        """Return the entries that were read last, once."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def acknowledge(self, entry_ids: Iterable[str]) -> None:
        """Take finished entries off the pending list."""
        self._pending -= self._control.acknowledge(entry_ids)

    # --- check ---------------------------------------------------------------------------------

    def check_recovered(self) -> None:
        """Begin anew once all that the group delivers again has been read."""
        if self._recovers_until and (self.is_dry or self._next_new > self._recovers_until):
            raise ReadAgain("everything that may be unfinished has been delivered again")

    def check_group(self) -> None:
        """Make sure that the group is as this worker left it: what is pending, and its position."""
        self.check_pending()
        last = self._control.last_delivered()
        if last.after != self._next_new:
            self.check_pending()  # who read meanwhile is told by name
            raise ReadAgain(
                f"the group's position is {last}, not {self.read_to}: someone has moved it"
            )

    def check_pending(self) -> Pending:
        """Return what is pending, and make sure that this worker knows of all of it.

        More: someone's read, say a stalled worker's late one, took entries that this worker never
        saw, and that come before what it read since. Fewer: someone acknowledged or deleted them.
        Under another consumer: someone claimed them, and they would not be read back.
        """
        found = self._control.pending()
        if found.total != self._pending:
            raise ReadAgain(f"{found.total} entries are pending, not {self._pending}{found.told()}")
        if found.others and found.elsewhere > self._known_elsewhere():
            raise ReadAgain(f"{found.total} entries are pending{found.told()}")
        if self.everyone:
            self._elsewhere = found.elsewhere
        return found

    def _known_elsewhere(self) -> int:
        """Return how many entries may be pending under other consumers.

        Once all is read back, only what cannot be claimed, for it was deleted.
        """
        if self.everyone or self._recovers_until:
            return self._elsewhere
        return sum(not item.entry.fields for item in self._window)

    def _check_gap(self, first_id: EntryId) -> None:
        """Make sure that a read began where the last one ended.

        A stalled worker may set the group back when it wakes, or its late read may take what comes
        next; and should someone delete the consumer then, what is pending tells nothing of it.
        """
        next_id = self._control.first_from(self._next_new)
        is_back = first_id < self._next_new
        if is_back or (next_id and next_id < first_id):
            raise ReadAgain(f"{first_id} is not what comes next")

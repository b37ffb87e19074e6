"""What a tenure finds on the control stream, and what it sets right before it reads.

A group is anybody's who has a Redis client: they read under another name, move its position,
delete consumers, acknowledge, make the stream anew. So a new tenure trusts only what its
predecessors noted, and the index. What is finished can be told of every entry: up to an anchor that
the stream still has, each is; above it, those that the index knows. The group must have handed out
nothing above that is neither pending nor finished; where it has, it delivers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.redis.anchors import Anchor, has, heeded_since
from sidecar.redis.ends import Ends
from sidecar.redis.finished import unfinished
from sidecar.redis.forgotten import Part
from sidecar.redis.lag import is_beyond
from sidecar.redis.publisher import Seen
from sidecar.redis.source import Entry, Pending
from sidecar.wire.ids import FIRST, LAST, EntryId

PAGE: Final = 200
"""Entries looked at in one go: each may have 16 KiB."""


class Control(Protocol):
    """What the control stream offers for it; see `ControlStream`."""

    def has_group(self) -> bool:
        """Tell whether there is a group."""

    def create_group(self, after: EntryId) -> bool:
        """Make the group; False when there is one."""

    def deliver_again(self, after: EntryId) -> None:
        """Set the group's position."""

    def last_delivered(self) -> EntryId:
        """Return the group's position."""

    def was_read(self) -> bool:
        """Tell whether somebody has read from the group."""

    def look(self, known: EntryId) -> Ends:
        """Hold the stream against an entry that it is known to have had."""

    def at(self, entry_id: EntryId) -> Entry | None:
        """Return the entry with that ID."""

    def last_to(self, entry_id: EntryId) -> Entry | None:
        """Return the highest entry up to that ID."""

    def pending(self) -> Pending:
        """Return what is pending."""

    def pending_from(self, entry_id: EntryId, count: int) -> set[EntryId]:
        """Return the IDs of the first so many that are pending from there on."""

    def pending_between(self, first: EntryId, last: EntryId) -> set[EntryId]:
        """Return the IDs of what is pending there, under any consumer."""

    def pages(self, first: EntryId, last: EntryId, page: int) -> Iterator[list[Entry]]:
        """Yield entries, so many at a time."""

    def acknowledge(self, entry_ids: Iterable[EntryId]) -> int:
        """Take entries off the pending list."""


class Memory(Protocol):
    """What is remembered on the notification stream's side; see `Publisher`."""

    @property
    def window_s(self) -> float:
        """How long the index remembers."""

    def now_us(self) -> int:
        """Return the server's time."""

    def lowest_unfinished(self) -> EntryId | None:
        """Return the lowest entry that may be unfinished."""

    def anchors(self) -> tuple[Anchor, ...]:
        """Return the anchors, the newest first."""

    def forgotten_us(self) -> int:
        """Return the time before which the index may have forgotten what ended."""

    def stand(self, *, low: EntryId | None = None, anchors: Sequence[Anchor] = ()) -> None:
        """Note both, where they are given."""

    def seen(self, event_digests: Sequence[bytes]) -> list[Seen | None]:
        """Look event_ids and origins up in the index."""

    def sent_again(self, event_digests: Sequence[bytes]) -> list[bytes | None]:
        """Return the content of those events that a repair sent again."""


class Found(NamedTuple):
    """The control stream as a tenure finds it, once all is set right."""

    pending: Pending
    low: EntryId
    """The lowest entry that may be unfinished."""
    last: EntryId
    """The group delivers what comes after."""
    recovers_until: EntryId | None
    """Up to here it delivers entries again that may be finished, or pending already."""
    anchors: tuple[Anchor, ...]


class Left(NamedTuple):
    """How a worker left the control stream when its tenure ended."""

    read_to: EntryId
    low: EntryId
    """The lowest entry that was unfinished."""


class Ground(NamedTuple):
    """What is certain of the control stream before its group is looked at."""

    low: EntryId | None
    """What is noted, or follows from an anchor; None for nothing."""
    anchors: tuple[Anchor, ...]
    """Those that the stream has."""
    given: EntryId
    """The highest ID that the stream ever gave."""
    is_whole: bool
    """Whether the stream has all that it is known to have had."""
    again: bool
    """Whether the group was made anew, or begins anew."""
    is_forgotten: bool = False
    """Whether the index may have forgotten what was finished after the anchors: somebody put an
    older copy of them back, or the stream stood still for very long."""
    stood_still: bool = False
    """Whether it may have forgotten also what was finished after the lowest unfinished entry."""

    @property
    def finished_to(self) -> EntryId:
        """Up to here every entry is finished."""
        if self.anchors and not self.is_forgotten:
            return self.anchors[0].id
        return self.low.before if self.low else FIRST


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

    def begin(self, left: Left | None, *, is_last: bool = False) -> Found:
        """Have a group, and have it deliver again what is neither pending nor finished.

        `left` is how this worker left the stream, if it has served it; `is_last` when nobody has
        served it since.
        """
        ground = self._have_group(left.low if left and is_last else None)
        pending, last, target = self._looked_through(ground)
        if pending.others:
            self._log.warning(
                "entries are pending under other consumers; this worker takes them over",
                consumers=dict(pending.others),
            )
        again = ground.again
        if target != last:
            self._control.deliver_again(target)
            again, last = True, target
        recovers_until = None
        again = again or (left is not None and left.read_to > last)
        if again or pending.highest > last:
            # Also when a predecessor set it back, and ended before all was delivered again.
            entry = self._control.last_to(LAST)
            newest = entry.id if entry else FIRST
            recovers_until = newest if newest > last else None
            self._log.info(
                "the group delivers again what may be unfinished", after=last, until=newest
            )
        # Before anything is read: what is lost with its pending list then is found again.
        low, anchors = self._noted(ground, pending, last)
        return Found(pending, low, last, recovers_until, anchors)

    # --- the group -----------------------------------------------------------------------------

    def _have_group(self, left_low: EntryId | None = None) -> Ground:
        """Make the group if there is none, where all before is finished.

        `left_low` is what this worker knows to be unfinished, where nothing is noted any more.
        """
        low = self._memory.lowest_unfinished() or self._after_anchors()
        if low is None and not self._control.has_group():
            return self._first_group()
        if low is None:
            self._look_for_notes()
            if left_low is None:
                given = self._control.look(FIRST).given
                return Ground(None, (), given, is_whole=True, again=False)
            # A server that went back to before any note may have lost what was finished, too.
            low = min(left_low, self._control.last_delivered().after)
        ground = self._ground(low)
        if ground is None:
            return self._begin_anew(low.before)
        created = self._control.create_group(ground.finished_to)
        self._tell_of_loss(low.before, ground.given, created=created)
        if ground.given < low.before:
            self._log.warning("the control stream lost its end: what came after is gone")
        return ground._replace(again=created)

    def _first_group(self) -> Ground:
        """Make the group of a stream that none has served.

        That nothing of it is finished is noted before. Else the worker after one that dies here
        would believe the group's position, which somebody may have moved meanwhile.
        """
        low = FIRST.after
        self._memory.stand(low=low)
        self._control.create_group(FIRST)
        return Ground(low, (), self._control.look(FIRST).given, is_whole=True, again=False)

    def _ground(self, low: EntryId) -> Ground | None:
        """Return what is certain of the stream; None when it is another than is noted."""
        noted = self._memory.anchors()
        for number, anchor in enumerate(noted):
            ends = self._control.look(anchor.id)
            if has(self._control, anchor, ends):
                low = max(low, anchor.id.after)
                whole = number == 0 and ends.given >= low.before
                stood_still = whole and self._stood_still(anchor)
                return Ground(
                    low, noted[number:], ends.given, is_whole=whole, again=False,
                    is_forgotten=stood_still or (whole and self._is_outdated(anchor)),
                    stood_still=stood_still,
                )  # fmt: skip
        given = self._control.look(FIRST).given
        if noted or given < low.before:
            return None
        return Ground(low, (), given, is_whole=True, again=False)  # of an older release

    def _after_anchors(self) -> EntryId | None:
        """Return where what may be unfinished begins, where the lowest is noted no more."""
        noted = self._memory.anchors()
        return noted[0].id.after if noted else None

    def _is_outdated(self, anchor: Anchor) -> bool:
        """Tell whether the index may have forgotten what ended after an anchor."""
        return anchor.since_us < self._memory.forgotten_us()

    def _stood_still(self, anchor: Anchor) -> bool:
        """Tell whether an anchor is so old that the index waits for it no more."""
        window_us = int(self._memory.window_s * 1e6)
        return anchor.since_us < heeded_since(self._memory.now_us(), window_us)

    def _begin_anew(self, known: EntryId) -> Ground:
        """Have another stream of the same name read from its beginning."""
        created = self._control.create_group(FIRST)
        given = self._control.look(FIRST).given
        self._tell_of_loss(known, given, created=created)
        self._log.warning("the control stream was made anew: it is read from its beginning")
        if not created:
            self._control.deliver_again(FIRST)
        return Ground(None, (), given, is_whole=True, again=True)

    def _tell_of_loss(self, known: EntryId, given: EntryId, *, created: bool) -> None:
        ended = known > given
        if (ended or created) and known > FIRST:
            self._lost_part(Part.CONTROL if ended else Part.GROUP, known, given)

    def _look_for_notes(self) -> None:
        """Tell if nothing is noted beside a group that was read: that is noted before any read."""
        if self._control.was_read() and not self._memory.lowest_unfinished():
            self._lost_part(Part.NOTES, self._control.last_delivered(), EntryId(""))

    def _pending_above(self, ground: Ground) -> Pending:
        """Return what is pending; what is finished and was made pending is acknowledged first.

        That was found pending before the stream, and then the fence, were looked at once more:
        who stalls in between would take another stream's entries for finished.
        """
        pending = self._control.pending()
        while (
            ground.anchors and pending.lowest and not is_beyond(pending.lowest, ground.finished_to)
        ):
            found = self._control.pending_from(pending.lowest, PAGE)
            finished = [one for one in found if not is_beyond(one, ground.finished_to)]
            anchor = ground.anchors[0]
            if not has(self._control, anchor, self._control.look(anchor.id)):
                break
            self._keep()
            if finished:  # somebody may acknowledge them meanwhile
                self._control.acknowledge(finished)
            pending = self._control.pending()
        return pending

    # --- the position --------------------------------------------------------------------------

    def _looked_through(self, ground: Ground) -> tuple[Pending, EntryId, EntryId]:
        """Return what is pending, the group's position, and where it must be.

        The same was pending before and after: else what a stalled worker's late read takes in
        between would lie below the position, and count as finished.
        """
        before = self._pending_above(ground)
        while True:
            last = self._control.last_delivered()
            target = self._target(ground, last)
            pending = self._pending_above(ground)
            if pending == before:
                return pending, last, target
            before = pending
            self._keep()

    def _target(self, ground: Ground, last: EntryId) -> EntryId:
        """Return where the group's position must be."""
        after = ground.low.before if ground.low else FIRST
        if is_beyond(last, ground.given):
            self._log.warning("the group's position lay beyond the stream's end", position=last)
            last = after if ground.is_whole else ground.finished_to
        if ground.low is None:
            return last
        first, until = ground.finished_to.after, max(last, after)
        lost = None if self._pending_list_tells(ground) else self._first_lost(first, until)
        if lost is not None:
            self._log.warning(
                "an entry was handed out, and is neither pending nor finished", entry=lost
            )
            return lost.before
        return last if is_beyond(after, ground.given) else max(last, after)

    def _pending_list_tells(self, ground: Ground) -> bool:
        """Tell whether what is not pending counts as finished, for the index may have forgotten it.

        As long as the lowest unfinished entry is pending, the pending list was not lost.
        """
        low = ground.low
        return bool(ground.stood_still and low and self._control.pending_between(low, low))

    def _first_lost(self, first: EntryId, last: EntryId) -> EntryId | None:
        """Return the lowest entry from `first` to `last` that is neither pending nor finished."""
        for number, entries in enumerate(self._control.pages(first, last, PAGE)):
            if number:
                self._keep()
            lost = self._lost(entries)
            if lost:
                return lost
        return None

    def _lost(self, entries: Sequence[Entry]) -> EntryId | None:
        pending = self._control.pending_between(entries[0].id, entries[-1].id)
        rest = [entry for entry in entries if entry.id not in pending]
        if not rest:
            return None
        lost = unfinished(self._stream, rest, self._memory.seen, self._memory.sent_again)
        return next((entry.id for entry in lost), None)

    # --- notes ---------------------------------------------------------------------------------

    def _noted(
        self, ground: Ground, pending: Pending, last: EntryId
    ) -> tuple[EntryId, tuple[Anchor, ...]]:
        """Note the lowest entry that may be unfinished, and an anchor where there is none.

        It was looked for what is lost: all up to the position is finished or pending.
        """
        low = min(last.after, pending.lowest or last.after)
        anchors = ground.anchors or (self._first_anchor(low),)
        self._memory.stand(low=low, anchors=anchors)
        return low, anchors

    def _first_anchor(self, low: EntryId) -> Anchor:
        """Return an anchor below `low`; what ended after it, the index knows for its window.

        Raises `GroupLost` where its entry may be of another stream that came meanwhile.
        """
        since_us = self._memory.now_us() - int(self._memory.window_s * 1e6)
        entry = self._control.last_to(low.before)
        if entry:
            self._control.last_delivered()
        return Anchor.of(entry.id if entry else low.before, entry, max(0, since_us))

"""When an owner notes an anchor of its control stream: see `sidecar.redis.anchors`.

A *mark* is a position at which nothing beyond had been read at a known time. Once all below it is
finished, the last entry before it is an anchor: what is finished after it, ended since that time.
A stream that somebody puts in place of this one meanwhile has other entries there: it is read anew.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sidecar.redis.anchors import Anchor, followed, has
from sidecar.redis.ends import Ends
from sidecar.redis.publisher import Publisher
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from sidecar.worker.reading import ReadAgain, Reading

PARTS_OF_A_WINDOW: Final = 8
LONGEST_S: Final = 60.0
"""At most a part of the window, and so long, lies between two anchors: the index waits for the
older one, and a stream that lost its end is looked through from there."""


class Control(Protocol):
    """What the control stream offers for it; see `ControlStream`."""

    def last_to(self, entry_id: EntryId) -> Entry | None:
        """Return the highest entry up to that ID."""

    def at(self, entry_id: EntryId) -> Entry | None:
        """Return the entry with that ID."""

    def look(self, known: EntryId) -> Ends:
        """Hold the stream against an entry that it is known to have had."""


class Mark(NamedTuple):
    """A position of the group."""

    next_new: EntryId
    """Nobody had read this entry, or one above, then."""
    anchor: Anchor
    """What is one, once all below is finished."""


class Anchoring:
    """Notes the anchors of one tenure. Methods raise what both its sides raise."""

    def __init__(
        self, control: Control, publisher: Publisher, reading: Reading, anchors: tuple[Anchor, ...]
    ) -> None:
        """`anchors` are those that the tenure finds."""
        self._control = control
        self._publisher = publisher
        self._reading = reading
        self._anchors = anchors
        self._apart_us = int(min(publisher.window_s / PARTS_OF_A_WINDOW, LONGEST_S) * 1e6)
        self._mark: Mark | None = None

    def move_on(self, low: EntryId) -> None:
        """Note an anchor where all is finished up to it; all below `low` is.

        Raises `ReadAgain` where the stream is another than at the last call.
        """
        if self._reading.recovers:
            return  # what comes next may have ended long ago
        known = self._mark.anchor if self._mark else self._anchors[0]
        mark, self._mark = self._mark or self._new_mark(), None
        # Only now: another stream may have come while this worker stalled, and the mark be of that.
        if not has(self._control, known, self._control.look(known.id)):
            raise ReadAgain(f"the control stream is another: it has not the entry {known.id}")
        if low < mark.next_new:
            self._mark = mark
            return
        newest = mark.anchor
        self._anchors = followed(self._anchors, newest, apart_us=self._apart_us)
        self._publisher.stand(low=low, anchors=self._anchors)

    def note_lowest(self) -> None:
        """Note the lowest unfinished entry once more, where the server has no memory for a run.

        What each run notes may lie before it: there is finished what is yet to be trimmed.
        """
        self._publisher.abandon()
        self._publisher.stand(low=self._reading.lowest_pending())

    def heed(self, first_us: int) -> None:
        """Have the index keep what was published then, for an entry above the anchors repeats it.

        Else that entry would count as unfinished once its first is forgotten.
        """
        if self._mark:
            self._mark = self._mark._replace(anchor=self._mark.anchor.heeding(first_us))
        anchors = tuple(one.heeding(first_us) for one in self._anchors)
        if anchors != self._anchors:
            self._anchors = anchors
            self._publisher.stand(anchors=anchors)

    def _new_mark(self) -> Mark:
        next_new, at_us = self._reading.next_new, self._publisher.now_us()
        entry = self._control.last_to(next_new.before)
        return Mark(next_new, Anchor.of(entry.id if entry else next_new.before, entry, at_us))

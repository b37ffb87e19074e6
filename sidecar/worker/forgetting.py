"""Whether Redis forgot: it has less now than a worker knows that it had.

A server that replays a part of its file, comes back empty, is restored from an older copy, or is
promoted without the tail, is in agreement with itself: only who saw more than there is can tell.
So a worker remembers the highest entries that it saw, and holds the streams against them: when a
tenure begins, a few times a lease, and at each publish. A worker that just began goes by what lies
beside the streams. What is only trimmed, deleted by hand, or moved by XSETID is not forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.redis.ends import Ends
from sidecar.redis.errors import Outage, RedisError
from sidecar.redis.forgotten import Loss, Part
from sidecar.redis.publisher import Outcome, Verdict
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.incarnations import Incarnation
from sidecar.worker.host import Route

FOLLOWS: Final = {
    Part.CONTROL: "entries that came after what was found are gone, unless producers send them"
    " again; what is pending no more is read from what is there",
    Part.GROUP: "it is made again at the lowest unfinished entry",
    Part.NOTES: "who published what is forgotten: what is pending, or sent again, is published"
    " though it may have been before; readers of what is lost get a FeedGap",
    Part.NOTIFICATIONS: "what was published after what was found is gone; what of it is not"
    " finished is published again, with new control_versions; its readers get a FeedGap",
}


# --- decisions ---------------------------------------------------------------------------------


def higher(one: EntryId, other: EntryId) -> EntryId:
    """Return the higher one of two entry IDs."""
    return max(one, other)


def control_found(known: EntryId, ends: Ends) -> EntryId | None:
    """Return up to where a control stream has what it had up to `known`; None for all of it.

    It lost its end when the last ID went back or, if producers have appended since, when the known
    entry is missing between others, and nobody deleted it. Before Redis 7.0 the server does not
    tell what was deleted: then the last ID alone counts.
    """
    if ends.given < known:
        return ends.given
    if ends.has_known or not (ends.oldest and ends.deleted):
        return None
    trimmed = ends.oldest > known
    if trimmed or known == FIRST or ends.deleted >= known:
        return None
    return ends.below_known


def notifications_found(
    known: EntryId, seen: EntryId, given: EntryId, since: Sequence[Incarnation]
) -> EntryId | None:
    """Return up to where a notification stream has what it had up to `known`; None for all.

    `given` is its last ID now, `since` the incarnations that began after the entry `seen` was seen;
    `known` is the same or was published since, maybe into one of them.
    """
    kept = [given] if given < known else []
    for one in since:
        of_before = known if known.control_version < one.began else seen
        if one.kept < of_before.control_version:
            kept.append(EntryId.of_version(one.kept))
    return min(kept, default=None)


def begun_since(known: str | None, now: Sequence[Incarnation]) -> Sequence[Incarnation]:
    """Return the incarnations after the one with the id `known`; none when that was not known."""
    if known is None:
        return ()
    ids = [one.id for one in now]
    return now[ids.index(known) + 1 :] if known in ids else now


# --- what is done ------------------------------------------------------------------------------


class Observer(Protocol):
    """What hears of a loss: metrics."""

    def forgot(self, part: str) -> None:
        """Redis forgot this."""


class _Known(NamedTuple):
    """The highest entry that a stream is known to have had."""

    id: EntryId = FIRST
    seen: EntryId = FIRST
    """The highest at the last look."""
    whole_ms: int = 0
    """When that was, by the server's clock; 0 for not yet."""

    def with_(self, entry_id: EntryId) -> _Known:
        return self._replace(id=higher(self.id, entry_id))

    def looked(self, ends: Ends) -> _Known:
        at = higher(self.id, ends.newest or FIRST)
        return _Known(at, at, ends.now_ms)


class Watch:
    """Watches the two streams of one relay. Methods may raise `RedisError`."""

    def __init__(
        self, route: Route, observer: Observer, log: FilteringBoundLogger, *, every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`every_s` is how often `look_if_due` looks, in seconds."""
        self._stream, self._control_side, self._memory = (
            route.stream, route.control, route.publisher,
        )  # fmt: skip
        self._observer = observer
        self._log = log
        self._every_s = every_s
        self._clock = clock
        self._due = clock()
        self._control = _Known()
        self._notifications = _Known()
        self._incarnation: str | None = None
        """The id of the newest incarnation seen; empty for none, None before the first look."""
        self._given = FIRST
        """The notification stream's last ID at the last look."""
        self._lost: set[Part] = set()
        """What was found to be lost since all was right."""
        self._right_ms = 0
        """When that was."""
        self._untold: list[Loss] = []

    def look_if_due(self) -> None:
        """Look, unless that was done a moment ago."""
        if self._clock() >= self._due:
            self.look()

    def look(self) -> None:
        """Hold both streams against what is known of them, and report what is lost."""
        self._due = self._clock() + self._every_s
        self._look_at_notifications()
        self._look_at_control()
        self._tell()

    def all_is_right(self) -> None:
        """Be told that the group is there, and what lies beside the notifications."""
        self._lost.clear()
        self._right_ms = self._control.whole_ms

    def read(self, entry_id: EntryId) -> None:
        """Remember an entry that was read from the control stream."""
        self._control = self._control.with_(entry_id)

    def published(self, found: EntryId, verdicts: Sequence[Verdict]) -> None:
        """Hold the stream's last ID before a run against what is known; remember the run."""
        known = self._notifications
        if found < known.id:
            self._lose(Part.NOTIFICATIONS, known, found)
            self._notifications = known._replace(id=found)
            self._tell()
        for outcome, last in reversed(verdicts):
            if outcome is Outcome.PUBLISHED:
                self._notifications = self._notifications.with_(EntryId.of_version(last))
                break

    def lost(self, part: Part, known: EntryId, found: EntryId) -> None:
        """Report a loss that what lies beside the streams proves: all was there up to `known`.

        What was found since all was right tells as much already.
        """
        if self._lost & {Part.CONTROL, {Part.NOTES: Part.NOTIFICATIONS}.get(part, part)}:
            return
        if part is Part.NOTES:
            found = self._given
        whole_ms = self._right_ms if part is Part.GROUP else 0
        self._lose(part, _Known(known, whole_ms=whole_ms), found)
        self._tell()

    def _look_at_notifications(self) -> None:
        known = self._notifications
        ends = self._memory.look(known.id)
        if EntryId.parse(ends.published) and not known.whole_ms:
            known = known.with_(ends.published)  # the worker before published it
        since = begun_since(self._incarnation, ends.incarnations)
        found = notifications_found(known.id, known.seen, ends.given, since)
        if found is not None:
            self._lose(Part.NOTIFICATIONS, known, found)
            known = _Known()
        self._notifications = known.looked(ends)
        self._incarnation = ends.incarnations[-1].id if ends.incarnations else ""
        self._given = ends.given

    def _look_at_control(self) -> None:
        known = self._control
        ends = self._control_side.look(known.id)
        found = control_found(known.id, ends)
        if found is not None:
            self._lose(Part.CONTROL, known, found)
            known = _Known()
        self._control = known.looked(ends)

    def _lose(self, part: Part, known: _Known, found: EntryId) -> None:
        is_ours = part is Part.NOTIFICATIONS
        of = self._memory.notifications if is_ours else self._stream
        # A notification's ID is the time when it was published; that of a control entry is none.
        whole_ms = known.whole_ms or (known.id.ms if is_ours else 0)
        self._lost.add(part)
        self._untold.append(Loss(part, of, known.id, found, whole_ms))

    def _tell(self) -> None:
        """Report what is lost, once: another worker, or relay, may have seen the same."""
        while self._untold:
            loss, unrecorded = self._untold[0], ""
            try:
                is_news = self._memory.put_on_record(loss)
            except Outage:
                raise  # told at the next look
            except RedisError as error:
                is_news, unrecorded = True, str(error)
            self._untold.pop(0)
            if is_news:
                self._say(loss, unrecorded)

    def _say(self, loss: Loss, unrecorded: str) -> None:
        self._observer.forgot(loss.part)
        more = {"unrecorded": unrecorded} if unrecorded else {}
        self._log.error(
            "Redis forgot", lost=loss.part.value, of=loss.stream, known=loss.known,
            found=loss.found, whole_until=loss.whole_until or "unknown",
            detail=FOLLOWS[loss.part], **more,
        )  # fmt: skip

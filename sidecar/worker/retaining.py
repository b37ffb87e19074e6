"""Keep rules followed beside the relays: slowly while these have work, else with little rest.

In a thread of its own, by the owner of the first control stream. A pass is what `sidecar store gc
--keep` does, for so many refs at most: the streams are read anew for each, and one follows the
other until all had their turn. While a relay of this process has work, passes get a twentieth of
the time. One ends at once when the worker stops, or is no owner any more; nothing is half done
then, and a pass of somebody else beside it does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from structlog.typing import FilteringBoundLogger

from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.wire.keeping import KeepRule, Published
from sidecar.worker.share import Share
from sidecar.worker.supervision import IDLE, Supervisor
from sidecar.worker.threads import Beside
from sidecar.worker.window import Window
from store import VersionedStore

RETENTION: Final = "retention"
LOOK_EVERY_S: Final = 5.0
FIRST_S: Final = 60.0
"""After the start, other things come first."""
EVERY_S: Final = 3600.0
COLLECT_EVERY_S: Final = 86_400.0
"""Large data of refs that went is on disk until it is collected, for which the store is walked."""
MOST: Final = 20_000
"""So many refs go in a pass, about."""
SLICE_S: Final = 0.002
"""So long it works at a time: an event that comes meanwhile is no later than that."""
SHORT_REST: Final = 0.25
"""It always rests for this part of what it has worked: a relay that wakes up takes its turn."""
REST: Final = 19
"""While a relay has work, it rests so many times as long as it has worked."""
LONGEST_REST_S: Final = 1.0


@dataclass(frozen=True)
class Place:
    """A store, and what stays there."""

    name: str
    """`fleet` or `source`."""
    store: VersionedStore
    rules: Sequence[KeepRule] | Published
    fleet: VersionedStore | None = None
    """The fleet's store, where the rule asks what that has."""


class SweepOrder(NamedTuple):
    """What one pass is to do."""

    place: Place
    control: Side
    notify: Side
    keys: Sequence[Keys]
    """Of each control stream that the worker serves; they share the notifications."""
    grace_s: float
    most: int
    after: str
    """Where the pass before ended."""
    by: str
    """This worker, for the record."""
    collects: bool
    """Whether data that nothing names any more goes, too: once all had their turn, if refs went."""
    breathe: Callable[[], None]
    """To be called between two small pieces of work."""
    went: int = 0
    """How many refs went since that was done last."""


class Swept(NamedTuple):
    """What a pass has done."""

    refs: int = 0
    size_bytes: int = 0
    reached: str = ""
    """Where it ended; empty when it was through."""
    collected: bool = False


Sweep = Callable[[SweepOrder], Swept]
"""Does one pass; `sidecar.ops.sweeping` has it. May raise whatever the stores and servers do."""


class Task(NamedTuple):
    """What is to be retained where; the same for each pass."""

    places: Sequence[Place]
    control: Side
    notify: Side
    keys: Sequence[Keys]
    """Of each control stream that the worker serves; they share the notifications."""
    grace_s: float
    by: str
    """This worker, for the record."""


class Relays:
    """The relays of this process, as far as somebody beside them has to give way."""

    def __init__(self, windows: Callable[[], Sequence[Window]]) -> None:
        """`windows` are those that the relays have now."""
        self._windows = windows
        self._taken = [window.taken for window in windows()]

    def have_work(self) -> bool:
        """Tell whether one has an entry in its window, or took one since this was asked last."""
        windows, before = self._windows(), self._taken
        self._taken = [window.taken for window in windows]
        return self._taken != before or any(map(len, windows))


class Retaining(Beside):
    """Follows the rules until it is closed."""

    def __init__(
        self, task: Task, sweep: Sweep, share: Share, relays: Relays, supervisor: Supervisor,
        log: FilteringBoundLogger, went: Callable[[str, int, int], None],
    ) -> None:  # fmt: skip
        """The owner of the first of the control streams does it; `went` hears of each store how
        many refs and bytes went.
        """
        attempt = partial(supervisor.attempt, RETENTION, "", self._look)
        super().__init__("retention", LOOK_EVERY_S, attempt)
        self._task, self._sweep, self._share, self._relays = task, sweep, share, relays
        self._supervisor, self._log, self._went = supervisor, log, went
        self._due = {place.name: time.monotonic() + FIRST_S for place in task.places}
        self._collect_at = dict.fromkeys(self._due, 0.0)
        self._after = dict.fromkeys(self._due, "")
        self._went_since = dict.fromkeys(self._due, 0)
        """How many refs went since large data was collected."""
        self._woke = 0.0

    def _look(self) -> None:
        """Do the passes that are due, and those that are due at once behind them."""
        if not self._is_owner():
            self._supervisor.only(RETENTION, {""})
            return
        while sum(self._attempt(place) for place in self._task.places):
            if self._stopping.is_set() or not self._is_owner():
                return

    def _attempt(self, place: Place) -> bool:
        """Do a pass if it is due; tell whether another is due at once."""
        if time.monotonic() < self._due[place.name]:
            return False
        step = partial(self._pass, place)
        return self._supervisor.attempt(RETENTION, place.name, step, longest_pause_s=EVERY_S)

    def _is_owner(self) -> bool:
        return self._share.owns(min(one.control for one in self._task.keys))

    def _pass(self, place: Place) -> object:
        name, began, task = place.name, time.monotonic(), self._task
        self._woke = began
        order = SweepOrder(
            place, task.control, task.notify, task.keys, task.grace_s, MOST, self._after[name],
            task.by, began >= self._collect_at[name], self._breathe,
            self._went_since[name],
        )  # fmt: skip
        try:
            done = self._sweep(order)
        except _Ended:
            return IDLE
        return self._note(name, done, time.monotonic() - began)

    def _note(self, name: str, done: Swept, took_s: float) -> bool:
        """Note what a pass has done; tell whether there is more before all had their turn."""
        now_s, after = time.monotonic(), self._after[name]
        more = done.reached > after
        self._after[name] = done.reached
        self._due[name] = now_s + (0.0 if more else EVERY_S)
        self._went_since[name] += done.refs
        if done.collected:
            self._collect_at[name], self._went_since[name] = now_s + COLLECT_EVERY_S, 0
        self._went(name, done.refs, done.size_bytes)
        say = self._log.info if done.refs else self._log.debug
        say("retired", store=name, refs=done.refs, size_bytes=done.size_bytes, seconds=took_s)
        return more

    def _breathe(self) -> None:
        """Rest after each slice of work: long, if a relay has work after a short rest.

        Raises `_Ended`.
        """
        worked_s = time.monotonic() - self._woke
        if worked_s < SLICE_S:
            return
        self._rest(SHORT_REST * worked_s)
        if self._relays.have_work():
            self._rest((REST - SHORT_REST) * worked_s)
        self._woke = time.monotonic()

    def _rest(self, seconds: float) -> None:
        if self._stopping.wait(min(seconds, LONGEST_REST_S)) or not self._is_owner():
            raise _Ended


class _Ended(Exception):
    """The pass is over before its end: the worker stops, or somebody else is the owner."""

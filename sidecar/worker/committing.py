"""What is ready goes to Redis: dead letters at once, events in a run that Redis works on meanwhile.

At most one run is on its way. What came of one that is forgotten shows when it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidecar.redis.publisher import Buried, Publisher
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339
from sidecar.worker import outcomes
from sidecar.worker.conflicts import Conflicts
from sidecar.worker.deaths import Deaths
from sidecar.worker.forgetting import Watch
from sidecar.worker.host import Traces
from sidecar.worker.letter import letter
from sidecar.worker.outcomes import Finished
from sidecar.worker.timing import Took, took
from sidecar.worker.window import Item


class _Run(NamedTuple):
    """A run on its way to the notification stream."""

    items: Sequence[Item]
    low: EntryId
    began: float
    """By the relay's clock."""


class Committed(NamedTuple):
    """What came of a run."""

    finished: list[Finished]
    forgotten: bool
    """Whether the index has forgotten an event since it was looked up."""
    whole: bool
    """Whether every event of the run is finished."""
    low: EntryId
    """The lowest unfinished entry, as noted with the run."""
    repeated: int
    """As `outcomes.Published`."""


class Committing:
    """Writes dead letters and notifications of one relay. Methods raise what `Publisher` does."""

    def __init__(
        self, publisher: Publisher, watch: Watch, conflicts: Conflicts, deaths: Deaths,
        wall_clock: Callable[[], float], *,
        max_in_a_row: int, clock: Callable[[], float], timed: Callable[[Took, float], None],
        traces: Traces | None,
    ) -> None:  # fmt: skip
        """`max_in_a_row` dead letters halt the stream. `timed` hears how long a run took: its
        events, and Redis to publish it.
        """
        self._publisher = publisher
        self._watch = watch
        self._conflicts = conflicts
        self._deaths = deaths
        self._wall_clock = wall_clock
        self._max_in_a_row = max_in_a_row
        self._clock, self._timed, self._traces = clock, timed, traces
        self._run: _Run | None = None

    def bury(self, items: Sequence[Item], low: EntryId) -> tuple[list[Finished], bool]:
        """Write dead letters; return what is finished, and whether the stream is halted now."""
        self._conflicts.mark(items)
        began = self._clock()
        now = rfc3339(self._wall_clock() * 1e6)
        answers = self._publisher.bury(
            [letter(item, now) for item in items], low, max_in_a_row=self._max_in_a_row, now=now
        )
        finished = outcomes.buried(items, answers)
        self._deaths.say(finished)
        if self._traces:
            self._traces.buried(finished, began)
        return finished, Buried.HALTED_NOW in answers

    def begin(self, items: Sequence[Item], low: EntryId, *, row_ends_from: int) -> None:
        """Send a run of events, and do not wait for the answer."""
        sent = [outcomes.outbound(item) for item in items]
        self._publisher.begin(sent, low, row_ends_from=row_ends_from)
        self._run = _Run(items, low, self._clock())

    def finish(self) -> Committed | None:
        """Wait for the run that is on its way; None when none is."""
        run, self._run = self._run, None
        if run is None:
            return None
        verdicts = self._publisher.finish()
        self._watch.published(self._publisher.found, verdicts)
        self._timed(took(run.items, verdicts), self._clock() - run.began)
        finished, forgotten, repeated = outcomes.published(run.items, verdicts)
        if self._traces:
            self._traces.published(run.items, verdicts, finished, run.began)
        return Committed(finished, forgotten, len(finished) == len(run.items), run.low, repeated)

    def forget(self) -> None:
        """Let go of the run that is on its way: the tenure is over."""
        self._run = None
        self._deaths.sum_up()

"""What is ready goes to Redis: dead letters at once, events in a run that Redis works on meanwhile.

At most one run is on its way. What came of one that is forgotten shows when it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sidecar.redis.publisher import Buried, Outcome, Publisher
from sidecar.redis.tenants import MOST_ROWS
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339
from sidecar.worker import outcomes
from sidecar.worker.conflicts import Conflicts
from sidecar.worker.deaths import Deaths
from sidecar.worker.forgetting import Watch
from sidecar.worker.host import Host
from sidecar.worker.letter import letter
from sidecar.worker.outcomes import Finished
from sidecar.worker.rows import Parted, parted
from sidecar.worker.timing import Took, took
from sidecar.worker.window import Item

_WRITTEN: Final = frozenset({Buried.WRITTEN, Buried.HALTED_NOW, Buried.PAUSED_NOW})


class _Run(NamedTuple):
    """A run on its way to the notification stream."""

    parted: Parted
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
        self, publisher: Publisher, watch: Watch, conflicts: Conflicts, deaths: Deaths, host: Host,
        *, max_in_a_row: int, timed: Callable[[Took, float], None],
    ) -> None:  # fmt: skip
        """`max_in_a_row` dead letters pause a tenant or halt the stream. `timed` hears how long a
        run took: its events, and Redis to publish it.
        """
        self._publisher = publisher
        self._watch = watch
        self._conflicts = conflicts
        self._deaths = deaths
        self._max_in_a_row = max_in_a_row
        self._timed = timed
        self._clock, self._wall_clock, self._traces = host.clock, host.wall_clock, host.traces
        self._run: _Run | None = None
        self._rows: set[str] = set()
        """The tenants that may have a row of dead letters, `MOST_ROWS` at most."""

    def learn_rows(self) -> None:
        """Learn as a tenure begins which tenants have a row of dead letters."""
        self._rows = self._publisher.rows()

    def part(self, ready: Sequence[Item]) -> Parted:
        """Part what is ready into what is to be buried, and what to be published."""
        return parted(ready, self._rows)

    def bury(self, items: Sequence[Item], low: EntryId) -> tuple[list[Finished], bool]:
        """Write dead letters; return what is finished, and whether the stream is halted now."""
        self._conflicts.mark(items)
        began = self._clock()
        now = rfc3339(self._wall_clock() * 1e6)
        answers = self._publisher.bury(
            [letter(item, now) for item in items], low, max_in_a_row=self._max_in_a_row, now=now,
            room=MOST_ROWS - len(self._rows),
        )  # fmt: skip
        finished = outcomes.buried(items, answers)
        self._note_rows(items, answers)
        self._deaths.say(finished)
        if self._traces:
            self._traces.buried(finished, began)
        return finished, Buried.HALTED_NOW in answers

    def _note_rows(self, items: Sequence[Item], answers: Sequence[Buried]) -> None:
        """Note whose rows the script has counted, as far as there was room."""
        for item, answer in zip(items, answers, strict=False):
            counted = item.counts and self._max_in_a_row and answer in _WRITTEN
            if counted and item.claimed and len(self._rows) < MOST_ROWS:
                self._rows.add(item.claimed)
        if len(self._rows) >= MOST_ROWS:
            self._rows = self._publisher.forget_short_rows()

    def begin(self, parted: Parted, low: EntryId) -> None:
        """Send the events of what is ready, and do not wait for the answer."""
        sent = [outcomes.outbound(item) for item in parted.events]
        self._publisher.begin(
            sent, low, row_ends_from=parted.row_ends_from, tenants_rows=parted.tenants_rows
        )
        self._run = _Run(parted, low, self._clock())

    def finish(self) -> Committed | None:
        """Wait for the run that is on its way; None when none is."""
        run, self._run = self._run, None
        if run is None:
            return None
        verdicts, items = self._publisher.finish(), run.parted.events
        self._watch.published(self._publisher.found, verdicts)
        self._timed(took(items, verdicts), self._clock() - run.began)
        finished, forgotten, repeated = outcomes.published(items, verdicts)
        for number, tenant in run.parted.tenants_rows:
            if number <= len(verdicts) and verdicts[number - 1].outcome is Outcome.PUBLISHED:
                self._rows.discard(tenant)
        if self._traces:
            self._traces.published(items, verdicts, finished, run.began)
        return Committed(finished, forgotten, len(finished) == len(items), run.low, repeated)

    def forget(self) -> None:
        """Let go of the run that is on its way: the tenure is over."""
        self._run = None
        self._deaths.sum_up()

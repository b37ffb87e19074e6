"""Caution: after workers died in a row, the backlog runs one entry at a time.

Something in it kills workers. What is begun alone again and again, and never survived, is the
poison: it ends as a dead letter. See docs/decisions/0007.
"""

from __future__ import annotations

from typing import Final

from sidecar.redis.publisher import Publisher
from sidecar.wire.ids import EntryId

CRASHES_TILL_CAREFUL: Final = 3
DEATHS_ALONE: Final = 3


class Caution:
    """What one worker knows of entries that kill workers. Methods raise what `Publisher` raises."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._settled = False
        self._alone: tuple[str, int] | None = None
        """The entry that this worker runs alone, and how many died of it before."""
        self.careful = False
        """Whether to run the backlog one by one."""

    def begin(self, unclean: int) -> None:
        """Begin a tenure after so many tenures in a row that ended with a worker's death."""
        self._settled = False
        self.careful = unclean >= CRASHES_TILL_CAREFUL

    def deaths(self, entry_id: EntryId) -> int:
        """Note that `entry_id` runs alone; return how many died of it in a row before.

        A worker that begins anew, because Redis was away, did not die.
        """
        if self._alone is None or self._alone[0] != entry_id:
            self._alone = (entry_id, 0)  # should the answer be lost, it is no death either
            self._alone = (entry_id, self._publisher.run_alone(entry_id))
        return self._alone[1]

    def survived(self) -> None:
        """Note that the worker survived what ran alone, if anything did."""
        if self.careful:
            self._alone = None
            self._publisher.survived_alone()

    def leave_alone(self) -> str:
        """Return the entry that runs alone, or nothing, and forget it: the lease is given back."""
        alone, self._alone = self._alone, None
        return alone[0] if alone else ""

    def settle(self) -> None:
        """Note, once, that what the predecessors left is finished, and did not kill this worker."""
        if not self._settled:
            self._publisher.settle()
            self._settled = True

    def end(self) -> None:
        """Run entries together again: the backlog is finished."""
        if self.careful:
            self.careful = False
            self._settled = False  # something ran alone since
            self.settle()

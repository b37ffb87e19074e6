"""Caution: which entry killed workers, by what Redis was told before each ran alone."""

from __future__ import annotations

from typing import Any

from sidecar.wire.ids import EntryId
from sidecar.worker.caution import CRASHES_TILL_CAREFUL, DEATHS_ALONE, Caution


class Notes:
    """Stands in for what the publisher keeps in Redis."""

    def __init__(self) -> None:
        self.alone, self.deaths, self.settled = "", 0, 0

    def run_alone(self, entry_id: str) -> int:
        """As `Publisher.run_alone`."""
        before = self.deaths if self.alone == entry_id else 0
        self.alone, self.deaths = entry_id, before + 1
        return before

    def survived_alone(self) -> None:
        """As `Publisher.survived_alone`."""
        self.alone, self.deaths = "", 0

    def settle(self) -> None:
        """As `Publisher.settle`."""
        self.survived_alone()
        self.settled += 1


def worker(notes: Any, unclean: int = CRASHES_TILL_CAREFUL) -> Caution:
    """Return the caution of a worker that begins after so many crashes."""
    caution = Caution(notes)
    caution.begin(unclean)
    return caution


def test_only_crashes_in_a_row_make_careful() -> None:
    """Fewer crashes than that, and entries run together."""
    assert not worker(Notes(), CRASHES_TILL_CAREFUL - 1).careful
    assert worker(Notes()).careful


def test_each_worker_that_dies_of_an_entry_counts_once() -> None:
    """Workers that die while one entry runs alone add up, until it is the poison."""
    notes = Notes()
    assert [worker(notes).deaths(EntryId("1-0")) for _ in range(DEATHS_ALONE + 1)] == [0, 1, 2, 3]


def test_a_worker_that_begins_anew_did_not_die() -> None:
    """Reading the same entry again in one process, as Redis was away, is no death."""
    notes = Notes()
    caution = worker(notes)
    assert [caution.deaths(EntryId("1-0")) for _ in range(3)] == [0, 0, 0]
    assert notes.deaths == 1


def test_what_was_survived_is_no_suspect() -> None:
    """Once an entry was survived the next worker begins to count at zero."""
    notes = Notes()
    caution = worker(notes)
    caution.deaths(EntryId("1-0"))
    caution.survived()
    assert worker(notes).deaths(EntryId("1-0")) == 0


def test_without_caution_nothing_is_noted() -> None:
    """Survival is told to Redis only while entries run alone."""
    notes = Notes()
    notes.alone, notes.deaths = "1-0", 2
    worker(notes, 0).survived()
    assert notes.deaths == 2


def test_it_settles_once_a_tenure() -> None:
    """The predecessors' crashes are forgotten once; the next tenure may do so again."""
    notes = Notes()
    caution = worker(notes, 0)
    caution.settle()
    caution.settle()
    assert notes.settled == 1
    caution.begin(0)
    caution.settle()
    assert notes.settled == 2


def test_its_end_settles() -> None:
    """When the backlog is through one by one, entries run together, and all is forgotten."""
    notes = Notes()
    caution = worker(notes)
    caution.settle()
    caution.deaths(EntryId("9-0"))
    caution.end()
    assert (caution.careful, notes.alone, notes.settled) == (False, "", 2)
    caution.end()
    assert notes.settled == 2


def test_what_runs_alone_is_named_once_when_the_lease_is_given_back() -> None:
    """Giving the lease back names the entry, so that it counts as no death."""
    caution = worker(Notes())
    caution.deaths(EntryId("1-0"))
    assert [caution.leave_alone(), caution.leave_alone()] == ["1-0", ""]

"""Streams that lie in closed segments: runs of rows, each read and checked as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from sidecar.errors import SidecarError
from sidecar.history.rows import of_line
from sidecar.redis.source import FIRST, LAST, Entry, id_pair


class Damaged(SidecarError):
    """What is stored is not what was written."""


class Segment(NamedTuple):
    """A run of rows with rising IDs."""

    name: str
    """For words about it."""
    first: str
    last: str
    """The lowest and the highest ID in it."""
    rows: int
    sha256: str
    """Of its rows, not compressed, in hex digits."""
    read: Callable[[], bytes]
    """Return these rows. Raises `SidecarError`."""

    def entries(self) -> list[Entry]:
        """Return what is in it. Raises `Damaged` rather than return anything else."""
        raw = self.read()
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            raise Damaged(f"{self.name} is damaged: its content is not what its index says")
        try:
            found = [of_line(line) for line in raw.splitlines()]
        except ValueError as error:
            raise Damaged(f"{self.name} is damaged: {error}") from error
        if len(found) != self.rows:
            raise Damaged(f"{self.name} is damaged: {len(found)} rows instead of {self.rows}")
        return found


def entries_of(
    segments: Iterable[Segment], first: str = FIRST, last: str = LAST
) -> Iterator[Entry]:
    """Yield entries in order, each ID once, from segments sorted by their first IDs.

    Segments may overlap: two writers that did not know of each other.
    """
    low, high = id_pair(first), id_pair(last)
    for segment in segments:
        if id_pair(segment.last) < low or id_pair(segment.first) > high:
            continue
        for entry in segment.entries():
            at = id_pair(entry.id)
            if low <= at <= high:
                yield entry
                low = (at[0], at[1] + 1)


def entries_back_of(
    segments: Iterable[Segment], last: str = LAST, first: str = FIRST
) -> Iterator[Entry]:
    """Yield entries the newest first, each ID once, from segments that come the last one first."""
    low, high = id_pair(first), id_pair(last)
    for segment in segments:
        if id_pair(segment.last) < low or id_pair(segment.first) > high:
            continue
        for entry in reversed(segment.entries()):
            at = id_pair(entry.id)
            if low <= at <= high:
                yield entry
                high = (at[0], at[1] - 1)

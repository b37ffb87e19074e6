"""Streams that lie in closed segments: runs of rows, each read and checked as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from sidecar.errors import SidecarError
from sidecar.history.rows import of_line
from sidecar.redis.source import FIRST, LAST, Entry, id_pair

T = TypeVar("T")
Id = tuple[int, int]
"""An entry ID as a pair."""


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

    def lines(self, low: Id, high: Id) -> list[bytes]:
        """Return its rows from `low` to `high`. Raises `Damaged` rather than return others."""
        raw = self.read()
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            raise Damaged(f"{self.name} is damaged: its content is not what its index says")
        found = raw.splitlines()
        if len(found) != self.rows:
            raise Damaged(f"{self.name} is damaged: {len(found)} rows instead of {self.rows}")
        if low <= id_pair(self.first) and id_pair(self.last) <= high:
            return found
        ids = [id_pair(entry.id) for entry in self._decoded(found)]
        return [line for line, at in zip(found, ids, strict=True) if low <= at <= high]

    def entries(self, low: Id, high: Id) -> list[Entry]:
        """Return what is in it from `low` to `high`. Raises `Damaged` rather than return others."""
        return self._decoded(self.lines(low, high))

    def _decoded(self, lines: list[bytes]) -> list[Entry]:
        try:
            return [of_line(line) for line in lines]
        except ValueError as error:
            raise Damaged(f"{self.name} is damaged: {error}") from error


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, each made in a thread while the one before it is dealt with.

    So what releases the interpreter, decompression above all, costs no time on a second core.
    """
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def read_ahead(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Yield segments that have been read, each while the one before it is dealt with."""

    def read() -> Iterator[Segment]:
        for segment in segments:
            raw = segment.read()
            yield segment._replace(read=partial(bytes, raw))

    return ahead(read())


def lines_of(segments: Iterable[Segment], first: str = FIRST, last: str = LAST) -> Iterator[bytes]:
    """Yield rows in order, each ID once, from segments sorted by their first IDs."""
    for segment, low, high in _parts(segments, first, last):
        yield from segment.lines(low, high)


def entries_of(
    segments: Iterable[Segment], first: str = FIRST, last: str = LAST
) -> Iterator[Entry]:
    """Yield entries in order, each ID once, from segments sorted by their first IDs."""
    for segment, low, high in _parts(segments, first, last):
        yield from segment.entries(low, high)


def entries_back_of(
    segments: Iterable[Segment], last: str = LAST, first: str = FIRST
) -> Iterator[Entry]:
    """Yield entries the newest first, each ID once, from segments that come the last one first."""
    low, high = id_pair(first), id_pair(last)
    for segment in segments:
        if id_pair(segment.last) >= low and id_pair(segment.first) <= high:
            for entry in reversed(segment.entries(low, high)):
                yield entry
                ms, seq = id_pair(entry.id)
                high = (ms, seq - 1)


def _parts(segments: Iterable[Segment], first: str, last: str) -> Iterator[tuple[Segment, Id, Id]]:
    """Yield the segments that reach into a span, and from where to where to read each.

    They may overlap: two writers that did not know of each other.
    """
    low, high = id_pair(first), id_pair(last)
    for segment in segments:
        if id_pair(segment.last) >= low and id_pair(segment.first) <= high:
            yield segment, low, high
            ms, seq = id_pair(segment.last)
            low = (ms, seq + 1)

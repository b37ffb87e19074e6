"""Streams that lie in closed segments: runs of rows, each read and checked as a whole.

Segments may overlap, and one may have rows that another lacks: two writers that did not know of
each other, or a stream that was made anew. What they have is merged: each row comes once, in order,
forwards as backwards. Two rows with one ID and other content are two rows.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import heappop, heappush
from itertools import islice
from typing import Final, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.errors import SidecarError, UsageError
from sidecar.history.rows import id_of_line, of_line
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, EntryId

T = TypeVar("T")
Id = tuple[int, int]
"""An entry ID as a pair."""
Run = tuple[str, list[bytes]]
"""Some rows, behind the id of the key that vouches for them; empty for none."""
CHUNK_ROWS: Final = 1000


class Damaged(SidecarError):
    """What is stored is not what was written."""


class BaseHeader(BaseModel):
    """What a manifest in the archive says. Fields of a later format are none of ours."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: int

    @classmethod
    def read(cls, manifest: bytes, where: str, newest: int) -> Self:
        """Return what a manifest says. Raises `Damaged`, and `UsageError` for a format that is
        above `newest`.
        """
        try:
            header = cls.model_validate_json(manifest)
        except ValidationError as error:
            raise Damaged(f"{where} has no header: {error}") from error
        if header.format > newest:
            raise UsageError(
                f"{where} has format {header.format}, and this release reads up to {newest}; read"
                " it with a newer one"
            )
        return header


class Piece(Protocol):
    """A segment that may not have been opened yet."""

    @property
    def first(self) -> EntryId:
        """The lowest ID in it."""
        ...

    @property
    def last(self) -> EntryId:
        """The highest."""
        ...

    def open(self) -> Segment | None:
        """Return it; None when what is looked for is not in it. Raises `SidecarError`."""
        ...


class Streamed(Piece, Protocol):
    """One whose rows may be had as they are read."""

    def runs(self, low: Id, high: Id) -> Iterator[Run]:
        """Yield its rows from `low` to `high`. Raises as `open` and, at the end at the latest,
        `Damaged` unless they are what was written.
        """
        ...


P = TypeVar("P", bound=Piece)


class Segment(NamedTuple):
    """A run of rows with rising IDs."""

    name: str
    """For words about it."""
    first: EntryId
    last: EntryId
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
        rows = raw.count(b"\n")  # before there is an object for each
        if rows != self.rows:
            raise Damaged(f"{self.name} is damaged: {rows} rows instead of {self.rows}")
        found = raw.split(b"\n")[:-1]
        try:
            ends = [id_of_line(line) for line in (*found[:1], *found[-1:])]
            if ends != [self.first.pair, self.last.pair]:
                raise Damaged(f"{self.name} is damaged: it begins or ends elsewhere")
            if self.first.pair < low or high < self.last.pair:
                return [line for line in found if low <= id_of_line(line) <= high]
        except ValueError as error:
            raise Damaged(f"{self.name} is damaged: {error}") from error
        return found

    def open(self) -> Segment:
        """Return itself."""
        return self


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, each made in a thread while the one before it is dealt with.

    So what releases the interpreter, decompression above all, costs no time on a second core.
    """
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class Rows(NamedTuple):
    """Some rows, in order."""

    where: str
    """For words about them."""
    lines: list[bytes]


def lines_of(
    pieces: Iterable[Piece], first: EntryId = FIRST, last: EntryId = LAST, *, eager: bool = False
) -> Iterator[bytes]:
    """Yield rows in order, each once.

    `eager` reads ahead: a segment while the one before it is dealt with. It is for a caller that
    wants all of them.
    """
    for rows in _rows(pieces, first, last, eager=eager):
        yield from rows.lines


def runs_of(pieces: Iterable[Streamed], first: EntryId, last: EntryId) -> Iterator[Run]:
    """Yield rows as `lines_of`, but as they are read, with who vouches for them: for one to whom
    they count once all have come. Where segments overlap nobody vouches.
    """
    return ahead(_runs(_within(pieces, first, last), first.pair, last.pair))


def _runs(pieces: Iterable[Streamed], low: Id, high: Id) -> Iterator[Run]:
    for group in overlapping(pieces):
        if len(group) > 1:
            yield from (("", rows.lines) for rows in _merged(group, low, high, back=False))
        else:
            yield from group[0].runs(low, high)


def entries_of(
    pieces: Iterable[Piece], first: EntryId = FIRST, last: EntryId = LAST, *, eager: bool = False
) -> Iterator[Entry]:
    """Yield entries in order, each once; `eager` as for `lines_of`."""
    return _decoded(_rows(pieces, first, last, eager=eager))


def entries_back_of(
    pieces: Iterable[Piece], last: EntryId = LAST, first: EntryId = FIRST
) -> Iterator[Entry]:
    """Yield entries the newest first, each once."""
    return _decoded(_rows(pieces, first, last, back=True))


def _decoded(found: Iterable[Rows]) -> Iterator[Entry]:
    for rows in found:
        try:
            yield from list(map(of_line, rows.lines))
        except ValueError as error:
            raise Damaged(f"{rows.where} is damaged: {error}") from error


def _rows(
    pieces: Iterable[Piece], first: EntryId, last: EntryId, *, back: bool = False,
    eager: bool = False,
) -> Iterator[Rows]:  # fmt: skip
    """Yield the rows of a span, segment by segment, and where these overlap merged."""
    low, high = first.pair, last.pair
    groups = overlapping(_within(pieces, first, last), back=back)
    for group in ahead(_loaded(groups)) if eager else groups:
        if len(group) > 1:
            yield from _merged(group, low, high, back=back)
        elif segment := group.pop().open():
            where, lines = segment.name, segment.lines(low, high)
            del segment  # its bytes go: the rows have them, too
            yield Rows(where, lines[::-1] if back else lines)


def _loaded(groups: Iterable[list[Piece]]) -> Iterator[list[Piece]]:
    """Read what stands alone; what has to be merged is read when it is its turn."""
    for group in groups:
        if len(group) > 1:
            yield group
        elif segment := group[0].open():
            yield [segment._replace(read=partial(bytes, segment.read()))]


def _within(pieces: Iterable[P], first: EntryId, last: EntryId) -> list[P]:
    return [one for one in pieces if one.last >= first and one.first <= last]


def overlapping(pieces: Iterable[P], *, back: bool = False) -> Iterator[list[P]]:
    """Yield the pieces in order, in lists of those that overlap, one with the other, in a row."""
    group: list[P] = []
    reach: Id = (0, 0)
    for piece in sorted(pieces, key=lambda one: begins(one, back=back)):
        begin, end = begins(piece, back=back), begins(piece, back=not back)
        end = (-end[0], -end[1])
        if group and begin > reach:
            yield group
            group = []
        reach = max(reach, end) if group else end
        group.append(piece)
    if group:
        yield group


def begins(piece: Piece, *, back: bool) -> Id:
    """Return where a piece begins, so that what comes first is the lowest in either direction."""
    return turned((piece.last if back else piece.first).pair, back=back)


def turned(at: Id, *, back: bool) -> Id:
    """Return an ID so that what comes first is the lowest in either direction."""
    return (-at[0], -at[1]) if back else at


def _merged(group: Sequence[Piece], low: Id, high: Id, *, back: bool) -> Iterator[Rows]:
    def lines(piece: Piece) -> Iterator[bytes]:
        segment = piece.open()
        found = segment.lines(low, high) if segment else []
        return iter(found[::-1] if back else found)

    sources = ((begins(piece, back=back), partial(lines, piece)) for piece in group)
    rows = merged(sources, lambda line: turned(id_of_line(line), back=back))
    where = f"a segment between {group[0].first} and {group[-1].last}"
    try:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            yield Rows(where, chunk)
    except ValueError as error:
        raise Damaged(f"{where} is damaged: {error}") from error


def merged(
    sources: Iterable[tuple[Id, Callable[[], Iterator[T]]]], key: Callable[[T], Id]
) -> Iterator[T]:
    """Yield what is in all sources by rising keys, each once.

    Sources come by the key at which each begins, at the earliest, and are opened no sooner. Items
    of one key that differ are all yielded.
    """
    waiting = deque(sources)
    heap: list[tuple[Id, int, T, Iterator[T]]] = []
    count, at, seen = 0, None, list[T]()
    while waiting or heap:
        if waiting and (not heap or waiting[0][0] <= heap[0][0]):
            items = waiting.popleft()[1]()
        else:
            now, _, item, items = heappop(heap)
            if now != at:
                at, seen = now, []
            if item not in seen:
                seen.append(item)
                yield item
        for item in islice(items, 1):
            count += 1
            heappush(heap, (key(item), count, item, items))

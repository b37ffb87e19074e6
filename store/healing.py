"""Where a Put leaves the ref's current record, damaged or not: the rule of all who keep records.

A later position bars earlier ones, whichever record is damaged. Where the header of a current
record cannot be read, the versions beside it show which one it was, or at least what it came after.
A ref never goes to a version that is known to be older than the one it pointed at; where nothing
better is left, the damaged record stays, and reading it stays `Corrupt`, until a Put that may move
the ref.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from store.contract import rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.contract import Position
    from store.record import Record

Pair = tuple[str, str]
"""The digests of a version: of its data, and of its manifest."""

_LAST = (1 << 64) - 1


class Left(NamedTuple):
    """A version's record beside a damaged current one; `record` is None when its header is, too."""

    pair: Pair
    record: Record | None


class Aim(NamedTuple):
    """Whether the ref moves to what is put, and which position holds it there then."""

    moves: bool
    position: Position | None = None


def later(one: Position | None, other: Position | None) -> Position | None:
    """Return the later of two positions, by `rank`; none is before all others."""
    return other if one is None or (other is not None and rank(other) > rank(one)) else one


def aim(put: Record, current: Record | None) -> Aim:
    """Say where a Put leaves a ref whose current record says `current`; None when it has none.

    The same content again keeps what it bars, and is written all the same: that heals it.
    """
    if current is None:
        return Aim(moves=True, position=put.position)
    if current.is_version(put.data_digest, put.manifest_digest):
        return Aim(moves=True, position=later(put.position, current.position))
    if put.position is not None and later(put.position, current.position) != put.position:
        return Aim(moves=False)
    return Aim(moves=True, position=put.position)


def heir_of(left: Sequence[Left], twin: Pair | None = None) -> Left | None:
    """Return the version that an unreadable current record was one of, as far as that shows.

    `twin` is known to be it. Else it is the only other one that is damaged; or, if none is, the
    one with the highest position, if all have one.
    """
    damaged = {twin} if twin else {each.pair for each in left if each.record is None}
    if damaged:
        return Left(damaged.pop(), None) if len(damaged) == 1 else None
    positions = [each.record.position for each in left if each.record]
    if not positions or None in positions:
        return None
    return left[positions.index(max(filter(None, positions), key=rank))]


def aim_blind(put: Record, left: Sequence[Left], heir: Left | None) -> Aim:
    """Say where a Put leaves a ref whose current record cannot be read."""
    if heir and heir.record:
        return aim(put, heir.record)
    pair = (put.data_digest, put.manifest_digest)
    bound: Position | None = None
    for each in left:
        position = each.record and each.record.position
        if position:
            bound = later(bound, position if each.pair == pair else _after(position))
    if heir and heir.pair == pair:
        return Aim(moves=True, position=later(put.position, bound))
    # What cannot be read must not bar the ref for ever, but what can is no older than it is.
    moves = put.position is None or later(put.position, bound) == put.position
    return Aim(moves, put.position)


def _after(position: Position) -> Position:
    """Return the first position that another version may have had after it."""
    milliseconds, sequence = position
    if sequence < _LAST:
        return milliseconds, sequence + 1
    return (milliseconds + 1, 0) if milliseconds < _LAST else position

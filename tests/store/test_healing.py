"""The rule by which a Put leaves a ref whose current record is damaged, without any storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from store.healing import Aim, Left, aim, aim_blind, heir_of
from store.record import Record, describe

if TYPE_CHECKING:
    from store import Position


def record(name: str, position: Position | None) -> Record:
    return describe("a", name.rjust(64, "0"), 1, b"m", position)


def left(name: str, position: Position | None = None, *, damaged: bool = False) -> Left:
    found = record(name, position)
    pair = (found.data_digest, found.manifest_digest)
    return Left(pair, None if damaged else found)


@pytest.mark.parametrize(
    ("put", "current", "wanted"),
    [
        (record("1", (4, 0)), None, Aim(moves=True, position=(4, 0))),
        (record("1", (4, 0)), record("1", (5, 0)), Aim(moves=True, position=(5, 0))),
        (record("1", None), record("1", (5, 0)), Aim(moves=True, position=(5, 0))),
        (record("1", None), record("2", (5, 0)), Aim(moves=True, position=None)),
        (record("1", (4, 0)), record("2", (5, 0)), Aim(moves=False)),
        (record("1", (5, 0)), record("2", (5, 0)), Aim(moves=True, position=(5, 0))),
        (record("1", (0, 0)), record("2", None), Aim(moves=True, position=(0, 0))),
    ],
)
def test_a_header_that_can_be_read(put: Record, current: Record | None, wanted: Aim) -> None:
    """A later position bars other content; the same content keeps the later of both positions."""
    assert aim(put, current) == wanted


def test_who_the_current_record_was() -> None:
    """Its twin, the only damaged one, or the highest of those that all have positions."""
    old, new = left("1", (3, 0)), left("2", (5, 0))
    assert heir_of([old, new]) == new
    assert heir_of([old, new], old.pair) == Left(old.pair, None)
    assert heir_of([old, left("2", damaged=True)]) == left("2", damaged=True)
    assert heir_of([left("1", damaged=True), left("2", damaged=True)]) is None
    assert heir_of([old, left("2", None)]) is None
    assert heir_of([]) is None


def test_a_position_without_a_trace() -> None:
    """The heir that is put again comes after what is left; other content must do so by itself."""
    beside = [left("1", (3, 0)), left("2", damaged=True)]
    heir = heir_of(beside)
    blind = aim_blind(record("2", (1, 0)), beside, heir)
    assert blind == Aim(moves=True, position=(3, 1))
    assert not aim_blind(record("3", (3, 0)), beside, heir).moves
    assert aim_blind(record("3", (4, 0)), beside, heir).moves
    assert aim_blind(record("3", None), beside, heir).moves

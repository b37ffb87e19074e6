"""Of which history of the notification stream a cursor is, and whether that was lost."""

from __future__ import annotations

import pytest

from sidecar.wire.incarnations import FULL, Cursor, Incarnation, is_lost

FIRST, SECOND = Incarnation("a", 0, 10), Incarnation("b", 15, 20)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_cursor_of_the_history_that_goes_on_is_not_lost(*, is_there: bool) -> None:
    """What the newer history kept is known to both; what it did not keep is lost."""
    assert not is_lost(Cursor(12, "a"), [FIRST], is_there=is_there)
    assert not is_lost(Cursor(15, "a"), [FIRST, SECOND], is_there=is_there)
    assert is_lost(Cursor(16, "a"), [FIRST, SECOND], is_there=is_there)
    assert not is_lost(Cursor(30, "b"), [FIRST, SECOND], is_there=is_there)


def test_a_number_that_was_given_again_is_another_notification() -> None:
    """A cursor whose history is not in the list is lost, whatever stands there now."""
    made_anew = [Incarnation("c", 0, 11)]
    assert is_lost(Cursor(12, "a"), made_anew, is_there=True)
    assert is_lost(Cursor(12, "a"), made_anew, is_there=False)


def test_without_an_id_what_is_there_decides() -> None:
    """A mere number is lost between two histories, and so is an id where no list is to ask."""
    assert not is_lost(12, [FIRST, SECOND], is_there=True)
    assert is_lost(17, [FIRST, SECOND], is_there=False)
    assert not is_lost(Cursor(12, "a"), [], is_there=True)
    assert is_lost(Cursor(12, "a"), [], is_there=False)


def test_a_full_list_may_have_merged_the_id_away() -> None:
    """Where lines may have become one, an id that is missing says nothing."""
    full = [Incarnation(f"{n:x}", n, n + 1) for n in range(FULL)]
    assert not is_lost(Cursor(12, "fff"), full, is_there=True)
    assert is_lost(Cursor(12, "fff"), full, is_there=False)

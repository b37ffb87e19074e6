"""Whether an end may be gone is told by what was published around it, never by an entry's ID."""

from __future__ import annotations

import pytest

from sidecar.wire.expiring import NOTHING, Before, Horizon, Trimmed
from sidecar.wire.ids import FIRST, key_of
from sidecar.wire.incarnations import Incarnation

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
OLD = Incarnation("a", 0, 1000)


def at(hours: float) -> str:
    """Return the ID of so many hours before now, as it is compared."""
    return key_of(f"{int(NOW_MS - hours * HOUR_MS)}-0")


def horizon(
    trimmed: str, *history: Incarnation, newest: str = FIRST, letters: str = NOTHING
) -> Horizon:
    """Return the horizon of an index that remembers ten hours."""
    return Horizon.of(Trimmed(trimmed, letters), NOW_MS, newest, 36000, history or (OLD,))


def test_nothing_is_gone_that_was_not_trimmed_or_that_the_index_remembers() -> None:
    """The lower of both bounds counts; versions ahead of the clock are forgotten when it is due."""
    assert horizon(NOTHING).gone == NOTHING
    assert horizon(at(20)).gone == at(20)
    assert horizon(at(1)).gone == at(10)
    assert horizon(at(1), newest=f"{NOW_MS + 5 * HOUR_MS}-0").gone == at(5)


@pytest.mark.parametrize(
    ("history", "knows"),
    [
        ([Incarnation("a", 0, (NOW_MS - HOUR_MS) * 1000)], True),
        ([Incarnation("a", 7, (NOW_MS - HOUR_MS) * 1000)], False),
        ([Incarnation("a", 0, (NOW_MS - HOUR_MS) * 1000)] * 64, False),
        ([Incarnation("a", 0, (NOW_MS - 30 * HOUR_MS) * 1000)], False),
    ],
)
def test_before_the_first_notification_nothing_ended(
    history: list[Incarnation], *, knows: bool
) -> None:
    """A deployment younger than the window has forgotten nothing, when it is known to be so."""
    assert (horizon(at(1), *history).gone == NOTHING) is knows


@pytest.mark.parametrize("entry_id", ["1-1", f"{NOW_MS - HOUR_MS}-0", f"{NOW_MS + HOUR_MS}-0"])
def test_a_tenants_order_tells_whatever_the_ids(entry_id: str) -> None:
    """What comes after an entry that was published since is not among what is gone."""
    there = horizon(at(10))
    assert not there.may_hide(entry_id, Before(at(2), at(2)))
    assert there.may_hide(entry_id, Before(NOTHING, at(20)))
    assert not horizon(NOTHING).may_hide(entry_id, Before(NOTHING, NOTHING))


def test_an_id_is_a_time_only_where_a_notification_agrees() -> None:
    """Both lie after what is gone, and neither in the future."""
    there, of_others = horizon(at(10)), Before(NOTHING, at(2))
    assert not there.may_hide(f"{NOW_MS - HOUR_MS}-0", of_others)
    assert there.may_hide(f"{NOW_MS - HOUR_MS}-0", Before(NOTHING, NOTHING))
    assert there.may_hide(f"{NOW_MS + HOUR_MS}-0", of_others)
    assert there.may_hide("1-1", of_others)


def test_a_duplicate_may_have_ended_until_the_index_forgot_its_first() -> None:
    """Up to two windows and a quarter after a notification that is gone."""
    there = horizon(at(30))
    assert there.may_hide_first("1-1", Before(at(8), at(8)))
    assert not there.may_hide_first("1-1", Before(at(7), at(7)))
    assert not horizon(NOTHING).may_hide_first("1-1", Before(NOTHING, NOTHING))


def test_a_dead_letter_keeps_no_order_among_notifications() -> None:
    """Only an ID that the notifications prove to be a time tells that it was not trimmed."""
    there, after = horizon(NOTHING, letters=at(20)), Before(at(2), at(2))
    assert there.may_hide_letter("1-1", after)
    assert not there.may_hide_letter(f"{NOW_MS - HOUR_MS}-0", after)
    assert there.may_hide_letter(f"{NOW_MS - HOUR_MS}-0", Before(NOTHING, NOTHING))
    assert not horizon(at(20)).may_hide_letter("1-1", after)


def test_a_dead_letter_may_be_gone_that_came_before_any_notification() -> None:
    """One that was trimmed was an end; one that only may have been there is bounded as they are."""
    young = Incarnation("a", 0, (NOW_MS - HOUR_MS) * 1000)
    assert horizon(NOTHING, young, letters=at(20)).letters == at(20)
    assert horizon(NOTHING, young, letters=at(2)).letters == NOTHING
    assert horizon(NOTHING, letters=at(2)).letters == at(10)

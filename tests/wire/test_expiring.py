"""Whether an end may be gone is told by what was published around it, never by an entry's ID."""

from __future__ import annotations

import pytest

from sidecar.redis.client import connect
from sidecar.redis.keys import SHARDS, Keys
from sidecar.redis.pruning import Pruning
from sidecar.wire.expiring import Before, Horizon, Memory, Trimmed, longest_remembered_ms
from sidecar.wire.ids import FIRST, EntryId
from sidecar.wire.incarnations import Incarnation

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
OLD = Incarnation("a", 0, 1000)


def at(hours: float) -> EntryId:
    """Return the ID of so many hours before now."""
    return EntryId.of(int(NOW_MS - hours * HOUR_MS))


def horizon(
    trimmed: EntryId, *history: Incarnation, newest: EntryId = FIRST, letters: EntryId = FIRST,
    overlong: EntryId = FIRST, began: EntryId = FIRST,
) -> Horizon:  # fmt: skip
    """Return the horizon of an index that remembers ten hours, and did longer until `overlong`."""
    gone, history = Trimmed(trimmed, letters), history or (OLD,)
    return Horizon.of(gone, NOW_MS, newest, 36000, history, Memory(overlong, began))


def test_nothing_is_gone_that_was_not_trimmed_or_that_the_index_remembers() -> None:
    """The lower of both bounds counts; versions ahead of the clock are forgotten when it is due."""
    assert horizon(FIRST).gone == FIRST
    assert horizon(at(20)).gone == at(20)
    assert horizon(at(1)).gone == at(10)
    assert horizon(at(1), newest=EntryId.of(NOW_MS + 5 * HOUR_MS)).gone == at(5)


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
    assert (horizon(at(1), *history).gone == FIRST) is knows


@pytest.mark.parametrize("entry_id", ["1-1", f"{NOW_MS - HOUR_MS}-0", f"{NOW_MS + HOUR_MS}-0"])
def test_a_tenants_order_tells_whatever_the_ids(entry_id: str) -> None:
    """What comes after an entry that was published since is not among what is gone."""
    there = horizon(at(10))
    assert not there.may_hide(EntryId(entry_id), Before(at(2), at(2)))
    assert there.may_hide(EntryId(entry_id), Before(FIRST, at(20)))
    assert not horizon(FIRST).may_hide(EntryId(entry_id), Before(FIRST, FIRST))


def test_an_id_is_a_time_only_where_a_notification_agrees() -> None:
    """Both lie after what is gone, and neither in the future."""
    there, of_others = horizon(at(10)), Before(FIRST, at(2))
    assert not there.may_hide(EntryId(f"{NOW_MS - HOUR_MS}-0"), of_others)
    assert there.may_hide(EntryId(f"{NOW_MS - HOUR_MS}-0"), Before(FIRST, FIRST))
    assert there.may_hide(EntryId(f"{NOW_MS + HOUR_MS}-0"), of_others)
    assert there.may_hide(EntryId("1-1"), of_others)


def test_an_id_is_a_time_as_far_as_clocks_agree() -> None:
    """What ended after the entry may bear an earlier time: of another server, or of a clock that
    was set back.
    """
    there, of_others = horizon(at(20), letters=at(20)), Before(FIRST, at(2))
    for minutes, apart in ((4, False), (6, True)):
        entry_id = EntryId.of(at(20).ms + minutes * 60_000)
        assert there.may_hide(entry_id, of_others) is not apart
        assert there.may_hide_letter(entry_id, of_others) is not apart


def test_a_duplicate_may_have_ended_until_the_index_forgot_its_first() -> None:
    """Up to two windows and a quarter after a notification that is gone."""
    there = horizon(at(30))
    assert there.may_hide_first(EntryId("1-1"), Before(at(8), at(8)))
    assert not there.may_hide_first(EntryId("1-1"), Before(at(7), at(7)))
    assert not horizon(FIRST).may_hide_first(EntryId("1-1"), Before(FIRST, FIRST))


def test_until_an_index_ceased_to_know_for_very_long_all_may_be_duplicates() -> None:
    """However long after the notification that is gone; where nobody noted it, for ever."""
    held = horizon(at(300), overlong=at(5))
    assert held.may_hide_first(EntryId("1-1"), Before(at(6), at(6)))
    assert not held.may_hide_first(EntryId("1-1"), Before(at(4), at(4)))
    unknown = Horizon.of(Trimmed(at(300)), NOW_MS, FIRST, 36000, (OLD,), Memory())
    assert unknown.may_hide_first(EntryId("1-1"), Before(at(0), at(0)))
    assert not horizon(FIRST, overlong=at(5)).may_hide_first(EntryId("1-1"), Before(FIRST, FIRST))


@pytest.mark.parametrize("window_s", [1, 60, 261, 262, 264, 3600, 7 * 86400])
def test_the_index_remembers_as_long_as_a_round_of_pruning_takes(window_s: int) -> None:
    """However short its window is: no round of the real pruning takes longer, with its slack."""
    pruning = Pruning(connect("redis://localhost"), Keys.of("c", "n"), dedup_window_s=window_s)
    round_ms = SHARDS * pruning._step_us // 1000
    assert longest_remembered_ms(window_s * 1000) >= 2 * window_s * 1000 + round_ms


def test_a_dead_letter_keeps_no_order_among_notifications() -> None:
    """Only an ID that the notifications prove to be a time tells that it was not trimmed."""
    there, after = horizon(FIRST, letters=at(20)), Before(at(2), at(2))
    assert there.may_hide_letter(EntryId("1-1"), after)
    assert not there.may_hide_letter(EntryId(f"{NOW_MS - HOUR_MS}-0"), after)
    assert there.may_hide_letter(EntryId(f"{NOW_MS - HOUR_MS}-0"), Before(FIRST, FIRST))
    assert not horizon(at(20)).may_hide_letter(EntryId("1-1"), after)


def test_a_dead_letter_may_be_gone_that_came_before_any_notification() -> None:
    """One that was trimmed was an end; one that only may have been there is not older than
    whatever ended first.
    """
    young = Incarnation("a", 0, (NOW_MS - HOUR_MS) * 1000)
    assert horizon(FIRST, young, letters=at(20), began=at(5)).letters == at(20)
    assert horizon(FIRST, young, letters=at(2), began=at(5)).letters == FIRST
    assert horizon(FIRST, young, letters=at(2), began=at(30)).letters == at(10)
    assert horizon(FIRST, young, letters=at(2)).letters == at(10), "nobody can tell"

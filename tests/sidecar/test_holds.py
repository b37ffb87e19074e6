"""Tenants held back: when they are tried again, and whose turn it is meanwhile."""

from __future__ import annotations

from sidecar.wire.ids import EntryId
from sidecar.worker.holds import Holds


def hold(
    holds: Holds, tenant: str, number: int, due: float = 1.0, *, followed: bool = False
) -> None:
    """Hold an entry of `tenant` back."""
    holds.hold(tenant, EntryId(f"{number}-0"), due=due, outage=False, followed=followed)


def test_held_events_are_due_in_order_and_stay_held() -> None:
    """What is due is returned, earliest first, no more than asked, and is held all the same."""
    holds = Holds()
    hold(holds, "late", 1, due=3.0)
    hold(holds, "b", 2, due=2.0)
    hold(holds, "a", 3, due=1.0)
    assert holds.next_due == 1.0
    assert holds.take_due(2.5, 1) == [("a", "3-0")]
    assert holds.take_due(2.5, 5) == [("b", "2-0")]
    assert holds.take_due(2.5, 5) == []
    assert len(holds) == 3


def test_an_entry_that_is_held_again_is_due_once() -> None:
    """A time that was replaced before it came is out of date."""
    holds = Holds()
    hold(holds, "t", 1, due=1.0)
    hold(holds, "t", 1, due=2.0)
    assert holds.take_due(1.5, 9) == []
    assert holds.take_due(2.0, 9) == [("t", "1-0")]


def test_an_entry_that_is_held_twice_till_one_moment_is_due_once() -> None:
    """Both waits may end with the retry budget, and an older entry may be held between them."""
    holds = Holds()
    hold(holds, "t", 2, due=1.0)
    hold(holds, "t", 1, due=0.5)
    assert holds.take_due(0.5, 9) == [("t", "1-0")]
    assert holds.through("t", EntryId("1-0"))
    hold(holds, "t", 2, due=1.0)
    assert holds.take_due(1.0, 9) == [("t", "2-0")]


def test_the_lowest_is_compared_as_an_id() -> None:
    """9-0 lies below 10-0."""
    holds = Holds()
    assert holds.lowest_without(()) is None
    hold(holds, "a", 10)
    hold(holds, "b", 9)
    assert holds.lowest_without(()) == "9-0"


def test_what_is_finished_is_not_the_lowest_unless_it_is_followed() -> None:
    """A held event that is through lets the floor rise, but for those of its tenant behind it."""
    holds = Holds()
    hold(holds, "a", 9)
    hold(holds, "b", 10)
    assert holds.lowest_without({"9-0"}) == "10-0"
    holds.is_turn_of("a", EntryId("99-0"), back=False, everyone=False)
    assert holds.lowest_without({"9-0"}) == "9-1", "what follows lies above it"


def test_it_is_not_the_turn_of_what_comes_behind_a_held_event() -> None:
    """A held tenant's later entries wait, and are read back once the event is through."""
    holds = Holds()
    hold(holds, "t", 1)
    assert not holds.is_turn_of("t", EntryId("99-0"), back=False, everyone=False)
    assert holds.is_turn_of("other", EntryId("99-0"), back=False, everyone=False)
    assert holds.through("t", EntryId("1-0"))
    assert holds.any_behind
    assert not holds.is_turn_of("t", EntryId("99-0"), back=False, everyone=False)
    assert holds.is_turn_of("t", EntryId("99-0"), back=True, everyone=False)
    assert not holds.is_turn_of("other", EntryId("99-0"), back=True, everyone=False)
    holds.caught_up()
    assert holds.is_turn_of("t", EntryId("99-0"), back=False, everyone=False)


def test_nobody_is_behind_an_event_that_nothing_followed() -> None:
    """A tenant whose held event nothing came behind is as if it had never been held."""
    holds = Holds()
    hold(holds, "t", 1)
    assert not holds.through("t", EntryId("1-0"))
    assert not holds.any_behind
    assert holds.is_turn_of("t", EntryId("99-0"), back=False, everyone=False)


def test_another_entry_of_the_tenant_is_not_the_held_one() -> None:
    """Only the held entry's end lets the tenant continue."""
    holds = Holds()
    hold(holds, "t", 2)
    assert not holds.through("t", EntryId("1-0"))
    assert not holds.through(None, EntryId("2-0"))
    assert len(holds) == 1


def test_what_is_held_while_it_is_behind_is_followed() -> None:
    """An event read back and held again still has others behind it."""
    holds = Holds()
    hold(holds, "t", 1, followed=True)
    holds.through("t", EntryId("1-0"))
    hold(holds, "t", 2)
    assert not holds.any_behind
    assert holds.through("t", EntryId("2-0"))


def test_a_held_event_is_followed_by_the_one_held_before() -> None:
    """When an earlier entry than the held one is held, the held one comes behind it."""
    holds = Holds()
    hold(holds, "t", 5)
    hold(holds, "t", 3)
    assert holds.lowest_without(()) == "3-0"
    assert holds.through("t", EntryId("3-0"))


def test_while_all_is_read_back_it_is_everyones_turn() -> None:
    """At a tenure's beginning the pending list is read back for every tenant that is not held."""
    holds = Holds()
    hold(holds, "t", 1)
    assert holds.is_turn_of("u", EntryId("99-0"), back=True, everyone=True)
    assert not holds.is_turn_of("t", EntryId("99-0"), back=True, everyone=True)
    assert holds.is_turn_of(None, EntryId("99-0"), back=True, everyone=False)


def test_what_is_held_is_not_due_while_its_tenant_is_paused() -> None:
    """It was to be tried again; now it waits until somebody resumes its tenant."""
    holds = Holds()
    hold(holds, "t", 5)
    holds.pause("t", [])
    assert not holds.take_due(1e9, 9)
    assert not holds.is_turn_of("t", EntryId("6-0"), back=True, everyone=True)
    assert holds.resume("t") == "5-0"
    assert holds.is_turn_of("t", EntryId("5-0"), back=True, everyone=False)


def test_what_a_pause_puts_off_is_read_back_from_its_first_entry_on() -> None:
    """Of what was in the window the lowest counts, whatever was held before."""
    holds = Holds()
    hold(holds, "t", 5)
    holds.pause("t", [EntryId("7-0"), EntryId("3-0")])
    assert holds.lowest_without(()) == "3-0"
    assert holds.resume("t") == "3-0"


def test_a_tenant_of_which_nothing_came_has_nothing_to_read_back() -> None:
    """It continues as if it had never been paused."""
    holds = Holds()
    holds.pause("t", [])
    assert holds.resume("t") is None
    assert holds.is_turn_of("t", EntryId("1-0"), back=False, everyone=False)

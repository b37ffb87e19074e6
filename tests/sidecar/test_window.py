"""The window by itself: what is ready, what is the lowest, and what waits for what is claimed."""

from __future__ import annotations

import random

import pytest

from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId, Origin
from sidecar.worker.window import Item, Trouble, Window


def item(number: int, tenant: str | None = "t", *, ref: str = "", ready: bool = False) -> Item:
    """Return an item of the entry `number`-0."""
    return Item(
        Entry(EntryId.of(number), {}), EntryId.of(number), Origin(f"s/{number}-0"), Trouble(0.0),
        tenant=tenant, ref=ref, identity=b"%016d" % number + b"c" * 16, ready=ready,
    )  # fmt: skip


def window(*items: Item) -> Window:
    """Return a window of these, for a store that keeps one version of a ref."""
    made = Window(keeps_refs=True)
    for one in items:
        made.add(one)
    return made


def test_what_is_not_ready_blocks_its_tenant_only() -> None:
    """An item that is not ready keeps back those of its tenant behind it, and nobody else."""
    first, behind = item(1, "a"), item(2, "a", ready=True)
    other, no_event = item(3, "b", ready=True), item(4, None, ready=True)
    assert list(window(first, behind, other, no_event).ready()) == [other, no_event]
    first.ready = True
    assert list(window(first, behind).ready()) == [first, behind]


def test_no_event_blocks_nobody() -> None:
    """An entry that is no event has no tenant whose order it could keep."""
    later = item(2, None, ready=True)
    assert list(window(item(1, None), later).ready()) == [later]


def test_followers_are_of_its_tenant_and_behind_it() -> None:
    """Only what stands behind an item, of the same tenant, follows it."""
    before, one, other, behind = item(1), item(2), item(3, "b"), item(4)
    assert window(before, one, other, behind).followers(one) == [behind]


def test_only_the_very_item_is_held() -> None:
    """An entry that was read again is another item than the one a store still has."""
    one, again = item(1), item(1)
    made = window(again)
    assert made.holds(again)
    assert not made.holds(one)


@pytest.mark.parametrize("seed", range(20))
def test_the_lowest_is_the_lowest_whatever_the_order(seed: int) -> None:
    """Without a run, the lowest ID that is left is returned; in any order once that is broken."""
    choose = random.Random(seed)
    items = [item(number) for number in range(1, 12)]
    made = Window()
    if seed % 2:
        made.break_order()
        choose.shuffle(items)
    for one in items:
        made.add(one)
    run = choose.sample(items, choose.randrange(len(items) + 1))
    left = [one.id for one in items if one not in run]
    assert made.lowest_without(run) == min(left, default=None)


def test_an_empty_window_is_in_order_again() -> None:
    """Once everything is dropped, what is added next begins a new order."""
    made, one = Window(), item(5)
    made.break_order()
    made.add(one)
    made.drop(one)
    for number in (1, 2):
        made.add(item(number))
    assert made._in_order


def test_items_of_one_ref_store_one_after_another() -> None:
    """What claims a claimed ref waits, in the order of admission, until it is freed."""
    items = [item(number, ref="r") for number in range(3)]
    made = window(*items)
    assert [made.claim(one) for one in items] == [True, False, False]
    assert made.freed() == []
    for number in (0, 1):
        made.drop(items[number])
        assert made.freed() == [items[number + 1]]
        assert made.claim(items[number + 1])


def test_items_of_one_ref_do_not_wait_where_versions_are_kept() -> None:
    """A store that keeps versions takes the next one before this one is published."""
    first, second, again = (item(number, ref="r") for number in range(3))
    again.identity = first.identity  # one event_id, sent twice
    made = Window()
    assert [made.claim(one) for one in (first, second, again)] == [True, True, False]


def test_nobody_overtakes_what_waits() -> None:
    """An item whose ref is free all the same waits for an older one that waits for that ref."""
    first, waiting, later = item(1, ref="r"), item(2, ref="r"), item(3, ref="q")
    waiting.identity = later.identity  # one event_id, sent twice
    made = window(first, waiting, later)
    assert [made.claim(one) for one in (first, waiting, later)] == [True, False, False]
    made.drop(first)
    assert made.freed() == [waiting]


def test_what_is_dropped_while_it_waits_leaves_nothing() -> None:
    """A dropped item waits for nothing and lets nobody wait."""
    first, waiting, last = (item(number, ref="r") for number in (1, 2, 3))
    made = window(first, waiting, last)
    for one in (first, waiting, last):
        made.claim(one)
    made.drop(waiting)
    made.drop(first)
    assert made.freed() == [last]
    made.drop(last)
    assert not any((made._claims._queues, made._claims._came_first, len(made._claims), len(made)))


def test_no_two_items_claim_the_same_whatever_happens() -> None:
    """Over random claims and drops no two items hold one claim, and all get their turn."""
    choose = random.Random(7)
    for _ in range(200):
        made, storing, todo = window(), [], [item(n, ref=choose.choice("rqp")) for n in range(8)]
        for one in todo:
            made.add(one)
            if made.claim(one):
                storing.append(one)
        while storing:
            claims = [claim for one in storing for claim in (one.ref, one.identity[:16])]
            assert len(claims) == len(set(claims))
            made.drop(storing.pop(choose.randrange(len(storing))))
            for one in made.freed():
                assert made.claim(one)
                storing.append(one)
        assert not len(made)

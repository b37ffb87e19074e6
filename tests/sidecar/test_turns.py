"""The line before the stores: refs one at a time, tenants within their share, none forgotten."""

from __future__ import annotations

import random

from sidecar.worker.claims import Claims
from sidecar.worker.turns import Turns
from sidecar.worker.window import Item
from tests.sidecar.test_window import item


def line(share: int, *items: Item) -> Turns:
    """Return a line of these."""
    made = Turns(share)
    for one in items:
        made.join(one)
    return made


def test_items_of_one_ref_go_one_after_another() -> None:
    """The next one of a ref goes when the one before it is done, in the order of their coming."""
    first, second, third, other = (
        item(1, ref="r"),
        item(2, ref="r"),
        item(3, ref="r"),
        item(4, ref="q"),
    )
    turns = line(9, first, second, third, other)
    assert [turns.take(), turns.take(), turns.take()] == [first, other, None]
    turns.done(first)
    assert [turns.take(), turns.take()] == [second, None]
    turns.done(second)
    assert turns.take() is third


def test_a_tenant_over_its_share_lets_others_go_first() -> None:
    """What comes behind, of another tenant, goes; a tenant's own go on in order, as others end."""
    items = [item(number, "a", ref=f"r{number}") for number in range(4)]
    other = item(9, "b", ref="q")
    turns = line(2, *items, other)
    assert [turns.take() for _ in range(4)] == [items[0], items[1], other, None]
    turns.done(other)
    assert turns.take() is None
    turns.done(items[1])
    assert [turns.take(), turns.take()] == [items[2], None]


def test_what_is_forgotten_leaves_its_tenant_with_what_is_at_the_stores() -> None:
    """A tenant's share counts what hangs at the stores since an earlier tenure."""
    hung, waiting, new = (item(number, "a", ref="r") for number in range(3))
    turns = line(1, hung, waiting)
    assert turns.take() is hung
    turns.forget()
    turns.join(new)
    assert turns.take() is None
    turns.done(hung)
    assert [turns.take(), turns.take()] == [new, None]


def test_a_ref_is_not_free_while_an_earlier_tenure_is_at_it() -> None:
    """A Put that hangs since an earlier tenure is not overtaken: it would come last, and stay."""
    hung, waiting, again, other = (item(n, ref="r" if n < 4 else "q") for n in (1, 2, 3, 4))
    turns = line(9, hung, waiting)
    assert turns.take() is hung
    turns.forget()
    turns.forget()
    turns.join(again)
    turns.join(other)
    assert [turns.take(), turns.take()] == [other, None]
    turns.done(hung)
    assert [turns.take(), turns.take()] == [again, None]


def test_all_get_their_turn_whatever_happens() -> None:
    """No ref has two at the stores, no tenant more than its share, and nothing stays behind."""
    choose = random.Random(7)
    for _ in range(200):
        items = [item(n, choose.choice("abc"), ref=choose.choice("rqpo")) for n in range(20)]
        turns, busy, went = line(2, *items), list[Item](), list[Item]()
        while len(went) < len(items):
            while (one := turns.take()) is not None:
                busy.append(one)
            assert len({one.ref for one in busy}) == len(busy)
            assert all(sum(one.tenant == tenant for one in busy) <= 2 for tenant in "abc")
            went.append(busy.pop(choose.randrange(len(busy))))
            turns.done(went[-1])
        for ref in "rqpo":
            of_ref = [one for one in went if one.ref == ref]
            assert of_ref == sorted(of_ref, key=items.index)
        assert not any((turns, turns._refs, turns._busy, turns._over, turns._at_stores))


class Asked(Claims[int]):
    """Claims that count whom they look at."""

    looked = 0

    def _is_first(self, item: int) -> bool:
        self.looked += 1
        return super()._is_first(item)


def test_a_turn_takes_no_longer_for_many_that_wait() -> None:
    """However many wait for one ref, each release looks at the next one alone."""
    claims = Asked()
    assert [claims.claim(number, ("r",)) for number in range(100)] == [True] + [False] * 99
    for number in range(99):
        claims.release(number)
        assert claims.freed() == [number + 1]
    assert claims.looked == 199

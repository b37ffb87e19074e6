"""Many streams over several workers: fair, and none left alone, whoever comes and goes."""

from __future__ import annotations

import random
from itertools import count

import pytest

from sidecar.redis.members import Member
from sidecar.worker.share import Share


def member(name: str, owns: set[str], serves: set[str]) -> Member:
    """Return a member that owns and serves these streams."""
    return Member(name, name, frozenset(serves), frozenset(owns))


def streams(number: int) -> list[str]:
    """Return so many names."""
    return [f"s{i}" for i in range(number)]


def test_alone_it_takes_everything_and_gives_nothing() -> None:
    """A worker that knows of no other takes every stream and keeps it."""
    share = Share(streams(5))
    share.see([])
    for stream in streams(5):
        assert share.may_take(stream)
        share.took(stream)
    share.see([])
    assert not any(share.gives(stream) for stream in streams(5))
    assert share.owned == frozenset(streams(5))


def test_it_takes_no_more_than_its_share() -> None:
    """Beside another worker, half of the streams, rounded up, is what it takes at once."""
    share = Share(streams(5))
    share.see([member("b", set(), set(streams(5)))])
    for stream in streams(3):
        assert share.may_take(stream)
        share.took(stream)
    assert not share.may_take("s3")


def test_it_gives_what_is_above_its_share_and_does_not_take_it_again() -> None:
    """When another comes, all above the share is given back, and left for the other to take."""
    share = Share(streams(4))
    for stream in streams(4):
        share.took(stream)
    share.see([member("b", set(), set(streams(4)))])
    given = [stream for stream in streams(4) if share.gives(stream)]
    assert len(given) == 2
    assert not any(share.may_take(stream) for stream in given)
    share.see([member("b", set(given), set(streams(4)))])
    assert not any(share.gives(stream) for stream in streams(4))


def test_one_more_is_no_reason_to_move() -> None:
    """A difference of one stream moves nothing: it would move back."""
    share = Share(streams(3))
    share.took("s0")
    share.took("s1")
    share.see([member("b", {"s2"}, set(streams(3)))])
    assert not any(share.gives(stream) for stream in streams(3))


def test_nothing_is_given_for_who_does_not_serve_it() -> None:
    """A stream that the other worker does not serve is neither given nor left for it."""
    share = Share(["mine", "ours"])
    share.took("mine")
    share.took("ours")
    share.see([member("b", set(), {"ours", "theirs"})])
    assert not share.gives("mine")
    share.lost("mine")
    assert share.may_take("mine")


def settle(
    shares: dict[str, Share], owner: dict[str, str | None], chance: random.Random, rounds: int
) -> None:
    """Let workers beat, give and take, in any order, as the lease allows.

    What was free for a whole round anyone takes, as a relay does.
    """
    for _ in range(rounds):
        left_alone = {stream for stream, name in owner.items() if name is None}
        order = [name for name in shares for _ in range(2)]
        chance.shuffle(order)
        for name in order:
            share = shares[name]
            share.see(
                member(other, set(shares[other].owned), set(owner))
                for other in shares
                if other != name
            )
            for stream in chance.sample(sorted(owner), len(owner)):
                if owner[stream] == name and share.gives(stream):
                    owner[stream] = None
                elif owner[stream] is None and (share.may_take(stream) or stream in left_alone):
                    owner[stream] = name
                    share.took(stream)
                if owner[stream] is not None:
                    left_alone.discard(stream)


@pytest.mark.parametrize("seed", range(40))
def test_any_crowd_comes_to_a_fair_spreading(seed: int) -> None:
    """After any joins, leaves and crashes each stream has an owner, and loads differ by one."""
    chance = random.Random(seed)
    owner: dict[str, str | None] = dict.fromkeys(streams(chance.randint(1, 30)))
    shares: dict[str, Share] = {}
    names = (f"w{i}" for i in count())
    for _ in range(12):
        if shares and chance.random() < 0.4:
            gone = chance.choice(sorted(shares))
            del shares[gone]
            owner |= {stream: None for stream, name in owner.items() if name == gone}
        else:
            shares[next(names)] = Share(list(owner))
        settle(shares, owner, chance, rounds=chance.randint(0, 2))
    shares.setdefault("last", Share(list(owner)))
    settle(shares, owner, chance, rounds=40)
    assert None not in owner.values()
    loads = [len(share.owned) for share in shares.values()]
    assert max(loads) - min(loads) <= 1
    before = dict(owner)
    settle(shares, owner, chance, rounds=3)
    assert owner == before, "streams move for no reason"

"""Which notification made which dead letter old news."""

from __future__ import annotations

import random
from typing import Any

from sidecar.replay.overtaking import Overtaking
from sidecar.replay.timeline import End, Life
from sidecar.wire.event import Event
from sidecar.wire.ids import Origin
from sidecar.wire.subject import Change, overtakes


def event(event_id: str, **fields: Any) -> Event:
    """Return an event of a stack in version 7."""
    stack: dict[str, Any] = {
        "tenant_id": "t",
        "stack_id": "web",
        "version": 7,
        "artifact_ref": "stacks/7",
    }
    return Event(event_id=event_id, type="stack.activated", **(stack | fields))


def life(end: End, at: int, told: Event, begun: int | None = None) -> Life:
    """Return the life of an entry that ended then, at once unless told otherwise."""
    origin = f"control:events/{at if begun is None else begun}-0"
    return Life(Origin(origin), end, None, told, told.event_id, told.tenant_id, at * 1000)


def test_the_first_that_comes_after_is_told() -> None:
    """Of all that are read the first one after each letter, exactly as the rule itself finds it."""
    chance = random.Random(3)
    lives = [
        life(
            chance.choice((End.DEAD, End.DEAD, End.PUBLISHED, End.DUPLICATE)), at,
            event(
                f"e{chance.randrange(60)}", version=chance.randrange(9),
                stack_id=chance.choice(("", "web", "api")),
                artifact_ref=chance.choice(("", *(f"stacks/{n}" for n in range(8)))),
            ),
        )
        for at in range(400)
    ]  # fmt: skip
    overtaking = Overtaking()
    for row, one in enumerate(lives):
        overtaking.see(one, row)
        if one.end is End.DEAD:
            overtaking.watch(row, one)
    assert {row: at for row, (_, at) in overtaking.of.items()} == by_the_rule(lives)


def by_the_rule(lives: list[Life]) -> dict[int, int]:
    """Return, by letter, what overtook it first: each is held against all that follow."""
    told: dict[int, int] = {}
    for row, letter in enumerate(lives):
        for at, later in enumerate(lives[row:], row):
            if letter.end is not End.DEAD or later.end is not End.PUBLISHED:
                continue
            if overtakes(change(later), change(letter)):
                told.setdefault(row, at)
    return told


def change(one: Life) -> Change:
    """Return what a life changes."""
    assert one.event
    return Change.of(one.event, one.origin, one.ended_us // 1000)


def test_entries_decide_not_when_they_ended() -> None:
    """What was published before the letter died overtakes it, if its entry is the later one."""
    overtaking = Overtaking()
    overtaking.see(life(End.PUBLISHED, 40, event("early", version=8), begun=30), 0)
    overtaking.watch(1, life(End.DEAD, 50, event("dead"), begun=35))
    assert not overtaking.of
    overtaking.watch(2, life(End.DEAD, 51, event("older"), begun=20))
    assert overtaking.of[2][1] == 0
    overtaking.see(life(End.PUBLISHED, 60, event("late", version=7), begun=34), 3)
    assert 1 not in overtaking.of
    overtaking.see(life(End.PUBLISHED, 61, event("later", version=7), begun=36), 4)
    assert overtaking.of[1][1] == 4

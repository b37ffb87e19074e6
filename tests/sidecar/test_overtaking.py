"""Which notification made which dead letter old news."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidecar.event import Event
from sidecar.replay.overtaking import Overtaking, overtakes
from sidecar.replay.timeline import End, Life


def event(event_id: str, **fields: Any) -> Event:
    """Return an event of a stack in version 7."""
    stack: dict[str, Any] = {
        "tenant_id": "t",
        "stack_id": "web",
        "version": 7,
        "artifact_ref": "stacks/7",
    }
    return Event(event_id=event_id, type="stack.activated", **(stack | fields))


def life(end: End, at: int, told: Event) -> Life:
    """Return a life that ended then."""
    return Life("control:events/1-0", end, None, told, told.event_id, told.tenant_id, at)


@pytest.mark.parametrize(
    ("later", "does"),
    [
        ({"version": 8, "artifact_ref": "stacks/8"}, True),
        ({"artifact_ref": "other"}, True),
        ({"version": 6, "artifact_ref": "stacks/6"}, False),
        ({"version": 6}, True),
        ({"tenant_id": "u", "version": 9, "artifact_ref": "u/9"}, False),
        ({"stack_id": "api", "version": 9, "artifact_ref": "api/9"}, False),
        ({"event_id": "dead", "version": 9}, False),
    ],
)
def test_the_same_ref_or_stack_overtakes(later: dict[str, Any], *, does: bool) -> None:
    """A later event of the same ref, or of the same stack in a version not lower; never itself."""
    assert overtakes(event(**({"event_id": "later"} | later)), event("dead"), "dead") == does


def test_without_a_version_or_stack_only_the_ref_counts() -> None:
    """An event without a version, or without a stack, is not overtaken by another ref's."""
    other = event("later", version=8, artifact_ref="stacks/8")
    assert not overtakes(other, event("dead", version=0), "dead")
    nobodys = other.model_copy(update={"stack_id": ""})
    assert not overtakes(nobodys, event("dead", stack_id=""), "dead")
    assert not overtakes(event("later", artifact_ref="", version=1), event("dead"), "dead")


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
            assert letter.event
            assert later.event
            if overtakes(later.event, letter.event, letter.event_id):
                told.setdefault(row, at)
    return told


def test_what_came_before_the_letter_does_not_overtake_it() -> None:
    """A notification that is read after a letter and came before it leaves the letter current."""
    overtaking = Overtaking()
    overtaking.watch(0, life(End.DEAD, 50, event("dead")))
    overtaking.see(life(End.PUBLISHED, 40, event("early", version=8)), 1)
    assert not overtaking.of
    overtaking.see(life(End.PUBLISHED, 60, event("late", version=7)), 2)
    assert overtaking.of[0][1] == 2

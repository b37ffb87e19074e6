"""When nothing moved while events waited."""

from __future__ import annotations

import pytest

from sidecar.replay.stalls import Stall, Stalls
from sidecar.replay.timeline import End, Life
from sidecar.wire.ids import Origin

BASE_MS = 1_790_000_000_000
KRILL = [("t_krill", 1000.0), ("t_krill", 1000.0), ("t_krill", 1001.0)]


def life(end: End, begun_ms: int, ended_ms: float, tenant: str = "t_1") -> Life:
    """Return a life that took so long."""
    origin, ended_us = f"control:events/{BASE_MS + begun_ms}-0", round((BASE_MS + ended_ms) * 1000)
    return Life(Origin(origin), end, None, None, tenant_id=tenant, ended_us=ended_us)


def found(*lives: Life) -> list[Stall]:
    """Return the stalls of these lives, with times in milliseconds since the base."""
    stalls = Stalls()
    for one in lives:
        stalls.add(one)
    return [
        one._replace(from_us=one.from_us // 1000 - BASE_MS, to_us=one.to_us // 1000 - BASE_MS)
        for one in stalls.found()
    ]


def halted(letters: list[tuple[str, float]], *before: Life) -> Stall:
    """Return the stall of five seconds that follows these letters."""
    dead = [life(End.DEAD, 0, at, tenant) for tenant, at in letters]
    (stall,) = found(*before, *dead, life(End.PUBLISHED, 2000, 6001))
    return stall


def test_what_waited_had_come_before_it_went_on() -> None:
    """Counted is what came at least a second before the next end, and ended then or later."""
    waited = [life(End.PUBLISHED, begun, 6000 + begun / 1000) for begun in (100, 4000, 4999)]
    late = life(End.PUBLISHED, 5500, 6100)
    assert found(life(End.PUBLISHED, 0, 1000), *waited, late) == [Stall(1000, 6000, 3, 0, 0, "")]


def test_nothing_waits_where_nothing_had_come() -> None:
    """A long time without an end is no stall when there was nothing to do, nor is a short one."""
    assert not found(life(End.PUBLISHED, 0, 1000), life(End.PUBLISHED, 5990, 6000))
    assert not found(life(End.PUBLISHED, 0, 1000), life(End.PUBLISHED, 0, 2999))


def test_a_row_of_dead_letters_before_a_stall_is_told() -> None:
    """So many in a row, and whose they were when all were of one tenant."""
    assert halted(KRILL)[3:] == (3, 1, "t_krill")
    assert halted([*KRILL, ("t_2", 1001)])[3:] == (4, 2, "")


@pytest.mark.parametrize(
    ("before", "letters"),
    [(life(End.PUBLISHED, 0, 900), 3), (life(End.PUBLISHED, 0, 1000.9), 3),
     (life(End.PUBLISHED, 0, 1002.5), 0)],
)  # fmt: skip
def test_only_what_comes_last_is_a_row(before: Life, letters: int) -> None:
    """What was published after them ends a row; in their millisecond nobody knows, and it stays."""
    assert halted(KRILL, before).letters == letters


def test_a_letter_by_itself_is_no_row() -> None:
    """One dead letter before a stall is told of as any other end: not at all."""
    assert halted([("t_krill", 1001)])[3:] == (0, 0, "")
    assert halted([("t_krill", 100), ("t_krill", 1001)], life(End.PUBLISHED, 0, 500)).letters == 0

"""The power goes at any moment: whatever POSIX lets a disk keep is a whole store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.proofs import sampled
from tests.store.crash.cases import CASES, RACES
from tests.store.crash.stories import (
    judge_case,
    judge_failing_flushes,
    judge_race,
    judge_twice,
)

Count = Callable[[str, object], None]
TELLING: Final = ("new ref", "large overwrite", "shared object", "new root")
"""One case of each kind, where all take long."""


@pytest.mark.parametrize("name", sampled(CASES, TELLING))
def test_one_writer(
    name: str, memory: Path, monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    """After every crash a ref has its old pair or the new one, and what was acknowledged holds."""
    judge = judge_case(CASES[name], memory, monkeypatch)
    assert judge.states >= 3
    record_property("states", judge.states)


@pytest.mark.parametrize("name", sampled(RACES, ("same ref", "new root")))
def test_two_writers(
    name: str, memory: Path, monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    """Who finds another's unfinished work answers for all that its own promise rests on."""
    judge, stops = judge_race(RACES[name], memory, monkeypatch)
    assert stops > 2
    record_property("states", judge.states)


@pytest.mark.parametrize("name", sampled(TELLING, ("new ref", "new root")))
def test_failing_flush(
    name: str, memory: Path, monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    """Whichever flush fails, nothing is acknowledged on its account, and the next Put holds."""
    judge, flushes = judge_failing_flushes(CASES[name], memory, monkeypatch)
    assert flushes > 5
    record_property("states", judge.states)


ONCE: Final = ("collect", "delete many")
"""What these do in each step follows from what was there at first."""
AGAIN: Final = [n for n, case in CASES.items() if not case.planted and n not in ONCE]


@pytest.mark.proof
@pytest.mark.parametrize("name", sampled(AGAIN, TELLING, mark=pytest.mark.slow))
def test_power_cut_after_power_cut(
    name: str, memory: Path, monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    """On whatever a power cut left, the same Put is as safe as it was the first time."""
    judge = judge_twice(CASES[name], memory, monkeypatch)
    assert judge.states >= 3
    record_property("states", judge.states)

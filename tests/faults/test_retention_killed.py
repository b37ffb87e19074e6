"""Retention that is killed, a pass at any line and a whole worker at any moment: what is needed
stays, and what went is gone.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import retiring
from tests.faults.zygote import Zygote


@pytest.mark.parametrize("kills", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_killed_passes_remove_nothing_that_is_needed(
    redis_url: str, tmp_path: Path, kills: int
) -> None:
    """All that an entry names, and the newest of each stack, is whole; nothing that went comes
    back; what went was on record before.
    """
    words = (redis_url, str(tmp_path), str(kills), "1")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.retained", *words],
        capture_output=True, text=True, check=True, timeout=120 + 5 * kills,
    )  # fmt: skip
    told = json.loads(ran.stdout)
    assert told["wrong"] == []
    found = told["found"]
    assert found["killed"] == kills
    assert found["went"] > kills
    assert found["killed amid"]


@pytest.mark.parametrize("kills", [pytest.param(10, marks=pytest.mark.proof),
                                   pytest.param(300, marks=pytest.mark.slow)])  # fmt: skip
def test_killed_workers_remove_nothing_that_is_needed(tmp_path: Path, kills: int) -> None:
    """Whole workers under load: `make retained` does more, and prints what it found."""
    done = retiring.run(tmp_path, kills, seed=1)
    assert done.wrong == []
    assert done.found["killed"] == kills
    assert done.found["went from fleet"] + done.found["went from source"] > kills


def test_what_a_killed_worker_takes_too_much_of_is_seen(redis_url: str, tmp_path: Path) -> None:
    """The judge finds a loss, at the source and in the fleet, and a return."""
    judge = retiring.Deployment(redis_url, tmp_path, random.Random(1))
    with closing(judge), closing(Zygote(hasty=True)) as zygote:
        for _ in range(30):
            judge.produce()
        judge.finish(zygote)
        assert judge.wrong == []
        judge.produce()
        fleet, source = (retiring.opened(tmp_path / name) for name in ("fleet", "source"))
        newest = next(iter(judge.newest.values()))["artifact_ref"]
        list(fleet.delete_all([newest]))
        list(source.delete_all(source.list("stacks")))
        judge.judge()
    assert any("G1" in one and newest in one for one in judge.wrong)
    assert any("is not finished" in one for one in judge.wrong)
    assert any("no record says so" in one for one in judge.wrong)

"""Passes of retention that are killed at any line: what is needed stays, and what went is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


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

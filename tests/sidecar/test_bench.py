"""`make bench`: every contender does its job, on a few events."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from bench.contenders import CONTENDERS
from bench.events import NOTIFICATIONS

FEW = 40
READERS = {"raw_writer", "bare_reader", "validating_reader", "feed", "async_feed", "feed_wakeup"}


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_contender_does_its_job(name: str, redis_url: str, tmp_path: Path) -> None:
    """It publishes every event, and says what that cost."""
    if name.startswith("faststream") and importlib.util.find_spec("faststream") is None:
        pytest.skip("FastStream is installed by `make bench`")
    done = subprocess.run(
        [sys.executable, "-m", "bench.contenders", name, redis_url, str(tmp_path), str(FEW)],
        capture_output=True, check=False, timeout=120, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, _processor_s, _switches = json.loads(done.stdout.splitlines()[-1])
    assert seconds > 0
    if name not in READERS:
        assert redis.Redis.from_url(redis_url).xlen(NOTIFICATIONS) == FEW

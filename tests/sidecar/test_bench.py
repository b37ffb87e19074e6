"""`make bench`: every contender does its job, on a few events."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from bench import remote
from bench.__main__ import main
from bench.contenders import CONTENDERS, URL
from bench.events import NOTIFICATIONS
from bench.million import main as million_main
from bench.store import main as store_main
from tests.proofs import sampled

FEW = 40
READERS = {"raw_writer", "bare_reader", "validating_reader", "feed", "async_feed", "feed_wakeup"}


@pytest.mark.parametrize("name", sampled(CONTENDERS, ("relay", "feed", "raw_writer")))
def test_a_contender_does_its_job(name: str, redis_url: str, tmp_path: Path) -> None:
    """It publishes every event, and says what that cost."""
    if name.startswith("faststream") and importlib.util.find_spec("faststream") is None:
        pytest.skip("FastStream is installed by `make bench`")
    done = subprocess.run(
        [sys.executable, "-m", "bench.contenders", name, str(tmp_path), str(FEW)],
        env=os.environ | {URL: redis_url},
        capture_output=True, check=False, timeout=120, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, _processor_s, _switches = json.loads(done.stdout.splitlines()[-1])
    assert seconds > 0
    if name not in READERS:
        assert redis.Redis.from_url(redis_url).xlen(NOTIFICATIONS) == FEW


def bench(*args: str) -> str:
    """Run it on two contenders, a hundred events each; return what it printed."""
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--scale", "0.001"]
    done = subprocess.run(
        [*command, "--only", "relay", "--only", "decoding_loop", *args],
        capture_output=True, check=False, timeout=120, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_compared_with_a_saved_one(tmp_path: Path) -> None:
    """The table has the ratio of the saved run, too, and says what each contender promises."""
    saved = tmp_path / "saved.json"
    assert "[all guarantees]" in bench("--save", str(saved), "--dir", str(tmp_path))
    report = json.loads(saved.read_text())
    assert report["rates"].keys() == {"relay", "decoding_loop"}
    report["ratios"]["relay / decoding_loop"] = 123.45
    saved.write_text(json.dumps(report))
    assert "123.45" in bench("--against", str(saved), "--dir", str(tmp_path))


@pytest.mark.parametrize(
    ("main", "option"),
    [
        (main, "--dir"), (main, "--save"), (main, "--against"),
        (store_main, "--dir"), (million_main, "--dir"),
    ],
)  # fmt: skip
def test_a_place_that_is_not_there_is_told_before_anything_is_measured(
    main: Callable[[], None], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line names the option and the place, and there is no traceback."""
    missing = tmp_path / "missing" / "place"
    monkeypatch.setattr(sys, "argv", ["bench", option, str(missing)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert option in said
    assert str(missing.parent) in said


@pytest.mark.parametrize("allowed", ["0", "400"])
def test_a_worker_over_a_network(allowed: str) -> None:
    """Through a bucket that is slow, or tells to slow down, all is published; ratios are told."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.remote", "--count", "40", "--delay", "0.001", "--rounds", "1",
         "--allowed", allowed],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("all published" if allowed != "0" else "worker/bare") in done.stdout


@pytest.mark.proof
def test_what_retention_costs(tmp_path: Path) -> None:
    """All that its rule lets go went, whatever it took."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.keeping", "--refs", "2000", "--dir", str(tmp_path)],
        capture_output=True, check=False, timeout=120, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1,000 refs went in 1 passes, without rests" in done.stdout


def test_what_is_published_in_one_moment_has_a_rate() -> None:
    """A drain of few is one run of the publisher, with one time: that is no division by nothing."""
    assert remote.rate([7.0] * 40) == math.inf
    assert remote.rate([0.0, 1.0, 2.0, 2.5, 3.0]) == 2.0

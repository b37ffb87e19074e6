"""The fleet's disk is full, or fails: the worker waits, and loses and buries nothing."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

import store
from store import checksum_of
from tests.faults import disk, outside
from tests.faults.fleet import worker
from tests.proofs import sampled
from tests.servers import missing

EVENTS = 12


@pytest.fixture
def fleet_dir(tmp_path: Path) -> Iterator[Path]:
    """The fleet's directory, on a disk of a few MiB."""
    if why := disk.no_small_disk():
        pytest.skip(why)
    with disk.small_disk(tmp_path / "fleet", size_mib=8):
        yield tmp_path / "fleet"


def emit(client: Any, source: Path, numbers: range) -> None:
    """Append events with an artifact each, one a tenant."""
    source.mkdir(exist_ok=True)
    producer = store.open_url(source.as_uri())
    for number in numbers:
        data = b"%d" % number * 5000
        producer.put(f"row/{number}", data, b"{}")
        event = {
            "event_id": f"evt_{number}", "type": "actor.changed", "tenant_id": f"t_{number}",
            "artifact_ref": f"row/{number}", "checksum": checksum_of(data),
        }  # fmt: skip
        client.xadd(outside.CONTROL, {"event": json.dumps(event)})


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds; fail when it takes too long."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.01)


@contextmanager
def stopped_at_the_end(process: Popen[bytes]) -> Iterator[None]:
    """Ask the worker to stop when the block ends."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def ride_out(
    client: Any, url: str, data_dir: Path, trouble: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Let a worker meet the trouble: what comes meanwhile waits, and is published after it."""
    client.xgroup_create(outside.CONTROL, outside.GROUP, "0", mkstream=True)
    emit(client, data_dir / "source", range(1))
    process = worker(url, data_dir, "--retry-budget", "0")
    checker = outside.Checker(client, data_dir / "fleet")
    with stopped_at_the_end(process):
        until(lambda: client.xlen(outside.NOTIFICATIONS) == 1, "it works before the trouble")
        with trouble(process.pid):
            emit(client, data_dir / "source", range(1, EVENTS))
            pending = {"min": "-", "max": "+", "count": EVENTS, "idle": 300}
            until(
                lambda: (
                    len(client.xpending_range(outside.CONTROL, outside.GROUP, **pending))
                    == EVENTS - 1
                ),
                "everything has been tried and waits",
            )
            assert client.xlen(outside.NOTIFICATIONS) == 1
            assert checker.look() == []
        until(lambda: client.xlen(outside.NOTIFICATIONS) == EVENTS, "all of it is published")
        until(
            lambda: client.xpending(outside.CONTROL, outside.GROUP)["pending"] == 0,
            "all of it is acknowledged",
        )
    assert checker.finish() == []
    assert checker.ends == {"notified": EVENTS}


@pytest.mark.proof
def test_a_full_disk_loses_and_buries_nothing(
    client: Any, redis_url: str, tmp_path: Path, fleet_dir: Path
) -> None:
    """While the fleet's disk is full nothing is published or buried; with room again, all is."""
    ride_out(client, redis_url, tmp_path, lambda _pid: disk.full(fleet_dir))


@pytest.mark.parametrize("error", sampled(["EIO", "ENOSPC"], ["EIO"]))
def test_a_failing_disk_loses_and_buries_nothing(
    client: Any, redis_url: str, tmp_path: Path, error: str
) -> None:
    """While every flush and rename of a Put fails nothing is published or buried; then all is."""
    if not shutil.which("strace"):
        missing("strace")
    ride_out(client, redis_url, tmp_path, lambda pid: disk.failing(pid, error))

"""The worker's memory grows neither with the backlog nor with the size of artifacts."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import store
from tests.faults.fleet import worker
from tests.faults.outside import CONTROL, DEAD, GROUP, NOTIFICATIONS

MIB = 1 << 20
ARTIFACT_MIB = int(os.environ.get("RELAY_ARTIFACT_MIB", "512"))


def peak_bytes(client: Any, url: str, data_dir: Path, entries: int, *, missing: bool) -> int:
    """Drain a backlog in a process of its own; return the most memory that it held."""
    client.flushall()
    pipeline = client.pipeline(transaction=False)
    for i in range(entries):
        event: dict[str, Any] = {"event_id": f"evt_{i}", "type": "run.abort", "tenant_id": "t_1"}
        if missing and i == 0:
            event |= {"artifact_ref": "not/there", "checksum": "sha256:" + "0" * 64}
        pipeline.xadd(CONTROL, {"event": json.dumps(event)})
        if i % 10_000 == 0:
            pipeline.execute()
    pipeline.execute()
    process = worker(url, data_dir, "--drain", "--retry-budget", "2")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert client.xlen(NOTIFICATIONS) == entries - missing
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True], ids=["relayed", "held back behind the first"])
def test_memory_is_flat_from_a_thousand_to_a_million_entries(
    client: Any, redis_url: str, tmp_path: Path, missing: bool
) -> None:
    """A million entries of backlog cost at most 20 MiB more than a thousand, held back or not."""
    few = peak_bytes(client, redis_url, tmp_path, 1_000, missing=missing)
    many = peak_bytes(client, redis_url, tmp_path, 1_000_000, missing=missing)
    print(f"peak {few / MIB:.1f} MiB with 1,000 entries, {many / MIB:.1f} MiB with 1,000,000")  # noqa: T201
    assert many - few < 20 * MIB


SOAK_EVENTS = int(os.environ.get("RELAY_SOAK_EVENTS", "250000"))
ROUND = 5000
REFS = 50


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds now."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def a_round(client: Any, sources: Any, first: int) -> None:
    """Append events of refs that come again and again, some of them of nothing that is there."""
    pipeline = client.pipeline(transaction=False)
    for number in range(first, first + ROUND):
        data = b"version %d" % (number // ROUND)
        event = {
            "event_id": f"evt_{number}", "type": "run.abort", "tenant_id": f"t_{number % 20}",
            "artifact_ref": f"rows/{number % REFS}", "checksum": store.checksum_of(data),
        }  # fmt: skip
        if number % 997 == 0:
            event["checksum"] = "sha256:" + "0" * 64
        if number < first + REFS:
            sources.put(f"rows/{number % REFS}", data, b"{}")
        pipeline.xadd(CONTROL, {"event": json.dumps(event)})
    pipeline.execute()


def end_tenures(client: Any, halt: str) -> None:
    """Halt and resume, and cut all connections, several times over."""
    for _ in range(3):
        client.hset(halt, "reason", "soak")
        time.sleep(0.1)
        client.hdel(halt, "reason")
        client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_refs_tenures_and_faults(
    client: Any, redis_url: str, tmp_path: Path
) -> None:
    """RELAY_SOAK_EVENTS events, 250,000 by default, take at most 20 MiB after a fifth of them."""
    sources = store.open_url((tmp_path / "source").as_uri())
    budget = ("--retry-budget", "0.3", "--fleet-store", f"file://{tmp_path}/fleet")
    process = worker(redis_url, tmp_path, *budget, "--source-store", f"file://{tmp_path}/source")
    halt = "{control:notifications}:halt:control:events"
    early, now = 0.0, 0.0
    try:
        for first in range(0, SOAK_EVENTS, ROUND):
            a_round(client, sources, first)
            end_tenures(client, halt)
            while (
                client.xlen(NOTIFICATIONS) + client.xlen(DEAD) < first + ROUND
                or client.xpending(CONTROL, GROUP)["pending"]
            ):
                assert process.poll() is None
                time.sleep(0.2)
            now = resident_mib(process.pid)
            early = now if first < SOAK_EVENTS // 5 else early
    finally:
        process.kill()
        process.wait()
    print(f"{early:.1f} MiB after a fifth, {now:.1f} MiB at the end")  # noqa: T201
    assert now - early < 20


class Endless:
    """A reader of so many MiB, no two alike, that takes no memory."""

    def __init__(self, mib: int) -> None:
        self._left = mib
        self._block = os.urandom(MIB - 8)

    def read(self, _size: int, /) -> bytes:
        """Return the next MiB."""
        if not self._left:
            return b""
        self._left -= 1
        return self._left.to_bytes(8) + self._block


@pytest.fixture(params=["one disk", "two disks"])
def source_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for the source; on two disks the kernel cannot copy, and the worker does."""
    if request.param == "one disk":
        yield tmp_path / "source"
        return
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory) / "source"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_however_large_the_artifact(
    client: Any, redis_url: str, tmp_path: Path, source_dir: Path
) -> None:
    """Relaying an artifact of RELAY_ARTIFACT_MIB, by default 512, takes less than 128 MiB."""
    source, fleet = (
        store.versioned(store.open_url(path.as_uri())) for path in (source_dir, tmp_path / "fleet")
    )
    assert source
    assert fleet
    checksum = source.put_from("big", Endless(ARTIFACT_MIB), b"{}")
    event = {"event_id": "big", "type": "run.abort", "artifact_ref": "big", "checksum": checksum}
    client.xadd(CONTROL, {"event": json.dumps(event)})
    limit = ("--max-artifact-size", "1TiB", "--source-store", source_dir.as_uri())
    process = worker(redis_url, tmp_path, *limit)
    began = time.monotonic()
    while not client.xread({NOTIFICATIONS: "0"}, block=1000):
        assert process.poll() is None
    seconds = time.monotonic() - began
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_mib = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    print(f"{ARTIFACT_MIB} MiB relayed in {seconds:.0f} s, at most {peak_mib:.0f} MiB held")  # noqa: T201
    assert peak_mib < 128
    assert [each.error for each in fleet.verify("big")] == [None]

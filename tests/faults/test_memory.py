"""The worker's memory does not grow with the backlog."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.outside import CONTROL, NOTIFICATIONS
from tests.faults.test_kill import worker

MIB = 1 << 20


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

"""`python -m bench.timeline [EVENTS]`: a million live events, looked at, exported, found."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from bench import report
from sidecar.redis.keys import Keys
from tests.servers import running, usual


def main(count: int) -> None:
    """Plant them, then look at them as a person does."""
    report.EVENTS = count
    with running(usual()) as server:
        keys = Keys.of("control:events", "control:notifications")
        report.plant(redis.Redis.from_url(server.url), keys)
        env = {**os.environ, "SIDECAR_REDIS": server.url, "SIDECAR_DATA_DIR": "/nonexistent"}
        sidecar = [sys.executable, "-m", "sidecar"]
        began = time.perf_counter()
        with subprocess.Popen(
            [*sidecar, "replay", "show"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        ) as shown:
            assert shown.stdout
            shown.stdout.readline()
            first_s = time.perf_counter() - began
            lines = 1 + sum(1 for _ in shown.stdout)
        took_s = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(f"{lines:,} lines: the first after {first_s:.2f} s, all after {took_s:.0f} s;"
              f" at most {peak} MiB in any command")  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            bundle, began = Path(directory) / "bundle.zip", time.perf_counter()
            export = [*sidecar, "replay", "export", bundle, "--no-artifacts"]
            with subprocess.Popen(export, stderr=subprocess.DEVNULL, env=env) as exported:
                _, status, usage = os.wait4(exported.pid, 0)
                exported.returncode = os.waitstatus_to_exitcode(status)
            assert exported.returncode == 0
            size_mib = bundle.stat().st_size >> 20
        print(f"exported after {time.perf_counter() - began:.0f} s: {size_mib} MiB;"
              f" at most {usage.ru_maxrss // 1024} MiB held")  # fmt: skip
        began = time.perf_counter()
        entry = f"control:events/{report.BASE_MS + 5 * count}-0"
        subprocess.run([*sidecar, "trace", entry], check=True, env=env, stdout=subprocess.DEVNULL)
        print(f"one event by its entry: {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        subprocess.run(
            [*sidecar, "trace", f"evt_{count // 2:08}"], check=True, env=env,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        print(f"by an event_id that no index knows: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

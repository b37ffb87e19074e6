"""`make bench`: run every contender in turns and print a table with ratios.

Machines are noisy: read the ratios, which are medians of ratios of neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.contenders import CONTENDERS
from bench.neighbours import Directories
from sidecar.redis.embedded import EmbeddedServer

COUNTS = {
    "bare_loop": 100_000,
    "relay": 100_000,
    "relay_beside_trouble": 100_000,
    "faststream_relay": 5_000,
    "raw_writer": 2_000,
    "full_job": 2_000,
    "faststream_full": 1_000,
    "bare_reader": 100_000,
    "validating_reader": 100_000,
    "feed": 100_000,
    "async_feed": 100_000,
}
RATIOS = [
    ("relay", "bare_loop", 0.3),
    ("relay", "faststream_relay", 15),
    ("relay_beside_trouble", "relay", 0.8),
    ("full_job", "faststream_full", 1.5),
    ("full_job", "raw_writer", 0.7),
    ("feed", "bare_reader", 0.5),
    ("feed", "validating_reader", 0.5),
    ("async_feed", "validating_reader", 0.5),
]
LATENCIES = {
    "idle_latency": ("idle stream: entry to notification", "3 ms"),
    "feed_wakeup": ("idle stream: notification appended to Feed.follow's yield", "5 ms"),
}
LATENCY_EVENTS = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of events")
    parser.add_argument("--dir", type=Path, default=None, help="the disk to measure on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = {name: max(100, int(count * options.scale)) for name, count in COUNTS.items()}
    rates: dict[str, list[float]] = {name: [] for name in counts}
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=options.rounds * len(counts) + 1)
        with tempfile.TemporaryDirectory(dir=options.dir) as work:
            directories = Directories(Path(work))
            for _ in range(options.rounds):
                for name, count in counts.items():
                    rates[name].append(count / _measure(name, count, directories))
                    progress.advance(task)
        memory_disk = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as work:
            latencies_s = {
                name: _measure(name, LATENCY_EVENTS, Directories(Path(work))) for name in LATENCIES
            }
    ratios = {
        f"{a} / {b}": statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))
        for a, b, _ in RATIOS
    }
    if options.json:
        print(json.dumps({"rates": rates, "ratios": ratios, "latencies_s": latencies_s}))
    else:
        _show(rates, ratios, latencies_s)


def _show(
    rates: dict[str, list[float]], ratios: dict[str, float], latencies_s: dict[str, float]
) -> None:
    console = Console()
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    table = Table("contender", "what", "events/s: median", "least", "most")
    for name, found in rates.items():
        what = (CONTENDERS[name].__doc__ or "").splitlines()[0]
        table.add_row(name, what, *(f"{f(found):,.0f}" for f in (statistics.median, min, max)))
    console.print(table)
    table = Table("ratio", "measured", "asked for")
    for a, b, asked in RATIOS:
        table.add_row(f"{a} / {b}", f"{ratios[f'{a} / {b}']:.2f}", f"{asked}")
    for name, seconds in latencies_s.items():
        what, limit = LATENCIES[name]
        table.add_row(f"{what}, median", f"{seconds * 1e3:.2f} ms", limit)
    console.print(table)


def _measure(name: str, count: int, directories: Directories) -> float:
    work = str(directories.fresh())
    with _server(directories.fresh()) as url:
        done = subprocess.run(
            [sys.executable, "-m", "bench.contenders", name, url, work, str(count)],
            capture_output=True,
            timeout=600,
            check=False,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """An embedded server that keeps nothing on disk: the disk is for what is measured."""
    server = EmbeddedServer(directory)
    client = redis.Redis.from_url(server.url)
    client.config_set("appendonly", "no")
    try:
        yield server.url
    finally:
        server.close()


main()

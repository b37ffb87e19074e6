"""`make bench`: run every contender in turns and print tables: rates, ratios, what each promises.

Machines are noisy: read the ratios, which are medians of ratios of neighbours in time, and the
processor's time and the switches, which depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from bench.contenders import CONTENDERS, URL
from bench.lap import Cost
from bench.neighbours import Directories, disk_at
from bench.rivals import PROMISES
from sidecar.redis.embedded import EmbeddedServer

COUNTS = {
    "bare_loop": 100_000,
    "relay": 100_000,
    "relay_not_traced": 100_000,
    "relay_traced": 100_000,
    "relay_traced_all": 20_000,
    "relay_signed": 100_000,
    "relay_beside_trouble": 100_000,
    "decoding_loop": 100_000,
    "faststream_relay_batches": 20_000,
    "faststream_relay": 5_000,
    "raw_writer": 2_000,
    "by_hand": 2_000,
    "full_job": 2_000,
    "full_job_signed": 2_000,
    "by_hand_async": 2_000,
    "faststream_batches": 2_000,
    "faststream_full": 1_000,
    "bare_reader": 100_000,
    "validating_reader": 100_000,
    "feed": 100_000,
    "async_feed": 100_000,
}
RATIOS = [
    ("relay", "bare_loop", 0.45),
    ("relay", "decoding_loop", 1.0),
    ("relay", "faststream_relay_batches", 1.3),
    ("relay", "faststream_relay", 15),
    ("relay_beside_trouble", "relay", 0.8),
    ("relay_signed", "relay", 0.9),
    ("relay_traced", "relay_not_traced", 0.8),
    ("relay_traced_all", "relay_not_traced", 0.1),
    ("full_job", "by_hand", 1.0),
    ("full_job", "by_hand_async", 1.0),
    ("full_job", "faststream_batches", 1.3),
    ("full_job", "faststream_full", 1.5),
    ("full_job", "raw_writer", 0.7),
    ("full_job_signed", "full_job", 0.9),
    ("feed", "bare_reader", 0.5),
    ("feed", "validating_reader", 0.5),
    ("async_feed", "validating_reader", 0.5),
]
LATENCIES = {
    "idle_latency": ("idle stream: entry to notification", "1.4 ms"),
    "feed_wakeup": ("idle stream: notification appended to Feed.follow's yield", "5 ms"),
}
LATENCY_EVENTS = 200
WIDTH = 160
"""Of the tables in a file."""


class Found(NamedTuple):
    """What was measured: of each contender its rounds, of each latency its median."""

    counts: Mapping[str, int]
    costs: Mapping[str, Sequence[Cost]]
    latencies_s: Mapping[str, float]

    def rates(self, name: str) -> list[float]:
        """Return events a second, round by round."""
        return [self.counts[name] / cost.seconds for cost in self.costs[name]]

    def ratios(self) -> dict[str, list[float]]:
        """Return how many times faster the first is than the second, round by round."""
        return {
            f"{a} / {b}": [x / y for x, y in zip(self.rates(a), self.rates(b), strict=True)]
            for a, b, _ in RATIOS
            if a in self.costs and b in self.costs
        }

    def report(self) -> dict[str, Any]:
        """Return it as JSON, to be compared with by `--against`."""
        return {
            "machine": machine(),
            "rates": {name: self.rates(name) for name in self.costs},
            "costs": self.costs,
            "ratios": {pair: statistics.median(each) for pair, each in self.ratios().items()},
            "latencies_s": self.latencies_s,
        }


def main() -> None:
    """Measure and print."""
    options = _options()
    names = [name for name in COUNTS if name in (options.only or COUNTS)]
    skipped = [name for name in names if _lacks(name)]
    counts = {
        name: max(100, int(COUNTS[name] * options.scale)) for name in names if name not in skipped
    }
    found = Found(counts, _in_turns(counts, options.rounds, options.dir), _latencies(options.only))
    if options.save:
        options.save.write_text(json.dumps(found.report()))
    if options.json:
        print(json.dumps(found.report()))
        return
    _show(found, options.against)
    for name in skipped:
        print(f"skipped: {name}: FastStream is not installed; `make bench` installs it")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of events")
    parser.add_argument("--only", action="append", choices=[*COUNTS, *LATENCIES], help="repeatable")
    parser.add_argument("--dir", type=disk_at, default=None, help="the disk to measure on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=_new_file, metavar="FILE", help="write the run there, too")
    parser.add_argument("--against", type=_saved, default={}, metavar="FILE", help="a saved run")
    return parser.parse_args()


def _new_file(text: str) -> Path:
    """Return the file that `--save` names; said before the run if it cannot be there."""
    disk_at(os.path.dirname(text) or ".")
    return Path(text)


def _saved(text: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no run that --save wrote: {error}") from error
    return report


def _lacks(name: str) -> bool:
    return name.startswith("faststream") and importlib.util.find_spec("faststream") is None


def _in_turns(counts: Mapping[str, int], rounds: int, disk: Path | None) -> dict[str, list[Cost]]:
    """Run all contenders, one after the other, as often as there are rounds."""
    costs: dict[str, list[Cost]] = {name: [] for name in counts}
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        tempfile.TemporaryDirectory(dir=disk) as work,
    ):
        task = progress.add_task("measuring", total=rounds * len(counts))
        directories = Directories(Path(work))
        for _ in range(rounds):
            for name, count in counts.items():
                costs[name].append(_measure(name, count, directories))
                progress.advance(task)
    return costs


def _latencies(only: Sequence[str] | None) -> dict[str, float]:
    """Measure medians on a memory disk, so that they are the worker's own."""
    disk = Path("/dev/shm")
    names = [name for name in LATENCIES if name in (only or LATENCIES)]
    with tempfile.TemporaryDirectory(dir=disk if disk.is_dir() else None) as work:
        directories = Directories(Path(work))
        return {name: _measure(name, LATENCY_EVENTS, directories).seconds for name in names}


def machine() -> str:
    """Say on what this runs."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _show(found: Found, before: Mapping[str, Any]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(machine())
    console.print(_rates_table(found))
    console.print(_ratios_table(found, before))
    for name, seconds in found.latencies_s.items():
        what, limit = LATENCIES[name]
        console.print(f"{what}, median: {seconds * 1e3:.2f} ms, asked for {limit}")


def _rates_table(found: Found) -> Table:
    table = Table(Column("contender", no_wrap=True), "what, and what it promises")
    for column in ("events/s: median", "least", "most", "processor, µs each", "switches each"):
        table.add_column(column, justify="right")
    for name, costs in found.costs.items():
        what = (CONTENDERS[name].__doc__ or "").splitlines()[0]
        promise = PROMISES.get(name, "all guarantees")
        rates, count = found.rates(name), found.counts[name]
        table.add_row(
            name,
            f"{what} [{promise}]".replace("[", r"\["),
            *(f"{f(rates):,.0f}" for f in (statistics.median, min, max)),
            f"{statistics.median(cost.processor_s for cost in costs) / count * 1e6:,.0f}",
            f"{statistics.median(cost.switches for cost in costs) / count:.1f}",
        )
    return table


def _ratios_table(found: Found, before: Mapping[str, Any]) -> Table:
    table = Table("ratio", "median", "least", "most", "asked for", "before")
    asked = {f"{a} / {b}": limit for a, b, limit in RATIOS}
    for pair, each in found.ratios().items():
        past = before.get("ratios", {}).get(pair)
        table.add_row(
            pair,
            *(f"{f(each):.2f}" for f in (statistics.median, min, max)),
            f"{asked[pair]}",
            "" if past is None else f"{past:.2f}",
        )
    return table


def _measure(name: str, count: int, directories: Directories) -> Cost:
    work = str(directories.fresh())
    with _server(directories.fresh()) as url:
        done = subprocess.run(
            [sys.executable, "-m", "bench.contenders", name, work, str(count)],
            env=os.environ | {URL: url},
            capture_output=True,
            timeout=600,
            check=False,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


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


if __name__ == "__main__":
    main()

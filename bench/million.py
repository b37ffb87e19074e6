"""`make bench-million`: what a million refs cost in time and memory, beside a thousand.

Both lie on a memory disk unless `--dir` names another: what is asked is what the number of refs
costs, and the noise of a disk's flushes would drown it. They are filled through Put, by as many
processes as there are cores: what lies there is what Put leaves. Data is short, so that a record
fits one page: a million take about 6 GiB.

Times are ratios of neighbours, each run in a process of its own; memory is the peak of a process
that lists, or verifies, all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from bench.neighbours import Directories, disk_at
from bench.store_contenders import Pair, pair, ref_of
from store.contract import Capability
from store.file import FileStore

_T = TypeVar("_T")

MEMORY_DISK = Path("/dev/shm")
FEW = 1_000
DATA_BYTES = 512
BYTES_A_REF = 8 << 10  # a page, an inode, two names, and some to spare
SLICE = 10_000
COUNTS = {"put": 1_000, "get": 20_000, "exists": 20_000}
WALKS = {"list": Capability.LIST, "verify": Capability.VERIFY}
SLOWER_AT_MOST = 1.3


def main() -> None:
    """Fill both, measure, print."""
    parser = argparse.ArgumentParser(prog="bench.million", description=__doc__)
    parser.add_argument("--refs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=disk_at, default=None, help="the disk to measure on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory = options.dir or MEMORY_DISK
    _check_room(directory, options.refs)
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        tempfile.TemporaryDirectory(dir=directory) as work,
    ):
        directories = Directories(Path(work))
        few, many = directories.fresh(), directories.fresh()
        filling = progress.add_task("filling", total=FEW + options.refs)
        _fill(few, FEW, progress, filling)
        began = time.perf_counter()
        _fill(many, options.refs, progress, filling)
        filled_s = time.perf_counter() - began
        running = progress.add_task("measuring", total=options.rounds * len(COUNTS) + len(WALKS))
        stores = ((few, FEW), (many, options.refs))
        took_s = _times(stores, options.rounds, progress, running)
        peaks = _peaks(stores, progress, running)
        progress.update(running, description="removing")
    if options.json:
        print(json.dumps({"refs": options.refs, "us": took_s, "peak_mib": peaks}))
    else:
        _show(options.refs, filled_s, took_s, peaks)


def _check_room(directory: Path, refs: int) -> None:
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    if directory == MEMORY_DISK:
        free = min(free, psutil.virtual_memory().available)
    if free < refs * BYTES_A_REF:
        raise SystemExit(
            f"{directory} has {free >> 20} MiB free, {refs * BYTES_A_REF >> 20} are needed: --dir"
        )
    if room.f_files and room.f_favail < 2 * refs:
        raise SystemExit(
            f"{directory} has {room.f_favail} inodes free, {2 * refs} are needed: --dir"
        )


def _fill(root: Path, refs: int, progress: Progress, task: TaskID) -> None:
    def fill(start: int) -> None:
        stop = min(start + SLICE, refs)
        _run("fill", root, start, stop)
        progress.advance(task, stop - start)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, refs, SLICE)))


def _times(
    stores: tuple[tuple[Path, int], ...], rounds: int, progress: Progress, task: TaskID
) -> dict[str, list[tuple[float, float]]]:
    """Return, for each operation, the microseconds with few and with many refs, by round."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in COUNTS}
    for turn in range(rounds):
        for name in COUNTS:
            progress.update(task, description=name)
            order = stores[::-1] if turn % 2 else stores
            pair = [_run(name, root, refs, turn) for root, refs in order]
            few, many = pair[::-1] if turn % 2 else pair
            took[name].append((few, many))
            progress.advance(task)
    return took


def _peaks(
    stores: tuple[tuple[Path, int], ...], progress: Progress, task: TaskID
) -> dict[str, list[float]]:
    """Return the peak of memory in MiB of walking few and many refs."""
    peaks = {}
    for name, capability in WALKS.items():
        progress.update(task, description=name)
        if capability in FileStore.capabilities:
            peaks[name] = [_run(name, root, refs, 0) for root, refs in stores]
        progress.advance(task)
    return peaks


def _show(
    refs: int,
    filled_s: float,
    took: dict[str, list[tuple[float, float]]],
    peaks: dict[str, list[float]],
) -> None:
    console = Console()
    console.print(f"{refs:,} refs were put in {filled_s:.0f} s")
    table = Table("", f"{FEW:,} refs", f"{refs:,} refs", "times slower", "asked for", "by round")
    for name, rounds in took.items():
        ratios = [many / few for few, many in rounds]
        columns = (statistics.median(column) for column in zip(*rounds, strict=True))
        table.add_row(
            name,
            *(f"{us:.1f} µs" for us in columns),
            f"{statistics.median(ratios):.2f}",
            f"at most {SLOWER_AT_MOST}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
        )
    for name in WALKS:
        if name in peaks:
            few, many = peaks[name]
            table.add_row(
                f"{name}, peak memory", f"{few:.1f} MiB", f"{many:.1f} MiB", "", "even", ""
            )
        else:
            table.add_row(f"{name}, peak memory", "", "", "", "", "this file store cannot")
    console.print(table)


# --- what runs in a process of its own -----------------------------------------------------


def _run(name: str, root: Path, refs: int, turn: int) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.million", "run", name, str(root), str(refs), str(turn)],
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout)


def fill(store: FileStore, start: int, stop: int) -> float:
    """Put the refs from `start` to `stop`."""
    for i in range(start, stop):
        _put(store, pair(i, DATA_BYTES))
    return 0.0


def put(store: FileStore, refs: int, turn: int) -> float:
    """Put new refs; return microseconds each."""
    count = COUNTS["put"]
    first = refs + turn * count
    pairs = [pair(i, DATA_BYTES) for i in range(first, first + count)]
    return _us_each(lambda each: _put(store, each), pairs)


def get(store: FileStore, refs: int, turn: int) -> float:
    """Get refs at random; return microseconds each."""
    return _us_each(store.get, _some(refs, turn, COUNTS["get"]))


def exists(store: FileStore, refs: int, turn: int) -> float:
    """Look for refs at random; return microseconds each."""
    return _us_each(store.exists, _some(refs, turn, COUNTS["exists"]))


def walk_list(store: FileStore, refs: int, _turn: int) -> float:
    """List all; return the peak of this process's memory in MiB."""
    return _peak_after(refs, sum(1 for _ in store.list()))


def walk_verify(store: FileStore, refs: int, _turn: int) -> float:
    """Verify all; return the peak of this process's memory in MiB."""
    return _peak_after(refs, sum(1 for each in store.verify() if each.error is None))


def _put(store: FileStore, each: Pair) -> None:
    store.put(each.ref, each.data, each.manifest)


def _some(refs: int, turn: int, count: int) -> list[str]:
    chosen = random.Random(turn)
    return [ref_of(chosen.randrange(refs)) for _ in range(count)]


def _us_each(call: Callable[[_T], object], arguments: list[_T]) -> float:
    began = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - began) / len(arguments) * 1e6


def _peak_after(refs: int, seen: int) -> float:
    """Return VmHWM: what rusage says survives exec, and would be our parent's."""
    if seen < refs:
        raise SystemExit(f"{seen} of {refs} were seen")
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) / 1024


OPERATIONS: dict[str, Callable[[FileStore, int, int], float]] = {
    "fill": fill,
    "put": put,
    "get": get,
    "exists": exists,
    "list": walk_list,
    "verify": walk_verify,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        name, root, refs, turn = sys.argv[2:]
        print(OPERATIONS[name](FileStore(root), int(refs), int(turn)))
    else:
        main()

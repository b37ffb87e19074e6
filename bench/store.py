"""`make bench-store`: the file store by itself, beside the limits and beside other libraries.

Read the ratios, which are medians of ratios of neighbours in time: each pair of contenders runs
one right after the other, each in a process of its own, in turns, in fresh directories.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from bench.neighbours import Comparison, Directories, Measured, disk_at, round_of, show
from bench.slow_disk import NoSlowDiskError, slow_disk
from store.contract import Capability
from store.file import FileStore

MODULE = "bench.store_contenders"
# Not a ratio that was asked for, but "ahead of": anything above 1.
AHEAD = 1.0
OTHERS = ("hashfs_put", "dvc_put", "obstore_put")
GROUPS = ("group_fsync", "group_syncfs", "group_syncfs_twice")
# By the seconds of a flush; at 0 it shows what a journal does, which not every disk here has.
SLOW_DISKS = {0.0: 2000, 0.002: 400, 0.01: 160}

COMPARISONS = [
    Comparison("small-put", "store_put:8", "raw_put:1", 2000, 1.5),
    *(
        Comparison("small-put", f"store_put:{callers}", f"{other}:{callers}", count, AHEAD)
        for callers, count in ((8, 2000), (1, 500))
        for other in OTHERS
    ),
    Comparison("small-get", "store_get:1", "raw_get:1", 2000, 0.5),
    Comparison("large", "store_large_put:1", "raw_large_put:1", 2, 0.9),
    Comparison("large", "store_large_put_from:1", "raw_large_put:1", 2, 0.9),
    Comparison("large", "store_large_get:1", "raw_large_get:1", 3, 0.9),
    Comparison("large", "store_large_open:1", "raw_large_read:1", 3, 0.9),
    *(Comparison("grouping", f"{group}:8", "store_put:8", 2000, None) for group in GROUPS),
]
STREAMING = {"store_large_put_from:1", "store_large_open:1"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.store", description=__doc__)
    cases = sorted({each.case for each in COMPARISONS})
    parser.add_argument("--only", action="append", choices=cases, help="measure only this case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of operations")
    parser.add_argument("--dir", type=disk_at, default=None, help="the disk to measure on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [
        replace(each, count=max(1, int(each.count * options.scale)))
        for each in COMPARISONS
        if each.case in (options.only or cases)
    ]
    skipped: dict[str, str] = {}
    if Capability.STREAM not in FileStore.capabilities:
        skipped["put_from, open"] = "this file store does not stream"
        chosen = [each for each in chosen if each.subject not in STREAMING]
    found = _measure(chosen, options.rounds, options.dir, skipped)
    show(found, skipped, as_json=options.json)


def _measure(
    chosen: list[Comparison], rounds: int, directory: Path | None, skipped: dict[str, str]
) -> list[Measured]:
    slow = [each for each in chosen if each.case == "grouping"]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        runs = rounds * (len(chosen) + len(slow) * len(SLOW_DISKS))
        task = progress.add_task("measuring", total=runs)
        with tempfile.TemporaryDirectory(dir=directory) as work:
            found = _rounds(chosen, rounds, Path(work), progress, task)
        for flush_s, count in SLOW_DISKS.items() if slow else ():
            disk = f"ext4 with a journal, {flush_s * 1e3:g} ms a flush"
            there = [
                replace(each, disk=disk, count=max(8, each.count * count // 2000)) for each in slow
            ]
            try:
                with slow_disk(flush_s) as mounted:
                    found += _rounds(there, rounds, mounted, progress, task)
            except NoSlowDiskError as error:
                skipped[disk] = str(error)
    return found


def _rounds(
    comparisons: list[Comparison], rounds: int, work: Path, progress: Progress, task: TaskID
) -> list[Measured]:
    directories = Directories(work)
    found = [Measured(each, [], []) for each in comparisons]
    for turn in range(rounds):
        for each in found:
            progress.update(task, description=f"{each.comparison.disk}: {each.comparison.subject}")
            pair = round_of(MODULE, each.comparison, directories, reverse=bool(turn % 2))
            each.subject_rates.append(pair[0])
            each.limit_rates.append(pair[1])
            progress.advance(task)
    return found


if __name__ == "__main__":
    main()

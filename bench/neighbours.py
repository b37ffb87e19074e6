"""Ratios of neighbours in time: machines are noisy, but two runs side by side share the noise."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

_TIMEOUT_S = 900


@dataclass(frozen=True)
class Comparison:
    """One row: how many times faster the subject is than what stands beside it.

    Attributes:
        case: which part of the benchmark it belongs to.
        subject, limit: contender and callers, as `store_put:8`.
        count: how many operations each makes in a round.
        asked: the least ratio that was asked for, None when the figure itself is wanted.
        disk: where it is measured.

    """

    case: str
    subject: str
    limit: str
    count: int
    asked: float | None
    disk: str = "this disk"


@dataclass(frozen=True)
class Measured:
    """A comparison's rounds: operations a second of both, and their ratios."""

    comparison: Comparison
    subject_rates: list[float]
    limit_rates: list[float]

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round."""
        return [a / b for a, b in zip(self.subject_rates, self.limit_rates, strict=True)]


def disk_at(text: str) -> Path:
    """Return the directory that `--dir` names. Raises as argparse wants it."""
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is no directory: make it (mkdir)")
    return Path(text)


class Directories:
    """Fresh directories below `work`, one a run, and none removed before the end.

    An ext4 without a journal steers clear of inodes that were deleted within the last minutes and
    looks for others each time: who creates files after thousands were deleted pays ten times
    the price. So a benchmark that cleans up between its runs measures its own cleaning.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._made = 0

    def fresh(self) -> Path:
        """Make one."""
        self._made += 1
        directory = self._work / f"{self._made}"
        directory.mkdir()
        return directory


def rate(module: str, contender: str, directory: Path, count: int) -> float:
    """Run a contender in a process of its own; return operations a second."""
    name, _, callers = contender.partition(":")
    done = subprocess.run(
        [sys.executable, "-m", module, name, callers or "1", str(directory), str(count)],
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-2000:]}")
    return count / float(done.stdout.splitlines()[-1])


def round_of(
    module: str, comparison: Comparison, directories: Directories, *, reverse: bool
) -> tuple[float, float]:
    """Run both, one right after the other; `reverse` in every other round, against drifts."""
    pair = [comparison.subject, comparison.limit]
    if reverse:
        pair.reverse()
    rates = [rate(module, each, directories.fresh(), comparison.count) for each in pair]
    if reverse:
        rates.reverse()
    return rates[0], rates[1]


def show(found: Sequence[Measured], skipped: dict[str, str], *, as_json: bool) -> None:
    """Print the table, or JSON."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if as_json:
        listed = [{**asdict(each), "ratios": each.ratios} for each in found]
        print(json.dumps({"machine": machine, "measured": listed, "skipped": skipped}))
        return
    console = Console()
    console.print(machine)
    for (case, disk), rows in groupby(
        found, lambda each: (each.comparison.case, each.comparison.disk)
    ):
        console.print(_table(f"{case}, {disk}", list(rows)))
    for what, why in skipped.items():
        console.print(f"skipped: {what}: {why}")


def _table(title: str, rows: Sequence[Measured]) -> Table:
    table = Table(title=title, show_lines=True)
    table.add_column("subject, and\nbeside it", no_wrap=True)
    for column in ("a second", "ratio", "asked for", "by round"):
        table.add_column(column, justify="right")
    for each in rows:
        comparison = each.comparison
        rates = (statistics.median(found) for found in (each.subject_rates, each.limit_rates))
        table.add_row(
            f"{comparison.subject}\n{comparison.limit}",
            "\n".join(f"{median:,.1f}" for median in rates),
            f"{statistics.median(each.ratios):.2f}",
            "" if comparison.asked is None else f"{comparison.asked:g}",
            " ".join(f"{ratio:.2f}" for ratio in each.ratios),
        )
    return table

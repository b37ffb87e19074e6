"""`make simulate SEEDS=… [JOBS=…]` and `make simulate SEED=…`: run seeds, and say what happened."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation.faults import Fault
from tests.simulation.world import Result, run_lean, simulate

CHUNK: int = 20
SHOW_EVERY_S: float = 10.0


@dataclass
class Summary:
    """What came of all seeds so far."""

    seeds: int = 0
    turns: int = 0
    commands: int = 0
    published: int = 0
    buried: Counter[str] = field(default_factory=Counter)
    happened: Counter[Fault] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one run."""
        self.seeds += 1
        self.turns += result.turns
        self.commands += result.commands
        self.published += result.published
        self.buried.update(result.buried)
        self.happened.update(result.happened)
        if result.violation:
            self.failed.append(result.seed)

    def never(self) -> list[str]:
        """Return the kinds of fault that never happened."""
        return [kind.value for kind in Fault if not self.happened[kind]]

    def text(self) -> str:
        """Return the summary for a person."""
        lines = [
            f"{self.seeds} seeds, {self.turns} turns, {self.commands} commands",
            f"{self.published:9}  notifications",
            *(f"{count:9}  dead letters: {reason}" for reason, count in self.buried.most_common()),
            *(f"{self.happened[kind]:9}  {kind.value}" for kind in Fault),
        ]
        if self.never():
            lines.append(f"never happened: {', '.join(self.never())}")
        failed = f": {' '.join(map(str, self.failed))}" if self.failed else ""
        return "\n".join([*lines, f"{len(self.failed)} violations{failed}"])


def run_all(seeds: Sequence[int], jobs: int) -> Iterator[Result]:
    """Run seeds, in so many processes; their traces stay there."""
    if jobs == 1:
        yield from map(run_lean, seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_lean, seeds, CHUNK)


def summarise(results: Iterable[Result], total: int, last: int) -> Summary:
    """Take results in, telling of each failure at once and of the progress now and then."""
    summary, shown_at = Summary(), time.monotonic()
    for result in results:
        summary.add(result)
        if result.violation:
            print(result.story(last), flush=True)
        if time.monotonic() - shown_at > SHOW_EVERY_S:
            shown_at = time.monotonic()
            done = f"{summary.seeds}/{total} seeds, {len(summary.failed)} violations"
            print(done, file=sys.stderr, flush=True)
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 1 when a guarantee was broken."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one, and show its steps")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--last", type=int, default=60, help="steps shown of a run that failed")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        result = simulate(chosen.seed)
        print(result.story(len(result.trace)))
        print(f"trace {result.digest()}")
        return int(bool(result.violation))
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    summary = summarise(run_all(seeds, chosen.jobs), len(seeds), chosen.last)
    print(summary.text())
    return int(bool(summary.failed))


if __name__ == "__main__":
    sys.exit(main())

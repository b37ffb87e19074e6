"""`make simulate SEEDS=… [JOBS=…]` and `make simulate SEED=…`: run seeds, and say what happened."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing import get_context
from typing import Final

from tests.simulation import world as narrow
from tests.simulation.faults import Fault
from tests.simulation.whole import world as whole
from tests.simulation.whole.hunt import first_found
from tests.simulation.whole.kinds import Deed
from tests.simulation.world import Result

CHUNK: int = 20
SHOW_EVERY_S: float = 10.0


@dataclass(frozen=True)
class Kind:
    """A kind of simulation."""

    faults: tuple[StrEnum, ...]
    run: Callable[[int], Result]
    """Run a seed, and keep its steps."""
    run_lean: Callable[[int], Result]
    """Run a seed, and keep its steps only when it failed."""


NARROW: Final = Kind(tuple(Fault), narrow.simulate, narrow.run_lean)
KINDS: Final = {
    "narrow": NARROW,
    "whole": Kind(tuple(Deed), whole.simulate, whole.run_lean),
}


@dataclass
class Summary:
    """What came of all seeds so far."""

    kind: Kind = NARROW
    seeds: int = 0
    turns: int = 0
    commands: int = 0
    published: int = 0
    buried: Counter[str] = field(default_factory=Counter)
    happened: Counter[StrEnum] = field(default_factory=Counter)
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
        return [one.value for one in self.kind.faults if not self.happened[one]]

    def text(self) -> str:
        """Return the summary for a person."""
        lines = [
            f"{self.seeds} seeds, {self.turns} turns, {self.commands} commands",
            f"{self.published:9}  notifications",
            *(f"{count:9}  dead letters: {reason}" for reason, count in self.buried.most_common()),
            *(f"{self.happened[one]:9}  {one.value}" for one in self.kind.faults),
        ]
        if self.never():
            lines.append(f"never happened: {', '.join(self.never())}")
        failed = f": {' '.join(map(str, self.failed))}" if self.failed else ""
        return "\n".join([*lines, f"{len(self.failed)} violations{failed}"])


def run_all(seeds: Sequence[int], jobs: int, kind: Kind = NARROW) -> Iterator[Result]:
    """Run seeds, in so many processes; their traces stay there."""
    if jobs == 1:
        yield from map(kind.run_lean, seeds)
        return
    with get_context("spawn").Pool(jobs, whole.spare) as pool:
        yield from pool.imap_unordered(kind.run_lean, seeds, CHUNK)


def summarise(results: Iterable[Result], total: int, last: int, kind: Kind = NARROW) -> Summary:
    """Take results in, telling of each failure at once and of the progress now and then."""
    summary, shown_at = Summary(kind), time.monotonic()
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
    parser.add_argument("--kind", choices=KINDS, default="narrow", help="of simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one, and show its steps")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--last", type=int, default=60, help="steps shown of a run that failed")
    parser.add_argument("--hunt", nargs="*", metavar="MUTANT", help="seeds that catch it, or all")
    chosen = parser.parse_args(arguments)
    kind = KINDS[chosen.kind]
    if chosen.seed is not None:
        result = kind.run(chosen.seed)
        print(result.story(len(result.trace)))
        print(f"trace {result.digest()}")
        return int(bool(result.violation))
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    if chosen.hunt is not None:
        for line in first_found(chosen.hunt, seeds):
            print(line, flush=True)
        return 0
    summary = summarise(run_all(seeds, chosen.jobs, kind), len(seeds), chosen.last, kind)
    print(summary.text())
    return int(bool(summary.failed))


if __name__ == "__main__":
    whole.spare()
    sys.exit(main())

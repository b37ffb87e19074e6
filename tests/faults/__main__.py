"""`make fire`: real workers, killed at random under load; G1 to G5 checked from outside.

Rounds run side by side, each with a fleet, a Redis and stores of its own. Progress goes to
standard error; the exit code is 1 when anything was violated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tests.faults import fire, mutants
from tests.faults.proxy import Weather
from tests.faults.zygote import REPOSITORY


def main() -> int:
    """Run, and print the summary."""
    options = _options()
    with _product(options.mutant) as product:
        plan = fire.Plan(
            seed=options.seed,
            kills=options.kills,
            redis_crashes=options.redis_crashes,
            clean_stops=options.clean_stops,
            disk_faults=options.disk_faults,
            workers=options.workers,
            lease_s=options.lease,
            per_second=options.per_second,
            weather=Weather() if options.proxy else None,
            product=product,
            directory=options.dir,
            until_caught=bool(options.mutant),
        )
        figures = _run(
            fire.rounds(plan, options.kills_a_round), options.side_by_side, options.minutes * 60
        )
    _report(figures, as_json=options.json)
    return int(bool(figures.violations))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kill points")
    parser.add_argument("--redis-crashes", type=int, default=0)
    parser.add_argument("--clean-stops", type=int, default=0, help="SIGTERMs of the active worker")
    parser.add_argument("--disk-faults", type=int, default=0, help="full or failing; needs root")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first round; then one more each"
    )
    parser.add_argument("--proxy", action="store_true", help="with a bad network in between")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no round after that")
    parser.add_argument("--workers", type=int, default=2, help="of a fleet")
    parser.add_argument("--lease", type=float, default=0.2, help="in seconds")
    parser.add_argument("--per-second", type=float, default=150, help="entries that are produced")
    parser.add_argument("--kills-a-round", type=int, default=250)
    parser.add_argument("--side-by-side", type=int, default=3, help="rounds at the same time")
    parser.add_argument("--dir", type=Path, default=None, help="where the stores and Redis are")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="a broken copy instead")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def _product(mutant: str | None) -> Iterator[Path]:
    if mutant is None:
        yield REPOSITORY
        return
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        yield mutants.broken_copy(mutant, Path(directory))


def _run(plans: list[fire.Plan], side_by_side: int, seconds: float) -> fire.Figures:
    """Run the rounds, so many at a time, until all are done or the time is over."""
    figures, began, left = fire.Figures(), time.monotonic(), list(reversed(plans))
    context = multiprocessing.get_context("spawn")
    running: set[Future[fire.Figures]] = set()
    with ProcessPoolExecutor(side_by_side, mp_context=context) as pool:
        while left or running:
            in_time = time.monotonic() - began < seconds
            caught = figures.violations and plans[0].until_caught
            while left and in_time and not caught and len(running) < side_by_side:
                running.add(pool.submit(fire.run, left.pop()))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                figures.add(each.result())
            figures.seconds = time.monotonic() - began
            _say(
                f"{figures.seconds:5.0f} s  {figures.kills} kill points,"
                f" {figures.entries} entries, {len(figures.violations)} violations"
            )
    return figures


def _report(figures: fire.Figures, *, as_json: bool) -> None:
    summary = figures.summary()
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        return
    for name, value in summary.items():
        if name != "violations":
            words = value if not isinstance(value, dict) else _words(value)
            sys.stdout.write(f"{name.replace('_', ' '):<28}{words}\n")
    sys.stdout.write(f"{'violations':<28}{len(figures.violations)}\n")
    for line in figures.violations[:50]:
        sys.stdout.write(f"  {line}\n")


def _words(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "none"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

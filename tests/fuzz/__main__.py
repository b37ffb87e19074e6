"""`python -m tests.fuzz [--seconds S] [--inputs N] [--only NAME] [--first SEED]`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from tests.fuzz import bundles, entries, faces, refs, roots, screens, urls
from tests.fuzz.running import Fuzzer, Totals, run

FUZZERS = {
    one.FUZZER.name: one.FUZZER for one in (entries, refs, urls, roots, faces, screens, bundles)
}
MAX_GROWTH_BYTES = 20 << 20


def main() -> int:
    """Run each fuzzer for its share of the time, tell what came of it; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all fuzzers together")
    parser.add_argument("--inputs", type=int, help="for each fuzzer, in place of --seconds")
    parser.add_argument("--only", choices=FUZZERS, action="append")
    parser.add_argument("--first", type=int, default=0, help="seed of the first batch")
    asked = parser.parse_args()
    chosen = [FUZZERS[name] for name in asked.only or FUZZERS]

    def is_over(totals: Totals) -> bool:
        if asked.inputs:
            return totals.inputs >= int(asked.inputs)
        return totals.seconds >= float(asked.seconds) / len(chosen)

    passed = [_passes(one, asked.first, is_over) for one in chosen]  # each, whatever another did
    return int(not all(passed))


def _passes(fuzzer: Fuzzer, first: int, is_over: Callable[[Totals], bool]) -> bool:
    def show(totals: Totals) -> None:
        sys.stderr.write(f"\r{fuzzer.name}: {totals}\x1b[K")

    try:
        totals = run(fuzzer, first, is_over, show)
    except Exception:  # noqa: BLE001 -- whatever it is, it is what was looked for
        sys.stderr.write("\n")
        sys.stdout.write(f"{fuzzer.name}: FAILED\n{traceback.format_exc()}\n")
        return False
    sys.stderr.write("\n")
    grown = totals.grown_bytes > MAX_GROWTH_BYTES
    sys.stdout.write(f"{fuzzer.name}: {totals}{', which is too much' if grown else ''}\n")
    return not grown


if __name__ == "__main__":
    sys.exit(main())

"""Break the product, one break after the other, and see each one caught: `make mutants`.

Exit code 1 and the names when a break goes unnoticed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.mutants.breaks import BREAKS, Break

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = ("sidecar", "store", "tests", "deploy", "pyproject.toml", "README.md")
TIMEOUT_S: Final = 300


def caught_by(broken: Break) -> str:
    """Return the test that fails with the break, or an empty string when none does."""
    with tempfile.TemporaryDirectory(prefix="sidecar-mutant-") as directory:
        copy = Path(directory)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name)
            else:
                shutil.copy(ROOT / name, copy / name)
        target = copy / broken.path
        text = target.read_text()
        if text.count(broken.old) != 1:
            raise SystemExit(f"{broken.name}: {broken.path} has changed; fix the list")
        target.write_text(text.replace(broken.old, broken.new))
        return _first_failure(copy, broken.tests)


def _first_failure(copy: Path, tests: tuple[str, ...]) -> str:
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-n0", "--timeout=60", "--no-header",
        "-p", "no:cacheprovider", "--randomly-seed=1", "-m", "not slow", *tests,
    ]  # fmt: skip
    try:
        ran = subprocess.run(
            command, cwd=copy, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the tests did not end within {TIMEOUT_S} s"
    failures = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if ran.returncode == 1 and failures:
        return failures[0].split(" - ")[0].split(" ", 1)[1]
    if "Timeout" in ran.stdout + ran.stderr:
        return "a test did not end"
    if ran.returncode != 0:
        raise SystemExit(f"pytest could not run: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return ""


def main() -> None:
    """Try all breaks, or those whose name contains the argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="", help="only breaks with this in their name")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [broken for broken in BREAKS if options.part in broken.name]
    began, missed = time.monotonic(), []
    with ThreadPoolExecutor(options.jobs) as pool:
        for broken, test in zip(chosen, pool.map(caught_by, chosen), strict=True):
            print(f"{'caught' if test else 'MISSED':8}{broken.name:52}{test}", flush=True)
            if not test:
                missed.append(broken.name)
    seconds = time.monotonic() - began
    print(f"{len(chosen) - len(missed)} of {len(chosen)} breaks caught in {seconds:.0f} s")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

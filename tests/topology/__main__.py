"""`python -m tests.topology --failovers N [--seed S] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.topology import failovers


def main() -> int:
    """Run the failovers, tell what came of it, and return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.topology", description=failovers.__doc__)
    parser.add_argument("--failovers", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-failovers-") as directory:
        found = failovers.run(Path(directory), asked.failovers, asked.seed)
    lines = [f"{name}: {value}" for name, value in found.items()]
    sys.stdout.write((json.dumps(found) if asked.json else "\n".join(lines)) + "\n")
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Play the whole path on a real control plane, and prove that it held.

Relay a SQLite control plane's snapshots, stacks and rows to a fleet controller, kill the worker on
the way, and audit what is there afterwards. Exits with 1 when anything did not hold.
"""

import shutil
import signal
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from redis import RedisError

from examples.demo.stage import Stage
from examples.demo.story import Demo
from sidecar.feed import SidecarError

KEEP = "play it in this directory, new or empty, and leave everything there"
SEED = "the same seed makes the same tenants, rows and changes (default: 1)"


def main() -> int:
    """Play the demo; return its exit code."""
    parser = ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--keep", metavar="DIR", type=Path, help=KEEP)
    parser.add_argument("--seed", type=int, default=1, help=SEED)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")
    options = parser.parse_args()
    keep = options.keep and options.keep.absolute()
    if keep and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        parser.error(f"--keep {keep}: something is there already; name a new directory")
    directory = keep or Path(tempfile.mkdtemp(prefix="sidecar-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    demo = Demo(Stage(as_json=options.json), directory, options.seed, kept=bool(keep))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, demo.interrupt)
    code = _play(demo)
    if code == 1 and not keep:
        print(f"demo: left to be looked at: {directory}", file=sys.stderr)
    elif not keep:
        shutil.rmtree(directory, ignore_errors=True)
    return code


def _play(demo: Demo) -> int:
    try:
        return 0 if demo.play() else 1
    except KeyboardInterrupt:
        print("demo: interrupted; everything it started has ended", file=sys.stderr)
        return 130
    except (SidecarError, RedisError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

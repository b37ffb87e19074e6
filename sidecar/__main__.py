"""The command `sidecar`, and `python -m sidecar`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run a command, as `sidecar.cli.main`.

    Its import takes a third of a second. A worker that is stopped so early has begun nothing: that
    is a stop in good order. As process 1 it would not even notice.
    """
    if sys.argv[1:2] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
    from sidecar.cli import main as run  # only now

    run()


if __name__ == "__main__":
    main()

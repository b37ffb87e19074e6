"""The command `sidecar`, and `python -m sidecar`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run a command, as `sidecar.cli.main`.

    Its import takes a third of a second. A signal that stops a worker so early waits until `run`
    has its handlers: it knows whether a drain is left undone. Process 1 would not even notice.
    """
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from sidecar.cli import main as run  # only now

    run()


if __name__ == "__main__":
    main()

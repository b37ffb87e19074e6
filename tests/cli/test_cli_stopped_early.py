"""A worker that is stopped while it is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys

class Stops:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), int(sys.argv.pop()))

sys.meta_path.insert(0, Stops())
from sidecar.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_anything_began_is_in_good_order(number: signal.Signals) -> None:
    """It ends with 0 and says nothing, as it does later."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "run", str(int(number))],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

"""A worker that is stopped while it is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

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
@pytest.mark.parametrize(("how", "code"), [([], 0), (["--drain"], 3)])
def test_a_stop_before_anything_began_is_in_good_order(
    number: signal.Signals, how: list[str], code: int, tmp_path: Path
) -> None:
    """It says nothing and makes nothing; a drain that is left undone says so, as it does later."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "run", "--data-dir", "new", *how, str(int(number))],
        capture_output=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
    assert not list(tmp_path.iterdir())

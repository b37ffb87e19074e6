"""Standard output and standard error that take nothing, or are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import store

PRINT: Final = """
import sys
from sidecar.errors import SidecarError
from sidecar.terminal import output
output.stand_in()
try:
    {how}
    sys.stdout.flush()
except SidecarError as error:
    output.hint(str(error))
    sys.exit(error.exit_code)
"""
WAYS: Final = {
    "line": "output.line('x')",
    "raw": "output.raw(b'x' * 100_000)",
    "rich": "__import__('rich').print('x')",
}


def shell(script: str, *, how: str = "") -> subprocess.CompletedProcess[str]:
    """Run bash, in which `sidecar` is the command and `prints` prints in that way."""
    script = f"""
        set -o pipefail
        sidecar() {{ {sys.executable} -m sidecar "$@"; }}
        prints() {{ {sys.executable} -c "$HOW"; }}
        {script}"""
    env = {"HOW": PRINT.format(how=how), "COLUMNS": "200"}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, check=False, timeout=120, env=env, text=True
    )


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_what_cannot_be_printed_is_one_line_and_exit_code_4(how: str) -> None:
    """A full disk, and a standard output that was closed, are told, whatever prints."""
    ran = shell("prints > /dev/full; echo $?; prints >&-; echo $?; prints | true; echo $?", how=how)
    assert ran.stdout.split() == ["4", "4", "0"]
    full, closed = ran.stderr.splitlines()
    assert full.startswith("sidecar: cannot write to standard output: No space left on device")
    assert closed.startswith("sidecar: cannot write to standard output: it is closed")


def test_help_and_version_are_printed_so_too() -> None:
    """What the parser prints by itself is no exception, and usage errors keep their exit code."""
    ran = shell("sidecar --version > /dev/full; echo $?; sidecar --help | true; echo $?"
                "; sidecar nonsense 2> /dev/full; echo $?")  # fmt: skip
    assert ran.stdout.split() == ["4", "0", "2"]
    assert len(ran.stderr.splitlines()) == 1


def test_what_prints_nothing_needs_no_output(tmp_path: Path) -> None:
    """An answer by exit code is given though all standard streams are closed."""
    url = (tmp_path / "store").as_uri()
    store.open_url(url).put("a", b"1", b"m")
    ran = shell(f"sidecar store exists --store {json.dumps(url)} a <&- >&- 2>&-; echo $?")
    assert ran.stdout == "0\n"

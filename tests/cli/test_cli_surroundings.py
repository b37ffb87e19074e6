"""Where a process finds itself: its umask, TMPDIR and HOME, and what it makes in them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from sidecar.cli import main
from sidecar.errors import UsageError
from sidecar.history import scratch
from tests.cli.harness import Cli
from tests.sidecar.harness import eventually

SURROUNDINGS: Final = {
    "open": (0o000, {"TMPDIR": "/nonexistent"}),  # and no HOME
    "shared": (0o027, {"TMPDIR": "/proc", "HOME": "/proc"}),
    "closed": (0o077, {"TMPDIR": "/dev/null", "HOME": "/dev/null"}),
}
EMIT: Final = "emit --ref rows/1 --data data.txt --manifest data.txt --type run.abort --event-id e1"
COMMANDS: Final = (
    "status", "audit", "dead ls", "trace e1", "store verify", "archive", "config show",
    "store put rows/2 --data data.txt --manifest data.txt",
    "store get rows/1 --data out", "replay export bundle.zip --since 2h",
    "replay export bundle --since 2h", "replay report report.html --bundle bundle.zip",
    "replay check --bundle bundle.zip", "doctor",
)  # fmt: skip
PRIVATE: Final = ("work/bundle.zip", "work/bundle", "work/report.html", "data/redis")


class Place:
    """A directory in which commands run as they were told."""

    def __init__(self, root: Path, umask: int, env: dict[str, str]) -> None:
        self.root, self.work, self.umask = root, root / "work", umask
        self.work.mkdir()
        (self.work / "data.txt").write_text("data")
        self.env = {"PATH": os.environ["PATH"], "SIDECAR_DATA_DIR": str(root / "data"), **env}

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "sidecar", *args], cwd=self.work, env=self.env,
            umask=self.umask, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ran(self, *args: str) -> tuple[int, str]:
        """Return the exit code of a command, and all that it said."""
        process = self.start(*args)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said


@contextmanager
def worker(place: Place) -> Iterator[None]:
    """Run a worker with an embedded server."""
    process = place.start("run")
    try:
        eventually((place.root / "data" / "fleet" / "STORE").exists)
        yield
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert "Traceback" not in said
        assert process.returncode == 0


@pytest.mark.proof
@pytest.mark.server
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_no_surroundings_open_what_is_private(tmp_path: Path, name: str) -> None:
    """No command fails, none has a traceback, and what may have secrets is its owner's alone."""
    place = Place(tmp_path, *SURROUNDINGS[name])
    with worker(place):
        assert place.ran(*EMIT.split())[0] == 0
        eventually(lambda: "e1" in place.ran("tail", "-n", "1")[1])
        ran = {command: place.ran(*command.split()) for command in COMMANDS}
        assert {command: said for command, said in ran.items() if said[0]} == {}
        is_open = {
            each: oct(mode)
            for each in PRIVATE
            if (mode := (tmp_path / each).stat().st_mode) & 0o077
        }
    assert is_open == {}
    others = stat.S_IWOTH if name == "open" else stat.S_IRWXO
    assert (tmp_path / "data").stat().st_mode & others == 0


@pytest.mark.parametrize("command", [("audit",), ("replay", "check", "--fleet-store", "FLEET")])
def test_no_place_for_temporary_files_is_told(
    sidecar: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """In a container whose root is read-only, one line says what to set."""
    sidecar.lay_out("fleet")
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    fleet = (sidecar.directory / "data-dir" / "fleet").as_uri()
    ran = sidecar(*(fleet if word == "FLEET" else word for word in command))
    assert ran.code == 2
    assert "set TMPDIR" in ran.err.splitlines()[-1]


def test_a_spool_without_a_place_or_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than its memory is refused by the same words."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with scratch.Spool(max_size=10) as spool, pytest.raises(UsageError, match="set TMPDIR"):
        spool.write(b"x" * 11)


def test_a_database_without_room_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever in a command it runs out, it is no traceback."""

    def fails(**_: object) -> None:
        raise scratch.FULL("database or disk is full")

    monkeypatch.setattr("sidecar.cli.app", fails)
    monkeypatch.setattr(sys, "argv", ["sidecar", "audit"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "database or disk is full; set TMPDIR" in capsys.readouterr().err

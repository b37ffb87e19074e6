"""Runs the sequence under strace: counts its system calls, kills it at one, makes one fail."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.servers import missing
from tests.store.crash.sequence import BEGIN

REPOSITORY = Path(__file__).parents[3]
CALLS = (
    "openat", "newfstatat", "read", "pread64", "write", "writev", "copy_file_range", "fsync",
    "link", "linkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat",
    "utimensat", "flock", "getdents64", "readlink", "readlinkat",
)  # fmt: skip
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(", re.MULTILINE)
_TIMEOUT_S = 60


class Run(NamedTuple):
    """What became of the child."""

    said: list[str]
    killed: bool
    injected: int


class Counts(NamedTuple):
    """How often each call occurs before the store begins, and from there on."""

    before: Counter[str]
    after: Counter[str]


def run(root: Path, *options: str) -> tuple[Run, str]:
    """Run the sequence on a store at `root` under strace; return what it said, and the trace."""
    report, trace = root.with_name("report"), root.with_name("trace")
    traced = [_strace(), "-f", "-qq", "-o", str(trace), *options]
    done = _python([*traced, sys.executable, "-B"], root, report, _bytecode())
    if "ptrace" in done.stderr.decode():
        missing("a strace that may trace")
    text = trace.read_text(errors="replace")
    assert report.exists(), f"the child did not come to begin: {done.stderr.decode()} {text[-300:]}"
    said = report.read_text().splitlines()
    return Run(said, done.returncode != 0, text.count("(INJECTED)")), text


def _python(
    command: list[str], root: Path, report: Path, bytecode: Path
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*command, "-S", "-m", "tests.store.crash.sequence", str(root), str(report)],
        cwd=REPOSITORY,
        env={
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONPYCACHEPREFIX": str(bytecode),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


@functools.cache
def _bytecode() -> Path:
    """Return a filled bytecode cache of our own: another test that fills one changes the counts."""
    directory = Path(tempfile.mkdtemp(prefix="bytecode-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    done = _python([sys.executable], directory / "root", directory / "report", directory / "cache")
    assert done.returncode == 0, done.stderr.decode()
    return directory / "cache"


def _strace() -> str:
    return shutil.which("strace") or missing("strace")


def count(root: Path) -> Counts:
    """Return how often the sequence makes each call."""
    traced = ",".join(f"?{call}" for call in CALLS)
    start, begin, rest = run(root, f"--trace={traced},?access,?faccessat,?faccessat2")[1].partition(
        BEGIN
    )
    assert begin
    return Counts(Counter(_CALL.findall(start)), Counter(_CALL.findall(rest)))


def inject(root: Path, call: str, what: str, when: int, *, on: bool = False) -> Run:
    """Run the sequence with one of a call's occurrences met by `what`; if `on`, and all after."""
    injected = f"--inject={call}:{what}:when={when}{'+' if on else ''}"
    return run(root, f"--trace={call}", injected)[0]

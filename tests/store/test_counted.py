"""How many calls the file backend makes for an artifact: the number repeats, time does not.

Each system call lets another thread take the interpreter's lock, so each costs more than its own
time; each Python call takes some half a microsecond. A change that needs one more says so here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import store
from tests.calls import counted
from tests.servers import missing

REPOSITORY = Path(__file__).parents[2]
MOST = {"get": 5, "put of a new ref": 17, "put of another version": 20, "put again": 15}
MOST_PYTHON = {"get": 34, "put of a new ref": 50, "put of another version": 65, "put again": 58}
CHILD = """
import os, sys
import store

opened = store.open_url("file://" + sys.argv[1])

def put(ref, data):
    opened.put(ref, data, b"manifest", position=(1, 1))

def mark(what):
    try:
        os.stat("/mark " + what)
    except OSError:
        pass

for ref in ("a/b/warm", "a/b/warm", "a/b/other"):  # the directories and the locks are there then
    put(ref, b"0" * 4096)
opened.get("a/b/warm")
mark("get")
opened.get("a/b/other")
mark("put of a new ref")
put("a/b/new", b"1" * 4096)
mark("put of another version")
put("a/b/new", b"2" * 4096)
mark("put again")
put("a/b/new", b"2" * 4096)
mark("end")
"""
_CALL = re.compile(r"^(\w+)\((.*)", re.MULTILINE)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The system calls of each step, as strace has them."""
    directory = tmp_path_factory.mktemp("counted")
    trace = directory / "trace"
    strace = shutil.which("strace") or missing("strace")
    done = subprocess.run(
        [strace, "-qq", "-o", str(trace), sys.executable, "-c", CHILD, str(directory / "root")],
        cwd=REPOSITORY, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    if b"ptrace" in done.stderr:
        missing("a strace that may trace")
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[str]] = {}
    step = ""
    for call in _CALL.finditer(trace.read_text(errors="replace")):
        if mark := re.search('"/mark (.*?)"', call[2]):
            step = mark[1]
            found[step] = []
        elif step:
            found[step].append(call[0])
    return found


@pytest.mark.parametrize("step", MOST)
def test_a_step_makes_no_more_system_calls(calls: dict[str, list[str]], step: str) -> None:
    """No step makes more calls than it did."""
    memory = ("mmap", "munmap", "brk", "madvise", "mremap")
    made = [call for call in calls[step] if not call.startswith(memory)]
    assert len(made) <= MOST[step], "\n".join(made)


@pytest.fixture(scope="module")
def python_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many Python calls each step makes."""
    opened: Any = store.open_url(tmp_path_factory.mktemp("counted").as_uri())
    made = {}

    def put(ref: str, data: bytes) -> int:
        with counted() as calls:
            opened.put(ref, data, b"manifest", position=(1, 1))
        return calls.made

    for ref in ("a/b/warm", "a/b/warm"):  # the directories and the locks are there then
        put(ref, b"0" * 4096)
    with counted() as calls:
        opened.get("a/b/warm")
    made["get"] = calls.made
    made["put of a new ref"] = put("a/b/new", b"1" * 4096)
    made["put of another version"] = put("a/b/new", b"2" * 4096)
    made["put again"] = put("a/b/new", b"2" * 4096)
    return made


@pytest.mark.parametrize("step", MOST_PYTHON)
def test_a_step_makes_no_more_python_calls(python_calls: dict[str, int], step: str) -> None:
    """No step makes more Python calls than it did."""
    assert python_calls[step] <= MOST_PYTHON[step]

"""How many calls the file backend makes for an artifact: the number repeats, time does not.

Each system call lets another thread take the interpreter's lock, so each costs more than its own
time; each Python call takes some half a microsecond. A change that needs one more says so here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import store
from store.file import FileStore
from store.object.client import Bucket
from tests.calls import counted
from tests.servers import missing
from tests.store.buckets import open_bucket
from tests.store.object_server import S3Server

REPOSITORY = Path(__file__).parents[2]
MOST = {"get": 5, "put of a new ref": 17, "put of another version": 20, "put again": 15}
MOST_PYTHON = {"get": 34, "put of a new ref": 49, "put of another version": 65, "put again": 58}
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


class Tally:
    """Counts calls of functions while they are in the place of others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.made: dict[str, int] = {}

    def of(self, owner: Any, *names: str) -> None:
        """Count these from now on."""
        for name in names:
            self.made[name] = 0
            self._patch.setattr(owner, name, self._counting(name, getattr(owner, name)))

    def _counting(self, name: str, call: Any) -> Any:
        def count(*args: Any, **how: Any) -> Any:
            self.made[name] += 1
            return call(*args, **how)

        return count


MANY = [f"stacks/t/web/{number}" for number in range(1, 65)]


def test_many_refs_take_one_reading_of_their_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each the header of its record is read, once; of 32 the names are removed, and flushed,
    together.
    """
    files, tally = FileStore(str(tmp_path / "root")), Tally(monkeypatch)
    for ref in MANY:
        files.put(ref, b"data", b"m")
    tally.of(os, "scandir", "read", "fsync")
    assert len(list(files.versions_of(MANY))) == len(MANY)
    assert tally.made == {"scandir": 1, "read": len(MANY), "fsync": 0}
    tally.made.update(dict.fromkeys(tally.made, 0))
    assert list(files.delete_all(MANY, unused_s=1e-9)) == MANY
    assert tally.made == {"scandir": 2, "read": 0, "fsync": 2}


def test_many_refs_in_a_bucket_take_one_listing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one read of each that has one version."""
    bucket, tally = open_bucket(s3.new_bucket()), Tally(monkeypatch)
    for ref in (*MANY[:20], "stacks/t/we/1", "stacks/t/web/1/below", "z/1"):
        bucket.put(ref, b"data", b"m")
    tally.of(Bucket, "keys", "get")
    assert len(list(bucket.versions_of(MANY[1:20]))) == 19
    assert tally.made == {"keys": 1, "get": 19}

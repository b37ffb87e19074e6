"""`sidecar store verify`: all that is stored is read, by several processes, and damage is told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import store
from tests.cli.harness import TIMEOUT_S, Cli, install, on_terminal
from tests.proofs import sampled
from tests.sidecar.harness import eventually

LARGE = b"x" * 200_000

_FAKE = """
import os, signal, sys, time
import store
from store import Checked

class Store:
    name = "fake"
    capabilities = frozenset({store.Capability.VERIFY})
    def __init__(self, config): self.url = config.url
    def put(self, *_): pass
    get = exists = put
    def verify(self, prefix="", *, quarantine=False, part=(0, 1)):
        yield Checked(f"piece {part}", None, 10, None)
        yield from getattr(sys.modules[__name__], self.url[7:])(*part)

def away(number, count):
    if number == 1:
        raise store.Unavailable("the disk is away: mount it")
    yield Checked("fine", None, 1, None)

def killed(number, count):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    yield Checked("fine", None, 1, None)

def left(number, count):
    if number == 1:
        os._exit(0)
    yield Checked("fine", None, 1, None)

def broken(number, count):
    yield Checked("fine", None, 1, None)
    if number == 1:
        raise RuntimeError("a bug")

def endless(number, count):
    while True:
        time.sleep(0.01)
        yield Checked("fine", None, 1, None)

def stubborn(number, count):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.environ["COUNT_FILE"] + str(number), "ab").close()
    yield from endless(number, count)

def damaged(number, count):
    with open(os.environ["COUNT_FILE"] + str(number), "ab", buffering=0) as counter:
        for _ in range(1_000_000):
            counter.write(b".")
            yield Checked("w", "r", 1, "damaged: " + "x" * 1000)
"""


def _fleet(sidecar: Cli) -> store.Store:
    return store.open_url((sidecar.directory / "data-dir" / "fleet").as_uri())


def _objects(sidecar: Cli) -> list[Path]:
    objects = sidecar.directory / "data-dir" / "fleet" / "objects"
    return sorted(path for path in objects.rglob("*") if path.is_file())


def _damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"y" + path.read_bytes()[1:])


@pytest.fixture
def filled(sidecar: Cli) -> Cli:
    """A deployment whose fleet's store holds small artifacts and large ones."""
    fleet = _fleet(sidecar)
    for i in range(20):
        fleet.put(f"small/{i}", b"%d" % i, b"{}")
        fleet.put(f"large/{i}", b"%d" % i + LARGE, b"{}")
    return sidecar


@pytest.fixture
def fake(sidecar: Cli, tmp_path: Path) -> Cli:
    """A deployment with a third party's backend `fake`; the URL says how it behaves."""
    sidecar.env = install(tmp_path / "site", "fake", _FAKE)
    sidecar.env["COUNT_FILE"] = str(tmp_path / "count")
    return sidecar


@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_sound_store_is_exit_0(filled: Cli, processes: str) -> None:
    """Every piece is read once, however many processes share the work."""
    ran = filled("store", "verify", "--processes", processes)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("60 checked, ")
    assert ran.out.endswith(": all intact\n")
    summary = filled("store", "verify", "--json", "--processes", processes).object()["summary"]
    size_bytes = summary.pop("size_bytes")
    assert size_bytes > 20 * len(LARGE)
    assert summary == {
        "pieces": 60, "damaged": 0, "quarantined": 0, "foreign": 0, "complete": True
    }  # fmt: skip


def test_damage_is_told_and_moved_aside(filled: Cli) -> None:
    """Exit 1, where it is, what is wrong and where it went; putting it again heals it."""
    damaged = _objects(filled)[3]
    data = damaged.read_bytes()
    _damage(damaged)
    ran = filled("store", "verify", "--json")
    assert ran.code == 1
    *told, summary = ran.objects()
    assert summary["summary"]["damaged"] == summary["summary"]["quarantined"] == len(told)
    (one,) = [each for each in told if each["where"] == str(damaged)]
    assert one["error"]
    assert Path(one["quarantined"]).read_bytes() == b"y" + data[1:]
    assert not damaged.exists()
    ref = f"large/{data.split(b'x')[0].decode()}"
    assert filled("store", "get", ref, "--data", "/dev/null").code == 1
    _fleet(filled).put(ref, data, b"{}")
    assert filled("store", "verify").code == 0


def test_no_quarantine_leaves_it(filled: Cli) -> None:
    """Exit 1 again and again, and the file stays; a person is told in words, on one line."""
    damaged = _objects(filled)[0]
    _damage(damaged)
    for _ in range(2):
        ran = filled("store", "verify", "--no-quarantine")
        assert ran.code == 1
        line, summary = ran.out.splitlines()
        assert line.startswith("damaged")
        assert str(damaged) in line
        assert summary.endswith(": 1 damaged, 0 of them moved aside")
    assert damaged.exists()


def test_a_prefix_is_all_that_is_verified(filled: Cli) -> None:
    """What lies elsewhere does not count; where nothing lies is exit 1, not a clean result."""
    for path in _objects(filled):
        _damage(path)
    ran = filled("store", "verify", "small", "--json")
    assert (ran.code, ran.object()["summary"]["pieces"]) == (0, 20)
    assert filled("store", "verify", "small/3/").code == 0
    assert filled("store", "verify", "large/3").code == 1
    nowhere = filled("store", "verify", "nowhere")
    assert (nowhere.code, nowhere.raw) == (1, b"")
    assert "nothing lies at or under" in nowhere.err


NOT_VERIFIED = {
    "fake://away": "the disk is away: mount it", "fake://killed": "died (signal 9)",
    "fake://left": "died (exit code 0)", "fake://broken": "died (exit code 1)",
}  # fmt: skip


@pytest.mark.parametrize("url", sampled(NOT_VERIFIED, ["fake://killed"]))
def test_what_was_not_verified_is_no_clean_result(fake: Cli, url: str) -> None:
    """An outage, and a process that dies of whatever, are exit 4."""
    ran = fake.process("store", "verify", "--store", url, "--processes", "2", "--json")
    assert ran.code == 4
    assert NOT_VERIFIED[url] in ran.err
    assert [each for each in ran.objects() if each.get("summary", {}).get("complete")] == []


@pytest.mark.parametrize(
    "args",
    [
        ("--store", "memory:", "a//b"),
        ("--store", "nonsense"),
        ("--processes", "0"),
        ("--data-dir", "/nowhere"),
        ("--store", "plain:"),
    ],
)
def test_wrong_use_is_exit_2(sidecar: Cli, args: tuple[str, ...]) -> None:
    """And nothing is printed as if it were a result."""
    ran = sidecar("store", "verify", *args)
    assert (ran.code, ran.raw) == (2, b"")


@pytest.mark.parametrize("number", sampled([signal.SIGINT, signal.SIGTERM], [str(signal.SIGINT)]))
def test_stopping_is_clean(fake: Cli, number: signal.Signals) -> None:
    """Ctrl-C reaches the whole group: exit 3, what was found so far, no traceback, none left."""
    with subprocess.Popen(
        fake.argv("store", "verify", "--store", "fake://endless", "--processes", "3", "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=fake._environment(None),
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            children = _children(process.pid, 3)
            if number == signal.SIGINT:
                for child in children:
                    child.send_signal(number)
                assert psutil.wait_procs(children, timeout=2)[0] == []
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 3
    assert err == b"sidecar: stopped before the end\n"
    assert out == b"" or b'"complete": false' in out
    assert not any(child.is_running() for child in children)


@pytest.mark.proof
def test_a_process_that_ignores_its_end_is_killed(fake: Cli, tmp_path: Path) -> None:
    """A backend that takes SIGTERM for itself does not keep a stop from ending."""
    with fake.running(
        "store", "verify", "--store", "fake://stubborn", "--processes", "1"
    ) as process:
        (child,) = _children(process.pid, 1)
        eventually((tmp_path / "count0").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 3
    assert not child.is_running()


def test_the_processes_of_one_that_was_killed_end(fake: Cli) -> None:
    """Nobody is left who reads a store for nobody."""
    with fake.running(
        "store", "verify", "--store", "fake://endless", "--processes", "2"
    ) as process:
        children = _children(process.pid, 2)
        process.kill()
        process.wait()
        _gone, alive = psutil.wait_procs(children, timeout=TIMEOUT_S)
    assert alive == []


def _children(pid: int, count: int) -> list[psutil.Process]:
    """Return the processes that verify, once there are `count` of them."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = [
            child for child in psutil.Process(pid).children()
            if "spawn_main" in " ".join(_cmdline(child))
        ]  # fmt: skip
        if len(found) == count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {count} processes")


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        found: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return found


def test_a_slow_reader_holds_the_processes_back(fake: Cli, tmp_path: Path) -> None:
    """What is damaged waits in no queue that could grow."""
    with fake.running("store", "verify", "--store", "fake://damaged", "--processes", "2"):
        counters = [Path(f"{tmp_path}/count{number}") for number in range(2)]
        before: list[int] = []
        counts: list[int] = []
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            counts = [path.stat().st_size if path.exists() else 0 for path in counters]
            if all(counts) and counts == before:
                break
            before = counts
            time.sleep(0.5)
        assert all(0 < count < 2000 for count in counts)


def test_a_reader_that_leaves_ends_it(fake: Cli) -> None:
    """`| head` is told that not all was verified: exit 3."""
    ran = fake.shell("sidecar store verify --store fake://damaged --json | head -1")
    assert (ran.code, ran.err) == (3, "")


def test_progress_is_shown_on_a_terminal(filled: Cli) -> None:
    """Counts, bytes and rate; a pipe sees none of it."""
    code, shown = on_terminal(filled, "store", "verify", stream="stderr")
    assert code == 0
    assert "60 checked" in shown
    assert "iB/s, 0 damaged" in shown


def test_pieces_come_from_every_process(fake: Cli) -> None:
    """Each share is asked of one process, and none is left out."""
    found: list[Any] = fake.process(
        "store", "verify", "--store", "fake://away", "--processes", "1", "--json"
    ).objects()
    assert found[-1]["summary"]["pieces"] == 2

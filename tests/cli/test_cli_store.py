"""`sidecar store`, a store by hand."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from store import checksum_of
from tests.cli.harness import STREAM, Cli, install
from tests.proofs import sampled

BLOB = bytes(range(256)) * 5


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A file that is no text."""
    path = tmp_path / "blob"
    path.write_bytes(BLOB)
    return path


def _put(sidecar: Cli, ref: str, data: bytes) -> None:
    assert sidecar("store", "put", ref, "--data", "-", stdin=data).code == 0


def test_put_prints_checksums_and_get_returns_the_bytes(sidecar: Cli, blob: Path) -> None:
    """Any bytes survive, through files and through standard streams."""
    put = sidecar("store", "put", "a/b", "--data", blob, "--manifest", "-", stdin=b"{}").object()
    assert put == {
        "ref": "a/b", "checksum": checksum_of(BLOB), "manifest_checksum": checksum_of(b"{}"),
        "size_bytes": len(BLOB), "manifest_size_bytes": 2,
    }  # fmt: skip
    assert sidecar("store", "get", "a/b").raw == BLOB
    assert sidecar("store", "get", "a/b", "--manifest", "-").raw == b"{}"
    assert sidecar.process("store", "get", "a/b", "--data", "-").raw == BLOB


def test_get_writes_files_whole(sidecar: Cli, blob: Path, tmp_path: Path) -> None:
    """Both files are there, nothing else is left beside them, a file's mode is kept."""
    sidecar("store", "put", "r", "--data", blob)
    data, manifest = tmp_path / "out" / "d", tmp_path / "out" / "m"
    data.parent.mkdir()
    data.write_bytes(b"old")
    data.chmod(0o640)
    ran = sidecar("store", "get", "r", "--data", data, "--manifest", manifest)
    assert (ran.code, ran.raw) == (0, b"")
    assert (data.read_bytes(), manifest.read_bytes()) == (BLOB, b"")
    assert data.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in data.parent.iterdir()) == ["d", "m"]


def test_an_older_version_is_got_by_checksum(sidecar: Cli) -> None:
    """Pinned get and exists; the versions are listed, the newest first."""
    _put(sidecar, "r", b"one")
    _put(sidecar, "r", b"two")
    old = checksum_of(b"one")
    assert sidecar("store", "get", "r").raw == b"two"
    assert sidecar("store", "get", "r", "--checksum", old).raw == b"one"
    empty = checksum_of(b"")
    pinned = ("--checksum", old, "--manifest-checksum", empty)
    assert sidecar("store", "get", "r", *pinned).raw == b"one"
    assert sidecar("store", "exists", "r", "--checksum", old).code == 0
    listed = sidecar("store", "versions", "r", "--json").objects()
    assert [version["current"] for version in listed] == [True, False]
    assert listed[1]["checksum"] == old
    table = sidecar("store", "versions", "r").out.splitlines()
    assert old in table[2]
    assert "current" in table[1]


def test_what_is_absent_is_exit_1(sidecar: Cli) -> None:
    """Of get, exists and versions alike; exists says nothing about it."""
    _put(sidecar, "r", b"x")
    other = checksum_of(b"other")
    for args in (("get", "n"), ("get", "r", "--checksum", other), ("versions", "n")):
        ran = sidecar("store", *args)
        assert (ran.code, ran.raw) == (1, b"")
        assert len(ran.err.splitlines()) == 1
    absent = sidecar("store", "exists", "n")
    assert (absent.code, absent.raw, absent.err) == (1, b"", "")
    assert sidecar("store", "exists", "n", "--json").object() == {"ref": "n", "exists": False}
    assert sidecar("store", "exists", "r").code == 0


def test_ls_lists_what_lies_under_a_prefix(sidecar: Cli) -> None:
    """A prefix is whole segments, a slash at its end does no harm, nothing there is exit 1."""
    for ref in ("a/b", "a/c", "ab", "a"):
        _put(sidecar, ref, b"x")
    assert set(sidecar("store", "ls").out.split()) == {"a/b", "a/c", "ab", "a"}
    assert set(sidecar("store", "ls", "a").out.split()) == {"a", "a/b", "a/c"}
    assert set(sidecar("store", "ls", "a/").out.split()) == {"a", "a/b", "a/c"}
    assert {found["ref"] for found in sidecar("store", "ls", "ab", "--json").objects()} == {"ab"}
    assert sidecar("store", "ls", "zz").code == 1


def test_the_store_is_chosen_by_url(sidecar: Cli, tmp_path: Path) -> None:
    """--store, else the fleet's, by option or environment; else the data directory's."""
    one, two = (tmp_path / "one").as_uri(), (tmp_path / "two").as_uri()
    sidecar("store", "put", "r", "--data", "-", "--store", one, stdin=b"1")
    sidecar("store", "put", "r", "--data", "-", "--fleet-store", two, stdin=b"2")
    assert sidecar("store", "get", "r", env={"SIDECAR_STORE": one}).raw == b"1"
    assert sidecar("store", "get", "r", env={"SIDECAR_FLEET_STORE": two}).raw == b"2"
    assert sidecar("store", "get", "r").code == 2


def test_reading_makes_no_store(sidecar: Cli) -> None:
    """Where there is none, exit 2 and the fix, and still none."""
    for args in (("get", "r"), ("exists", "r"), ("ls",), ("versions", "r")):
        ran = sidecar("store", *args)
        assert ran.code == 2
        assert "there is no store at" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("put", "a//b", "--data", "-"),
        ("put", "../x", "--data", "-"),
        ("put", "r", "--data", "/nowhere/x"),
        ("put", "r", "--data", "-", "--manifest", "-"),
        ("put", "r", "--data", "-", "--store", "ftp://x"),
        ("get", "r", "--data", "-", "--manifest", "-"),
        ("get", "r", "--checksum", "sha256:beef"),
        ("get", "r", "--manifest-checksum", checksum_of(b"")),
        ("get", "r", "--data", "/nowhere/x"),
        ("get", "r\n", "--data", "-"),
        ("ls", "/abs"),
        ("ls", "--store", "nonsense"),
    ],
)
def test_wrong_use_is_exit_2(sidecar: Cli, args: tuple[str, ...]) -> None:
    """One line that says how to fix it."""
    _put(sidecar, "r", b"x")
    ran = sidecar("store", *args)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1


def test_a_backend_without_a_capability_is_told(
    sidecar: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third party's plain backend can put, get and exist; for the rest exit 2 and why."""
    source = (
        "class Store:\n"
        "    name = 'plain'\n"
        "    def __init__(self, config): pass\n"
        "    def put(self, ref, data, manifest): pass\n"
        "    def get(self, ref): return type('A', (), {'data': b'd', 'manifest': b''})\n"
        "    def exists(self, ref): return True\n"
    )
    env = install(tmp_path / "site", "plain", source) | {"SIDECAR_STORE": "plain://x"}
    assert sidecar.process("store", "get", "r", env=env).raw == b"d"
    _known_here(monkeypatch, "plain", env)
    for args in (
        ("ls",),
        ("versions", "r"),
        ("gc",),
        ("verify",),
        ("get", "r", "--checksum", checksum_of(b"d")),
    ):
        ran = sidecar("store", *args, env=env)
        assert ran.code == 2
        assert "does not declare" in ran.err


def _known_here(monkeypatch: pytest.MonkeyPatch, name: str, env: dict[str, str]) -> None:
    """Let this process know an installed backend as well, for the length of the test."""
    monkeypatch.syspath_prepend(env["PYTHONPATH"])
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that it is forgotten afterwards
    del sys.modules[name]


def test_a_store_out_of_reach_is_exit_4(
    sidecar: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is neither absence nor wrong usage; nothing is appended after a failed Put."""
    source = (
        "import store\n"
        "class Store:\n"
        "    name = 'plain'\n"
        "    def __init__(self, config): pass\n"
        "    def put(self, *_): raise store.Unavailable('the disk is away: mount it')\n"
        "    get = exists = put\n"
    )
    env = install(tmp_path / "site", "plain", source) | {
        "SIDECAR_STORE": "plain://x",
        "SIDECAR_SOURCE_STORE": "plain://x",
    }
    _known_here(monkeypatch, "plain", env)
    emit = ("emit", "--type", "key.changed", "--ref", "r", "--data", "-")
    for args in (("store", "get", "r"), ("store", "exists", "r"), emit):
        ran = sidecar(*args, env=env)
        assert (ran.code, ran.err) == (4, "sidecar: the disk is away: mount it\n")
    assert sidecar.client.xlen("control:events") == 0


def test_what_is_corrupt_is_exit_1(sidecar: Cli, tmp_path: Path) -> None:
    """The line says so, and no byte of it is printed."""
    _put(sidecar, "r", b"x" * 200_000)
    (blob,) = (path for path in (tmp_path / "data-dir/fleet/objects").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"y" * 200_000)
    ran = sidecar("store", "get", "r")
    assert (ran.code, ran.raw) == (1, b"")


def test_damage_of_what_is_large_is_told_at_its_end(sidecar: Cli, tmp_path: Path) -> None:
    """Standard output has had the sound start of it; a file is not made."""
    data = bytes(range(256)) * 20_000
    _put(sidecar, "r", data)
    (blob,) = (path for path in (tmp_path / "data-dir/fleet/objects").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(data[:-1] + b"\0")
    ran = sidecar("store", "get", "r")
    assert ran.code == 1
    assert 0 < len(ran.raw) < len(data)
    assert data.startswith(ran.raw)
    assert f"do not use the {len(ran.raw):,} bytes" in ran.err
    manifest = tmp_path / "m"
    ran = sidecar("store", "get", "r", "--data", tmp_path / "d", "--manifest", manifest)
    assert ran.code == 1
    assert not (tmp_path / "d").exists()
    assert not manifest.exists()


def test_a_pipe_carries_any_size(sidecar: Cli) -> None:
    """In and out, what is small and what is large; of what is large it is a real pipe."""
    for data in (b"", b"small", os.urandom(3_000_000)):
        run = sidecar.process if len(data) > 1_000_000 else sidecar
        assert run("store", "put", "r", "--data", "-", stdin=data).object() == {
            "ref": "r", "checksum": checksum_of(data), "manifest_checksum": checksum_of(b""),
            "size_bytes": len(data), "manifest_size_bytes": 0,
        }  # fmt: skip
        assert run("store", "get", "r").raw == data


def _peak_kib(sidecar: Cli, *args: str | Path, stdin: Path | None = None) -> int:
    """Run a command to its end, and return the most memory that it had."""
    with (
        open(stdin or os.devnull, "rb") as given,
        subprocess.Popen(
            sidecar.argv(*args), stdin=given, stdout=subprocess.DEVNULL,
            env=sidecar._environment(None),
        ) as process,
    ):  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


@pytest.mark.parametrize("way", sampled(["file", "pipe", "emit"], ["pipe"]))
def test_memory_does_not_grow_with_the_artifact(sidecar: Cli, tmp_path: Path, way: str) -> None:
    """Of put, get and emit alike."""
    put = ("emit", "--type", "key.changed") if way == "emit" else ("store", "put")
    store = (tmp_path / "s").as_uri()
    where = ("--source-store", store) if way == "emit" else ("--store", store)
    named = "-" if way == "pipe" else str(tmp_path / "big")
    peaks = []
    for size in (1_000_000, 60_000_000):
        with open(tmp_path / "big", "wb") as file:
            file.truncate(size)
        ref = ("--ref", "r") if way == "emit" else ("r",)
        get = ("store", "get", "r", "--store", store)
        peaks.append(max(
            _peak_kib(sidecar, *put, *ref, "--data", named, *where, stdin=tmp_path / "big"),
            _peak_kib(sidecar, *get, *(() if way == "pipe" else ("--data", tmp_path / "out"))),
        ))  # fmt: skip
        assert way == "pipe" or (tmp_path / "out").stat().st_size == size
    assert peaks[1] < peaks[0] + 40_000


def test_binary_is_kept_from_a_terminal(sidecar: Cli, blob: Path) -> None:
    """Exit 2 and the fix, unless `--data -` asks for it; text is printed."""
    sidecar("store", "put", "bin", "--data", blob)
    _put(sidecar, "text", b"hello\n")
    refused = _on_terminal(sidecar, "store", "get", "bin")
    assert refused == (2, b"")
    assert _on_terminal(sidecar, "store", "get", "text") == (0, b"hello\r\n")
    # The first chunk ends within a character.
    _put(sidecar, "long", b"x" * ((1 << 20) - 1) + "\u00e9\n".encode())
    assert _on_terminal(sidecar, "store", "get", "long")[0] == 0
    assert _on_terminal(sidecar, "store", "get", "bin", "--data", "-")[0] == 0


def test_tables_have_colour_on_a_terminal_only(sidecar: Cli) -> None:
    """A pipe sees plain text, and a terminal no row that is broken in two."""
    _put(sidecar, "r", b"x")
    code, shown = _on_terminal(sidecar, "store", "versions", "r")
    assert code == 0
    assert b"\x1b[" in shown
    assert len(shown.splitlines()) == 2
    assert b"\x1b" not in sidecar("store", "versions", "r").raw


def test_ls_into_head_ends_quietly(sidecar: Cli) -> None:
    """A reader that leaves is no error."""
    for i in range(30):
        _put(sidecar, f"r/{i}/" + "x" * 200, b"x")
    ran = sidecar.shell("sidecar store ls | head -1")
    assert (ran.code, ran.err) == (0, "")


def _on_terminal(sidecar: Cli, *args: str) -> tuple[int, bytes]:
    """Run a command with a terminal as its standard output."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"SIDECAR_DATA_DIR": str(sidecar.directory / "data-dir"), "TERM": "xterm"}
    with subprocess.Popen(
        sidecar.argv(*args), stdout=theirs, stderr=subprocess.PIPE, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:
            pass  # how Linux says that the other end is closed
        process.communicate(timeout=90)
    os.close(ours)
    return process.returncode, shown


def test_a_ref_held_by_an_entry_ahead_of_time_is_let_go_by_hand(
    sidecar: Cli, tmp_path: Path
) -> None:
    """As docs/operating.md has it; what comes next moves the ref on."""
    streams = [STREAM, "control:beside"]
    old = sidecar.bring("old", "r", b"old") | {"event_id": "held"}
    ahead_ms = int(time.time() * 1000) + 20 * 3_600_000
    sidecar.client.xadd(streams[1], {"event": json.dumps(old)}, id=f"{ahead_ms}-0")
    sidecar.work(streams=streams)
    new = sidecar.bring("new", "r", b"new")
    sidecar.work(streams=streams)
    assert sidecar("store", "get", "r").raw == b"old"
    data, manifest = tmp_path / "d", tmp_path / "m"
    files: list[str | Path] = ["--data", data, "--manifest", manifest]
    assert sidecar("store", "get", "r", "--checksum", new["checksum"], *files).code == 0
    assert sidecar("store", "put", "r", *files).code == 0
    assert sidecar("store", "get", "r").raw == b"new"
    sidecar.bring("newer", "r", b"newer")
    sidecar.work(streams=streams)
    assert sidecar("store", "get", "r").raw == b"newer"

"""`examples/demo` as a person or a script starts it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

import store
from examples.demo import story
from examples.demo.claims import Claim
from examples.demo.stage import Stage
from examples.demo.story import Demo
from sidecar.feed import SidecarError
from sidecar.redis.client import connect
from sidecar.redis.embedded import EmbeddedServer
from tests.mutants.breaks import BREAKS
from tests.proofs import sampled

ROOT = Path(__file__).parents[2]


def start(tmp_path: Path, *args: str, root: Path = ROOT) -> subprocess.Popen[str]:
    """Start the demo with a temporary directory of its own, and a setting it must not heed."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *args],
        cwd=root,
        env=os.environ | {"TMPDIR": str(temporary), "SIDECAR_STREAM": "not:this:one"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(directory: Path) -> list[str]:
    """Processes that were started with this directory in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(directory) in word for word in words):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def tables(path: Path) -> dict[str, list[Any]]:
    """All rows of a database, but for what a node keeps for itself."""
    with closing(sqlite3.connect(path)) as db:
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(db.execute(f"SELECT * FROM {name}").fetchall())
            for name in names
            if name not in ("sqlite_sequence", "fleet_state") and not name.startswith("sidecar_")
        }


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_all_of_it_holds(tmp_path: Path) -> None:
    """With --json every line is an object, every claim holds, and the kept directory agrees."""
    kept = tmp_path / "kept"
    demo = start(tmp_path, "--json", "--keep", str(kept))
    out, err = demo.communicate()
    steps = [json.loads(line) for line in out.splitlines()]
    assert demo.returncode == 0, err + out
    assert processes_of(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    (summary,) = (step for step in steps if step["step"] == "summary")
    assert (summary["held"], summary["failed"]) == (True, [])
    claims = [step for step in steps if step["step"] == "claim"]
    assert len({claim["claim"] for claim in claims}) == len(claims) == 12
    assert all(claim["held"] for claim in claims)
    assert any(step.get("in_hand", 0) > 0 for step in steps)
    _check_streams(kept, claims[0]["text"])
    now = tables(kept / "control-plane.db")
    assert tables(kept / "fleet.db") == now == tables(kept / "restored.db")
    assert sum(map(len, now.values())) > 4000


def _check_streams(kept: Path, found: str) -> None:
    """Recompute from the kept server and store what the demo said."""
    with closing(EmbeddedServer(kept)) as server, connect(server.url) as client:
        control: Any = client.xrange("control:events")
        notified: Any = client.xrange("control:notifications")
        letters: Any = client.xrange("{control:notifications}:dead")
    assert f"{len(control)} events sent = {len(notified)} notifications" in found
    assert len(control) == len(notified) + len(letters) + 1
    assert Counter(fields[b"reason"] for _, fields in letters) == {
        b"invalid_event": 1, b"id_conflict": 1,
    }  # fmt: skip
    events = [json.loads(fields[b"event"]) for _, fields in notified]
    assert len({event["event_id"] for event in events}) == len(events)
    fleet = store.open_url((kept / "fleet").as_uri())
    assert isinstance(fleet, store.VersionedStore)
    for event in events:
        data = fleet.get(event["artifact_ref"], checksum=event["checksum"]).data
        assert "sha256:" + hashlib.sha256(data).hexdigest() == event["checksum"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_plain_and_nothing_left(tmp_path: Path) -> None:
    """In a pipe it prints plain lines; its temporary directory and its processes are gone."""
    demo = start(tmp_path)
    out, err = demo.communicate()
    assert demo.returncode == 0, err + out
    assert "\x1b" not in out
    assert "FAILED" not in out
    assert "12 of 12 held" in out
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_of(tmp_path) == []


AT = {signal.SIGINT: "Changes come", signal.SIGTERM: "snapshot 3, while no worker runs"}


@pytest.mark.parametrize("number", sampled(AT, [str(signal.SIGINT)]))
def test_interrupted_it_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle ends the worker, the controller, the server and the directory."""
    demo = start(tmp_path, "--json")
    assert demo.stdout
    assert any(AT[number] in line for line in demo.stdout)
    demo.send_signal(number)
    _, err = demo.communicate()
    assert demo.returncode == 130, err
    assert "interrupted" in err
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_of(tmp_path) == []


class Recorder(Stage):
    """A stage that remembers the claims."""

    claims: Sequence[Claim] = ()

    def end(self, claims: Sequence[Claim], text: str, looks: Sequence[str]) -> None:
        """Remember."""
        super().end(claims, text, looks)
        self.claims = claims


class Damaged(Demo):
    """A demo in which someone removes an artifact, publishes by hand and edits a row."""

    def _rebuild(self) -> list[Claim]:
        with closing(sqlite3.connect(self._fleet_db)) as db, db:
            db.execute("UPDATE tenants SET plan = 'free' WHERE tenant_id = 't_01'")
        return super()._rebuild()

    def _judge(self) -> list[Claim]:
        for path in (self._dir / "fleet" / "refs" / "rows" / "keys").iterdir():
            path.unlink()
        entries: Any = self._redis.xrange("control:notifications", count=1)
        self._redis.xadd("control:notifications", entries[0][1])
        return super()._judge()


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_damage_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was planted makes just the claims fail that are about it; it is told in plain lines."""
    monkeypatch.setattr(story, "CHANGES", 120)
    stage = Recorder(as_json=False)
    assert not Damaged(stage, tmp_path, seed=3, kept=True).play()
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "6 of 12 held" in told
    assert {claim.name for claim in stage.claims if not claim.held} == {
        "nothing lost",
        "nothing twice",
        "each tenant's order kept",
        "control_version is the entry ID",
        "every pinned artifact there",
        "the live fleet = source now",
    }


@pytest.mark.proof
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("publish before the put", "NotFound"),
        pytest.param(
            "no deduplication", "FAILED  sent twice, published once", marks=pytest.mark.slow
        ),
    ],
)
def test_a_broken_product_fails(tmp_path: Path, name: str, said: str) -> None:
    """With a product that breaks a guarantee the demo fails, and says at what."""
    copy = tmp_path / "copy"
    for part in ("sidecar", "store", "examples"):
        shutil.copytree(ROOT / part, copy / part)
    (broken,) = (one for one in BREAKS if one.name == name)
    path = copy / broken.path
    path.write_text(path.read_text().replace(broken.old, broken.new))
    demo = start(tmp_path, root=copy)
    out, err = demo.communicate()
    assert demo.returncode == 1, err + out
    assert said in out + err
    assert "left to be looked at" in err


class Silent(Demo):
    """A demo whose worker freezes for good when the changes come, and then has little patience."""

    def _change(self) -> None:
        self._worker.signal(signal.SIGSTOP)
        with mock.patch.object(story, "PATIENCE_S", 4.0):
            super()._change()


def test_it_gives_up_when_nothing_moves(tmp_path: Path) -> None:
    """It waits while anything moves; when nothing does it ends, and says what it waited for."""
    with pytest.raises(SidecarError, match="nothing has moved for 4 s, waiting for the fleet to"):
        Silent(Stage(as_json=True), tmp_path, seed=1, kept=True).play()
    assert processes_of(tmp_path) == []


def test_keep_wants_an_empty_directory(tmp_path: Path) -> None:
    """A directory with something in it is refused, with exit code 2, and left alone."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    demo = start(tmp_path, "--keep", str(full))
    _, err = demo.communicate()
    assert demo.returncode == 2
    assert "something is there" in err
    assert [path.name for path in full.iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_closing_hints_work_when_they_are_pasted(tmp_path: Path) -> None:
    """All in one go, without a pause: the worker serves, and each command finds it."""
    kept = tmp_path / "kept it"
    kept.mkdir()
    with closing(sqlite3.connect(kept / "fleet.db")) as db:
        db.execute("CREATE TABLE tenants (id)")
    run, until, *others = story._looks(kept)
    emit = until.partition("status")[0].removeprefix("until ") + "emit --type key.changed"
    emit += f" --tenant t --data-dir '{kept}'"  # the demo has left events there
    script = "\n".join(["trap 'kill $(jobs -p)' EXIT", run, until, emit, *others])
    ran = subprocess.run(
        ["bash", "-e", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "G1 to G4 hold" in ran.stdout
    assert "tenants" in ran.stdout


def test_without_a_kept_directory_the_hints_are_commands_too() -> None:
    """What is suggested then is there: a target of the Makefile, and the command beside Python."""
    make, run = story._looks(None)
    assert make.startswith("make demo ")
    assert Path(run.removesuffix(" run")).samefile(Path(sys.executable).with_name("sidecar"))

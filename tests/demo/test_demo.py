"""`sidecar demo` as a person or a script starts it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import store
from sidecar.cli import app
from sidecar.demo import theatre
from sidecar.demo.evidence import Claim
from sidecar.demo.stage import JsonStage
from sidecar.demo.story import Demo
from sidecar.embedded import EmbeddedServer
from sidecar.redis.client import connect


def start(tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    """Start the demo with a temporary directory of its own, and a setting it must not heed."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "sidecar", "demo", *args],
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
            if name not in ("outbox", "fleet_state", "fleet_applied")
        }


@pytest.mark.timeout(300)
def test_all_of_it_holds(tmp_path: Path) -> None:
    """With --json every line is an object, every claim holds, and the kept directory agrees."""
    kept = tmp_path / "kept"
    demo = start(tmp_path, "--json", "--keep", str(kept))
    out, err = demo.communicate()
    steps = [json.loads(line) for line in out.splitlines()]
    assert demo.returncode == 0, err + out
    assert processes_of(tmp_path) == []
    assert steps[-1]["step"] == "summary"
    assert steps[-1]["held"]
    claims = {step["claim"]: step for step in steps if step["step"] == "claim"}
    assert len(claims) == steps[-1]["claims"] == 12
    assert all(claim["held"] for claim in claims.values())
    killed = next(step for step in steps if step["step"] == "killed")
    assert killed["in_hand"] > 0
    _check_streams(kept, claims["nothing lost"])
    now = tables(kept / "control-plane.db")
    assert tables(kept / "fleet.db") == now == tables(kept / "restored.db")
    assert sum(map(len, now.values())) > 4000


def _check_streams(kept: Path, told: dict[str, Any]) -> None:
    """Recompute from the kept server and store what the demo told."""
    with closing(EmbeddedServer(kept)) as server, connect(server.url) as client:
        control: Any = client.xrange("control:events")
        notified: Any = client.xrange("control:notifications")
        letters: Any = client.xrange("{control:notifications}:dead")
    assert (told["entries"], told["notifications"]) == (len(control), len(notified))
    assert len(control) == len(notified) + len(letters) + 1
    assert Counter(fields[b"reason"] for _, fields in letters) == {
        b"invalid_event": 1, b"id_conflict": 1,
    }  # fmt: skip
    events = [json.loads(fields[b"event"]) for _, fields in notified]
    assert len({event["event_id"] for event in events}) == len(events)
    fleet = store.open_url((kept / "fleet").as_uri())
    assert isinstance(fleet, store.VersionedStore)
    for event in events:
        if ref := event.get("artifact_ref"):
            data = fleet.get(ref, checksum=event["checksum"]).data
            assert "sha256:" + hashlib.sha256(data).hexdigest() == event["checksum"]


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle ends the worker, the controller, the server and the directory."""
    demo = start(tmp_path, "--json")
    assert demo.stdout
    for line in demo.stdout:
        if json.loads(line)["step"] == "bootstrapped":
            break
    time.sleep(0.3)  # into the changes
    demo.send_signal(number)
    _, err = demo.communicate()
    assert demo.returncode == 130, err
    assert "interrupted" in err
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_of(tmp_path) == []


class Recorder(JsonStage):
    """A stage that prints nothing and remembers the claims."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: Sequence[Claim] = ()

    def end(self, claims: Sequence[Claim], closing: str, looks: object) -> None:  # noqa: ARG002
        """Remember."""
        self.claims = claims

    def _line(self, **fields: Any) -> None:
        pass


class Damaged(Demo):
    """A demo in which someone removes an artifact, publishes by hand and edits a row."""

    def _rebuild(self) -> None:
        with closing(sqlite3.connect(self._fleet_db)) as db, db:
            db.execute("UPDATE tenants SET plan = 'free' WHERE tenant_id = 't_01'")
        super()._rebuild()

    def _read_from_outside(self) -> None:
        for path in (self._dir / "fleet" / "refs" / "rows" / "tenants").iterdir():
            path.unlink()
        entries: Any = self._redis.xrange("control:notifications", count=1)
        self._redis.xadd("control:notifications", entries[0][1])
        super()._read_from_outside()


@pytest.mark.timeout(300)
def test_damage_is_told(tmp_path: Path) -> None:
    """What was planted makes just the claims fail that are about it."""
    stage = Recorder()
    assert not Damaged(stage, tmp_path, seed=3, kept=True).play()
    assert {claim.name for claim in stage.claims if not claim.held} == {
        "nothing lost",
        "nothing twice",
        "each tenant's order kept",
        "control_version is the entry ID",
        "every pinned artifact there",
        "the live fleet = source now",
    }


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 1)])
def test_exit_code(monkeypatch: pytest.MonkeyPatch, *, held: bool, code: int) -> None:
    """A claim that does not hold is exit code 1."""
    monkeypatch.setattr(theatre, "run", lambda *_: held)
    assert CliRunner().invoke(app, ["demo"]).exit_code == code


def test_keep_wants_an_empty_directory(tmp_path: Path) -> None:
    """A directory with something in it is refused, with exit code 2, and left alone."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    demo = start(tmp_path, "--keep", str(full))
    _, err = demo.communicate()
    assert demo.returncode == 2
    assert "mine" in err
    assert [path.name for path in full.iterdir()] == ["mine"]

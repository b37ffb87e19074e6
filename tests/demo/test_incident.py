"""`examples/incident`: the incident tells its three causes to who asks as the guide does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.cli.harness import Cli

MAKE = Path(__file__).parents[2] / "examples" / "incident" / "make.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the example makes."""
    path = tmp_path_factory.mktemp("incident") / "incident.zip"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    made = subprocess.run(
        [sys.executable, str(MAKE), str(path)],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return path


def told(bundle: Path, *args: str) -> list[dict[str, Any]]:
    """Return what a command prints of the bundle, as objects."""
    ran = Cli("", bundle.parent, mock.Mock())(*args, "--bundle", bundle, "--json")
    assert ran.code == 0, ran.err
    return ran.objects()


def test_a_bundle_that_is_there_is_not_played_for(tmp_path: Path) -> None:
    """It is said at once, with the fix, and the file stays."""
    path = tmp_path / "incident.zip"
    path.write_text("mine")
    made = subprocess.run(
        [sys.executable, str(MAKE), str(path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (made.returncode, "there already: remove it" in made.stderr) == (1, True)
    assert path.read_text() == "mine"


@pytest.mark.proof
def test_version_7_died_twice_and_was_overtaken(bundle: Path) -> None:
    """First by a reused id, then behind the halt by a rewritten ref; version 8 came after."""
    shown = told(bundle, "replay", "show", "--tenant", "t_acme", "--stack", "web")[1:]
    events = [one for one in shown if "end" in one]
    late = [(one["version"], one["end"], one["reason"]) for one in events][-4:]
    assert late == [
        (6, "published", None), (7, "dead", "id_conflict"), (7, "dead", "checksum_mismatch"),
        (8, "published", None),
    ]  # fmt: skip
    reused = told(bundle, "trace", "t_acme-build-3")
    assert [(one["version"], one["end"]) for one in reused] == [(3, "published"), (7, "dead")]
    (again,) = told(bundle, "trace", "t_acme-build-7-again")
    hops = [hop["hop"] for hop in again["hops"]]
    assert hops == ["made", "entry", "halt", "put", "dead letter", "overtaken"]
    assert "25 dead letters in a row" in again["hops"][2]["detail"]
    assert "ticket 4711" in again["hops"][2]["detail"]
    assert "keeps only the newest of each ref" in again["detail"]


def test_the_halt_was_another_producers(bundle: Path) -> None:
    """A row of letters that name no tenant, and then nothing for anyone while events waited."""
    shown = told(bundle, "replay", "show")[1:]
    broken = [one for one in shown if one.get("end") == "dead" and not one["tenant_id"]]
    (halt,) = [one for one in shown if "halted" in one]
    assert (halt["by"], halt["resumed_why"]) == (
        "sidecar",
        "krill's letters are known, ticket 4711",
    )
    assert len(broken) == 25
    assert {one["reason"] for one in broken} == {"invalid_event"}
    path = bundle.with_name("report.html")
    assert told(bundle, "replay", "report", str(path))[-1]["events"] > 400
    assert path.stat().st_size > 50_000


def test_today_the_same_would_happen(bundle: Path) -> None:
    """The recorded entries end the same way in today's code, but for what lay in the moment."""
    found = told(bundle, "replay", "check")[-1]
    assert found["divergence"] is None
    assert found["unjudged"] == 1

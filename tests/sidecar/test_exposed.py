"""Directories and files of a worker that every user of its host may write to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from sidecar.worker.exposed import exposed, warn_of_writers
from sidecar.worker.settings import build


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory that other users get to, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def told(data_dir: Path, **environment: str) -> list[Path]:
    """Return what is told of a worker with this data directory."""
    return [one.path for one in exposed(build(data_dir=data_dir), environment)]


@pytest.mark.parametrize(
    ("mode", "is_told"), [(0o755, False), (0o775, False), (0o700, False), (0o777, True),
                          (0o1777, True), (0o702, True)],
)  # fmt: skip
def test_what_all_may_write_to_is_told(above: Path, mode: int, *, is_told: bool) -> None:
    """Of a data directory; a group's is shared on purpose."""
    (above / "data").mkdir()
    (above / "data").chmod(mode)
    assert told(above / "data") == ([above / "data"] if is_told else [])


def test_what_is_above_counts(above: Path) -> None:
    """Who may write there may put another directory in its place; not where it is sticky."""
    (above / "data").mkdir()
    above.chmod(0o777)
    assert told(above / "data") == [above]
    above.chmod(0o1777)
    assert told(above / "data") == []


def test_what_nobody_gets_to_is_safe(above: Path) -> None:
    """A directory above it is closed to others; and what is not there is made for its owner."""
    (above / "data").mkdir()
    (above / "data").chmod(0o777)
    above.chmod(0o700)
    assert told(above / "data") == []
    assert told(above / "none") == []


def test_stores_and_secrets_are_told_each_by_its_name(above: Path) -> None:
    """The line says what named it, and the fix."""
    for name in ("source", "fleet", "password"):
        path = above / name
        path.touch() if name == "password" else path.mkdir()
        path.chmod(0o777)
    settings = build(
        redis="redis://h:1", source_store=f"file://{above}/source",
        fleet_store=f"chassis-file://{above}/fleet",
    )  # fmt: skip
    environment = {"SIDECAR_REDIS_FILE": str(above / "password")}
    named = {one.named: one for one in exposed(settings, environment)}
    assert list(named) == ["--source-store", "--fleet-store", "SIDECAR_REDIS_FILE"]
    assert named["--fleet-store"].fix == f"chmod o-w {above}/fleet"
    with capture_logs() as lines:
        warn_of_writers(settings, environment, structlog.get_logger())
    assert lines[2]["detail"].endswith(f"(SIDECAR_REDIS_FILE); chmod o-w {above}/password")


def test_a_volume_of_a_pod_is_its_own(above: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emptyDir is open to all, and nobody else is there."""
    (above / "data").mkdir()
    (above / "data").chmod(0o777)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == above / "data")
    assert told(above / "data", KUBERNETES_SERVICE_HOST="10.0.0.1") == []
    assert told(above / "data") == [above / "data"]

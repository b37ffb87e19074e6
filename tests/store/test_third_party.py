"""The backend in docs/backend.md, installed as a third party's package would be."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import missing
from tests.store.crash.memory import in_memory

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "backend.md"
_FILE = re.compile(r"^`([\w.]+)` [^\n]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(
    *command: str | Path, cwd: Path, path: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run Python on what is installed in `path` besides this source tree."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = [str(each) for each in (path, ROOT) if each is not None]
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=own | {"PYTHONPATH": os.pathsep.join(paths), "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        timeout=250,
        check=False,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page's files into a directory."""
    directory = tmp_path_factory.mktemp("package")
    for name, content in _FILE.findall(PAGE.read_text()):
        (directory / name).write_text(content)
    return directory


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the page's package into a directory of its own, without any index."""
    for needed in ("pip", "hatchling"):
        if importlib.util.find_spec(needed) is None:
            missing(needed)
    site = tmp_path_factory.mktemp("site")
    installed = run(
        "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index",
        "--no-build-isolation", "--no-deps", "--no-compile", "--target", site, package,
        cwd=package,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr.decode()
    return site


def test_the_page_has_the_whole_package(package: Path) -> None:
    """The page shows three files, and what is to be written is as short as it says."""
    assert sorted(each.name for each in package.iterdir() if each.is_file()) == [
        "artifact_sqlite.py", "pyproject.toml", "test_artifact_sqlite.py",
    ]  # fmt: skip
    assert len((package / "artifact_sqlite.py").read_text().splitlines()) <= 75
    assert len((package / "test_artifact_sqlite.py").read_text().splitlines()) <= 25


def test_opens_by_name_and_by_url(site: Path, tmp_path: Path) -> None:
    """Once installed it opens by its name and by its URL, in any process, and shares its file."""
    code = """
import sys, store
named = store.open("sqlite", store.StoreConfig(file_dir=sys.argv[1]))
named.put("stacks/t_1/web/7", b"data", b"manifest")
by_url = store.open_url(f"sqlite://{sys.argv[1]}/artifacts.db")
assert by_url.get("stacks/t_1/web/7") == (b"data", b"manifest")
assert by_url.name == "sqlite"
assert store.capabilities(by_url) == frozenset()
try:
    store.open("sqlite")
except store.ConfigError as error:
    print(error)
"""
    done = run("-c", code, str(tmp_path), cwd=tmp_path, path=site)
    assert done.returncode == 0, done.stderr.decode()
    assert b"sqlite:///absolute/file" in done.stdout


def test_the_command_line_takes_it(site: Path, tmp_path: Path) -> None:
    """`sidecar store` puts into it and gets from it, by URL."""
    (tmp_path / "data").write_bytes(b"\x00data\xff")
    url = f"sqlite://{tmp_path}/a%20b.db"
    put = run(
        "-m", "sidecar", "store", "put", "a/b", "--data", "data", "--store", url,
        cwd=tmp_path, path=site,
    )  # fmt: skip
    assert put.returncode == 0, put.stderr.decode()
    assert (tmp_path / "a b.db").exists()
    got = run("-m", "sidecar", "store", "get", "a/b", "--store", url, cwd=tmp_path, path=site)
    assert (got.returncode, got.stdout) == (0, b"\x00data\xff")
    absent = run("-m", "sidecar", "store", "get", "none", "--store", url, cwd=tmp_path, path=site)
    assert absent.returncode == 1


@pytest.mark.timeout(300)
def test_it_passes_the_suite(package: Path, site: Path) -> None:
    """Its own test module, as the page has it, runs the conformance suite and passes."""
    with in_memory() as memory:  # SQLite flushes four times a Put: no matter here, and slow
        done = run(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error",
            "--timeout=60", "--basetemp", memory / "tests", "test_artifact_sqlite.py",
            cwd=package, path=site,
        )  # fmt: skip
    told = done.stdout.decode()
    assert done.returncode == 0, told
    assert int(re.findall(r"(\d+) passed", told)[0]) > 50
    assert "failed" not in told


def test_the_suite_finds_what_it_breaks(package: Path, site: Path, tmp_path: Path) -> None:
    """The same module fails on a backend that takes an outage for absence."""
    source = (package / "artifact_sqlite.py").read_text()
    broken = source.replace("store.Unavailable", "store.NotFound")
    assert broken != source
    (tmp_path / "artifact_sqlite.py").write_text(broken)
    (tmp_path / "test_broken.py").write_text((package / "test_artifact_sqlite.py").read_text())
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "outage",
        "test_broken.py", cwd=tmp_path, path=site,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout.decode()

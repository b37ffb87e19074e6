"""No password is in anything that is shown, however the URL that carries it was mistyped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store
from sidecar.worker import logs
from tests import servers
from tests.cli.harness import HOSTILE, Cli
from tests.fuzz.urls import DIRECTORY, SECRET, told, urls
from tests.sidecar.harness import PATIENCE_S, Rig, eventually
from tests.sidecar.test_descriptors import asked


@pytest.fixture
def sidecar(redis_url: str, client: redis.Redis, tmp_path: Path) -> Cli:
    """The commands, on the real, empty server and an empty data directory."""
    return Cli(redis_url, tmp_path, client)


COMMANDS: Final = [
    ("status", "--redis"), ("tail", "--notify-redis"), ("dead", "ls", "--redis"),
    ("emit", "--type", "key.changed", "--redis"), ("run", "--drain", "--redis"),
    ("store", "ls", "--store"), ("run", "--lease"), ("audit", "--fleet-store"), ("status",),
    ("audit", "--redis"), ("replay", "show", "--bundle"), (),
]  # fmt: skip


@settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.sampled_from(COMMANDS), urls().filter(lambda url: "127.0.0.1/" not in url))
def test_no_command_tells_a_password(sidecar: Cli, command: tuple[str, ...], url: str) -> None:
    """Whatever a command is given as a URL, or in place of something else."""
    if "\0" in url or DIRECTORY.match(url) or not url.strip():
        return
    ran = sidecar(*command, url)
    assert ran.code
    assert SECRET not in ran.out + ran.err.replace(f"--bundle {url}", "")


def test_a_third_partys_error_does_not_repeat_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that raises its URL is told without what may be a password."""

    def open_mine(config: store.StoreConfig) -> store.Store:
        raise ValueError(f"cannot parse {config.url}")

    monkeypatch.setattr("store.registry._registered", {"mine": open_mine})
    for url in (f"mine://u:{SECRET}@h/x", f"mine://h/x?token={SECRET}", f"mine:{SECRET}"):
        said = told(partial(store.open_url, url))
        assert "cannot parse" in said
        assert SECRET not in said


def test_a_secret_file_that_is_none_is_not_repeated(sidecar: Cli) -> None:
    """A URL in the place of a file's name is not told."""
    ran = sidecar("status", env={"SIDECAR_REDIS_FILE": f"redis://:{SECRET}@h"})
    assert ran.code == 2
    assert SECRET not in ran.out + ran.err


def _fail(url: str) -> None:
    raise RuntimeError(len(url))


def test_a_traceback_on_a_terminal_shows_no_variables(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a person sees of a bug in the log is its way through the code alone."""
    monkeypatch.setattr(logs, "is_terminal", lambda _: True)
    log = logs.configure("info")
    url = f"redis://:{SECRET}@h"
    try:
        _fail(url)
    except RuntimeError:
        log.exception("a bug")
    said = capfd.readouterr().err
    assert "RuntimeError" in said
    assert SECRET not in said


@contextmanager
def with_a_password(rig: Rig) -> Iterator[str]:
    """Yield the server's URL with a login."""
    rig.client.acl_setuser("mallory", enabled=True, passwords=[f"+{SECRET}"], keys=["*"],
                           channels=["*"], commands=["+@all"])  # fmt: skip
    try:
        yield rig.url.replace("://", f"://mallory:{SECRET}@")
    finally:
        rig.client.acl_deluser("mallory")


@contextmanager
def working(url: str, directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker that has the URL from its environment; its log goes to `directory`."""
    command = [sys.executable, "-m", "sidecar", "run", "--lease", "1", "--log-level", "debug",
               "--http", f"127.0.0.1:{port}", *servers.stores(directory)]  # fmt: skip
    env = {**os.environ, "SIDECAR_REDIS": url}
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=env, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


@pytest.mark.server
def test_a_deployment_shows_its_password_nowhere(rig: Rig, tmp_path: Path) -> None:
    """Log, probes, metrics, `ps`, Redis, `--json`, bundle and report are free of it."""
    port = servers.free_port()
    with with_a_password(rig) as url:
        cli = Cli(url, tmp_path, rig.client)
        with working(url, tmp_path, port) as process:
            rig.emit("a")
            rig.add("{")
            eventually(lambda: rig.published() == ["a"] and rig.reasons())
            shown = [asked(port, path) for path in ("/livez", "/readyz", "/metrics")]
            shown.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
            with redis.Redis.from_url(url) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            rig.emit("b")
            eventually(lambda: rig.published() == ["a", "b"])
        shown += [repr(rig.client.dump(key)).encode() for key in rig.client.keys("*")]
        stores = {f"SIDECAR_{name.upper()}_STORE": (tmp_path / name).as_uri()
                  for name in ("source", "fleet")}  # fmt: skip
        bundle, report = tmp_path / "bundle", tmp_path / "report.html"
        for words in (
            ("status", "--json"), ("audit", "--json"), ("dead", "ls", "--json"),
            ("replay", "export", bundle, "--since", "1h"),
            ("replay", "report", report, "--since", "1h"),
        ):  # fmt: skip
            ran = cli(*words, env=stores)
            assert ran.code in (0, 1, 3), ran.err
            shown.append(ran.raw + ran.err.encode())
        shown += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "log").stat().st_size
    assert report.stat().st_size
    assert not [one for one in shown if SECRET.encode() in one]


def test_no_tenants_text_steers_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the log that a person reads, and in its tracebacks, control characters are escaped."""
    monkeypatch.setattr(logs, "is_terminal", lambda _: True)
    log = logs.configure("info")
    log.warning("waiting", detail=HOSTILE, streams=[HOSTILE])
    try:
        raise_hostile()
    except ValueError:
        log.exception("a bug")
    said = capfd.readouterr().err
    assert "\x07" not in said
    assert "\u202e" not in said
    assert "\x1b[31mred" not in said
    assert said.count("gnp.exe") == 3


def raise_hostile() -> None:
    """Raise an error with a tenant's text in it."""
    raise ValueError(HOSTILE)

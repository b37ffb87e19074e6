"""`sidecar config show`, and the reference page of settings."""

from __future__ import annotations

import pytest

from tests.cli.harness import Cli
from tests.settings_page import PAGE, page


def test_each_setting_says_where_it_came_from(sidecar: Cli) -> None:
    """A flag counts before a variable or a file, and these before the default."""
    secret = sidecar.directory / "redis-url"
    secret.write_text("redis://user:secret@redis.example:6379/0\n")
    sidecar.env = {"SIDECAR_LEASE": "7s", "SIDECAR_RETRY_BUDGET": "9"}
    sidecar.url = ""
    env = {"SIDECAR_REDIS_FILE": str(secret), **sidecar.stores(wanted=True)}
    ran = sidecar("config", "show", "--lease", "8s", "--json", env=env)
    assert ran.code == 0, ran.err
    found = {one["option"]: one for one in ran.objects()}
    said = {name: (one["source"], one["value"]) for name, one in found.items()}
    assert said["--lease"] == ("flag", "8s")
    assert said["--retry-budget"] == ("variable", "9")
    assert said["--dedup-window"] == ("default", "7d")
    assert said["--redis"] == ("file", "redis://redis.example:6379/0")
    assert found["--redis"]["where"] == f"{secret} (SIDECAR_REDIS_FILE)"
    assert said["--dead-stream"] == ("default", "{control:notifications}:dead")


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_secrets_are_masked(sidecar: Cli, json: tuple[str, ...]) -> None:
    """Neither a password nor a user's name is shown, wherever it was given."""
    url = "redis://somebody:hunter2@redis.example/0"
    env = {"SIDECAR_REDIS": url, **sidecar.stores(wanted=True)}
    ran = sidecar("config", "show", "--notify-redis", url, *json, env=env)
    assert ran.code == 0, ran.err
    assert "redis.example" in ran.out
    assert "hunter2" not in ran.out + ran.err
    assert "somebody" not in ran.out + ran.err


def test_a_wrong_setting_is_shown_and_refused(sidecar: Cli) -> None:
    """What is wrong is exit 2, after all settings: where the wrong one came from is among them."""
    ran = sidecar("config", "show", env={"SIDECAR_LEASE": "soon"})
    assert ran.code == 2
    assert "variable SIDECAR_LEASE" in ran.out
    assert "--lease: 'soon'" in ran.err


def test_the_page_of_settings_is_true() -> None:
    """docs/settings.md says what the options say; `python -m tests.settings_page` writes it."""
    assert PAGE.read_text() == page(), "run python -m tests.settings_page"

"""The `SIDECAR_…` variables: misspelt, empty, in files, and those that are none of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar import cli
from sidecar.errors import UsageError
from sidecar.terminal import environment
from tests.cli.harness import Cli


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SIDECAR_FLEETSTORE", "SIDECAR_FLEET_STORE"),
        ("SIDECAR_NOTIFYREDIS", "SIDECAR_NOTIFY_REDIS"),
        ("SIDECAR_STREAMS", "SIDECAR_STREAM"),
        ("SIDECAR_FLEETSTORE_FILE", "SIDECAR_FLEET_STORE_FILE"),
    ],
)
@pytest.mark.parametrize("command", [("run", "--drain"), ("status",), ("store", "ls")])
def test_an_unknown_variable_is_refused(
    sidecar: Cli, name: str, nearest: str, command: tuple[str, ...]
) -> None:
    """Whatever the command, a variable that nothing reads is exit 2, with the nearest one."""
    ran = sidecar(*command, env={name: "file:///srv/fleet"})
    assert (ran.code, ran.out) == (2, "")
    assert f"no variable {name}" in ran.err
    assert f"is {nearest} meant?" in ran.err


def test_links_to_services_are_not_ours(sidecar: Cli) -> None:
    """What Kubernetes sets beside services called `sidecar…` keeps no command from running."""
    links = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT": "9464",
        "SIDECAR_SERVICE_PORT_HTTP": "9464",
        "SIDECAR_PORT": "tcp://10.0.0.1:9464",
        "SIDECAR_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        "SIDECAR_PORT_9464_TCP_PROTO": "tcp",
        "SIDECAR_PORT_9464_TCP_PORT": "9464",
        "SIDECAR_PORT_9464_TCP_ADDR": "10.0.0.1",
        "SIDECAR_REDIS_PORT": "tcp://10.0.0.2:6379",
        "SIDECAR_REDIS_SERVICE_HOST": "10.0.0.2",
        "SIDECAR_DNS_PORT_53_UDP_ADDR": "10.0.0.3",
    }
    ran = sidecar("status", env=links)
    assert ran.code == 0, ran.err
    assert environment.ours({"_SIDECAR_COMPLETE": "bash_source"}) == []  # typer's own


@pytest.mark.parametrize("variable", ["SIDECAR_REDIS", "SIDECAR_SINCE", "SIDECAR_REDIS_FILE"])
def test_an_empty_variable_is_refused(sidecar: Cli, variable: str) -> None:
    """A variable that is set to nothing, as Compose's `${X:-}` does, starts no embedded server."""
    sidecar.url = ""
    ran = sidecar.shell(f"{variable}= sidecar run --drain")
    assert (ran.code, ran.out) == (2, "")
    assert f"{variable} is set, and empty" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_secret_file_is_refused(sidecar: Cli, content: str) -> None:
    """A secret file with nothing in it starts no embedded server."""
    secret = sidecar.directory / "redis-url"
    secret.write_text(content)
    sidecar.url = ""
    ran = sidecar("run", "--drain", env={"SIDECAR_REDIS_FILE": str(secret)})
    assert (ran.code, ran.out) == (2, "")
    assert "SIDECAR_REDIS_FILE" in ran.err
    assert not (sidecar.directory / "data-dir").exists()


def _options(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each option with a value, with the command that has it."""
    for name, one in getattr(command, "commands", {}).items():
        yield from _options(one, (*path, name))
    if not hasattr(command, "commands"):
        for one in command.params:
            if one.param_type_name == "option" and not one.is_flag:
                yield path, max(one.opts, key=len)


def test_every_option_that_is_given_and_empty_is_refused(sidecar: Cli) -> None:
    """An option whose variable the shell did not know is as wrong as an empty variable."""
    sidecar.url = ""
    count = 0
    for command, option in _options(typer.main.get_command(cli.app)):
        ran = sidecar(*command, option, "")
        assert ran.code == 2, (command, option)
        assert "it is empty" in " ".join(ran.err.replace("│", " ").split()), (command, option)
        assert option in ran.err
        count += 1
    assert count > 200
    assert not (sidecar.directory / "data-dir").exists()


def test_an_empty_one_among_several_is_refused(sidecar: Cli) -> None:
    """Of an option that may be repeated."""
    ran = sidecar("run", "--drain", "--tenant-scope", "a/*", "--tenant-scope", "")
    assert (ran.code, "--tenant-scope" in ran.err) == (2, True)


def test_a_file_and_its_variable() -> None:
    """A value that is given both ways is refused; one that is given once is read."""
    given = {"SIDECAR_REDIS": "redis://a", "SIDECAR_REDIS_FILE": "/nowhere"}
    with pytest.raises(UsageError, match="both set"):
        environment.prepare(given, cli.app)
    with pytest.raises(UsageError, match="cannot be read"):
        environment.prepare({"SIDECAR_REDIS_FILE": "/nowhere"}, cli.app)


def test_a_file_is_read(tmp_path: Path) -> None:
    """What a file holds becomes the variable's value, without the line's end."""
    secret = tmp_path / "url"
    secret.write_text("redis://a\n")
    given = {"SIDECAR_REDIS_FILE": str(secret), "SIDECAR_PORT_FILE": "no link, but unknown"}
    with pytest.raises(UsageError, match="SIDECAR_PORT_FILE"):
        environment.prepare(given, cli.app)
    del given["SIDECAR_PORT_FILE"]
    environment.prepare(given, cli.app)
    assert given["SIDECAR_REDIS"] == "redis://a"


@pytest.mark.parametrize("command", [("status",), ("run", "--drain"), ("emit", "--type", "a")])
def test_a_redis_url_with_a_wrong_option_is_refused(sidecar: Cli, command: tuple[str, ...]) -> None:
    """A URL's option that may not be given is wrong usage: one line with its name."""
    sidecar.url += "?decode_responses=true"
    ran = sidecar(*command)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "decode_responses in its query is none that may be given" in ran.err


def test_streams_with_a_comma_between_them_are_refused(sidecar: Cli) -> None:
    """Several are set apart by spaces: with a comma they would be one stream of that name."""
    ran = sidecar("run", "--drain", env={"SIDECAR_STREAM": "a,b"})
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "spaces between them in SIDECAR_STREAM" in ran.err
    assert sidecar("run", "--drain", env={"SIDECAR_STREAM": "a b"}).code == 0


def test_a_version_in_the_environment_is_none_of_ours(sidecar: Cli) -> None:
    """`--version` says the program's, whatever an image's builder calls SIDECAR_VERSION."""
    ran = sidecar.shell("SIDECAR_VERSION=v9 sidecar --version")
    assert (ran.code, ran.out.startswith("sidecar ")) == (0, True)
    assert "v9" not in ran.out


def test_a_file_without_end_is_no_value() -> None:
    """A device is refused by the variable's name, and memory does not grow."""
    with pytest.raises(UsageError, match="SIDECAR_REDIS_FILE names cannot be read: it is no reg"):
        environment.read_secret_files({"SIDECAR_REDIS_FILE": "/dev/zero"})

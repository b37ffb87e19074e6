"""`--help`: what a newcomer reads first."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from sidecar import cli
from tests.cli.harness import Cli

CONNECTION = {
    "--data-dir", "--redis", "--notify-redis", "--stream", "--notify-stream", "--dead-stream",
    "--source-store", "--fleet-store", "--store", "--bundle", "--database",
}  # fmt: skip


def panels(sidecar: Cli, *command: str) -> dict[str, set[str]]:
    """Return the options that each panel of a command's help has."""
    ran = sidecar(*command, "--help", env={"COLUMNS": "100"})
    assert ran.code == 0, ran.err
    found: dict[str, set[str]] = {}
    here: set[str] = set()
    for line in ran.out.splitlines():
        if line.startswith("╭"):
            here = found.setdefault(line.strip("╭─╮ "), set())
        words = line.strip("│ *").split()
        here |= {words[0]} if words and words[0].startswith("--") else set()
    return found


@pytest.mark.parametrize("command", [
    "run", "doctor", "config show", "emit", "tail", "status", "pause", "resume", "audit",
    "archive", "diff", "trace",
    "dead ls", "dead show", "dead history", "dead redrive", "replay show", "replay at",
    "replay export", "replay report", "replay run", "replay check", "store put", "store get",
    "store exists", "store ls", "store versions", "store verify", "store gc", "store history",
    "outbox run",
])  # fmt: skip
def test_a_commands_own_options_come_before_the_connection(sidecar: Cli, command: str) -> None:
    """What leads to servers and stores is in a panel of its own, the last one."""
    found = panels(sidecar, *command.split())
    assert list(found)[-1] == "Connection"
    connection = found.pop("Connection")
    assert connection <= CONNECTION
    assert not CONNECTION & set().union(*found.values())


def test_the_help_of_replay_begins_with_a_recipe(sidecar: Cli) -> None:
    """Three commands take a newcomer through an incident."""
    out = sidecar("replay", "--help").out
    recipe = ("Reviewing an incident?", "replay export", "replay report", "trace", "Commands")
    places = [out.index(words) for words in recipe]
    assert places == sorted(places)


def _groups() -> dict[str, Any]:
    """Return the groups of commands by the name that they have."""
    root = typer.main.get_command(cli.app)
    below = {name: one for name, one in root.commands.items() if hasattr(one, "commands")}  # type: ignore[attr-defined]
    return {"": root, **below}


@pytest.mark.parametrize("group", _groups())
def test_a_group_lists_commands_with_the_first_paragraph_of_their_help(group: str) -> None:
    """What a group says of a command is what the command says of itself."""
    commands = _groups()[group].commands
    assert commands.listed().keys() == commands.keys()
    for name, listed in commands.listed().items():
        said = " ".join(commands[name].help.partition("\n\n")[0].split())
        assert " ".join(listed.split()) == said


def test_the_help_of_a_group_imports_no_command() -> None:
    """`sidecar --help` starts quickly: what commands need is imported when they are called."""
    script = (
        "import sys; from sidecar import cli\n"
        "try: cli.main()\n"
        "except SystemExit: print(*{'redis', 'sidecar.cli.options', 'store', 'rich.console',"
        " 'pygments', 'structlog'} & set(sys.modules))"
    )
    for words in (["--help"], ["dead", "--help"], ["--version"]):
        command = [sys.executable, "-c", script, *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines()[-1] == "", words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(sidecar: Cli, shell: str) -> None:
    """Also while a variable is wrong: what is said then would land in the line that is typed."""
    for typed, completed in (("sidecar stat", "status"), ("sidecar dead red", "redrive")):
        env = {
            "_SIDECAR_COMPLETE": f"complete_{shell}", "SIDECAR_FLEETSTORE": "x",
            "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")),
            "_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }  # fmt: skip
        ran = sidecar(env=env)
        assert (ran.code, completed in ran.out, ran.err) == (0, True, "")


def test_completion_is_for_the_shell_that_asks(sidecar: Cli) -> None:
    """`--show-completion` prints what bash evaluates, and `sidecar` is completed from then on."""
    script = 'eval "$(sidecar --show-completion)"; complete -p sidecar'
    assert "_sidecar_completion" in sidecar.shell(script).out

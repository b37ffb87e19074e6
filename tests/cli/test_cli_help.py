"""`--help`: what a newcomer reads first."""

from __future__ import annotations

import pytest

from tests.cli.harness import Cli

CONNECTION = {
    "--data-dir", "--redis", "--notify-redis", "--stream", "--notify-stream", "--dead-stream",
    "--source-store", "--fleet-store", "--store", "--bundle",
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
    "run", "emit", "tail", "status", "pause", "resume", "audit", "archive", "diff", "trace",
    "dead ls", "dead show", "dead history", "dead redrive", "replay show", "replay at",
    "replay export", "replay report", "replay run", "replay check", "store put", "store get",
    "store exists", "store ls", "store versions", "store verify", "store gc",
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

"""Options in groups: what a field becomes on the command line, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from sidecar.errors import UsageError
from sidecar.terminal.groups import NO_VARIABLE, REQUIRED, argument, flag, flattened, option
from sidecar.wire.units import seconds


@dataclass(frozen=True)
class Base:
    """What another group has, too."""

    where: str = option(REQUIRED, "Where it goes.", "PLACE")


@dataclass(frozen=True)
class Group(Base):
    """A group with an option of each kind."""

    names: list[str] = option(["a"], "Repeatable.", "NAME", "--name")
    type_: str | None = option(None, "Of which type.")
    grace_time: float = option("2m", "How long.", unit=seconds)
    dry_run: bool = flag("Change nothing.")
    secret: str = option("", "In no environment.", envvar=NO_VARIABLE)


@dataclass(frozen=True)
class Named:
    """A group with an argument."""

    what: str = argument(REQUIRED, "WHAT", "What it is.")


def called(*words: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Any]:
    """Call a command with two groups and an option of its own; return how it ended, and was."""
    seen: dict[str, Any] = {}

    def command(
        named: Named, group: Group, *, json: Annotated[bool, typer.Option(help="Machines.")] = False
    ) -> None:
        """Do it."""
        seen.update(named=named, group=group, json=json)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(flattened(command))
    ran = CliRunner().invoke(app, list(words), env=env)
    return ran.exit_code, seen, ran


def test_a_command_gets_its_groups() -> None:
    """Flags follow from the fields' names, or are their own; a group comes back as one value."""
    code, seen, ran = called(
        "it", "--where", "there", "--name", "x", "--name", "y", "--type", "t",
        "--grace-time", "90s", "--dry-run", "--json",
    )  # fmt: skip
    assert code == 0, ran.output
    assert seen == {
        "named": Named("it"),
        "group": Group("there", ["x", "y"], "t", 90.0, dry_run=True, secret=""),
        "json": True,
    }


def test_defaults_are_read_in_their_unit() -> None:
    """A default is written as a person writes it, and means what that means."""
    _, seen, _ = called("it", "--where", "there")
    assert seen["group"] == Group("there", ["a"], None, 120.0)


def test_variables_follow_from_the_flags() -> None:
    """Each option is read from its variable, but for one that has none."""
    env = {"SIDECAR_WHERE": "w", "SIDECAR_NAME": "x y", "SIDECAR_TYPE": "t",
           "SIDECAR_GRACE_TIME": "1h", "SIDECAR_DRY_RUN": "1", "SIDECAR_SECRET": "s",
           "SIDECAR_JSON": "1"}  # fmt: skip
    _, seen, _ = called("it", env=env)
    assert seen["group"] == Group("w", ["x", "y"], "t", 3600.0, dry_run=True, secret="")
    assert seen["json"]


def test_what_has_no_default_is_required() -> None:
    """Without its value the command is wrong usage."""
    code, _, ran = called("it")
    assert (code, "--where" in ran.output) == (2, True)


def test_a_text_without_meaning_names_its_flag() -> None:
    """What the unit cannot read is a usage error that names the flag."""
    _, _, ran = called("it", "--where", "there", "--grace-time", "soon")
    assert isinstance(ran.exception, UsageError)
    assert str(ran.exception).startswith("--grace-time: 'soon' is no duration")

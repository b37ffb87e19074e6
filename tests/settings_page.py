"""docs/settings.md, made from the options themselves: `python -m tests.settings_page` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from sidecar import cli

PAGE: Final = Path(__file__).parents[1] / "docs/settings.md"
_HEAD: Final = """\
# Settings

<!-- Made by `python -m tests.settings_page` from the options themselves. Do not edit it. -->

Each setting is an option of a command and a variable. What counts, in this order:

1. the option on the command line;
2. the variable `SIDECAR_…`, or the file that `SIDECAR_…_FILE` names (its content, without the
   white space at both ends; both set is an error);
3. the default.

There is no configuration file. A variable that no option reads, an empty one and an empty file end
every command with exit 2, and the nearest name is said. A repeatable option takes several values in
its variable, with white space between them.

`sidecar config show` says of each setting of `sidecar run` what it is and where that came from,
without secrets. Which settings the owner of a control stream had, and when, is on record in
[`{N}:tenures`](contract.md#keys-in-redis).

"""


def page() -> str:
    """Return the page as it should be."""
    commands = dict(_commands(typer.main.get_command(cli.app), ()))
    run = list(_options(commands.pop("run")))
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, command in commands.items():
        for row in _options(command):
            if row not in run:
                rows.setdefault(row, []).append(f"`{name}`")
    others = [(*row[:3], ", ".join(names), row[3]) for row, names in sorted(rows.items())]
    return (
        _HEAD
        + "## Of `sidecar run`\n\n"
        + _table(("option", "variable", "default", "meaning"), run)
        + "\n## Of other commands\n\nWhat is written above means the same there.\n\n"
        + _table(("option", "variable", "default", "commands", "meaning"), others)
    )


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    below: dict[str, Any] = getattr(command, "commands", {})
    if not below:
        yield " ".join(path), command
    for name, one in below.items():
        yield from _commands(one, (*path, name))


def _options(command: Any) -> Iterator[tuple[str, str, str, str]]:
    for one in command.params:
        if one.param_type_name == "option" and not one.hidden:
            option = f"`{max(one.opts, key=len)}`"
            variable = f"`{one.envvar}`" if one.envvar else "none"
            yield option, variable, _default(one), _cell(one.help or "")


def _default(one: Any) -> str:
    if one.required:
        return "required"
    value = one.default
    if isinstance(value, bool):
        return "on" if value else "off"
    value = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return "" if value is None or value == "" else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


if __name__ == "__main__":
    PAGE.write_text(page())

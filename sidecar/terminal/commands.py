"""Commands that are imported when they are called."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from sidecar.errors import UsageError
from sidecar.terminal.groups import flattened


def lazy(package: str, places: Mapping[str, str]) -> type[TyperGroup]:
    """Return the class of a group that imports its commands when they are called.

    `places` tells by a command's name where it is: `module:function` in the package.
    """
    found = {name: Place(f"{package}.{place}") for name, place in places.items()}
    return type("LazyGroup", (_LazyGroup,), {"table": found})


@dataclass(frozen=True)
class Place:
    """Where a command's function is: `package.module:function`."""

    path: str

    def function(self) -> Any:  # noqa: ANN401 -- of as many types as there are commands
        """Import it."""
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)

    def does(self) -> str:
        """Return the first paragraph of its help, without importing it: that takes much longer."""
        module, _, name = self.path.partition(":")
        spec = find_spec(module)
        parts = ast.parse(Path(str(spec and spec.origin)).read_bytes()).body
        named = (one for one in parts if isinstance(one, ast.FunctionDef) and one.name == name)
        return (ast.get_docstring(next(named)) or "").partition("\n\n")[0]


HIGHEST: Final = 2**63 - 1
"""Nothing that is counted is more."""
_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:/")  # a path keeps one slash of two
_MAY_BE_A_URL: Final = re.compile(r"\S*(:\S|[@%#=]|\?\S).*", re.DOTALL)


@contextmanager
def _without_urls() -> Iterator[None]:
    """Let no message repeat a URL that was typed where none belongs: it may have a password."""
    try:
        yield
    except Exception as error:
        if isinstance(said := getattr(error, "message", None), str):
            error.message = _MAY_BE_A_URL.sub("…", said)  # type: ignore[attr-defined] # click's, or typer's
        raise


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Say of a wrong value what it is of and what is wanted, without a box around it."""
    try:
        yield
    except typer.BadParameter as error:
        raise UsageError(error.format_message()) from None


class _LazyGroup(TyperGroup):
    table: Mapping[str, Place]

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 -- as typer has them
        groups = attributes.pop("commands")
        super().__init__(**attributes)
        self.commands: Any = _Commands(self.table, groups)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 -- as above
        """Find the command that is called."""
        with _without_urls():
            return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 -- click's, or typer's
        """Return the names of the commands."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 -- as above
        """List the commands, each with what it does."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.commands.listed().items()))


class _NothingOdd(TyperCommand):
    """A command that refuses what nobody means.

    A value that is given and empty: so is --redis "$URL" without that variable, and --tenant "$T"
    must not mean all tenants. Text that is not UTF-8, but for a file's name. A URL for a file:
    it may have a password, and files' names are printed.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 -- click's, or typer's
        """Parse the arguments. Raises `UsageError` for one that lacks, or has a wrong value."""
        with _in_one_line(), _without_urls():
            return self._parsed(ctx, args)

    def _parsed(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 -- as above
        given, _, named = self.make_parser(ctx).parse_args(args=list(args))
        for one in named:
            about: Any = one  # click's parameter, or typer's own copy
            values = given.get(about.name)
            values = values if isinstance(values, list) else [values]
            if "" in values:
                what = "it is empty; give it a value, or leave it out"
                raise typer.BadParameter(what, ctx=ctx, param=about)
        left = super().parse_args(ctx, args)
        for about in self.params:
            values = ctx.params.get(about.name)
            for value in values if isinstance(values, list) else [values]:
                if odd := _oddness(about, value):
                    raise typer.BadParameter(odd, ctx=ctx, param=about)
        return left


def _oddness(about: Any, value: object) -> str:  # noqa: ANN401 -- as above
    """Say what is odd about a value, if anything is."""
    if isinstance(value, Path):
        return _oddness_of_path(value)
    if isinstance(value, int | float) and not -HIGHEST <= value <= HIGHEST:
        return "no number is as large as that; write a smaller one"
    if isinstance(value, str) and about.metavar != "FILE" and not _is_utf8(value):
        return f"{value!a} is not UTF-8; set the locale, or type it again"
    return ""


def _oddness_of_path(path: Path) -> str:
    if _SCHEME.match(str(path)):
        return "a path is wanted, and that is a URL"
    try:
        path.lstat()
    except OSError as error:
        return f"{error.strerror}; name another" if error.errno == errno.ENAMETOOLONG else ""
    except ValueError as error:
        return f"{error}; name another"
    return ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Commands(Mapping[str, Any]):
    """The commands of a group by their names, and then its groups."""

    def __init__(self, table: Mapping[str, Place], groups: Mapping[str, Any]) -> None:
        self._table = table
        self._groups = groups

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 -- click's command, or typer's own copy
        return _load(name, self._table[name]) if name in self._table else self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._table, *self._groups))

    def __len__(self) -> int:
        return len(self._table) + len(self._groups)

    def listed(self) -> dict[str, str]:
        """Return what each does."""
        told = {name: one.does() for name, one in self._table.items()}
        return told | {name: one.help.partition("\n\n")[0] for name, one in self._groups.items()}


@cache
def _load(name: str, place: Place) -> Any:  # noqa: ANN401 -- click's command, or typer's own copy
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    alone.command(name, cls=_NothingOdd)(flattened(place.function()))
    return typer.main.get_command(alone)

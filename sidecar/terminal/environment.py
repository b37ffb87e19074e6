"""The `SIDECAR_…` variables: which there are, and what is wrong with those that are set.

A variable that nobody reads is a setting that somebody believes in: a worker with a misspelt
SIDECAR_FLEET_STORE would fill a store that no controller opens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from sidecar.errors import UsageError
from sidecar.terminal.groups import PREFIX
from sidecar.wire.names import nearest
from sidecar.wire.secretfile import TooLarge, read_secret

FILE: Final = "_FILE"
_COMPLETES: Final = "_SIDECAR_COMPLETE"
"""What a shell sets that asks for a completion, in the middle of a line: nothing else is said."""

_SERVICE_LINK: Final = re.compile(
    r"SIDECAR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every pod beside a service whose name begins with `sidecar`."""


def prepare(
    environment: MutableMapping[str, str], app: typer.Typer, words: Sequence[str] = ()
) -> None:
    """Check the variables against the options of `app`, and read the files that they name.

    `words` call the command that is asked first: in most cases it reads them all, and no other has
    to be imported.

    Raises `UsageError` for a variable that no option reads, with the nearest that one does; for
    one that is empty, or names an empty file; for a file that cannot be read; and for a value that
    is given both ways.
    """
    names = ours(environment)
    if names and _COMPLETES not in environment:
        _check_names(names, app, words)
        _check_values(environment, names)
        read_secret_files(environment)


def ours(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that are meant for this program, by their names."""
    return sorted(
        name
        for name in environment
        if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name)
    )


def read_secret_files(environment: MutableMapping[str, str]) -> None:
    """Set `SIDECAR_X` to the content of the file that `SIDECAR_X_FILE` names, for every X.

    Raises `UsageError` when a file cannot be read or is empty, or both are set.
    """
    for name in [n for n in ours(environment) if n.endswith(FILE)]:
        target = name.removesuffix(FILE)
        if target in environment:
            raise UsageError(f"{target} and {name} are both set; unset one")
        environment[target] = _content(environment[name], name, target)


def filed(url: str) -> str:
    """Return a URL that a file has of which a variable tells as one that knows the file."""
    from sidecar.wire.urls import FiledUrl  # with the stores: a help has no use for them

    for name in ours(os.environ):
        if name.endswith(FILE) and os.environ.get(name.removesuffix(FILE)) == url:
            return FiledUrl(url, Path(os.environ[name]))
    return url


def _content(path: str, name: str, target: str) -> str:
    """Return the value of `target` that stands in the file which the variable `name` names."""
    try:
        value = read_secret(path)
    except TooLarge:
        raise UsageError(
            f"the file that {name} names is larger than any value; name another"
        ) from None
    except OSError as error:
        raise UsageError(f"the file that {name} names cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"the file that {name} names is no text, or no file's name") from None
    if not value:
        raise UsageError(
            f"the file that {name} names is empty; write the value of {target} into it, or unset"
            f" {name}"
        )
    return value


def _check_names(names: list[str], app: typer.Typer, words: Sequence[str]) -> None:
    unknown, known = dict.fromkeys(names), set[str]()
    for one in _variables(typer.main.get_command(app), words):
        known |= {one, one + FILE}
        unknown.pop(one, None)
        unknown.pop(one + FILE, None)
        if not unknown:
            return
    name = next(iter(unknown))
    meant = nearest(name, known, cutoff=0.0)
    raise UsageError(
        f"there is no variable {name}; is {meant} meant? otherwise unset it: nothing would read it"
    )


def _check_values(environment: Mapping[str, str], names: list[str]) -> None:
    for name in names:
        if not environment[name].strip():
            raise UsageError(f"{name} is set, and empty; give it a value, or unset it")


def _variables(command: Any, words: Sequence[str] = ()) -> Iterator[str]:  # noqa: ANN401 -- click's
    """Yield what a command reads, and the commands below it: the one that `words` call first."""
    yield from (one.envvar for one in command.params if one.envvar)
    below: Mapping[str, Any] = getattr(command, "commands", {})
    called = next(iter(words), "")
    for name in sorted(below, key=lambda one: one != called):
        yield from _variables(below[name], words[1:] if name == called else ())

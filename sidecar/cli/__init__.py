"""The command line: one module a group of commands; each imports what is heavy when it runs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated

import typer

from sidecar import __version__
from sidecar.cli import (
    archive,
    audit,
    dead,
    demo,
    diff,
    emit,
    halts,
    output,
    replay,
    replay_again,
    replay_files,
    run,
    status,
    store,
    store_care,
    tail,
    trace,
)
from sidecar.errors import SidecarError, UsageError

app = typer.Typer(
    name="sidecar",
    help="Relay control events: artifacts into the fleet's store, references out.",
    epilog="Every option is also an environment variable SIDECAR_…; SIDECAR_…_FILE names a file"
    " that holds the value.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command(name="run")(run.run)
app.command(name="emit")(emit.emit)
app.command(name="tail")(tail.tail)
app.command(name="status")(status.status)
app.command(name="pause")(halts.pause)
app.command(name="resume")(halts.resume)
app.command(name="audit")(audit.audit)
app.add_typer(dead.app, name="dead")
app.command(name="archive")(archive.archive)
app.command(name="diff")(diff.diff)
app.command(name="trace")(trace.trace)
replay.app.command(name="export")(replay_files.export)
replay.app.command(name="report")(replay_files.report)
replay.app.command(name="run")(replay_again.run)
replay.app.command(name="check")(replay_again.check)
app.add_typer(replay.app, name="replay")
store.app.command(name="verify")(store_care.verify)
store.app.command(name="gc")(store_care.gc)
app.add_typer(store.app, name="store")
app.command(name="demo")(demo.demo)


def _print_version(asked: bool) -> None:  # noqa: FBT001 -- typer calls it so
    if asked:
        typer.echo(f"sidecar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; end with the exit code of the contract, and a line instead of a traceback."""
    gc.set_threshold(50_000)  # what commands read by the million has no cycles to look for
    try:
        read_secret_files(os.environ)
        app()
    except SidecarError as error:
        output.hint(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        output.reader_left()


def read_secret_files(environment: MutableMapping[str, str]) -> None:
    """Set `SIDECAR_X` to the content of the file that `SIDECAR_X_FILE` names, for every X.

    Raises `UsageError` when a file cannot be read, or both are set.
    """
    for name in [n for n in environment if n.startswith("SIDECAR_") and n.endswith("_FILE")]:
        target = name.removesuffix("_FILE")
        if target in environment:
            raise UsageError(f"{target} and {name} are both set; unset one")
        try:
            environment[target] = Path(environment[name]).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}={environment[name]} cannot be read: {error}") from error

"""The command line: this table of commands, and one module for each or for a few of a kind."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Final

import typer

from sidecar import __version__
from sidecar.errors import SidecarError
from sidecar.terminal import environment, output
from sidecar.terminal.commands import lazy

_ROOT: Final = {
    "run": "run:run", "doctor": "doctor:doctor", "emit": "emit:emit",
    "check-event": "check_event:check_event", "wait": "wait:wait", "tail": "tail:tail",
    "status": "status:status",
    "pause": "halts:pause", "resume": "halts:resume", "audit": "audit:audit",
    "archive": "archive:archive", "diff": "diff:diff", "trace": "trace:trace",
    "explain": "explain:explain",
}  # fmt: skip
_DEAD: Final = {
    "ls": "dead:ls", "show": "dead_show:show", "history": "dead:history",
    "redrive": "redrive:redrive",
}  # fmt: skip
_REPLAY: Final = {
    "show": "replay:show", "at": "replay:at", "export": "replay_files:export",
    "report": "replay_files:report", "run": "replay_again:run", "check": "replay_again:check",
}  # fmt: skip
_CONFIG: Final = {"show": "config:show"}
_STREAM: Final = {"remake": "stream:remake"}
_TENANT: Final = {"erase": "tenant:erase"}
_SIGN_KEY: Final = {"new": "sign_key:new"}
_OUTBOX: Final = {"run": "outbox:run", "status": "outbox:status"}
_STORE: Final = {
    "put": "store:put", "get": "store:get", "exists": "store:exists", "ls": "store:ls",
    "versions": "store:versions", "verify": "store_care:verify", "gc": "store_care:gc",
    "history": "store_keep:history",
}  # fmt: skip
"""By the name of a command, the module and the function that it is."""
_REVIEW: Final = """\
Incident review: what happened in a window, the fleet as it was, and all of it offline.

\b
Reviewing an incident?
  sidecar replay export incident.zip --since 2h
  sidecar explain --bundle incident.zip
  sidecar replay report incident.html --bundle incident.zip
  sidecar trace TENANT/STACK --bundle incident.zip
docs/review.md goes through one.
"""


def _group(
    commands: dict[str, str], help_: str, name: str | None = None, epilog: str | None = None
) -> typer.Typer:
    return typer.Typer(
        name=name,
        cls=lazy(__name__, commands),
        help=help_,
        epilog=epilog,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=name is not None,  # the root's alone
        rich_markup_mode=None,  # what draws the help of commands is slow to import
    )


app = _group(
    _ROOT,
    "Relay control events: artifacts into the fleet's store, references out.",
    "sidecar",
    "Every option is also an environment variable SIDECAR_…; SIDECAR_…_FILE names a file"
    " that holds the value.",
)
app.add_typer(_group(_DEAD, "Dead letters: list, explain, redrive."), name="dead")
app.add_typer(_group(_REPLAY, _REVIEW), name="replay")
app.add_typer(_group(_CONFIG, "The settings: what each is, and where it came from."), name="config")
app.add_typer(_group(_STREAM, "A control stream: made anew where its IDs ran out."), name="stream")
app.add_typer(_group(_TENANT, "A tenant that leaves."), name="tenant")
app.add_typer(
    _group(_OUTBOX, "The outbox in a producer's database: its pump, its state."), name="outbox"
)
app.add_typer(_group(_SIGN_KEY, "Keys that a worker signs notifications with."), name="sign-key")
app.add_typer(
    _group(_STORE, "A store by hand: put, get, look, verify, collect garbage."), name="store"
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 -- typer calls it so
    if asked:
        typer.echo(f"sidecar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; exit as docs/contract.md, "Command line", says, without a traceback."""
    output.stand_in()
    gc.set_threshold(50_000)  # what commands read by the million has no cycles to look for
    try:
        environment.prepare(os.environ, app, sys.argv[1:])
        app(prog_name="sidecar")
    except SidecarError as error:
        output.hint(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        output.hint(str(told))
        sys.exit(told.exit_code)


def _told(error: Exception) -> SidecarError | None:
    """Return what is said of an error that is no bug, though it says nothing itself."""
    if type(error).__module__ != "sqlite3":  # which few commands need, and is slow to import
        return None
    from sidecar.history import scratch

    return scratch.no_room(error) if isinstance(error, scratch.FULL) else None

"""`sidecar check-event`: an event against the contract, without Redis and without stores."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.options import Json
from sidecar.cli.rules import WorkerRules
from sidecar.errors import UsageError
from sidecar.ops.checking import Fault, faults
from sidecar.terminal import files, output
from sidecar.wire.event import MAX_ENTRY_BYTES

MOST_BYTES: int = 64 * MAX_ENTRY_BYTES
"""A file that is larger holds something else."""


def check_event(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="One event as JSON; - is standard input."),
    ],
    rules: WorkerRules,
    *,
    json: Json = False,
) -> None:
    """Check an event by the rules that a worker has, and name each fault with its fix.

    The file holds what a producer would append as the field `event`. Neither Redis nor a store is
    asked: whether the artifact is there, and whether the event_id was published, is not looked at.
    Exit codes: 1 the event would end as a dead letter.

    Examples:
      sidecar check-event event.json

      my-producer --print-event | sidecar check-event - --json

      sidecar check-event event.json --allow-type invoice.paid

    """
    with files.opened("FILE", file) as opened:
        raw = opened.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise UsageError(f"FILE {file}: over {MOST_BYTES >> 20} MiB; name a file with one event")
    found = faults(raw, rules.rules())
    if json:
        output.json_line({"ok": not found, "faults": [one._asdict() for one in found]})
    else:
        _print(found)
    if found:
        raise typer.Exit(1)


def _print(found: list[Fault]) -> None:
    for one in found:
        said = f"{one.field}: {one.problem}" if one.field else one.problem
        output.styled([(one.reason.value, "bold red"), (said, ""), (f"fix: {one.fix}", "dim")])
    if not found:
        output.line("ok: a worker with these rules takes it")

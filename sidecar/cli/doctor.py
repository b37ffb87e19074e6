"""`sidecar doctor`: everything that can be wrong with a deployment, each with its fix."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from sidecar.cli.histories import Everything
from sidecar.cli.options import Json
from sidecar.cli.told import Told
from sidecar.errors import Unreachable
from sidecar.ops.doctor.examine import Report, examine
from sidecar.ops.doctor.finding import Level
from sidecar.terminal import output
from sidecar.worker import settings

_STYLES: Final = {Level.ERROR: "bold red", Level.WARNING: "yellow"}


def doctor(where: Everything, told: Annotated[object, Told], *, json: Json = False) -> None:
    """Look for everything that can be wrong with a deployment: what, why it matters, the fix.

    Takes the options of `sidecar run`, and asks as its user. Warnings are what may go wrong one
    day. Exit codes: 0 nothing but warnings, 1 an error, 4 something could not be asked.

    Examples:
      sidecar doctor

      sidecar doctor --redis redis://localhost --source-store file:///var/lib/node
        --fleet-store s3://fleet --json | jq -r 'select(.level == "error") | .fix'

    """
    chosen = settings.build(**vars(where), **vars(told))
    report = examined(where, chosen)
    if json:
        for one in report.findings:
            output.json_line(one._asdict())
        output.hints(report.unasked)
    else:
        show(report)
    raise typer.Exit(report.exit_code)


def examined(where: Everything, chosen: settings.Settings, *, at_start: bool = False) -> Report:
    """Look. `at_start`: an embedded server that does not run yet is nothing wrong."""
    try:
        control, notify = where.control, where.notify
    except Unreachable as error:
        report = examine(chosen, None, None, os.environ)
        report.unasked += [] if at_start and not where.redis else [str(error)]
        return report
    return examine(chosen, control, notify, os.environ)


def show(report: Report) -> None:
    """Show what was found to a person."""
    for one in report.findings:
        output.styled([(one.level.upper(), _STYLES[one.level]), (one.kind, "bold"), (one.what, "")])
        output.pairs([("  why", one.why), ("  fix", one.fix)])
    output.hints(report.unasked)
    errors = sum(one.level == Level.ERROR for one in report.findings)
    if report.findings:
        output.line(f"errors: {errors}, warnings: {len(report.findings) - errors}")
    elif not report.unasked:
        output.line("nothing is wrong")

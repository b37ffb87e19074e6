"""`sidecar doctor`: everything that can be wrong with a deployment, each with its fix."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from sidecar.cli.histories import Everything
from sidecar.cli.options import Json
from sidecar.cli.told import Told
from sidecar.errors import Unreachable, UsageError
from sidecar.ops.doctor.examine import Report, examine
from sidecar.ops.doctor.finding import Level
from sidecar.redis.errors import translated
from sidecar.redis.rights import ROLES, lacking
from sidecar.terminal import output
from sidecar.worker import settings

_STYLES: Final = {Level.ERROR: "bold red", Level.WARNING: "yellow"}


_WORKER: Final = "worker"
_ANY: Final = "any"
_Role = Annotated[str, typer.Option(
    metavar="ROLE",
    help=f"Whose login it is: {_WORKER}, {', '.join(ROLES)}. Of {_ANY} it shows what each lacks.",
)]  # fmt: skip


def doctor(
    where: Everything, told: Annotated[object, Told], *, role: _Role = _WORKER, json: Json = False
) -> None:
    """Look for everything that can be wrong with a deployment: what, why it matters, the fix.

    Takes the options of `sidecar run`, and asks as its user. Warnings are what may go wrong one
    day. Of a login with another --role (the users of deploy/redis/users.acl) it shows what rights
    it lacks. Exit codes: 0 nothing but warnings, 1 an error, 4 something could not be asked.

    Examples:
      sidecar doctor

      sidecar doctor --redis redis://localhost --source-store file:///var/lib/node
        --fleet-store s3://fleet --json | jq -r 'select(.level == "error") | .fix'

      sidecar doctor --role controller --redis redis://controller:…@localhost

    """
    if role != _WORKER:
        raise typer.Exit(_of_roles(where, role, json=json))
    chosen = settings.build(**vars(where), **vars(told))
    report = examined(where, chosen)
    if json:
        for one in report.findings:
            output.json_line(one._asdict())
        output.hints(report.unasked)
    else:
        show(report)
    raise typer.Exit(report.exit_code)


def _of_roles(where: Everything, role: str, *, json: bool) -> int:
    """Show what a login lacks for a role, or for each; return the exit code."""
    if role not in (_ANY, *ROLES):
        raise UsageError(f"--role: say {_WORKER}, {', '.join(ROLES)} or {_ANY}")
    names = list(ROLES) if role == _ANY else [role]
    with translated(where.notify_url):
        found = {name: _lacks(where, name) for name in names}
    if json:
        for name, lacks in found.items():
            output.json_line({"role": name, "lacks": lacks})
    else:
        said = [(name, "; ".join(lacks) or "nothing") for name, lacks in found.items()]
        output.table(("role", "lacks"), said)
    return 1 if role != _ANY and found[role] else 0


def _lacks(where: Everything, role: str) -> list[str]:
    each = [lacking(role, where.control, where.notify, keys) for keys in where.keys]
    return list(dict.fromkeys(one for found in each for one in found))


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

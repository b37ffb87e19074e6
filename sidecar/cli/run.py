"""`sidecar run`: the worker."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from sidecar.cli.doctor import examined, show
from sidecar.cli.histories import Everything
from sidecar.cli.told import Told
from sidecar.errors import SidecarError
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.terminal import output
from sidecar.worker import app, logs, settings
from sidecar.worker.retaining import SweepOrder, Swept

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


_Check = Annotated[bool, typer.Option(help="Only look for what is wrong, as `sidecar doctor`.")]


def run(where: Everything, told: Annotated[object, Told], *, check: _Check = False) -> None:
    """Relay control events until stopped by SIGTERM or SIGINT.

    Without options it needs nothing: an embedded server and two file stores under .sidecar.

    Examples:
      sidecar run

      sidecar run --redis redis://localhost:6379 --source-store file:///var/lib/node
        --fleet-store s3://fleet

      sidecar run --drain   (exit 3: something is held back)

    """
    chosen = settings.build(**vars(where), **vars(told))
    if check:
        report = examined(where, chosen, at_start=True)
        show(report)
        raise typer.Exit(report.exit_code)
    stop = threading.Event()
    for number in _STOPS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # what came meanwhile stops it now
    with logs.beside_the_work() as lines:
        log = logs.configure(chosen.log_level, chosen.log_format)
        try:
            code = app.run(
                chosen, log, stop, log_dropped=lambda: lines.dropped, collect=_collected,
                sweep=_swept,
            )  # fmt: skip
        except SidecarError as error:
            output.hint(str(error))
            code = error.exit_code
    raise typer.Exit(code)


def _collected(control: Side, notify: Side, keys: list[Keys]) -> dict[str, Any]:
    """Read what the status page shows: what `sidecar status` does."""
    from sidecar.ops.status import (  # only where somebody looks
        PAGE_LETTERS,
        collect,
        memory_by_part,
    )

    found = collect(control, notify, keys, letters=PAGE_LETTERS)
    found = replace(found, parts=memory_by_part(control, notify, keys))
    return found.to_json() | {"warnings": found.warnings}


def _swept(order: SweepOrder) -> Swept:
    """Do one pass of the keep rules."""
    from sidecar.ops.sweeping import sweep  # only where rules are given

    return sweep(order)

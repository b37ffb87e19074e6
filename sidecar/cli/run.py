"""`sidecar run`: the worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import make_dataclass
from typing import Annotated, Any, Final

import typer

from sidecar.cli.histories import Everything
from sidecar.errors import SidecarError
from sidecar.terminal import output
from sidecar.terminal.groups import option
from sidecar.worker import app, logs, settings

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def _options() -> Iterator[tuple[str, Any, Any]]:
    """Yield the options that the settings declare, as the fields of a group."""
    for name, default, help_, metavar in settings.options():
        shape: Any = {None: str | None, (): list[str] | None}.get(default, type(default))
        told = option(None if default == () else default, help_, metavar)
        yield name, shape, told


_Options = make_dataclass("_Options", _options(), frozen=True)


def run(where: Everything, told: Annotated[object, _Options]) -> None:
    """Relay control events until stopped by SIGTERM or SIGINT.

    Without options it needs nothing: an embedded server and two file stores under .sidecar.

    Examples:
      sidecar run

      sidecar run --redis redis://localhost:6379 --source-store file:///var/lib/node
        --fleet-store s3://fleet

      sidecar run --drain   (exit 3: something is held back)

    """
    chosen = settings.build(**vars(where), **vars(told))
    stop = threading.Event()
    for number in _STOPS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # what came meanwhile stops it now
    with logs.beside_the_work() as lines:
        log = logs.configure(chosen.log_level)
        try:
            code = app.run(chosen, log, stop, log_dropped=lambda: lines.dropped)
        except SidecarError as error:
            output.hint(str(error))
            code = error.exit_code
    raise typer.Exit(code)

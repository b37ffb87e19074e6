"""`sidecar outbox`: what sends the outbox of a producer's database, and how far that is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from sidecar.cli.emit import Produced
from sidecar.cli.options import Json, connection
from sidecar.errors import Unreachable
from sidecar.ops.missing import unserved
from sidecar.producer.outbox import Figures, Pump, figures
from sidecar.producer.outbox.wiring import check_database
from sidecar.stores import explained, named
from sidecar.terminal import output
from sidecar.terminal.environment import filed
from sidecar.terminal.groups import REQUIRED, option
from sidecar.wire.units import seconds

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def _database(text: str) -> str:
    return filed(check_database(text))


@dataclass(frozen=True)
class Outbox:
    """The database with the outbox."""

    database: str = connection(
        REQUIRED, "The database with the outbox: the path of an SQLite file, or postgresql://….",
        "DATABASE", unit=_database,
    )  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """How long rows are kept that were sent."""

    keep_sent: float = option(
        "1d", "How long rows that were sent stay in the outbox.", "DURATION", unit=seconds
    )


_Drain = Annotated[bool, typer.Option(help="Send what is there, then exit.")]


def run(outbox: Outbox, kept: Kept, where: Produced, *, drain: _Drain = False) -> None:
    """Put and append what was staged in the outbox, until stopped by SIGTERM or SIGINT.

    One pump at a time has an outbox: another one waits. A store, a Redis or a database that is away
    is waited for; not with --drain.

    Examples:
      sidecar outbox run --database /var/lib/app/app.db --redis redis://localhost
        --source-store file:///var/lib/node

      sidecar outbox run --database postgresql://pump@db/app   (PGPASSWORD, or ~/.pgpass)

      sidecar outbox run --database app.db --drain   (exit 3: another pump has the outbox)

    """
    with _stopping() as stop, explained():
        pump = Pump(
            outbox.database, where.control_url, where.stream, where.opened(),
            keep_s=kept.keep_sent, told=output.hint,
        )  # fmt: skip
        try:
            _check(outbox)
            if drain:
                pump.once(stop)
                return
            output.hints(unserved(where.control_url, where.stream, where.notify_stream))
            pump.run(stop)
        finally:
            pump.close()


def status(outbox: Outbox, *, json: Json = False) -> None:
    """Show how far the outbox is: what waits and since when, what is dead and why.

    Examples:
      sidecar outbox status --database /var/lib/app/app.db

      sidecar outbox status --database app.db --json

    """
    with named("--database"):
        found = figures(outbox.database)
    if json:
        output.json_line(found.to_json())
    else:
        _show(found)


def _check(outbox: Outbox) -> None:
    """Raise `UsageError` for what is no database with an outbox; one that is away may come back."""
    with named("--database"), suppress(Unreachable):
        figures(outbox.database)


def _show(found: Figures) -> None:
    lag = f", the first for {found.lag_s:.1f} s" if found.waiting else ""
    output.pairs([
        ("waiting", f"{found.waiting:,}{lag}"),
        ("dead", f"{found.dead:,}"),
        ("done", f"{found.done:,}, until they are removed"),
    ])  # fmt: skip
    if found.dead_rows:
        rows = [[str(one.number), *one[1:]] for one in found.dead_rows]
        columns = ["row", "tenant", "event_id", "reason", "detail"]
        output.table(columns, rows, cut=["detail"], right=["row"])


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield what SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in _STOPS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    yield stop

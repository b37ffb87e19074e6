"""`sidecar stream remake`: a control stream that takes no more entries, made anew."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.options import Json
from sidecar.cli.servers import Notifications, keys_of
from sidecar.errors import UsageError
from sidecar.ops.remake import Remake
from sidecar.redis.client import Side, check_stream
from sidecar.redis.keys import check_control
from sidecar.terminal import output
from sidecar.terminal.groups import read
from sidecar.terminal.person import whoami


def remake(
    where: Notifications,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The control stream.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with what was done.")],
    *,
    json: Json = False,
) -> None:
    """Make a control stream anew whose highest ID is taken, so that every append fails.

    Copies what is unread, pending or else unfinished into a new stream, which then takes the name
    in one step. The old one stays, under a name that is printed. Stop the workers first: while one
    owns the stream, nothing is done. May be killed anywhere and run again.

    Examples:
      sidecar stream remake control:events --reason "the producer gave the highest ID"

    """
    if not reason.strip():
        raise UsageError("--reason: say why; it is kept with what was done")
    keys = keys_of([read(check_control, "STREAM", stream)], where.notify_stream, None)[0]
    control = Side.open(where.control_url, stream)
    notify = Side.open(where.notify_url, keys.notifications)
    check_stream(control.client, control.url, stream)
    done = Remake(control, notify, keys, reason=reason, by=whoami()).run()
    if json:
        output.json_line({"stream": stream, **done._asdict()})
    else:
        output.line(
            f"{output.visible(stream)}: made anew with {done.copied:,} unfinished entries; what was"
            f" there is in {output.visible(done.aside)}: delete that when nobody needs it"
        )
    if done.lost and not json:
        output.line(
            f"{len(done.lost):,} pending entries had been deleted; have their producer send them"
            f" again: {', '.join(done.lost[:10])}{' …' if done.lost[10:] else ''}"
        )

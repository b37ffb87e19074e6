"""`sidecar stream remake`: a control stream that takes no more entries, made anew."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.options import Json
from sidecar.cli.servers import Notifications, keys_of
from sidecar.ops.remake import Remake
from sidecar.redis.client import Side, check_stream
from sidecar.terminal import output


def remake(
    where: Notifications,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The control stream.")],
    *,
    json: Json = False,
) -> None:
    """Make a control stream anew whose highest ID is taken, so that every append fails.

    Copies what is unread, pending or else unfinished into a new stream, which then takes the name
    in one step. The old one stays, under a name that is printed. Stop the workers first: while one
    owns the stream, nothing is done. May be killed anywhere and run again.

    Examples:
      sidecar stream remake control:events

    """
    keys = keys_of([stream], where.notify_stream, None)[0]
    control = Side.open(where.control_url, stream)
    notify = Side.open(where.notify_url, keys.notifications)
    check_stream(control.client, control.url, stream)
    done = Remake(control, notify, keys).run()
    if json:
        output.json_line({"stream": stream, "copied": done.copied, "aside": done.aside})
    else:
        output.line(
            f"{output.visible(stream)}: made anew with {done.copied:,} unfinished entries; what was"
            f" there is in {output.visible(done.aside)}: delete that when nobody needs it"
        )

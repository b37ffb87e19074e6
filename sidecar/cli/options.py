"""The options that commands share. Each is also an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

CONNECTION: Final = "Connection"
"""Where the help shows what leads to servers and stores: after a command's own options."""

DataDir = Annotated[
    Path,
    typer.Option(
        envvar="SIDECAR_DATA_DIR",
        rich_help_panel=CONNECTION,
        help="Where the embedded server and stores live.",
    ),
]
Redis = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_REDIS",
        metavar="URL",
        rich_help_panel=CONNECTION,
        help="Redis with the control stream: redis://, rediss://, unix://, redis+sentinel:// or"
        " redis+cluster://. Default: the embedded server.",
    ),
]
NotifyRedis = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_NOTIFY_REDIS",
        metavar="URL",
        rich_help_panel=CONNECTION,
        help="Redis with the notification stream. Default: the same.",
    ),
]
Streams = Annotated[
    list[str],
    typer.Option(
        envvar="SIDECAR_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Control stream. Repeatable.",
    ),
]
Stream = Annotated[
    str,
    typer.Option(
        envvar="SIDECAR_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Control stream.",
    ),
]
NotifyStream = Annotated[
    str,
    typer.Option(
        envvar="SIDECAR_NOTIFY_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Notification stream.",
    ),
]
DeadStream = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_DEAD_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Dead-letter stream. Default: {NOTIFY_STREAM}:dead.",
    ),
]
SourceStore = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_SOURCE_STORE",
        metavar="URL",
        rich_help_panel=CONNECTION,
        help="The producer's store. Default: DATA_DIR/source.",
    ),
]
FleetStore = Annotated[
    str | None,
    typer.Option(
        envvar="SIDECAR_FLEET_STORE",
        metavar="URL",
        rich_help_panel=CONNECTION,
        help="The fleet's store. Default: DATA_DIR/fleet.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", envvar="SIDECAR_JSON", help="One JSON object a line, for machines."),
]

DATA_DIR = Path(".sidecar")
STREAM = "control:events"
NOTIFY_STREAM = "control:notifications"

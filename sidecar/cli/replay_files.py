"""`sidecar replay export` and `report`: a window as a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    FleetStore,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.cli.review import Bundle, Ref, SinceWindow, Stack, Tenant, Type, UntilWindow
from sidecar.errors import UsageError


def export(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE.zip", help="Where the bundle goes; nothing may be there yet."
        ),
    ],
    since: SinceWindow = None,
    until: UntilWindow = None,
    *,
    artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts/--no-artifacts",
            envvar="SIDECAR_ARTIFACTS",
            help="Take the artifacts with it, or only what is said of them.",
        ),
    ] = True,
    json: Json = False,
    bundle: Bundle = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
) -> None:
    """Write the window into a bundle that opens on any machine, without Redis and the stores.

    `replay`, `trace` and `diff` take it with --bundle. It holds the control entries, notifications
    and dead letters of the window, what began or ended these, the newest notification of each stack
    and ref before it, and each artifact once. What the store has no more is told, not invented. It
    appears whole or not at all, and its parts have checksums. Artifacts and events are not
    encrypted: keep it as you keep the store.

    Exit codes: 3 a part of the window has expired (the bundle has the rest), 5 the window never
    held anything, and there is no bundle.

    Examples:
      sidecar replay export incident.zip --since 2h

      sidecar replay export incident/ --since 2026-11-02T10:00:00Z --until 2026-11-02T11:00:00Z

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.progress import progress, size
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.replay.export import export as export_to

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    review = Review.of(history, since, until)
    seen = review.covered()
    tell_covered(review, seen, json=json)
    with progress(json=json) as tell:
        done = export_to(history, review.window, path, artifacts=artifacts, tell=tell)
    if json:
        output.json_line({"bundle": str(path), **asdict(done)})
    else:
        held = f"{done.rows:,} entries, {done.artifacts:,} artifacts ({size(done.size_bytes)})"
        gone = f"; {done.unavailable:,} artifacts are not to be had" if done.unavailable else ""
        output.line(f"{output.visible(str(path))}: {held}{gone}")
    conclude(review, seen, held=done.rows, shown=done.rows)


def report(
    path: Annotated[
        Path, typer.Argument(metavar="FILE.html", help="Where the report goes; it is replaced.")
    ],
    since: SinceWindow = None,
    until: UntilWindow = None,
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    *,
    max_events: Annotated[
        int,
        typer.Option(
            envvar="SIDECAR_MAX_EVENTS", min=1, help="Refuse a window that has more than so many."
        ),
    ] = 200_000,
    json: Json = False,
    bundle: Bundle = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
) -> None:
    """Write the window as one HTML file, to be looked at in a browser; it needs no network.

    What went wrong, a timeline by tenant, delays, when nothing went on while events waited (of all
    tenants, whatever the filters), each event's hops, what overtook a dead letter, what changed
    between the versions of a ref; search and filters.

    The address of what is on the screen is a link to it. One can be written by hand, too, after the
    file's name: #event=EVENT_ID, #search=TEXT, #tenant=TENANT, or #from=US&to=US, in microseconds
    since the epoch as control_versions are; several are joined with &.

    Exit codes: 3 a part of the window has expired (the report tells which), 5 the window never held
    anything, 6 the filters left nothing.

    Examples:
      sidecar replay report incident.html --since 2h

      sidecar replay report incident.html --bundle incident.zip --tenant t_1

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.progress import progress, size
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.replay.report import Report
    from sidecar.replay.timeline import lives

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    review = Review.of(history, since, until, tenant=tenant, stack=stack, type_=type_, ref=ref)
    seen = review.covered()
    tell_covered(review, seen, json=json)
    made = Report(history, review.window, review.asked, seen)
    held = 0
    with progress(json=json) as tell:
        for life in lives(history, review.window):
            held += 1
            made.add(life)
            if len(made) > max_events:
                raise UsageError(
                    f"the window has over {max_events:,} events, more than a browser shows with"
                    " ease; narrow it with --since, --until and --tenant, or raise --max-events"
                )
            if held % 1000 == 0:
                tell(f"{held:,} events")
    if made:
        size_bytes = _replace(path, made.html())
        if json:
            output.json_line({"report": str(path), "events": len(made), "size_bytes": size_bytes})
        else:
            said = f"{len(made):,} events, {size(size_bytes)}"
            output.line(f"{output.visible(str(path))}: {said}; open it in a browser")
    conclude(review, seen, held=held, shown=len(made))


def _replace(path: Path, pieces: Iterator[bytes]) -> int:
    """Write a file beside its place, and move it there when it is whole; return its size."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            size_bytes = sum(map(file.write, pieces))
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return size_bytes

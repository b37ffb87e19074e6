"""`sidecar replay export` and `report`: a window as a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.filters import Believed, Of
from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json
from sidecar.cli.review import Review
from sidecar.errors import UsageError
from sidecar.replay.export import export as export_to
from sidecar.replay.report import Report
from sidecar.replay.timeline import lives
from sidecar.terminal import files, output
from sidecar.terminal.progress import progress, size


def export(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE.zip", help="Where the bundle goes; nothing may be there yet."
        ),
    ],
    between: Believed,
    *,
    artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts/--no-artifacts",
            help="Take the artifacts with it, or only what is said of them.",
        ),
    ] = True,
    json: Json = False,
    bundle: Bundle = None,
    where: Archived,
) -> None:
    """Write the window into a bundle that opens on any machine, without Redis and the stores.

    `replay`, `trace` and `diff` take it with --bundle. It holds the control entries, notifications
    and dead letters of the window, what began or ended these, the newest notification of each
    subject (tenant and stack, else the ref) before it, and each artifact once. What the store no
    longer has is named. It appears whole or not at all, and its parts have checksums. Artifacts
    and events are not encrypted: keep it as you keep the store.

    Exit codes: 3 a part of the window has expired (the bundle has the rest), 5 the window never
    held anything, and there is no bundle.

    Examples:
      sidecar replay export incident.zip --since 2h

      sidecar replay export incident/ --since 2026-11-02T10:00:00Z --until 2026-11-02T11:00:00Z

    """
    review = Review.opened(where, bundle, between, json=json)
    with progress(json=json) as tell:
        done = export_to(review.history, review.window, path, artifacts=artifacts, tell=tell)
    if json:
        output.json_line({"bundle": str(path), **asdict(done)})
    else:
        held = f"{done.rows:,} entries, {done.artifacts:,} artifacts ({size(done.size_bytes)})"
        gone = f"; {done.unavailable:,} artifacts are not to be had" if done.unavailable else ""
        output.line(f"{output.visible(str(path))}: {held}{gone}")
    review.conclude(held=done.rows, shown=done.rows)


def report(
    path: Annotated[
        Path, typer.Argument(metavar="FILE.html", help="Where the report goes; it is replaced.")
    ],
    between: Believed,
    of: Of,
    *,
    max_events: Annotated[
        int, typer.Option(min=1, help="Refuse a window that has more than so many.")
    ] = 200_000,
    json: Json = False,
    bundle: Bundle = None,
    where: Archived,
) -> None:
    """Write the window as one HTML file, to be looked at in a browser; it needs no network.

    What went wrong, a timeline by tenant, delays, when nothing moved while events waited (of all
    tenants, whatever the filters), each event's hops, what overtook a dead letter, what changed
    between the versions of a ref; search and filters.

    The address of what is on the screen is a link to it. One can be written by hand, too, after the
    file's name: #event=EVENT_ID, #search=TEXT, #tenant=TENANT, or #from=US&to=US, in microseconds
    since the epoch as control_versions are; several are joined with &.

    Exit codes: 3 a part of the window has expired (the report names it), 5 the window never held
    anything, 6 the filters left nothing.

    Examples:
      sidecar replay report incident.html --since 2h

      sidecar replay report incident.html --bundle incident.zip --tenant t_1

    """
    files.check_place("FILE.html", path)
    review = Review.opened(where, bundle, between, of, json=json)
    made = Report(review.history, review.window, review.asked, review.seen)
    held = _read(review, made, max_events, json=json)
    if made:
        size_bytes = files.replace(path, made.html())
        if json:
            output.json_line({"report": str(path), "events": len(made), "size_bytes": size_bytes})
        else:
            said = f"{len(made):,} events, {size(size_bytes)}"
            output.line(f"{output.visible(str(path))}: {said}; open it in a browser")
    review.conclude(held=held, shown=len(made))


def _read(review: Review, made: Report, max_events: int, *, json: bool) -> int:
    """Add the window's events to the report; return how many there are. Raises `UsageError`."""
    held = 0
    with progress(json=json) as tell:
        for life in lives(review.history, review.window):
            held += 1
            made.add(life)
            if len(made) > max_events:
                raise UsageError(
                    f"the window has over {max_events:,} events, more than a browser shows with"
                    " ease; narrow it with --since, --until and --tenant, or raise --max-events"
                )
            if held % 1000 == 0:
                tell(f"{held:,} events")
    return held

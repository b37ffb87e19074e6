"""`sidecar replay`: what happened, for an incident review."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
from sidecar.cli.review import Bundle, Ref, SinceWindow, Stack, Tenant, Type, UntilWindow, moment
from sidecar.cli.rules import AllowTypes, MaxArtifactSize, TenantScopes
from sidecar.errors import Incomplete, UsageError

if TYPE_CHECKING:
    from sidecar.cli.review import Review
    from sidecar.event import Event
    from sidecar.history import History
    from sidecar.redis.client import Side
    from sidecar.replay.moment import Row
    from sidecar.replay.timeline import Life
    from store import VersionedStore

app = typer.Typer(
    help="Incident review: what happened in a window, the fleet as it was, and all of it offline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_STYLES: Final = {
    "published": "green", "duplicate": "dim", "dead": "bold red", "redriven": "magenta",
    "waiting": "yellow", "unknown": "bold yellow",
}  # fmt: skip

_ROW_STYLES: Final = {"stack": "green", "ref": "", "waiting": "yellow", "dead": "bold red"}


@app.command()
def show(
    since: SinceWindow = None,
    until: UntilWindow = None,
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    *,
    resolve: Annotated[
        bool,
        typer.Option(
            "--resolve",
            envvar="SIDECAR_RESOLVE",
            help="Look each artifact up in the fleet's store: when it was put, or that it is gone.",
        ),
    ] = False,
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
    """Print the timeline: one line an event, what caused it beside what came of it.

    A line has the time at which the event ended and how long that took from its entry, how it
    ended, whose it is, its type and artifact_ref, its event_id and what there is to say. In the
    order in which they ended; what waits, was a duplicate or got lost comes last, in entry order.
    The window that is really covered is told first, on standard error, or as the first JSON line.

    Exit codes: 3 a part of the window has expired, 5 the window never held anything, 6 the
    filters left nothing.

    Examples:
      sidecar replay show --since 2h --tenant t_1

      sidecar replay show --since 2026-11-02T10:00:00Z --until 2026-11-02T10:30:00Z --stack web

      sidecar replay show --json | jq -r 'select(.end == "dead") | .reason' | sort | uniq -c

    """
    from sidecar.cli.histories import open_history
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.replay.timeline import lives

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    if resolve and history.store is None:
        raise UsageError("--resolve: there is no store to look into; name one with --fleet-store")
    review = Review.of(history, since, until, tenant=tenant, stack=stack, type_=type_, ref=ref)
    seen = review.covered()
    tell_covered(review, seen, json=json)
    held = shown = 0
    show_line = _print_json if json else _print_line
    for life in lives(history, review.window):
        held += 1
        if review.asked.wants(life.event, life.tenant_id):
            shown += 1
            show_line(life, history.store if resolve else None)
    conclude(review, seen, held=held, shown=shown)


def _print_line(life: Life, store: VersionedStore | None) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339, span

    event = life.event
    at = rfc3339(life.ended_us or life.begun_us)
    took = f"+{span(life.delay_s)}" if life.delay_s is not None else "-"
    parts = [
        (at, "dim"),
        (f"{took:>8}", "dim"),
        (f"{life.end.value:<9}", _STYLES[life.end.value]),
        (f"{whose(life):<18}", "bold"),
        (f"{event.type if event else '?':<18}", "cyan"),
        (f"{event.artifact_ref if event and event.artifact_ref else '-':<24}", ""),
        (life.event_id or "?", ""),
        *((word, _STYLES[life.end.value]) for word in _words(life)),
    ]
    if store:
        parts.append(_put_words(life, store))
    output.styled(parts)


def whose(life: Life) -> str:
    """Return tenant, stack and version for a person."""
    return whose_event(life.event) if life.event else life.tenant_id or "-"


def whose_event(event: Event) -> str:
    """Return tenant, stack and version of an event for a person."""
    owner = "/".join(part for part in (event.tenant_id, event.stack_id) if part) or "-"
    return f"{owner}@{event.version}" if event.version else owner


def _words(life: Life) -> list[str]:
    """Return what there is to say besides."""
    said = []
    if life.control_version:
        first = "of " if life.end.value == "duplicate" else ""
        said.append(f"{first}{life.control_version}")
    if life.reason:
        said.append(f"{life.reason}: {life.detail}")
    elif life.detail:
        said.append(life.detail)
    if life.end.value == "unknown":
        said.append("nothing tells how it ended: that has expired, or it was lost (sidecar audit)")
    if life.clock_ahead_s:
        from sidecar.moments import span

        said.append(f"the producer's clock is {span(life.clock_ahead_s)} ahead")
    return said


def _put_words(life: Life, store: VersionedStore) -> tuple[str, str]:
    from sidecar.moments import rfc3339
    from sidecar.replay.artifacts import State, put_of

    put = put_of(life.event, store)
    if put is None:
        return "no artifact", "dim"
    if put.state is not State.THERE:
        return f"artifact {put.state.value}", "bold red"
    if put.version is None:
        return "put", "green"
    return f"put {rfc3339(put.version.stored_at * 1e6)}, {put.version.size_bytes:,} bytes", "green"


def _print_json(life: Life, store: VersionedStore | None) -> None:
    from sidecar.cli import output
    from sidecar.replay.artifacts import put_of

    row: dict[str, Any] = life.to_json()
    if store:
        put = put_of(life.event, store)
        row["put"] = put and put.to_json()
    output.json_line(row)


@app.command()
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


@app.command()
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

    A timeline by tenant, delays, dead letters by reason, when nothing went on while events waited,
    each event's hops, what changed between the versions of a ref; search, filters, and links to
    what is on the screen.

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
            if review.asked.wants(life.event, life.tenant_id):
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


@app.command()
def at(
    position: Annotated[
        str,
        typer.Argument(
            metavar="POSITION", help="A control_version, an RFC 3339 time, or so long ago (2h)."
        ),
    ],
    tenant: Tenant = "",
    stack: Stack = "",
    ref: Ref = "",
    *,
    look_around: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_LOOK_AROUND",
            metavar="TIME",
            help="How long before the position an entry may have come and be found waiting.",
        ),
    ] = "1h",
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
    """Print the fleet as it was: each stack's version, each ref, what waited and what was dead.

    The notification at POSITION counts, as for a controller that has it as its cursor.

    Exit codes: 3 notifications before the position have expired, so that older stacks and refs may
    be missing, 5 there was nothing yet, 6 the filters left nothing.

    Examples:
      sidecar replay at 2026-11-02T10:15:00Z --tenant t_1

      sidecar replay at 1791234567890123 --json | jq -r 'select(.what == "stack") | .version'

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.moments import parse_since, rfc3339
    from sidecar.replay.moment import at as moment_at
    from sidecar.replay.window import Filter, FilteredOut, NothingThere
    from sidecar.settings import seconds

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    begin = parse_since(position, history.now_us(), option="POSITION")
    at_us = begin.control_version + begin.is_time
    if not json:
        output.hint(f"{history.describe()}, at {at_us} ({rfc3339(at_us)})")
    try:
        around_us = int(seconds(look_around) * 1e6)
    except ValueError as error:
        raise UsageError(f"--look-around: {error}") from error
    asked = Filter(tenant=tenant, stack=stack, ref=ref)
    found = moment_at(history, at_us, around_us)
    shown = held = 0
    for row in found.rows():
        held += 1
        if asked.wants(row.event, row.tenant_id):
            shown += 1
            _print_row(row, json=json)
    if found.gaps:
        gaps = "; ".join(f"{moment(g.first)} to {moment(g.last)} ({g.why})" for g in found.gaps)
        raise Incomplete(f"notifications have expired: {gaps}. What only they told is missing here")
    if not held:
        raise NothingThere(f"there was nothing yet at {at_us} ({rfc3339(at_us)})")
    if not shown:
        raise FilteredOut(f"the filters left nothing of {held:,}")


@app.command()
def run(
    to: Annotated[
        str,
        typer.Option(
            "--to-redis", envvar="SIDECAR_TO_REDIS", metavar="URL", help="The lab's Redis."
        ),
    ],
    to_stream: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_TO_STREAM", metavar="NAME", help="The stream that it publishes to."
        ),
    ] = "replay:notifications",
    speed: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_SPEED", metavar="N|max", help="So many times as fast as it was."
        ),
    ] = "1",
    since: SinceWindow = None,
    until: UntilWindow = None,
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    *,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", envvar="SIDECAR_YES", help="Also into the very Redis that is under review."
        ),
    ] = False,
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
    """Publish the window's notifications again, into another stream, for a controller in a lab.

    With the IDs, control_versions and content that they had, at the pace that they had: the same
    each time. Stopped and started again, it goes on where it was. A stream that holds anything else
    is never written to, nor is one of the streams under review. The artifacts stay where they are:
    give the lab's controller the fleet's store, or an unpacked bundle's.

    Exit codes: 3 stopped before the end, or a part of the window has expired, 5 the window never
    held anything, 6 the filters left nothing.

    Examples:
      sidecar replay run --bundle incident.zip --to-redis redis://lab --speed 10

      sidecar replay run --since 2h --until 1h --to-redis redis://lab --speed max --tenant t_1

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.progress import progress
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.redis.client import Side
    from sidecar.replay.rerun import check_target, left_after, publish, wanted

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    factor = _speed(speed)
    review = Review.of(history, since, until, tenant=tenant, stack=stack, type_=type_, ref=ref)
    seen = review.covered()
    tell_covered(review, seen, json=json)
    target = Side.open(to, to_stream)
    check_target(history, target, to_stream)
    if not yes and bundle is None and _same_server(history, target):
        raise UsageError(
            "--to-redis is the Redis under review; replay into another, or say --yes if that is"
            " what you want"
        )
    entries = wanted(history, review.window, review.asked)
    done = 0
    stopped = False
    with progress(json=json) as tell:
        try:
            left = left_after(entries, target, to_stream)
            for entry in publish(left, target, to_stream, speed=factor):
                done += 1
                tell(f"{done:,} notifications, at {moment(entry.id)}")
        except KeyboardInterrupt:
            stopped = True
    if json:
        output.json_line({"stream": to_stream, "published": done, "complete": not stopped})
    else:
        output.line(f"{output.visible(to_stream)}: {done:,} notifications published")
    if stopped:
        raise Incomplete("stopped; the same command goes on from here")
    there = target.at(to_stream).xlen(to_stream)
    conclude(review, seen, held=int(there) or _held(review), shown=int(there))


def _speed(text: str) -> float | None:
    """Read `--speed`: None is as fast as it goes."""
    if text == "max":
        return None
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise UsageError(f"--speed {text!r}: a number above 0 (10 is ten times as fast), or max")
    return factor


def _same_server(history: History, target: Side) -> bool:
    """Tell whether the target is the server that the notifications come from."""
    from sidecar.history.live import LiveHistory

    return isinstance(history, LiveHistory) and history.is_on(target)


def _held(review: Review) -> int:
    """Return 1 when the window holds a notification, whatever the filters say."""
    window, names = review.window, review.history.streams
    found = review.history.entries(names.notifications, window.first, window.last)
    return int(next(found, None) is not None)


@app.command()
def check(
    since: SinceWindow = None,
    until: UntilWindow = None,
    *,
    allow_type: AllowTypes = None,
    tenant_scope: TenantScopes = None,
    max_artifact_size: MaxArtifactSize = None,
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
    """Run the window's control entries through today's code, and compare with what was done then.

    In a sandbox, on a server of its own; nothing is written anywhere else. Each entry must end as
    it did: published with the same content, a repeat, or dead for the same reason. What lay in what
    was around (an artifact that was missing, or has been collected since), and what repeats an
    event from before the window, is counted apart: nobody can judge it now.

    Exit codes: 1 something ends otherwise today; the first is told, 3 a part of the window has
    expired, 5 the window never held anything.

    Examples:
      sidecar replay check --bundle incident.zip

      sidecar replay check --since 2h --allow-type site.moved --json

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.cli.rules import rules_of
    from sidecar.replay.check import check as check_window

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    review = Review.of(history, since, until)
    seen = review.covered()
    tell_covered(review, seen, json=json)
    rules = rules_of(allow_type, tenant_scope, max_artifact_size)
    found = check_window(history, review.window, rules)
    first = found.divergence
    if json:
        counts = {"entries": found.entries, "same": found.same, "unjudged": found.unjudged}
        output.json_line({**counts, "divergence": first and first._asdict()})
    else:
        output.pairs([
            ("entries", f"{found.entries:,}"), ("the same", f"{found.same:,}"),
            ("cannot be judged", f"{found.unjudged:,}"),
            *([("first otherwise", f"{first.origin} {first.event_id}"),
               ("  recorded", first.recorded), ("  today", first.today)] if first else []),
        ])  # fmt: skip
    if first:
        raise typer.Exit(1)
    conclude(review, seen, held=found.entries, shown=found.entries)


def _print_row(row: Row, *, json: bool) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339

    if json:
        output.json_line(row.to_json())
        return
    event = row.event
    output.styled([
        (f"{row.what:<7}", _ROW_STYLES[row.what]),
        (f"{whose_event(event) if event else '-':<18}", "bold"),
        (f"{event.artifact_ref if event and event.artifact_ref else '-':<24}", ""),
        (f"{event.type if event else '?':<18}", "cyan"),
        (f"since {rfc3339(row.at_us)}", "dim"),
        (row.event_id or "?", ""),
        *([(row.detail, "red")] if row.detail else []),
    ])  # fmt: skip

"""`sidecar replay`: what happened, for an incident review."""

from __future__ import annotations

from collections import Counter, deque
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
from sidecar.errors import Incomplete, UsageError

if TYPE_CHECKING:
    from sidecar.event import Event
    from sidecar.history import Gap
    from sidecar.history.halts import Halt
    from sidecar.replay.moment import Row
    from sidecar.replay.timeline import Life
    from store import VersionedStore

app = typer.Typer(
    help="""Incident review: what happened in a window, the fleet as it was, and all of it offline.

    Reviewing an incident?
      sidecar replay export incident.zip --since 2h
      sidecar replay report incident.html --bundle incident.zip
      sidecar trace TENANT/STACK --bundle incident.zip
    docs/review.md goes through one.
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_STYLES: Final = {
    "published": "green", "duplicate": "dim", "dead": "bold red", "redriven": "magenta",
    "waiting": "yellow", "unknown": "bold yellow",
}  # fmt: skip

_COLUMNS: Final = (
    f"{'time':<24}", f"{'took':>8}", f"{'end':<9}", f"{'whose':<18}", f"{'type':<18}",
    f"{'artifact_ref':<24}", "event_id", "what there is to say",
)  # fmt: skip
_ROW_STYLES: Final = {
    "stack": "green", "waiting": "yellow", "dead": "bold red", "halt": "bold yellow",
    "ref": "",
}  # fmt: skip
_SINCE: Final = {
    "stack": "published", "waiting": "entered", "dead": "died", "halt": "began",
    "ref": "published",
}  # fmt: skip
_MILLISECOND_US: Final = 1000


@app.command()
def show(
    since: SinceWindow = None,
    until: UntilWindow = None,
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    end: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SIDECAR_END",
            metavar="KIND",
            help="Only events that ended so: published, duplicate, dead, redriven; or waiting,"
            " unknown. Repeatable.",
        ),
    ] = None,
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
    A halt of a control stream has a line of its own, whatever the filters, where it began.
    The window that is really covered is told first, on standard error, or as the first JSON line;
    how many events ended in which way last, on standard error.

    Exit codes: 3 a part of the window has expired, 5 the window never held anything, 6 the
    filters left nothing.

    Examples:
      sidecar replay show --since 2h --tenant t_1

      sidecar replay show --bundle incident.zip --end dead --end waiting

      sidecar replay show --since 2026-11-02T10:00:00Z --until 2026-11-02T10:30:00Z --stack web

      sidecar replay show --json | jq -r 'select(.end == "dead") | .reason' | sort | uniq -c

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.review import Review, conclude, tell_covered
    from sidecar.history.halts import halts_of
    from sidecar.replay.timeline import lives

    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    if resolve and history.store is None:
        raise UsageError("--resolve: there is no store to look into; name one with --fleet-store")
    review = Review.of(
        history, since, until, tenant=tenant, stack=stack, type_=type_, ref=ref, ends=_ends(end)
    )
    seen = review.covered()
    tell_covered(review, seen, json=json)
    if not json:
        output.heading(_COLUMNS)
    held = 0
    shown: Counter[str] = Counter()
    show_line = _print_json if json else _print_line
    halts = deque(halts_of(history, review.window.since_us, review.window.until_us))
    for life in lives(history, review.window):
        held += 1
        # A halt comes after what ended in the same millisecond: that may have led to it.
        while halts and not 0 < life.ended_us < halts[0].since_us + _MILLISECOND_US:
            _print_halt(halts.popleft(), json=json)
        if review.asked.wants(life.event, life.tenant_id, life.end):
            shown[life.end] += 1
            show_line(life, history.store if resolve else None)
    for halt in halts:
        _print_halt(halt, json=json)
    _sum_up(shown, alone=bool(end))
    conclude(review, seen, held=held, shown=shown.total())


def _ends(asked: list[str] | None) -> list[str]:
    from sidecar.replay.timeline import End

    for end in asked or ():
        if end not in list(End):
            raise UsageError(f"--end: {end!r} is no end; there are {', '.join(End)}")
    return asked or []


def _sum_up(shown: Counter[str], *, alone: bool) -> None:
    from sidecar.cli import output

    total = shown.total()
    if total:
        each = ", ".join(f"{count:,} {end}" for end, count in shown.most_common())
        more = "" if alone or not shown["dead"] else "; --end dead shows what died alone"
        output.hint(f"{total:,} event{'' if total == 1 else 's'}: {each}{more}")


def _print_halt(halt: Halt, *, json: bool) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339, span

    if json:
        output.json_line(halt.to_json())
        return
    took = "" if halt.until_us is None else span((halt.until_us - halt.since_us) / 1e6)
    output.styled([
        (rfc3339(halt.since_us), "dim"), (f"{took:>8}", "dim"), (f"{'halted':<9}", "bold yellow"),
        (str(halt), "yellow"),
    ])  # fmt: skip


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
    """Print the fleet as it was: each stack's version, what waited, what was dead, and each ref.

    Before these come the halts that were in force, whatever the filters.
    The notification at POSITION counts, as for a controller that has it as its cursor. A line says
    since when it has been so: when the stack or ref was published, when what waited entered the
    control stream, or when what was dead died; in JSON all of these are `since`.

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
    from sidecar.replay.window import Filter
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
    for row in found.halts():  # they are everybody's, whatever the filters
        _print_row(row, json=json)
    for row in found.rows():
        held += 1
        if asked.wants(row.event, row.tenant_id):
            shown += 1
            _print_row(row, json=json)
    _conclude_at(found.gaps, at_us, held, shown)


def _conclude_at(gaps: list[Gap], at_us: int, held: int, shown: int) -> None:
    """Raise what tells that something is missing, if so it is."""
    from sidecar.moments import rfc3339
    from sidecar.replay.window import FilteredOut, NothingThere

    if gaps:
        which = "; ".join(f"{moment(gap.first)} to {moment(gap.last)} ({gap.why})" for gap in gaps)
        raise Incomplete(
            f"notifications have expired: {which}. What only they told is missing here"
        )
    if not held:
        raise NothingThere(f"there was nothing yet at {at_us} ({rfc3339(at_us)})")
    if not shown:
        raise FilteredOut(f"the filters left nothing of {held:,}")


def _print_row(row: Row, *, json: bool) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339

    if json:
        output.json_line(row.to_json())
        return
    event = row.event
    output.styled([
        (f"{row.what:<7}", _ROW_STYLES[row.what]),
        (f"{whose_event(event) if event else row.tenant_id or '-':<18}", "bold"),
        (f"{event.artifact_ref if event and event.artifact_ref else '-':<24}", ""),
        (f"{event.type if event else '?':<18}", "cyan"),
        (f"{_SINCE[row.what]:<9} {rfc3339(row.at_us)}", "dim"),
        (row.event_id or "?", ""),
        *([(row.detail, "red")] if row.detail else []),
    ])  # fmt: skip

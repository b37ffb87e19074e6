"""`sidecar replay run` and `check`: a window again, for a lab, and through today's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    from collections.abc import Iterator

    from sidecar.cli.review import Review
    from sidecar.history import History
    from sidecar.redis.client import Side
    from sidecar.replay.check import Checked


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
    event from before the window, is counted apart, and named: nobody can judge it now.

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
        told = [one._asdict() for one in found.unjudged_first]
        output.json_line({
            **counts, "unjudged_first": told, "divergence": first and first._asdict(),
        })  # fmt: skip
    else:
        output.pairs([
            ("entries", f"{found.entries:,}"), ("the same", f"{found.same:,}"),
            ("cannot be judged", f"{found.unjudged:,}"), *_unjudged(found),
            *([("first otherwise", f"{first.origin} {first.event_id}"),
               ("  recorded", first.recorded), ("  today", first.today)] if first else []),
        ])  # fmt: skip
    if first:
        raise typer.Exit(1)
    conclude(review, seen, held=found.entries, shown=found.entries)


def _unjudged(found: Checked) -> Iterator[tuple[str, str]]:
    """Yield which entries cannot be judged, and why."""
    for one in found.unjudged_first:
        yield "", f"{one.origin} {one.event_id}: {one.recorded}, today {one.today}; {one.why}"
    more = found.unjudged - len(found.unjudged_first)
    if more:
        yield "", f"and {more:,} more"

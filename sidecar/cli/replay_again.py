"""`sidecar replay run` and `check`: a window again, for a lab, and through today's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from sidecar.cli.filters import Between, Of
from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json, checked_redis
from sidecar.cli.review import Review
from sidecar.cli.rules import WorkerRules
from sidecar.errors import Incomplete, UsageError
from sidecar.history import History
from sidecar.history.joined import JoinedHistory
from sidecar.history.live import LiveHistory
from sidecar.redis.client import Side
from sidecar.redis.keys import check_name
from sidecar.replay.check import Checked
from sidecar.replay.check import check as check_window
from sidecar.replay.rerun import check_target, left_after, publish, speed_of, wanted
from sidecar.replay.window import moment
from sidecar.terminal import output
from sidecar.terminal.groups import REQUIRED, option
from sidecar.terminal.progress import progress


@dataclass(frozen=True)
class Lab:
    """The options that say where the window is published again, and how fast."""

    to_redis: str = option(REQUIRED, "The lab's Redis.", "URL", unit=checked_redis)
    to_stream: str = option(
        "replay:notifications", "The stream that it publishes to.", "NAME", unit=check_name
    )
    speed: float | None = option("1", "So many times as fast as it was.", "N|max", unit=speed_of)


def run(
    lab: Lab,
    between: Between,
    of: Of,
    *,
    yes: Annotated[
        bool, typer.Option(help="Also into the very Redis that is under review.")
    ] = False,
    json: Json = False,
    bundle: Bundle = None,
    where: Archived,
) -> None:
    """Publish the window's notifications again, into another stream, for a controller in a lab.

    With the IDs, control_versions and content that they had, at the pace that they had: the same
    each time. Stopped and started again, it continues where it was. A stream that holds anything
    else is never written to, nor is one of the streams under review. The artifacts stay where they
    are: give the lab's controller the fleet's store, or an unpacked bundle's.

    Exit codes: 3 stopped before the end, or a part of the window has expired, 5 the window never
    held anything, 6 the filters left nothing.

    Examples:
      sidecar replay run --bundle incident.zip --to-redis redis://lab --speed 10

      sidecar replay run --since 2h --until 1h --to-redis redis://lab --speed max --tenant t_1

    """
    review = Review.opened(where, bundle, between, of, json=json)
    target = Side.open(lab.to_redis, lab.to_stream)
    check_target(review.history, target, lab.to_stream)
    if not yes and bundle is None and _same_server(review.history, target):
        raise UsageError(
            "--to-redis is the Redis under review; replay into another, or say --yes if that is"
            " what you want"
        )
    done, stopped = _publish(review, target, lab.to_stream, lab.speed, json=json)
    if json:
        output.json_line({"stream": lab.to_stream, "published": done, "complete": not stopped})
    else:
        output.line(f"{output.visible(lab.to_stream)}: {done:,} notifications published")
    if stopped:
        raise Incomplete("stopped; the same command continues from here")
    there = target.at(lab.to_stream).xlen(lab.to_stream)
    review.conclude(held=int(there) or _held(review), shown=int(there))


def _publish(
    review: Review, target: Side, stream: str, factor: float | None, *, json: bool
) -> tuple[int, bool]:
    """Publish what is not there yet; return how many, and whether the keyboard stopped it."""
    entries = wanted(review.history, review.window, review.asked)
    done = 0
    with progress(json=json) as tell:
        try:
            left = left_after(entries, target, stream)
            for entry in publish(left, target, stream, speed=factor):
                done += 1
                tell(f"{done:,} notifications, at {moment(entry.id)}")
        except KeyboardInterrupt:
            return done, True
    return done, False


def _same_server(history: History, target: Side) -> bool:
    """Tell whether the target is the server that the notifications come from."""
    return isinstance(history, LiveHistory | JoinedHistory) and history.is_on(target)


def _held(review: Review) -> int:
    """Return 1 when the window holds a notification, whatever the filters say."""
    window, names = review.window, review.history.streams
    found = review.history.entries(names.notifications, window.first, window.last)
    return int(next(found, None) is not None)


def check(
    between: Between, rules: WorkerRules, *, json: Json = False, bundle: Bundle = None,
    where: Archived,
) -> None:  # fmt: skip
    """Run the window's control entries through today's code, and compare with what was done then.

    In a sandbox, on a server of its own; nothing is written anywhere else. Each entry must end as
    it did: published with the same content, a repeat, or dead for the same reason. What lay in what
    was around (an artifact that was missing, or has been collected since), and what repeats an
    event from before the window, is counted apart, and named: nobody can judge it now.

    Exit codes: 1 something ends otherwise today; the first is shown, 3 a part of the window has
    expired, 5 the window never held anything.

    Examples:
      sidecar replay check --bundle incident.zip

      sidecar replay check --since 2h --allow-type site.moved --json

    """
    review = Review.opened(where, bundle, between, json=json)
    found = check_window(review.history, review.window, rules.rules())
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
    review.conclude(held=found.entries, shown=found.entries)


def _unjudged(found: Checked) -> Iterator[tuple[str, str]]:
    """Yield which entries cannot be judged, and why."""
    for one in found.unjudged_first:
        yield "", f"{one.origin} {one.event_id}: {one.recorded}, today {one.today}; {one.why}"
    more = found.unjudged - len(found.unjudged_first)
    if more:
        yield "", f"and {more:,} more"

"""What the commands for incident review share: their options, the window, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.options import CONNECTION
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sidecar.history import History
    from sidecar.replay.window import Covered, Filter, Window

SinceWindow = Annotated[
    str | None,
    typer.Option(
        "--since",
        envvar="SIDECAR_SINCE",
        metavar="POSITION",
        help="Begin after this control_version, or at this time: RFC 3339, or so long ago"
        " (15m, 2h, 7d). Default: the oldest there is.",
    ),
]
UntilWindow = Annotated[
    str | None,
    typer.Option(
        "--until",
        envvar="SIDECAR_UNTIL",
        metavar="POSITION",
        help="End with this control_version, or at this time. Default: now.",
    ),
]
Tenant = Annotated[
    str, typer.Option("--tenant", envvar="SIDECAR_TENANT", help="Only this tenant's events.")
]
Stack = Annotated[
    str, typer.Option("--stack", envvar="SIDECAR_STACK", help="Only events of this stack.")
]
Type = Annotated[
    str, typer.Option("--type", envvar="SIDECAR_TYPE", help="Only events of this type.")
]
Ref = Annotated[
    str,
    typer.Option(
        "--ref", envvar="SIDECAR_REF", help="Only events of this artifact_ref, or of one under it."
    ),
]
Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        envvar="SIDECAR_BUNDLE",
        metavar="PATH",
        rich_help_panel=CONNECTION,
        help="Read what `replay export` wrote, in place of Redis and the stores.",
    ),
]


def _refuse_bundle(context: typer.Context, bundle: Path | None) -> None:
    if bundle is not None:
        raise UsageError(
            f"`{context.command_path}` works on a live system only; of a bundle `sidecar replay`"
            " and `sidecar dead ls` tell what happened, and `sidecar trace ID` tells of one event"
            " or letter"
        )


LiveOnly = Annotated[
    Path | None,
    typer.Option("--bundle", hidden=True, callback=_refuse_bundle, expose_value=False),
]
"""For commands that cannot do with a bundle: whoever tries one reads what can."""


@dataclass(frozen=True, slots=True)
class Review:
    """A history, and which part of it is asked for."""

    history: History
    window: Window
    asked: Filter

    @classmethod
    def of(
        cls,
        history: History,
        since: str | None,
        until: str | None,
        *,
        tenant: str = "",
        stack: str = "",
        type_: str = "",
        ref: str = "",
        ends: Collection[str] = (),
    ) -> Review:
        """Read what the options say. Raises `UsageError`."""
        from sidecar.replay.window import Filter, parse_window

        window = parse_window(since or None, until or None, history.now_us(), history.span_us)
        return cls(history, window, Filter(tenant, stack, type_, ref, frozenset(ends)))

    def covered(self) -> list[Covered]:
        """Return how much of the window can be seen."""
        from sidecar.replay.window import covered

        return covered(self.history, self.window)


def tell_covered(review: Review, seen: Sequence[Covered], *, json: bool) -> None:
    """Tell which window it really is: for a person beside the data, for a machine within it."""
    from sidecar.cli import output

    if json:
        output.json_line({
            "window": {"since_us": review.window.since_us, "until_us": review.window.until_us},
            "history": review.history.describe(),
            "covered": [one.to_json() for one in seen],
        })  # fmt: skip
        return
    output.hint(f"{review.history.describe()}, {review.window}")
    for one in seen:
        output.hint(f"  {one.stream}: {_span(one)}")
        for gap in one.missing:
            output.hint(f"    {gap.why}: {moment(gap.first)} to {moment(gap.last)} is gone")


def _span(one: Covered) -> str:
    if one.reach is None:
        return "there never was such a stream"
    if one.reach.first is None:
        return "empty"
    return f"{moment(one.reach.first)} to {moment(one.reach.last)}"


def moment(entry_id: str) -> str:
    """Return the time that an entry ID means, for a person."""
    from sidecar.moments import rfc3339
    from sidecar.redis.source import id_pair

    ms, _ = id_pair(entry_id)
    return rfc3339(ms * 1000) if ms else "the beginning"


def conclude(review: Review, seen: list[Covered], *, held: int, shown: int) -> None:
    """Raise what the contract's exit code says of the window, if anything."""
    from sidecar.replay.window import verdict

    failure = verdict(review.window, seen, held=held, shown=shown, asked=review.asked)
    if failure:
        raise failure

"""`sidecar explain`: what went wrong, one sentence a finding, with who, by what, and the fix."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import typer

from sidecar.cli.filters import Between
from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json
from sidecar.cli.review import Review
from sidecar.errors import Incomplete, UsageError
from sidecar.replay.explain.explaining import Explanation, newest_of
from sidecar.replay.explain.explaining import explain as explained
from sidecar.replay.explain.findings import Finding, Level, at, called
from sidecar.replay.explain.written import markdown
from sidecar.replay.lookup import Asked, absent
from sidecar.terminal import output
from sidecar.terminal.groups import argument, flag
from sidecar.terminal.progress import progress

_OF_BUNDLES: Final = (
    "sidecar trace ",
    "sidecar replay ",
    "sidecar dead ls",
    "sidecar dead history",
)
"""How the commands begin that read a bundle; the others ask what is live."""
_STYLES: Final = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "dim"}


@dataclass(frozen=True)
class About:
    """What is asked for, and how it is told."""

    what: str = argument(
        "",
        "[TENANT|TENANT/STACK[@VERSION]|REF|ID]",
        "Only what concerns this tenant, stack, version or artifact_ref, or this event: its"
        " event_id, STREAM/ENTRY_ID, control_version, or the ID of a dead letter.",
    )
    markdown: bool = flag("As Markdown, for a ticket.")


def explain(
    about: About, *, between: Between, json: Json = False, bundle: Bundle = None, where: Archived
) -> None:
    """Say what went wrong, the gravest first: what, to whom, when, by whom, and caused by what.

    It begins with a summary: what is wrong now, and why; what to look at; what is over; whom it
    hit; what is not on record. Then each finding is one sentence, with the commands that show it
    and the fix. What led to it stands in it, or above it where it has led to more.
    They come of rules, each of one kind: docs/explain.md lists them, and says what no record can
    tell. Errors are what is still wrong; warnings are over, or have to be looked at, as they may do
    no harm; notes are what somebody meant.

    Exit codes: 1 something went wrong or there is nothing by that name, 3 nothing was found, but a
    part of the window has expired.

    Examples:
      sidecar explain --since 2h

      sidecar explain t_1/web

      sidecar explain t_1/web@7 --bundle incident.zip

      sidecar explain --bundle incident.zip --json | jq -r 'select(.level == "error") | .what'

    """
    if json and about.markdown:
        raise UsageError("--json and --markdown: choose one")
    if about.what.endswith(".zip") and Path(about.what).is_file():
        raise UsageError(f"{output.visible(about.what)} is a file: read it with --bundle")
    review = Review.of(where.history(bundle), between)
    with progress(json=json) as tell:
        tell("reading the window")
        found = explained(review.history, review.window, about.what)
    if about.what and not (found.lives or found.findings):
        raise absent(review.history, review.window, Asked(about.what, None, 1, 0))
    if bundle:
        found.as_of += ", when the bundle was taken"
    if bundle and not json:
        found.findings = [_offline(one, bundle) for one in found.findings]
    _print(found, about, json=json)
    output.hints(found.unknown)
    if found.is_wrong:
        raise typer.Exit(1)
    if found.expired:
        raise Incomplete(f"nothing was found, but a part of the window {review.window} has expired")


def _print(found: Explanation, about: About, *, json: bool) -> None:
    if about.markdown:
        output.line(markdown(found))
        return
    if not found.findings:
        output.hint(_nothing(found, about.what))
        return
    numbers, summary = found.numbers, found.summary
    if json:
        for each in (summary.to_json(), *(one.to_json(numbers) for one in found.findings)):
            output.json_line(each)
        return
    for text in summary.lines:
        output.styled([(text, "bold")])
    output.line()
    for one in found.findings:
        _print_one(one, numbers)


def _offline(one: Finding, bundle: Path) -> Finding:
    """Return a finding with those commands alone that show it of a bundle, as they are typed."""
    shown = [each for each in one.evidence if each.startswith(_OF_BUNDLES)]
    return replace(one, evidence=tuple(
        f"{each} --bundle {shlex.quote(str(bundle))}" for each in shown
    ))  # fmt: skip


def _nothing(found: Explanation, what: str) -> str:
    newest = newest_of(found.lives)
    if newest is None:
        return "nothing went wrong with any event; of servers and keys `sidecar doctor` tells"
    ended = f" at {at(newest.ended_us)}" if newest.ended_us else ""
    last = f"the last event, {called(newest)}, is {newest.end.value}{ended}"
    return f"nothing is wrong with {what}: {last}"


def _print_one(one: Finding, numbers: dict[str, int]) -> None:
    style = _STYLES[one.level]
    output.styled([
        (f"{numbers[one.key]}.", "dim"), (one.level.upper(), style), (one.kind, "bold"),
        (one.what, ""),
    ])  # fmt: skip
    rows = [("  caused by", ", ".join(map(str, one.caused_by(numbers))))]
    rows += [("  see", shown) for shown in one.evidence] + [("  fix", one.advice)]
    output.pairs([row for row in rows if row[1]])

"""`sidecar replay show` and `at`: what happened, for an incident review."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from sidecar.cli.filters import Believed, Of, OfRef, OfStack
from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json
from sidecar.cli.review import Review
from sidecar.errors import UsageError
from sidecar.history.halts import HaltPeriod
from sidecar.replay.artifacts import State, put_of
from sidecar.replay.backs import Backs
from sidecar.replay.moment import Row
from sidecar.replay.moment import at as moment_at
from sidecar.replay.timeline import End, Life, with_halts
from sidecar.replay.window import LifeSelection
from sidecar.terminal import output
from sidecar.terminal.groups import REQUIRED, argument, flag, option
from sidecar.wire.moments import parse_position, rfc3339, span
from sidecar.wire.units import said, seconds
from store import VersionedStore

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


@dataclass(frozen=True)
class Shown:
    """The options that say what is shown of it."""

    end: list[str] | None = option(
        None,
        "Only events that ended so: published, duplicate, dead, redriven; or waiting, unknown."
        " Repeatable.",
        "KIND",
    )
    resolve: bool = flag(
        "Look each artifact up in the fleet's store: when it was put, or that it is gone."
    )


def show(
    between: Believed, of: Of, told: Shown, *, json: Json = False, bundle: Bundle = None,
    where: Archived,
) -> None:  # fmt: skip
    """Print the timeline: one line an event, what caused it beside what came of it.

    A line has the time at which the event ended and how long that took from its entry, how it
    ended, whose it is, its type and artifact_ref, its event_id and what there is to say. In the
    order in which they ended; what waits, was a duplicate or got lost comes last, in entry order.
    A halt of a control stream has a line of its own, whatever the filters, where it began.
    The window that is really covered is shown first, on standard error, or as the first JSON line;
    how many events ended in which way last, on standard error.

    Exit codes: 3 a part of the window has expired, 5 the window never held anything, 6 the
    filters left nothing.

    Examples:
      sidecar replay show --since 2h --tenant t_1

      sidecar replay show --bundle incident.zip --end dead --end waiting

      sidecar replay show --since 2026-11-02T10:00:00Z --until 2026-11-02T10:30:00Z --stack web

      sidecar replay show --json | jq -r 'select(.end == "dead") | .reason' | sort | uniq -c

    """
    history = where.history(bundle)
    if told.resolve and history.store is None:
        raise UsageError("--resolve: there is no store to look into; name one with --fleet-store")
    review = Review.of(history, between, of, _ends(told.end))
    review.tell_covered(json=json)
    if not json:
        output.heading(_COLUMNS)
    held, shown = _print_lives(review, history.store if told.resolve else None, json=json)
    _sum_up(shown, alone=bool(told.end))
    review.conclude(held=held, shown=shown.total())


def _print_lives(
    review: Review, store: VersionedStore | None, *, json: bool
) -> tuple[int, Counter[str]]:
    """Print the events and the halts; return how many there are, and how those shown ended."""
    held = 0
    shown: Counter[str] = Counter()
    show_line = _print_json if json else _print_line
    backs = Backs(review.history)
    for one in with_halts(review.history, review.window):
        if isinstance(one, HaltPeriod):
            _print_halt(one, json=json)
            continue
        held += 1
        if review.asked.wants(one.event, one.tenant_id, one.end):
            shown[one.end] += 1
            is_published = one.end is End.PUBLISHED
            did = backs.did(one.event, one.origin, one.ended_us) if is_published else ""
            show_line(one, store, did)
    return held, shown


def _ends(asked: list[str] | None) -> list[str]:
    for end in asked or ():
        if end not in list(End):
            raise UsageError(f"--end: {said(end)} is no end; there are {', '.join(End)}")
    return asked or []


def _sum_up(shown: Counter[str], *, alone: bool) -> None:
    total = shown.total()
    if total:
        each = ", ".join(f"{count:,} {end}" for end, count in shown.most_common())
        more = "" if alone or not shown["dead"] else "; --end dead shows what died alone"
        output.hint(f"{total:,} event{'' if total == 1 else 's'}: {each}{more}")


def _word(halt: HaltPeriod) -> str:
    return "halted" if halt.tenant is None else "paused"


def _print_halt(halt: HaltPeriod, *, json: bool) -> None:
    if json:
        output.json_line(halt.to_json())
        return
    took = "" if halt.until_us is None else span((halt.until_us - halt.since_us) / 1e6)
    output.styled([
        (rfc3339(halt.since_us), "dim"), (f"{took:>8}", "dim"),
        (f"{_word(halt):<9}", "bold yellow"), (str(halt), "yellow"),
    ])  # fmt: skip


def _print_line(life: Life, store: VersionedStore | None, went_back: str) -> None:
    event = life.event
    at_us = life.ended_us or life.begun_us
    at = rfc3339(at_us) if at_us else f"{'-':<24}"
    took = f"+{span(life.delay_s)}" if life.delay_s is not None else "-"
    parts = [
        (at, "dim"),
        (f"{took:>8}", "dim"),
        (f"{life.end.value:<9}", _STYLES[life.end.value]),
        (f"{life.whose:<18}", "bold"),
        (f"{event.type if event else '?':<18}", "cyan"),
        (f"{event.artifact_ref if event and event.artifact_ref else '-':<24}", ""),
        (life.event_id or "?", ""),
        *((word, _STYLES[life.end.value]) for word in life.words()),
    ]
    if went_back:
        parts.append((f"went back: {went_back}", "bold red"))
    if store:
        parts.append(_put_words(life, store))
    output.styled(parts)


def _put_words(life: Life, store: VersionedStore) -> tuple[str, str]:
    put = put_of(life.event, store)
    if put is None:
        return "no artifact", "dim"
    return str(put), "green" if put.state is State.THERE else "bold red"


def _print_json(life: Life, store: VersionedStore | None, went_back: str) -> None:
    row: dict[str, Any] = life.to_json() | {"went_back": went_back or None}
    if store:
        put = put_of(life.event, store)
        row["put"] = put and put.to_json()
    output.json_line(row)


@dataclass(frozen=True)
class Position:
    """Where to look."""

    position: str = argument(
        REQUIRED,
        "POSITION",
        "A control_version, an entry ID, milliseconds, an RFC 3339 time, or so long ago (2h).",
    )
    look_around: float = option(
        "1h",
        "How long before the position an entry may have come and be found waiting.",
        "TIME",
        unit=seconds,
    )


def at(
    there: Position, of: OfStack, artifacts: OfRef, *, json: Json = False, bundle: Bundle = None,
    where: Archived,
) -> None:  # fmt: skip
    """Print the fleet as it was: each stack's version, what waited, what was dead, and each ref.

    Of each subject it is the newest notification: of a tenant's stack where an event names one,
    else of a ref. The refs of stacks' events are with the stacks. Before these come the halts that
    were in force, whatever the filters.

    The notification at POSITION counts, as for a controller that has it as its cursor. A line says
    since when it has been so: when the stack or ref was published, when what waited entered the
    control stream, or when what was dead died; in JSON all of these are `since`.

    Exit codes: 3 notifications before the position have expired, so that older stacks and refs may
    be missing, 5 there was nothing yet, 6 the filters left nothing.

    Examples:
      sidecar replay at 2026-11-02T10:15:00Z --tenant t_1

      sidecar replay at 1791234567890123 --json | jq -r 'select(.what == "stack") | .version'

    """
    history = where.history(bundle)
    at_us = parse_position(there.position, history.now_us(), option="POSITION").last_us
    if not json:
        output.hint(f"{history.describe()}, at {at_us} ({rfc3339(at_us)})")
    asked = LifeSelection(tenant=of.tenant, stack=of.stack, ref=artifacts.ref)
    found = moment_at(history, at_us, int(there.look_around * 1e6))
    shown = held = 0
    for row in found.halts():  # they are everybody's, whatever the filters
        _print_row(row, json=json)
    for row in found.rows():
        held += 1
        if asked.wants(row.event, row.tenant_id):
            shown += 1
            _print_row(row, json=json)
    for words in found.lacks():
        output.hint(words)
    found.conclude(held=held, shown=shown)


def _print_row(row: Row, *, json: bool) -> None:
    if json:
        output.json_line(row.to_json())
        return
    event = row.event
    output.styled([
        (f"{row.what:<7}", _ROW_STYLES[row.what]),
        (f"{row.whose:<18}", "bold"),
        (f"{event.artifact_ref if event and event.artifact_ref else '-':<24}", ""),
        (f"{event.type if event else '?':<18}", "cyan"),
        (f"{_SINCE[row.what]:<9} {rfc3339(row.at_us) if row.at_us else '-'}", "dim"),
        (row.event_id or "?", ""),
        (row.detail, "red"),
    ])  # fmt: skip

"""`sidecar dead ls` and `history`: what could not be published, and what was redriven."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sidecar.cli.bundles import in_bundle
from sidecar.cli.filters import Between, Of
from sidecar.cli.options import Bundle, Json
from sidecar.cli.servers import Letters
from sidecar.errors import FilteredOut, UsageError
from sidecar.history import History
from sidecar.ops.redriven import RedriveOutcome, RedriveOutcomes
from sidecar.redis.errors import translated
from sidecar.redis.letters import ALL, DeadLetter, DeadLetters, LetterSelection, grouped
from sidecar.redis.scan import text
from sidecar.redis.source import Entry
from sidecar.replay.letters import RecordedLetters, became
from sidecar.replay.window import parse_window
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option
from sidecar.wire.event import Reason
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.units import said

TABLE_ROWS: Final = 1000
"""Rows of one table; more begin another, so that memory does not grow with the stream."""


@dataclass(frozen=True)
class Reasons:
    """The option that says which dead letters are wanted."""

    only: list[str] | None = option(
        None, "Only those with this reason (artifact_missing, poison, …). Repeatable.", "REASON"
    )

    def selection(
        self, letters: DeadLetters | RecordedLetters, of: Of, between: Between
    ) -> LetterSelection:
        """Return which are meant, with what else the options say. Raises `UsageError`."""
        first, last = ALL.first, ALL.last
        if between.since or between.until:
            window = parse_window(between.since or None, between.until or None, letters.now_us())
            first, last = window.first_entry, window.last_entry
        known = [reason.value for reason in Reason]
        for reason in self.only or ():
            if reason not in known:
                raise UsageError(
                    f"--only: {said(reason)} is no reason; there are {', '.join(known)}"
                )
        return LetterSelection(**of.given(), reasons=tuple(self.only or ()), first=first, last=last)


@dataclass(frozen=True)
class Listed:
    """The options that say how they are listed."""

    each: bool = flag("A line for each dead letter, not a group.")
    count: int | None = option(None, "Each of the newest so many.", None, "--count", "-n", min=1)


def ls(
    reasons: Reasons, of: Of, between: Between, *, listed: Listed, bundle: Bundle = None,
    where: Letters, json: Json = False,
) -> None:  # fmt: skip
    """List dead letters: grouped by reason and tenant, or each, the oldest first.

    Exit code 6: there are dead letters, but the filters left none.

    Examples:
      sidecar dead ls --since 24h

      sidecar dead ls -n 20

      sidecar dead ls --bundle incident.zip

      sidecar dead ls --each --only artifact_missing --json | jq -r .event_id

    """
    letters, url, place = _to_read(where, bundle)
    with translated(url):
        asked = reasons.selection(letters, of, between)
        found = letters.newest(listed.count, asked) if listed.count else letters.all(asked)
        if listed.each or listed.count:
            shown = _print_json(found) if json else _print_tables(found)
        else:
            shown = _print_groups(found, json=json)
        there = len(letters)
    if not shown:
        tell_nothing(there, asked, place)


def _to_read(where: Letters, bundle: Path | None) -> tuple[DeadLetters | RecordedLetters, str, str]:
    """Return the letters, the URL of their server, if they are on one, and where they are."""
    if bundle is not None:
        history = in_bundle(bundle, where.named)
        return RecordedLetters(history), "", history.describe()
    return DeadLetters(where.notify.client, where.keys), where.notify_url, where.keys.dead


def tell_nothing(there: int, asked: LetterSelection, place: str) -> None:
    """Say that there are no letters. Raises `FilteredOut` where the filters left none."""
    if there and asked:
        raise FilteredOut(f"the filters left none of the {there} dead letters")
    output.hint(f"no dead letters in {place}")


def history(
    where: Letters,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Only the newest so many.")
    ] = None,
    *,
    json: Json = False,
    bundle: Bundle = None,
) -> None:
    """Print what was redriven, by whom, when and why, the oldest first, and what became of it.

    Published, dead again, or redriven again; `-` where nothing shows it: it may wait, and
    `sidecar trace` looks through the streams. About the newest 100,000 are kept.

    Examples:
      sidecar dead history -n 20

      sidecar dead history --json | jq -r '.by' | sort | uniq -c

      sidecar dead history --json | jq -r 'select(.became == "dead") | .became_as'

    """
    if bundle is not None:
        _print_recorded(in_bundle(bundle, where.named), count, json=json)
        return
    letters = DeadLetters(where.notify.client, where.keys)
    outcomes = None
    with translated(where.notify_url):
        records = letters.history()
        left = iter(deque(records, count) if count else records)
        while batch := list(islice(left, TABLE_ROWS)):
            outcomes = outcomes or RedriveOutcomes(letters.client, where.keys, batch[0])
            for record, outcome in zip(batch, outcomes.of(batch), strict=True):
                _print_record(record, outcome, json=json)
    if outcomes is None:
        output.hint(f"nothing was redriven, says {where.keys.redriven}")


def _print_recorded(recorded: History, count: int | None, *, json: bool) -> None:
    """Print the records of a bundle, with what it shows of their outcomes."""
    records = recorded.entries(recorded.streams.redriven)
    shown = 0
    for record in deque(records, count) if count else records:
        end, as_ = became(recorded, Origin(text(record.fields, "entry")))
        _print_record(record, RedriveOutcome(end, as_), json=json)
        shown += 1
    if not shown:
        output.hint(f"nothing was redriven, says {recorded.describe()}")


def _print_record(record: Entry, outcome: RedriveOutcome, *, json: bool) -> None:
    if json:
        fields = output.jsonable(dict(record.fields))
        output.json_line(
            fields | {"became": outcome.what or None, "became_as": outcome.as_ or None}
        )
        return
    names = ("at", "by", "event_id", "letter", "entry", "reason")
    styles = ("dim", "", "bold", "dim", "", "")
    parts = [(text(record.fields, name) or "-", style)
             for name, style in zip(names, styles, strict=True)]  # fmt: skip
    again = "" if outcome.what in ("", "published") else "again "
    parts.append((f"{outcome.what} {again}as {outcome.as_}" if outcome.what else "-", ""))
    output.styled(parts)


def checked_id(text: str) -> EntryId:
    """Return the ID of a dead letter. Raises `UsageError`."""
    entry_id = EntryId.parse(text)
    if entry_id is None:
        raise UsageError(
            f"ID: {said(text)} is no ID of a dead letter (1791234567890-0); see `dead ls`"
        )
    return entry_id


def _summary(letter: DeadLetter) -> dict[str, Any]:
    tenant, event_id = letter.hints()
    fields = output.jsonable({k: v for k, v in letter.fields.items() if k != b"event"})
    return {"id": letter.id, "tenant_id": tenant, "event_id": event_id, **fields}


def _print_json(letters: Iterable[DeadLetter]) -> int:
    shown = 0
    for letter in letters:
        output.json_line(_summary(letter))
        shown += 1
    return shown


def _print_tables(letters: Iterable[DeadLetter]) -> int:
    shown = 0
    columns = ("id", "dead_at", "reason", "tenant", "event_id", "origin", "detail")
    rest = iter(letters)
    while rows := [
        (one.id, one.dead_at, one.reason, *one.hints(), one.origin, one.detail)
        for one in islice(rest, TABLE_ROWS)
    ]:
        output.table(columns, rows, cut=("detail",))
        shown += len(rows)
    return shown


def _print_groups(letters: Iterable[DeadLetter], *, json: bool) -> int:
    """Print how many dead letters have the same reason and tenant, the most first."""
    groups = grouped(letters)
    if json:
        for group in groups:
            output.json_line(group.to_json())
    elif groups:
        rows = [
            (f"{one.size:,}", one.reason, one.tenant or "-", one.oldest.dead_at,
             one.newest.dead_at, one.newest.id, one.newest.detail)
            for one in groups
        ]  # fmt: skip
        columns = ("letters", "reason", "tenant", "oldest", "newest", "newest_id", "its detail")
        output.table(columns, rows, cut=("its detail",), right=("letters",))
    return sum(one.size for one in groups)

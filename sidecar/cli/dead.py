"""`sidecar dead`: what could not be published, why, and how it goes back."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.errors import SidecarError, UsageError

if TYPE_CHECKING:
    from sidecar.redis.keys import Keys
    from sidecar.redis.letters import DeadLetter, DeadLetters
    from sidecar.redrive import Outcome, Redriver

app = typer.Typer(
    help="Dead letters: list, explain, put back.", no_args_is_help=True, rich_markup_mode="rich"
)

TABLE_ROWS: Final = 1000
"""Rows of one table; more begin another, so that memory does not grow with the stream."""
MANY: Final = 50
"""From so many letters on a terminal shows progress."""

Only = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SIDECAR_ONLY",
        metavar="REASON",
        help="Only letters with this reason (artifact_missing, poison, …). Repeatable.",
    ),
]


class _NothingLeft(SidecarError):
    """The filters left nothing of what is there."""

    exit_code = 6


@app.command()
def ls(
    only: Only = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", envvar="SIDECAR_COUNT", min=1, help="Only the newest so many."
        ),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    *,
    json: Json = False,
) -> None:
    """List dead letters, the oldest first.

    Exit code 6: there are letters, but none with the reasons of --only.

    Examples:
      sidecar dead ls -n 20

      sidecar dead ls --only artifact_missing --json | jq -r .event_id

    """
    from sidecar.cli import output
    from sidecar.redis.client import translated

    reasons = _reasons(only)
    url, letters, keys = _open(data_dir, redis, notify_redis, notify_stream, dead_stream)
    with translated(url):
        found = letters.newest(count, reasons) if count else letters.all(only=reasons)
        shown = _print_json(found) if json else _print_tables(found)
        there = len(letters)
    if shown:
        return
    if there and reasons:
        raise _NothingLeft(f"none of the {there} dead letters is {' or '.join(reasons)}")
    output.hint(f"no dead letters in {keys.dead}")


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dead ls` shows it.")],
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    *,
    json: Json = False,
) -> None:
    """Show everything about one dead letter: what its reason means, and how to mend it.

    Exit code 1: there is no such letter.

    Examples:
      sidecar dead show 1791234567890-0

      sidecar dead show 1791234567890-0 --json | jq -r .event

    """
    from sidecar.cli import output
    from sidecar.reasons import explain
    from sidecar.redis.client import redact, translated

    url, letters, keys = _open(data_dir, redis, notify_redis, notify_stream, dead_stream)
    with translated(url):
        letter = letters.get(_letter_id(letter_id))
    if letter is None:
        raise SidecarError(
            f"there is no dead letter {letter_id} in {keys.dead} on {redact(url)};"
            " `sidecar dead ls` lists them"
        )
    explanation = explain(letter.reason)
    fields = output.jsonable(dict(letter.fields))
    if json:
        about = {"meaning": explanation.meaning, "mend": explanation.mend}
        output.json_line({"id": letter.id, **fields, **about})
        return
    event = _pretty(letter.raw_event)
    rows = [("id", letter.id)]
    rows += [(name, value) for name, value in fields.items() if name != "event"]
    rows += [("meaning", explanation.meaning), ("mend", explanation.mend), ("event", event)]
    output.pairs(rows, {letter.reason: "bold red", explanation.mend: "green"})


@app.command()
def redrive(
    letter_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="As `dead ls` shows them.")
    ] = None,
    reason: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_REASON",
            metavar="TEXT",
            help="Why; kept with what was done.",
        ),
    ] = "",
    *,
    every: Annotated[
        bool, typer.Option("--all", envvar="SIDECAR_ALL", help="All letters there are now.")
    ] = False,
    only: Only = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="SIDECAR_DRY_RUN", help="Tell what would be done."),
    ] = False,
    max_rate: Annotated[
        float | None,
        typer.Option(
            envvar="SIDECAR_MAX_RATE", metavar="N", help="At most so many a second. Default: any."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            envvar="SIDECAR_FORCE",
            help="Also what newer notifications have overtaken, and what is still invalid.",
        ),
    ] = False,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    json: Json = False,
) -> None:
    """Put dead letters back on the control stream they came from.

    Refused is what a newer notification of the same artifact_ref, or of the same stack with a
    version not lower, has overtaken, and what would only end here again; --force overrides both.
    Never put back is a truncated letter, one without event, or one whose control stream is not
    among --stream. What was done is kept in the stream {NOTIFY_STREAM}:redriven.

    Exit codes: 1 a letter asked for is not there, 3 some were refused, 6 --only left nothing.

    Examples:
      sidecar dead redrive --all --only artifact_missing --dry-run

      sidecar dead redrive --all --only artifact_missing --reason "node 7 is back" --max-rate 50

      sidecar dead redrive 1791234567890-0 --reason "checked by hand" --force

    """
    from sidecar.cli import output
    from sidecar.redis.client import translated
    from sidecar.redrive import Result

    ids = [_letter_id(letter_id) for letter_id in letter_ids or ()]
    reasons = _reasons(only)
    _check_use(ids, reason, every=every, dry_run=dry_run, max_rate=max_rate)
    redriver, letters, keys, url = _redriver(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream,
        reason=reason, only=reasons, force=force, dry_run=dry_run, max_rate=max_rate or None,
    )  # fmt: skip
    counts: Counter[str] = Counter()
    with translated(url):
        total = len(letters) if every else len(ids)
        outcomes = redriver.all() if every else redriver.these(ids)
        try:
            with _progress(total, json=json) as advance:
                for outcome in outcomes:
                    counts[outcome.result] += 1
                    _print_outcome(outcome, json=json)
                    advance()
        except SystemExit as left:
            raise SystemExit(3) from left  # `| head` ended it before all were put back
        finally:
            _summarise(counts)
        if counts[Result.REDRIVEN]:
            _tell_of_halts(letters, keys)
    if not counts and every:
        if total and reasons:
            raise _NothingLeft(f"none of the {total} dead letters is {' or '.join(reasons)}")
        output.hint(f"no dead letters in {keys[0].dead}")
    if counts[Result.ABSENT] and not every:
        raise typer.Exit(1)
    if counts[Result.REFUSED]:
        raise typer.Exit(3)


def _tell_of_halts(letters: DeadLetters, keys: list[Keys]) -> None:
    from sidecar.cli import output
    from sidecar.redis.halts import in_force

    for one in keys:
        halt = in_force(letters.client, one)
        if halt:
            output.hint(
                f"{one.control} is halted ({halt.reason}): nothing is published until"
                " `sidecar resume`"
            )


def _check_use(
    ids: list[str], reason: str, *, every: bool, dry_run: bool, max_rate: float | None
) -> None:
    if every == bool(ids):
        raise UsageError("name the letters to re-drive by ID, or all of them by --all")
    if not dry_run and not reason.strip():
        raise UsageError("--reason: say why; it is kept with what was re-driven")
    if max_rate is not None and max_rate <= 0:
        raise UsageError("--max-rate: a number of letters a second, above 0")


def _redriver(
    data_dir: DataDir,
    redis: str | None,
    notify_redis: str | None,
    streams: list[str],
    notify_stream: str,
    dead_stream: str | None,
    *,
    reason: str,
    **order: Any,  # noqa: ANN401 -- the fields of redrive.Order
) -> tuple[Redriver, DeadLetters, list[Keys], str]:
    from sidecar.cli.servers import Servers, keys_of, utf8, whoami
    from sidecar.redis.client import Side, check_stream, connect
    from sidecar.redis.letters import DeadLetters
    from sidecar.redrive import Order, Redriver

    servers = Servers(data_dir, redis, notify_redis)
    keys = keys_of(streams, notify_stream, dead_stream)
    control = Side.open(servers.control, keys[0].control)
    notify = connect(servers.notify, key=keys[0].notifications)
    for one in keys:
        check_stream(control.at(one.control), control.url, one.control)
    for stream in (keys[0].notifications, keys[0].dead):
        check_stream(notify, servers.notify, stream)
    asked = Order(
        streams=frozenset(one.control for one in keys),
        reason=utf8("--reason", reason),
        by=whoami(),
        **order,
    )
    redriver = Redriver(control, notify, keys[0], asked)
    return redriver, DeadLetters(notify, keys[0]), keys, servers.notify


def _open(
    data_dir: DataDir,
    redis: str | None,
    notify_redis: str | None,
    notify_stream: str,
    dead_stream: str | None,
) -> tuple[str, DeadLetters, Keys]:
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.redis.client import check_stream, connect
    from sidecar.redis.letters import DeadLetters

    keys = keys_of([STREAM], notify_stream, dead_stream)[0]
    url = Servers(data_dir, redis, notify_redis).notify
    client = connect(url, key=keys.notifications)
    check_stream(client, url, keys.dead)
    return url, DeadLetters(client, keys), keys


def _reasons(only: list[str] | None) -> tuple[str, ...]:
    from sidecar.event import Reason

    known = [reason.value for reason in Reason]
    for reason in only or ():
        if reason not in known:
            raise UsageError(f"--only: {reason!r} is no reason; there are {', '.join(known)}")
    return tuple(only or ())


def _letter_id(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", text):
        raise UsageError(f"{text!r} is no ID of a dead letter (1791234567890-0); see `dead ls`")
    return text


def _summary(letter: DeadLetter) -> dict[str, Any]:
    from sidecar.cli.output import jsonable

    tenant, event_id = letter.hints()
    fields = jsonable({k: v for k, v in letter.fields.items() if k != b"event"})
    return {"id": letter.id, "tenant_id": tenant, "event_id": event_id, **fields}


def _print_json(letters: Iterable[DeadLetter]) -> int:
    from sidecar.cli import output

    shown = 0
    for letter in letters:
        output.json_line(_summary(letter))
        shown += 1
    return shown


def _print_tables(letters: Iterable[DeadLetter]) -> int:
    from sidecar.cli import output

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


def _print_outcome(outcome: Outcome, *, json: bool) -> None:
    from dataclasses import asdict

    from sidecar.cli import output
    from sidecar.redrive import Result

    if json:
        output.json_line(asdict(outcome))
        return
    styles = {Result.REDRIVEN: "green", Result.WOULD: "green"}
    parts = [
        (outcome.letter, "bold"),
        (outcome.result.value, styles.get(outcome.result, "bold red")),
    ]
    if outcome.event_id:
        parts.append((outcome.event_id, ""))
    if outcome.entry:
        parts.append((f"as {outcome.entry}", ""))
    if outcome.detail:
        parts.append((f"({outcome.detail})", "dim"))
    output.styled(parts)


def _summarise(counts: Counter[str]) -> None:
    from sidecar.cli import output

    if counts:
        output.hint(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))


@contextmanager
def _progress(total: int, *, json: bool) -> Iterator[Callable[[], None]]:
    """Show progress on a terminal, when there are many."""
    if total < MANY or json or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    progress = Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    with progress:
        task = progress.add_task("re-driving", total=total)
        yield lambda: progress.advance(task)


def _pretty(raw: bytes) -> str:
    """Return an event for a person: JSON laid out, or what there is of it."""
    import json

    from sidecar.cli.output import to_json

    try:
        return to_json(json.loads(raw), indent=2)
    except (ValueError, RecursionError):
        return raw.decode(errors="backslashreplace")

"""`sidecar dead`: what could not be published, why, and how it goes back."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
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
    SourceStore,
    Streams,
)
from sidecar.cli.review import Bundle, LiveOnly, Ref, SinceWindow, Stack, Tenant, Type, UntilWindow
from sidecar.cli.rules import AllowTypes, MaxArtifactSize, TenantScopes
from sidecar.errors import SidecarError, Unreachable, UsageError

if TYPE_CHECKING:
    from sidecar.aftermath import Became
    from sidecar.prospects import Prospects
    from sidecar.redis.client import Client, Side
    from sidecar.redis.keys import Keys
    from sidecar.redis.letters import DeadLetter, DeadLetters, Selection
    from sidecar.redis.source import Entry
    from sidecar.redrive import Outcome
    from sidecar.replay.letters import RecordedLetters

app = typer.Typer(
    help="Dead letters: list, explain, put back.", no_args_is_help=True, rich_markup_mode="rich"
)

TABLE_ROWS: Final = 1000
"""Rows of one table; more begin another, so that memory does not grow with the stream."""
_HOPEFUL: Final = "nothing is known that would make it end here again"
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
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    since: SinceWindow = None,
    until: UntilWindow = None,
    *,
    each: Annotated[
        bool,
        typer.Option("--each", envvar="SIDECAR_EACH", help="A line for each letter, not a group."),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            envvar="SIDECAR_COUNT",
            min=1,
            help="Each of the newest so many.",
        ),
    ] = None,
    bundle: Bundle = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    json: Json = False,
) -> None:
    """List dead letters: grouped by reason and tenant, or each, the oldest first.

    Exit code 6: there are letters, but the filters left none.

    Examples:
      sidecar dead ls --since 24h

      sidecar dead ls -n 20

      sidecar dead ls --bundle incident.zip

      sidecar dead ls --each --only artifact_missing --json | jq -r .event_id

    """
    from sidecar.cli import output
    from sidecar.redis.client import translated

    url, letters, where = _to_read(
        data_dir, redis, notify_redis, notify_stream, dead_stream, bundle
    )
    with translated(url):
        asked = _selection(letters, only, tenant, stack, type_, ref, since, until)
        found = letters.newest(count, asked) if count else letters.all(asked)
        if each or count:
            shown = _print_json(found) if json else _print_tables(found)
        else:
            shown = _print_groups(found, json=json)
        there = len(letters)
    if shown:
        return
    if there and asked:
        raise _NothingLeft(f"the filters left none of the {there} dead letters")
    output.hint(f"no dead letters in {where}")


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dead ls` shows it.")],
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    source_store: SourceStore = None,
    allow_type: AllowTypes = None,
    tenant_scope: TenantScopes = None,
    max_artifact_size: MaxArtifactSize = None,
    *,
    json: Json = False,
    _bundle: LiveOnly = None,
) -> None:
    """Show everything about one dead letter: what its reason means, how to mend it, whether it
    would end here again now, and what has overtaken it.

    Exit code 1: there is no such letter.

    Examples:
      sidecar dead show 1791234567890-0

      sidecar dead show 1791234567890-0 --json | jq -r .event

    """
    from sidecar.cli import output
    from sidecar.reasons import explain
    from sidecar.redis.client import redact, translated
    from sidecar.redrive import overtaken

    url, letters, keys = _open(data_dir, redis, notify_redis, notify_stream, dead_stream)
    with translated(url):
        letter = letters.get(_letter_id(letter_id))
    if letter is None:
        raise SidecarError(
            f"there is no dead letter {letter_id} in {keys.dead} on {redact(url)};"
            " `sidecar dead ls` lists them"
        )
    meaning, mend = explain(letter.reason).meaning, _mend(letter)
    fields = output.jsonable(dict(letter.fields))
    prospects = _prospects(
        letters.client, keys, data_dir, source_store, allow_type, tenant_scope, max_artifact_size
    )
    with translated(url):
        again, unseen = prospects.of(letter)
        overtaker = overtaken(letters.client, keys, letter)
    if json:
        about = {
            "meaning": meaning, "mend": mend, "again": again or None, "unseen": unseen or None,
            "overtaken": overtaker or None,
        }  # fmt: skip
        output.json_line({"id": letter.id, **fields, **about})
        return
    event = _pretty(letter.raw_event)
    rows = [("id", letter.id)]
    rows += [(name, value) for name, value in fields.items() if name != "event"]
    rows += [("meaning", meaning), ("mend", mend)]
    rows += [("now", f"it would end here again: {again}" if again else _HOPEFUL)]
    rows += [("unseen", unseen)] if unseen else []
    rows += [("overtaken", overtaker)] if overtaker else []
    rows += [("event", event)]
    hopeful = "yellow" if unseen or overtaker else "green"
    output.pairs(rows, {letter.reason: "bold red", mend: "green", _HOPEFUL: hopeful})


@app.command()
def history(
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
    _bundle: LiveOnly = None,
) -> None:
    """Print what was put back, by whom, when and why, the oldest first, and what became of it.

    Published, dead again, or put back again; `-` where nothing tells: it may wait, and
    `sidecar trace` looks through the streams. About the newest 100,000 are kept.

    Examples:
      sidecar dead history -n 20

      sidecar dead history --json | jq -r '.by' | sort | uniq -c

      sidecar dead history --json | jq -r 'select(.became == "dead") | .became_as'

    """
    from collections import deque

    from sidecar.aftermath import Aftermath
    from sidecar.cli import output
    from sidecar.redis.client import translated

    url, letters, keys = _open(data_dir, redis, notify_redis, notify_stream, dead_stream)
    show_line = _print_record_json if json else _print_record
    aftermath = None
    with translated(url):
        records = letters.history()
        left = iter(deque(records, count) if count else records)
        while batch := list(islice(left, TABLE_ROWS)):
            aftermath = aftermath or Aftermath(letters.client, keys, batch[0])
            for record, became in zip(batch, aftermath.of(batch), strict=True):
                show_line(record, became)
    if aftermath is None:
        output.hint(f"nothing was put back, says {keys.redriven}")


def _print_record_json(record: Entry, became: Became) -> None:
    from sidecar.cli import output

    fields = output.jsonable(dict(record.fields))
    output.json_line(fields | {"became": became.what or None, "became_as": became.as_ or None})


def _print_record(record: Entry, became: Became) -> None:
    from sidecar.cli import output
    from sidecar.redis.scan import text

    names = ("at", "by", "event_id", "letter", "entry", "reason")
    styles = ("dim", "", "bold", "dim", "", "")
    parts = [(text(record.fields, name) or "-", style)
             for name, style in zip(names, styles, strict=True)]  # fmt: skip
    again = "" if became.what in ("", "published") else "again "
    parts.append((f"{became.what} {again}as {became.as_}" if became.what else "-", ""))
    output.styled(parts)


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
        bool,
        typer.Option(
            "--all", envvar="SIDECAR_ALL", help="All letters there are now, or that filters leave."
        ),
    ] = False,
    only: Only = None,
    tenant: Tenant = "",
    stack: Stack = "",
    type_: Type = "",
    ref: Ref = "",
    since: SinceWindow = None,
    until: UntilWindow = None,
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
            help="Also what newer notifications have overtaken, and what would end here again.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", envvar="SIDECAR_YES", help="Do not ask on a terminal.")
    ] = False,
    source_store: SourceStore = None,
    allow_type: AllowTypes = None,
    tenant_scope: TenantScopes = None,
    max_artifact_size: MaxArtifactSize = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    json: Json = False,
    _bundle: LiveOnly = None,
) -> None:
    """Put dead letters back on the control stream they came from.

    Refused is what a newer notification of the same artifact_ref, or of the same stack with a
    version not lower, has overtaken, and what would only end here again: it breaks a rule still,
    its event_id has been published with other content, or --source-store still lacks the artifact;
    --force overrides both. Never put back is a truncated letter, one without event, or one whose
    control stream is not among --stream. Letters that come meanwhile are left alone. With --all it
    says first how many there are of each reason, and asks on a terminal. What was done is kept in
    the stream {NOTIFY_STREAM}:redriven.

    Exit codes: 1 a letter asked for is not there, or nobody said yes, 3 some were refused, 6 the
    filters left nothing.

    Examples:
      sidecar dead redrive --all --only artifact_missing --dry-run

      sidecar dead redrive --all --only artifact_missing --reason "node 7 is back" --max-rate 50

      sidecar dead redrive 1791234567890-0 --reason "checked by hand" --force

    """
    from sidecar.cli import output
    from sidecar.cli.servers import utf8, whoami
    from sidecar.redis.client import translated
    from sidecar.redis.letters import DeadLetters
    from sidecar.redrive import Order, Redriver, Result

    ids = [_letter_id(letter_id) for letter_id in letter_ids or ()]
    _check_use(ids, reason, every=every, dry_run=dry_run, max_rate=max_rate)
    sides = _sides(data_dir, redis, notify_redis, stream, notify_stream, dead_stream)
    control, notify, keys, url = sides
    letters = DeadLetters(notify, keys[0])
    with translated(url):
        asked = _selection(letters, only, tenant, stack, type_, ref, since, until)
    order = Order(
        frozenset(one.control for one in keys), utf8("--reason", reason), whoami(), asked,
        force=force, dry_run=dry_run, max_rate=max_rate or None,
    )  # fmt: skip
    prospects = _prospects(
        notify, keys[0], data_dir, source_store, allow_type, tenant_scope, max_artifact_size
    )
    redriver = Redriver(control, notify, keys[0], order, prospects)
    counts: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    with translated(url):
        there, total = len(letters), len(ids)
        if every:
            reasons = _reasons_among(letters, asked)
            total = reasons.total()
            _confirm(reasons, ask=not (yes or dry_run or json))
        outcomes = redriver.all() if every else redriver.these(ids)
        try:
            with _progress(total, json=json) as advance:
                for outcome in outcomes:
                    counts[outcome.result] += 1
                    unseen[outcome.unseen] += 1
                    _print_outcome(outcome, json=json)
                    advance()
        except SystemExit as left:
            raise SystemExit(3) from left  # `| head` ended it before all were put back
        finally:
            _summarise(counts, unseen)
        if counts[Result.REDRIVEN]:
            _tell_of_halts(letters, keys)
    if not counts and every:
        if there and asked:
            raise _NothingLeft(f"the filters left none of the {there} dead letters")
        output.hint(f"no dead letters in {keys[0].dead}")
    _exit_by(counts, every=every)


def _exit_by(counts: Counter[str], *, every: bool) -> None:
    from sidecar.redrive import Result

    if counts[Result.ABSENT] and not every:
        raise typer.Exit(1)
    if counts[Result.REFUSED]:
        raise typer.Exit(3)


def _reasons_among(letters: DeadLetters, asked: Selection) -> Counter[str]:
    frozen = letters.frozen(asked)
    return Counter(letter.reason for letter in letters.all(frozen)) if frozen else Counter()


def _confirm(reasons: Counter[str], *, ask: bool) -> None:
    """Say what is chosen; on a terminal, let a person agree."""
    from sidecar.cli import output

    if not reasons:
        return
    each = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    plural = "" if reasons.total() == 1 else "s"
    output.hint(f"{reasons.total():,} dead letter{plural}: {each}")
    if ask and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm("Put them back?", abort=True, err=True)


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


def _sides(
    data_dir: DataDir,
    redis: str | None,
    notify_redis: str | None,
    streams: list[str],
    notify_stream: str,
    dead_stream: str | None,
) -> tuple[Side, Client, list[Keys], str]:
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.redis.client import Side, check_stream, connect

    servers = Servers(data_dir, redis, notify_redis)
    keys = keys_of(streams, notify_stream, dead_stream)
    control = Side.open(servers.control, keys[0].control)
    notify = connect(servers.notify, key=keys[0].notifications)
    for one in keys:
        check_stream(control.at(one.control), control.url, one.control)
    for stream in (keys[0].notifications, keys[0].dead):
        check_stream(notify, servers.notify, stream)
    return control, notify, keys, servers.notify


def _prospects(
    client: Client,
    keys: Keys,
    data_dir: Path,
    source_store: str | None,
    allow_type: list[str] | None,
    tenant_scope: list[str] | None,
    max_artifact_size: str | None,
) -> Prospects:
    """Return what judges letters; of artifacts only where there is a store to look into."""
    from sidecar.cli.rules import rules_of
    from sidecar.prospects import NO_SOURCE, SOURCE_AWAY, Prospects
    from sidecar.stores import open_existing

    rules = rules_of(allow_type, tenant_scope, max_artifact_size)
    default = data_dir / "source"
    source, without = None, NO_SOURCE
    if source_store or default.is_dir():
        try:
            source = open_existing(source_store or None, default)
        except Unreachable:
            without = SOURCE_AWAY
    return Prospects(client, keys, source, rules, without=without)


def _selection(
    letters: DeadLetters | RecordedLetters,
    only: list[str] | None,
    tenant: str,
    stack: str,
    type_: str,
    ref: str,
    since: str | None,
    until: str | None,
) -> Selection:
    from sidecar.redis.letters import Selection
    from sidecar.replay.window import parse_window

    first, last = "-", "+"
    if since or until:
        window = parse_window(since or None, until or None, letters.now_us())
        first, last = window.first_entry, window.last_entry
    return Selection(_reasons(only), tenant, stack, type_, ref, first, last)


def _to_read(
    data_dir: DataDir,
    redis: str | None,
    notify_redis: str | None,
    notify_stream: str,
    dead_stream: str | None,
    bundle: Path | None,
) -> tuple[str, DeadLetters | RecordedLetters, str]:
    """Return the server's URL, its letters or those of the bundle, and where they are."""
    if bundle is None:
        url, letters, keys = _open(data_dir, redis, notify_redis, notify_stream, dead_stream)
        return url, letters, keys.dead
    from sidecar.cli.histories import open_history
    from sidecar.replay.letters import RecordedLetters

    history = open_history(
        data_dir, redis, notify_redis, [STREAM], notify_stream, dead_stream, None, bundle
    )
    return "", RecordedLetters(history), history.describe()


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


def _print_groups(letters: Iterable[DeadLetter], *, json: bool) -> int:
    """Print how many letters have the same reason and tenant, the most first."""
    from sidecar.cli import output

    counts: Counter[tuple[str, str]] = Counter()
    ends: dict[tuple[str, str], tuple[DeadLetter, DeadLetter]] = {}
    for letter in letters:
        group = letter.reason, letter.hints()[0]
        counts[group] += 1
        oldest, _ = ends.get(group, (letter, letter))
        ends[group] = oldest, letter
    rows = [(*group, count, *ends[group]) for group, count in counts.most_common()]
    if json:
        for reason, tenant, count, oldest, newest in rows:
            output.json_line({
                "reason": reason, "tenant_id": tenant, "count": count, "oldest": oldest.dead_at,
                "newest": newest.dead_at, "newest_id": newest.id,
            })  # fmt: skip
    elif rows:
        output.table(
            ("letters", "reason", "tenant", "oldest", "newest", "newest_id", "its detail"),
            [
                (f"{count:,}", reason, tenant or "-", oldest.dead_at, newest.dead_at, newest.id,
                 newest.detail)
                for reason, tenant, count, oldest, newest in rows
            ],
            cut=("its detail",), right=("letters",),
        )  # fmt: skip
    return counts.total()


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


def _summarise(counts: Counter[str], unseen: Counter[str]) -> None:
    from sidecar.cli import output

    for what, count in unseen.items():
        if what:
            output.hint(f"of {count} letters: {what}")
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


def _mend(letter: DeadLetter) -> str:
    """Return how to mend it, with what its event names where that can be read."""
    from sidecar.event import Rejected
    from sidecar.reasons import explain, mend_of

    try:
        return mend_of(letter.reason, letter.event())
    except Rejected:
        return explain(letter.reason).mend


def _pretty(raw: bytes) -> str:
    """Return an event for a person: JSON laid out, or what there is of it."""
    import json

    from sidecar.cli.output import to_json

    try:
        return to_json(json.loads(raw), indent=2)
    except (ValueError, RecursionError):
        return raw.decode(errors="backslashreplace")

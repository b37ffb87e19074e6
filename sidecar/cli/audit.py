"""`sidecar audit`: whether the guarantees hold, seen from outside."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

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
    SourceStore,
    Streams,
)
from sidecar.cli.review import LiveOnly
from sidecar.cli.store import needs, open_chosen
from sidecar.cli.store_care import summed_up
from sidecar.errors import Incomplete, SidecarError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sidecar.audit import Audit, Culprit, Order
    from sidecar.evidence import Window
    from sidecar.redis.client import Side
    from sidecar.redis.keys import Keys
    from sidecar.repair import Outcome
    from store import Store

_SHOW_EVERY_S: Final = 0.1
_ENDS: Final = ("notification", "duplicate", "dead_letter", "waiting", "expired")
_GUARANTEES: Final = ("G1", "G2", "G3", "G4")


class _NothingThere(SidecarError):
    """The window holds nothing."""

    exit_code = 5


def audit(
    since: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_SINCE",
            metavar="ENTRY|TIME",
            help="Control entries from there on: an entry's ID or milliseconds, an RFC 3339 time,"
            " or a duration before now. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_UNTIL", metavar="ENTRY|TIME", help="Control entries up to there."
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            envvar="SIDECAR_SAMPLE",
            metavar="N",
            min=0,
            help="Read only so many artifacts, at random. Default: all.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            envvar="SIDECAR_SEED", metavar="N", help="Choose the same sample as another time."
        ),
    ] = None,
    *,
    repair: Annotated[
        bool,
        typer.Option("--repair", envvar="SIDECAR_REPAIR", help="Publish what is missing."),
    ] = False,
    reason: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_REASON", metavar="TEXT", help="Why; kept with what --repair did."
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="SIDECAR_DRY_RUN", help="Tell what --repair would do."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            envvar="SIDECAR_FORCE",
            help="Have --repair send again also what newer notifications have overtaken.",
        ),
    ] = False,
    dedup_window: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_DEDUP_WINDOW", metavar="TIME", help="The one that the worker has."
        ),
    ] = "7d",
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    source_store: SourceStore = None,
    fleet_store: FleetStore = None,
    json: Json = False,
    _bundle: LiveOnly = None,
) -> None:
    """Check the guarantees from outside: resolvable, once, conserved, ordered.

    G1: every artifact that a notification pins is in the fleet's store, intact. G2: no event_id
    is published twice. G3: every control entry ends as exactly one of notification, duplicate,
    dead letter, or is waiting. G4: a tenant's notifications are in entry order.

    May run while workers do. Changes nothing, but with --repair. The window says which entries
    are judged; notifications and dead letters are read whole, for an ID proves no age. With
    --since, what was trimmed is read from the archive, if the fleet's store has one; artifacts of
    what lies there alone may have been collected, and are not asked for. What is nowhere is no
    culprit: the summary tells what was covered, and how many entries' ends have expired. With
    --json a line for each culprit, then a summary.

    --repair appends each lost entry to its control stream again, for the worker to do, and puts
    artifacts that are missing or damaged again from --source-store. Refused is what a newer
    notification of the same artifact_ref, or of the same stack with a version not lower, has
    overtaken. What readers may have seen is never taken back. What was done is kept in the stream
    {NOTIFY_STREAM}:redriven. Audit again once the worker has been over it.

    Exit codes: 1 a guarantee is broken (with --repair: something remains), 3 stopped before the
    end, or a window with --since is partly expired, 4 Redis or a store is out of reach, 5 the
    window holds nothing.

    Examples:
      sidecar audit

      sidecar audit --redis redis://localhost --since 24h --sample 1000

      sidecar audit --json | jq -r 'select(.guarantee == "G3") | .entry'

      sidecar audit --repair --dry-run

      sidecar audit --repair --reason "notifications deleted by mistake, see #4711"

    """
    import random

    from sidecar.audit import Audit, Order
    from sidecar.cli.histories import archive_of
    from sidecar.cli.progress import progress
    from sidecar.cli.servers import Servers, keys_of, utf8, whoami
    from sidecar.history.live import LiveHistory
    from sidecar.redis.client import Side, translated
    from sidecar.redis.scan import server_time_us
    from sidecar.repair import Order as Repairs
    from sidecar.repair import Repair, Result
    from sidecar.settings import seconds
    from store import Capability

    _check_use(reason, repair=repair, dry_run=dry_run, force=force)
    keys = keys_of(stream, notify_stream, dead_stream)
    servers = Servers(data_dir, redis, notify_redis)
    control = Side.open(servers.control, keys[0].control)
    notify = Side.open(servers.notify, notify_stream)
    with translated(control.url):
        now_us = server_time_us(control.client)
    try:
        window_s = seconds(dedup_window)
    except ValueError as error:
        raise UsageError(f"--dedup-window: {error}") from error
    fleet = needs(
        open_chosen(None, fleet_store, data_dir), Capability.PINNED_GET, "cannot be audited"
    )
    order = Order(
        keys, _window(since, until, now_us), sample,
        random.SystemRandom().getrandbits(32) if seed is None else seed, window_s,
        archive_of(LiveHistory(control, notify, keys).streams, fleet) if since else None,
    )  # fmt: skip
    told: Counter[str] = Counter()
    with progress(json=json) as show:
        auditing = Audit(control, notify, fleet, order, _seldom(show))
        culprits: Iterator[tuple[Culprit, Outcome | None]] = ((one, None) for one in auditing.run())
        if repair:
            culprits = Repair(
                control, notify, keys, _source(source_store, data_dir), fleet,
                Repairs(utf8("--reason", reason), whoami(), force=force, dry_run=dry_run,
                        archive=order.archive),
            ).of(auditing.run())  # fmt: skip
        with (
            summed_up(
                lambda *, complete: _summarise(
                    auditing, order, told if repair else None, json=json, complete=complete
                )
            ),
            _no_verdict(),
        ):
            for culprit, outcome in culprits:
                _print(culprit, outcome, json=json)
                told[outcome.result if outcome else "remains"] += 1
            if not (auditing.found.entries or auditing.found.notifications):
                raise _NothingThere("the window holds nothing: neither entry nor notification")
    if told[Result.MENDED]:
        _tell_of_halts(notify, keys)
    if told[Result.REMAINS] or told[Result.REFUSED]:
        raise typer.Exit(1)
    if auditing.partly_expired:
        raise Incomplete("the window is partly expired: what was trimmed could not be judged")


def _check_use(reason: str, *, repair: bool, dry_run: bool, force: bool) -> None:
    if not repair and (reason or dry_run or force):
        raise UsageError(
            "--reason, --dry-run and --force belong to --repair; add it, or leave them"
        )
    if repair and not dry_run and not reason.strip():
        raise UsageError("--reason: say why; it is kept with what was repaired")


def _source(url: str | None, data_dir: Path) -> Store | None:
    """Open the producer's store; None when none is named, nor lies where one would."""
    from sidecar.stores import open_existing

    default = data_dir / "source"
    return open_existing(url or None, default) if url or default.is_dir() else None


@contextmanager
def _no_verdict() -> Iterator[None]:
    """Keep what stopped the audit from looking like a guarantee that is broken (exit code 1)."""
    try:
        yield
    except SidecarError as error:
        if error.exit_code == 1:
            raise Incomplete(f"{error}; stopped before the end: try again") from error
        raise


def _tell_of_halts(notify: Side, keys: list[Keys]) -> None:
    from sidecar.cli import output
    from sidecar.redis.client import translated
    from sidecar.redis.halts import in_force

    for one in keys:
        with translated(notify.url):
            halt = in_force(notify.client, one)
        if halt:
            output.hint(
                f"{one.control} is halted ({halt.reason}): nothing is published until"
                " `sidecar resume`"
            )


def _window(since: str | None, until: str | None, now_us: int) -> Window:
    from sidecar.evidence import Window
    from sidecar.moments import parse_entry
    from sidecar.redis.source import FIRST, id_pair

    first = parse_entry(since, now_us, option="--since") if since else FIRST
    last = parse_entry(until, now_us, option="--until", last=True) if until else None
    if last and id_pair(last) < id_pair(first):
        raise UsageError(f"--until {until} is before --since {since}; swap them")
    return Window(first, last)


def _seldom(show: Callable[[str], None]) -> Callable[[str], None]:
    due = 0.0

    def seldom(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            show(text)
            due = time.monotonic() + _SHOW_EVERY_S

    return seldom


def _print(culprit: Culprit, outcome: Outcome | None, *, json: bool) -> None:
    from sidecar.cli import output

    if json:
        repair = {"repair": outcome._asdict()} if outcome else {}
        output.json_line({**culprit._asdict(), **repair})
        return
    where = culprit.stream + (f"/{culprit.entry}" if culprit.entry else "")
    problem = culprit.problem.replace("_", " ")
    parts = [
        (culprit.guarantee, "bold red"), (problem, "red"), (where, "bold"),
        (culprit.event_id or "", ""), (culprit.notification or "", "cyan"), (culprit.detail, ""),
    ]  # fmt: skip
    output.styled([part for part in parts if part[0]])
    if outcome:
        style = "green" if outcome.result in ("mended", "would be mended") else "bold red"
        again = f"as {outcome.entry}" if outcome.entry else ""
        parts = [("  " + outcome.result, style), (again, ""), (outcome.detail, "dim")]
        output.styled([part for part in parts if part[0]])


def _summarise(
    auditing: Audit,
    order: Order,
    repaired: Counter[str] | None,
    *,
    json: bool,
    complete: bool,
) -> None:
    from sidecar.cli import output

    found = auditing.found
    if not (found.entries or found.notifications or found.culprits):
        return
    seed = None if order.sample is None else order.seed
    if json:
        output.json_line({"summary": {
            "entries": found.entries, **{f"{end}s": found.ends[end] for end in _ENDS[:3]},
            **{end: found.ends[end] for end in _ENDS[3:]}, "artifacts": found.artifacts,
            "size_bytes": found.size_bytes, "sample_seed": seed, "covered": found.covered,
            "culprits": {name: found.culprits[name] for name in _GUARANTEES},
            **({"repair": dict(repaired)} if repaired is not None else {}), "complete": complete,
        }})  # fmt: skip
        return
    rows = [("entries", f"{found.entries:,}")]
    rows += [(f"  {end.replace('_', ' ')}", f"{found.ends[end]:,}") for end in _ENDS]
    rows.append(("artifacts", f"{found.artifacts:,} read, {found.size_bytes:,} bytes"))
    if seed is not None:
        rows.append(("", f"a sample; --sample {order.sample} --seed {seed} chooses it again"))
    for one in found.covered:
        span = f"{one['first']} to {one['last']}" if one["first"] else "nothing"
        rows.append(("covered", f"{one['stream']}: {span}"))
        if one["trimmed"]:
            rows.append(("", "what was before it has been trimmed or deleted"))
    broken = [f"{name} {found.culprits[name]:,}" for name in _GUARANTEES if found.culprits[name]]
    verdict = "G1 to G4 hold" if complete else "G1 to G4 hold so far"
    rows.append(("verdict", f"broken: {', '.join(broken)}" if broken else verdict))
    if repaired:
        rows.append(("repair", ", ".join(f"{n:,} {what}" for what, n in sorted(repaired.items()))))
    output.pairs(rows)

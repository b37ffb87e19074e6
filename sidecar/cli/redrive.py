"""`sidecar dead redrive`: dead letters on their control stream again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import typer

from sidecar.cli.dead import Reasons, checked_id, tell_nothing
from sidecar.cli.filters import Between, Of
from sidecar.cli.halts import tell_of_halts
from sidecar.cli.histories import Everything, archive_for
from sidecar.cli.options import Json, LiveOnly
from sidecar.cli.rules import WorkerRules
from sidecar.errors import UsageError
from sidecar.ops.predictions import Predictions
from sidecar.ops.redrive import Outcome, RedriveOrder, Redriver, Result
from sidecar.redis.errors import translated
from sidecar.redis.letters import DeadLetters, LetterSelection
from sidecar.terminal import output
from sidecar.terminal.groups import argument, flag, option
from sidecar.terminal.person import whoami
from sidecar.terminal.progress import counted


@dataclass(frozen=True)
class Asked:
    """The options that say which dead letters are redriven, and how."""

    letter_ids: list[str] | None = argument(None, "ID", "As `dead ls` shows them.")
    reason: str = option("", "Why; kept with what was done.", "TEXT")
    every: bool = flag("All dead letters there are now, or that filters leave.", "--all")


@dataclass(frozen=True)
class Conduct:
    """The options that say with which care."""

    dry_run: bool = flag("Show what would be done.")
    max_rate: float | None = option(None, "At most so many a second. Default: any.", "N", min=0)
    force: bool = flag(
        "Also what newer events have, or may have, overtaken; what is published already; what"
        " would end here again.",
    )
    yes: bool = flag("Do not ask on a terminal.")

    def order(self, where: Everything, reason: str, chosen: LetterSelection) -> RedriveOrder:
        """Return what to do with the dead letters that are chosen. Raises `UsageError`."""
        streams = frozenset(one.control for one in where.keys)
        return RedriveOrder(
            streams, reason, whoami(), chosen, force=self.force,
            dry_run=self.dry_run, max_rate=self.max_rate or None,
        )  # fmt: skip


def redrive(
    asked: Asked, reasons: Reasons, of: Of, between: Between, conduct: Conduct, where: Everything,
    rules: WorkerRules, *, json: Json = False, _bundle: LiveOnly = None,
) -> None:  # fmt: skip
    """Append dead letters to the control stream they came from, in the order of their entries.

    Refused is what a newer event of the same subject has overtaken: of the same stack with a
    version not lower, of the same artifact_ref; published, in the archive of --fleet-store, or
    waiting in a control stream, unread, pending or behind a halt. So is what its producer sent
    again and is published already, once the deduplication index has forgotten it. So is what
    may have been overtaken by notifications that were trimmed and are in no archive. And what would
    only end here again: it breaks a rule still, its event_id has been published with other content,
    or --source-store still lacks the artifact. --force overrides all of these, and the record says
    so. Never redriven is a truncated dead letter, one without event, or one whose control stream is
    not among --stream. What comes meanwhile is left alone. With --all it says first how many there
    are of each reason, and asks on a terminal. What was done is kept in the stream
    {NOTIFY_STREAM}:redriven.

    Exit codes: 1 a dead letter asked for is not there, or nobody said yes, 3 some were refused, 6
    the filters left nothing.

    Examples:
      sidecar dead redrive --all --only artifact_missing --dry-run

      sidecar dead redrive --all --only artifact_missing --reason "node 7 is back" --max-rate 50

      sidecar dead redrive 1791234567890-0 --reason "checked by hand" --force

    """
    ids = [checked_id(letter_id) for letter_id in asked.letter_ids or ()]
    _check_use(asked, conduct)
    where.check_streams()
    notify, keys = where.notify, where.keys
    letters = DeadLetters(notify.client, keys[0])
    with translated(notify.url):
        chosen = reasons.selection(letters, of, between)
    order = conduct.order(where, asked.reason, chosen)
    predictions = Predictions.looking_into(where, notify.client, keys[0], rules.rules())
    archive = archive_for(where, keys[0], notify)
    redriver = Redriver(where.control, notify.client, keys[0], order, predictions, archive=archive)
    with translated(notify.url):
        there, total = len(letters), len(ids)
        if asked.every:
            total = _confirmed(letters, chosen, ask=not (conduct.yes or conduct.dry_run or json))
        outcomes = redriver.all() if asked.every else redriver.these(ids)
        counts = _print_all(outcomes, total, json=json)
        if counts[Result.REDRIVEN]:
            tell_of_halts(notify, keys)
    if not counts and asked.every:
        tell_nothing(there, chosen, keys[0].dead)
    _exit_by(counts, every=asked.every)


def _exit_by(counts: Counter[str], *, every: bool) -> None:
    if counts[Result.ABSENT] and not every:
        raise typer.Exit(1)
    if counts[Result.REFUSED]:
        raise typer.Exit(3)


def _check_use(asked: Asked, conduct: Conduct) -> None:
    if asked.every == bool(asked.letter_ids):
        raise UsageError("name the dead letters to redrive by ID, or all of them by --all")
    if not conduct.dry_run and not asked.reason.strip():
        raise UsageError("--reason: say why; it is kept with what was redriven")
    if conduct.max_rate is not None and conduct.max_rate <= 0:
        raise UsageError("--max-rate: a number of dead letters a second, above 0")


def _confirmed(letters: DeadLetters, chosen: LetterSelection, *, ask: bool) -> int:
    """Say what is chosen, and how many that is; on a terminal, let a person agree."""
    frozen = letters.frozen(chosen)
    reasons = Counter(letter.reason for letter in letters.all(frozen)) if frozen else Counter()
    if reasons:
        each = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        plural = "" if reasons.total() == 1 else "s"
        output.hint(f"{reasons.total():,} dead letter{plural}: {each}")
        if ask and sys.stdin.isatty() and sys.stderr.isatty():
            typer.confirm("Redrive them?", abort=True, err=True)
    return reasons.total()


def _print_all(outcomes: Iterator[Outcome], total: int, *, json: bool) -> Counter[str]:
    """Print what became of each, and how many became what."""
    counts: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    try:
        with counted(total, "redriving", json=json) as advance:
            for outcome in outcomes:
                counts[outcome.result] += 1
                unseen[outcome.unseen] += 1
                _print_outcome(outcome, json=json)
                advance()
    except SystemExit as left:
        raise SystemExit(3) from left  # `| head` ended it before all were redriven
    finally:
        _summarise(counts, unseen)
    return counts


def _print_outcome(outcome: Outcome, *, json: bool) -> None:
    if json:
        output.json_line(asdict(outcome))
        return
    styles = {Result.REDRIVEN: "green", Result.WOULD: "green"}
    output.styled([
        (outcome.letter, "bold"),
        (outcome.result.value, styles.get(outcome.result, "bold red")),
        (outcome.event_id, ""),
        (f"as {outcome.entry}" if outcome.entry else "", ""),
        (f"({outcome.detail})" if outcome.detail else "", "dim"),
    ])  # fmt: skip


def _summarise(counts: Counter[str], unseen: Counter[str]) -> None:
    for what, count in unseen.items():
        if what:
            output.hint(f"of {count} dead letters: {what}")
    if counts:
        output.hint(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))

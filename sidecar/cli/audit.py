"""`sidecar audit`: whether the guarantees hold, seen from outside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from sidecar.cli.halts import tell_of_halts
from sidecar.cli.histories import Everything
from sidecar.cli.options import Json, LiveOnly, verify_by
from sidecar.errors import Incomplete, NothingThere, SidecarError, UsageError
from sidecar.history.archive import ArchiveHistory, own_archive
from sidecar.ops.audit import ENDS, Audit, AuditOrder, Culprit
from sidecar.ops.missing import unknown
from sidecar.ops.repair import Outcome, Repair, RepairOrder, Result
from sidecar.ops.waiting import EntryRange
from sidecar.redis.errors import translated
from sidecar.redis.keys import CONSUMER
from sidecar.redis.scan import server_time_us
from sidecar.stores import needs
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option
from sidecar.terminal.person import whoami
from sidecar.terminal.progress import progress, seldom, summed_up
from sidecar.wire.ids import FIRST
from sidecar.wire.moments import parse_entry
from sidecar.wire.trust import Trust
from sidecar.wire.units import window
from store import Capability, VersionedStore


@dataclass(frozen=True)
class Judged:
    """The options that say what is judged."""

    since: str | None = option(
        None,
        "Control entries from there on: an entry's ID, milliseconds, a control_version, an RFC"
        " 3339 time, or a duration before now. Default: all.",
        "POSITION",
    )
    until: str | None = option(None, "Control entries up to there.", "POSITION")
    sample: int | None = option(
        None, "Read only so many artifacts, at random. Default: all.", "N", min=0
    )
    seed: int | None = option(None, "Choose the same sample as another time.", "N")
    dedup_window: float = option("7d", "The one that the worker has.", "TIME", unit=window)
    verify: Trust | None = verify_by(
        "See also that each notification since --since is signed by a key in this directory."
    )

    def order(self, where: Everything, archive: ArchiveHistory | None) -> AuditOrder:
        """Return what to audit. Raises `UsageError`."""
        with translated(where.control.url):
            now_us = server_time_us(where.control.client)
        seed = random.SystemRandom().getrandbits(32) if self.seed is None else self.seed
        window = self._window(now_us)
        return AuditOrder(
            where.keys, window, self.sample, seed, self.dedup_window, archive,
            self.verify,
        )  # fmt: skip

    def _window(self, now_us: int) -> EntryRange:
        since, until = self.since, self.until
        first = parse_entry(since, now_us, option="--since") if since else FIRST
        last = parse_entry(until, now_us, option="--until", last=True) if until else None
        if last and last < first:
            raise UsageError(f"--until {until} is before --since {since}; swap them")
        return EntryRange(first, last)


@dataclass(frozen=True)
class Mending:
    """The options that say whether to repair what is broken, and how."""

    repair: bool = flag("Publish what is missing.")
    reason: str = option("", "Why; kept with what --repair did.", "TEXT")
    dry_run: bool = flag("Show what --repair would do.")
    force: bool = flag(
        "Have --repair send again also what newer events have overtaken, or may have."
    )

    def check(self) -> None:
        """Raise `UsageError` for options that lack another."""
        if not self.repair and (self.reason or self.dry_run or self.force):
            raise UsageError(
                "--reason, --dry-run and --force belong to --repair; add it, or leave them"
            )
        if self.repair and not self.dry_run and not self.reason.strip():
            raise UsageError("--reason: say why; it is kept with what was repaired")

    def begun(
        self, where: Everything, fleet: VersionedStore, archive: ArchiveHistory | None
    ) -> Repair:
        """Return what repairs."""
        order = RepairOrder(self.reason, whoami(), force=self.force,
                        dry_run=self.dry_run, archive=archive)  # fmt: skip
        return Repair(where.control, where.notify, where.keys, where.source(), fleet, order)


def audit(
    judged: Judged, fixing: Mending, where: Everything, *, json: Json = False,
    _bundle: LiveOnly = None,
) -> None:  # fmt: skip
    """Check the guarantees from outside: resolvable, once, conserved, ordered.

    G1: every artifact that a notification pins is in the fleet's store, intact. G2: no event_id
    is published twice. G3: every control entry ends as exactly one of notification, duplicate,
    dead letter, or is waiting. G4: a tenant's notifications are in entry order.

    May run while workers do. Changes nothing, but with --repair. The window says which entries
    are judged; notifications and dead letters are read whole, for an ID proves no age. With
    --since, what was trimmed is read from the archive, if the fleet's store has one; artifacts of
    what lies there alone may have been collected, and are not asked for. What is nowhere is no
    culprit: the summary shows what was covered, and how many entries' ends have expired. With
    --json a line for each culprit, then a summary.

    --repair appends each lost entry to its control stream again, for the worker to do, and puts
    artifacts that are missing or damaged again from --source-store. Refused is what a newer event
    of the same subject has overtaken, or may have, as `dead redrive` refuses it. What readers may
    have seen is never taken back. What was done is kept in the stream {NOTIFY_STREAM}:redriven.
    Audit again once the worker has been over it.

    What Redis was found to have forgotten is named: what came in that time may be missing, and no
    guarantee is vouched for; with --since after it, it does not count.

    Exit codes: 1 a guarantee is broken, or with --verify a notification is not trusted (with
    --repair: something remains), 3 stopped before the
    end, Redis forgot a part of the window, or one with --since is partly expired, 4 Redis or a
    store is out of reach, 5 the window holds nothing.

    Examples:
      sidecar audit

      sidecar audit --redis redis://localhost --since 24h --sample 1000

      sidecar audit --json | jq -r 'select(.guarantee == "G3") | .entry'

      sidecar audit --repair --dry-run

      sidecar audit --repair --reason "notifications deleted by mistake, see #4711"

    """
    fixing.check()
    control, notify, fleet = where.control, where.notify, _fleet(where)
    output.hints(unknown(control, notify, where.keys))
    is_asked = bool(judged.since or fixing.repair)
    archive = own_archive(fleet, notify, where.keys, output.hint) if is_asked else None
    order = judged.order(where, archive if judged.since else None)
    repair = fixing.begun(where, fleet, archive) if fixing.repair else None
    with progress(json=json) as show:
        auditing = Audit(control, notify, fleet, order, seldom(show))
        told = _print_all(auditing, order, repair, json=json)
    if told[Result.FIXED]:
        tell_of_halts(notify, where.keys)
    if told[Result.REMAINS] or told[Result.REFUSED]:
        raise typer.Exit(1)
    auditing.check_whole()


def _fleet(where: Everything) -> VersionedStore:
    """Open the fleet's store, unless it is another than the notifications name.

    In such a one all would look lost. Raises `UsageError`.
    """
    fleet = needs(where.fleet(), Capability.PINNED_GET, "cannot be audited")
    if other := where.other_store(fleet):
        raise UsageError(f"--fleet-store: {other}; audit that one")
    return fleet


def _print_all(
    auditing: Audit, order: AuditOrder, repair: Repair | None, *, json: bool
) -> Counter[str]:
    """Print what is found, with what became of it; return how often that was what."""
    told: Counter[str] = Counter()
    culprits: Iterator[tuple[Culprit, Outcome | None]] = ((one, None) for one in auditing.run())
    if repair:
        culprits = repair.of(auditing.run())

    def summarise(*, complete: bool) -> None:
        repaired = told if repair else None
        if json and auditing.found:
            summary = auditing.found.to_json(order, repaired, complete=complete)
            output.json_line({"summary": summary})
        elif auditing.found:
            _print_summary(auditing, order, repaired, complete=complete)

    with summed_up(summarise), _no_verdict():
        for culprit, outcome in culprits:
            _print(culprit, outcome, json=json)
            told[outcome.result if outcome else "remains"] += 1
        if not (auditing.found.entries or auditing.found.notifications):
            raise NothingThere("the window holds nothing: neither entry nor notification")
    return told


@contextmanager
def _no_verdict() -> Iterator[None]:
    """Keep what stopped the audit from looking like a guarantee that is broken (exit code 1)."""
    try:
        yield
    except SidecarError as error:
        if error.exit_code == 1:
            raise Incomplete(f"{error}; stopped before the end: try again") from error
        raise


def _print(culprit: Culprit, outcome: Outcome | None, *, json: bool) -> None:
    if json:
        repair = {"repair": outcome._asdict()} if outcome else {}
        output.json_line({**culprit._asdict(), **repair})
        return
    where = culprit.stream + (f"/{culprit.entry}" if culprit.entry else "")
    problem = culprit.problem.replace("_", " ")
    output.styled([
        (culprit.guarantee, "bold red"), (problem, "red"), (where, "bold"),
        (culprit.event_id or "", ""), (culprit.notification or "", "cyan"), (culprit.detail, ""),
    ])  # fmt: skip
    if outcome:
        _print_outcome(outcome)


def _print_outcome(outcome: Outcome) -> None:
    style = "green" if outcome.result in ("fixed", "would be fixed") else "bold red"
    again = f"as {outcome.entry}" if outcome.entry else ""
    output.styled([("  " + outcome.result, style), (again, ""), (outcome.detail, "dim")])


def _print_summary(
    auditing: Audit, order: AuditOrder, repaired: Counter[str] | None, *, complete: bool
) -> None:
    found = auditing.found
    rows = [("entries", f"{found.entries:,}")]
    rows += [(f"  {end.replace('_', ' ')}", f"{found.ends[end]:,}") for end in ENDS]
    if expired := found.ends["expired"]:
        rows.append(("", f"{expired:,} of them expired: nobody can know what came of these"))
    rows.append(("artifacts", f"{found.artifacts:,} read, {found.size_bytes:,} bytes"))
    if found.erased:
        rows.append(("", f"{found.erased:,} of them erased with their tenant, as is on record"))
    if order.sample is not None:
        again = f"--sample {order.sample} --seed {order.seed}"
        rows.append(("", f"a sample; {again} chooses it again"))
    rows += [*_covered(auditing), *_pending(auditing)]
    rows += [("Redis forgot", str(one)) for one in found.forgotten]
    rows.append(("verdict", found.verdict(complete=complete)))
    if repaired:
        rows.append(("repair", ", ".join(f"{n:,} {what}" for what, n in sorted(repaired.items()))))
    output.pairs(rows)


def _covered(auditing: Audit) -> Iterator[tuple[str, str]]:
    for one in auditing.found.covered:
        span = f"{one['first']} to {one['last']}" if one["first"] else "nothing"
        yield "covered", f"{one['stream']}: {span}"
        if one["trimmed"]:
            yield "", "what was before it has been trimmed or deleted"
        if one["position_beyond_end"]:
            where = f"the group's position, {one['position_beyond_end']}, lay beyond the end"
            yield "", f"{where}: a worker sets it back"


def _pending(auditing: Audit) -> Iterator[tuple[str, str]]:
    for stream, consumers in auditing.found.pending.items():
        for name, count in consumers.items():
            if name != CONSUMER:
                under = f"{stream}: {count:,} under consumer {name!r}"
                yield "pending", f"{under}; a worker takes them over"

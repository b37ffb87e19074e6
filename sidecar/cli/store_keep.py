"""`sidecar store gc --keep`: the rules as options, and what is said of each subject; and `sidecar
store history`: what went.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated

import typer

from sidecar.cli.options import Json
from sidecar.cli.store import Place
from sidecar.errors import UsageError
from sidecar.ops.keeping import AT_ONCE, Family, Keeping, Retired, Why
from sidecar.ops.pins import Announced, CheckedPins, Pins
from sidecar.ops.published import PublishedRefs
from sidecar.stores import explained, needs
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option
from sidecar.terminal.progress import seldom
from sidecar.wire.erasures import Erasure, announced, erasures
from sidecar.wire.keeping import KeepRule, Published, Rules, source_rules
from sidecar.wire.logbook import Log
from sidecar.wire.removals import MOST_NAMED, Removal, removals
from sidecar.worker.pipeline import same_storage
from store import Capability, Retention, Store, VersionedStore

_ROWS_MAX = 50


@dataclass(frozen=True)
class Keep:
    """The options that say which refs stay."""

    keep: list[str] | None = option(
        None,
        "Remove refs, too: of the versions of a subject that PATTERN fits, keep the N highest and"
        " those stored within AGE; besides what any event names, and the newest. Repeatable; what"
        " any rule keeps stays. For a producers' --store also published+AGE[,orphans=AGE], as"
        " `run --source-keep` has it. Default: no ref goes.",
        "RULE",
    )
    yes: bool = flag("Take a rule of --keep that keeps next to nothing but the newest.")

    def rules(self, store: VersionedStore, *, without_stream: bool) -> Rules:
        """Return the rules, which the store can follow. Raises `UsageError`."""
        try:
            rules = source_rules(self.keep or (), KeepRule.parse)
        except ValueError as error:
            raise UsageError(f"--keep: {error}") from None
        if rules and without_stream:
            raise UsageError(
                "--keep asks the notifications which ref is the newest of its subject, and"
                " --without-stream says that there are none: choose"
            )
        if rules and not store.capabilities >= {Capability.DELETE, Capability.LIST}:
            raise UsageError(f"--keep: a store of the backend {store.name} cannot delete refs")
        if rules and os.environ.get("SIDECAR_KEEP") == " ".join(self.keep or ()):
            output.hint(
                "refs go by the rules of SIDECAR_KEEP, which a worker has for the fleet's store;"
                " unset it to remove versions and data alone"
            )
        little = [] if isinstance(rules, Published) else [one for one in rules if one.keeps_little]
        if little and not self.yes:
            raise UsageError(
                f"--keep {little[0]}: next to nothing but the newest of each subject would stay;"
                " give a higher last=, or an age= of a day at least, or --yes"
            )
        return rules


def history(
    where: Place,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Only the newest so many.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Print what went from the store, by whom, when and by which rules, the oldest first.

    One line for each run of `store gc` and each pass of a worker with `--keep` or `--source-keep`
    that removed anything, and for each `tenant erase`. The newest 1,000 are kept, in the store
    itself, and all of `tenant erase`; with --json each names up to 100 refs with their checksums.

    Examples:
      sidecar store history -n 20

      sidecar store history --store file:///var/lib/node --json | jq -r '.refs[][0]'

    """
    opened = needs(where.opened(), Capability.LIST, "keeps no record of what went")
    with explained():
        went: list[Removal | Erasure] = [*removals(opened), *erasures(opened)]
        found = sorted(went, key=lambda one: one.at)[-count if count else 0 :]
        for one in found:
            if json:
                output.json_line(_to_json(opened, one))
            else:
                _print_removal(one)
    if not found:
        output.hint("nothing went from this store")


def _to_json(store: VersionedStore, one: Removal | Erasure) -> dict[str, object]:
    if isinstance(one, Removal):
        return asdict(one)
    named = islice(announced(store, one), MOST_NAMED)
    return asdict(one) | {"count": one.refs, "refs": [(gone.ref, gone.checksum) for gone in named]}


def _print_removal(removal: Removal | Erasure) -> None:
    pieces = ", ".join(f"{count:,} {kind}s" for kind, count in sorted(removal.counts.items()))
    if isinstance(removal, Erasure):
        rules = f"all of the tenant {output.visible(removal.tenant)}: {removal.reason}"
    else:
        rules = " ".join(removal.rules) or "-"
    end = "" if removal.complete else "stopped early"
    output.styled([
        (removal.at, "dim"), (removal.by, ""), (pieces, "bold"),
        (f"{removal.size_bytes:,} bytes", ""), (rules, "dim"), (end, "red"),
    ])  # fmt: skip


class Refs:
    """What becomes of the refs of each subject."""

    def __init__(
        self, store: VersionedStore, rules: Sequence[KeepRule], pins: CheckedPins,
        retention: Retention, logs: list[Log], *, dry_run: bool,
    ) -> None:  # fmt: skip
        streams = [log.stream.encode() for log in logs if not log.reads]
        self._keeping = Keeping(store, rules, retention.grace_s, streams)
        self._pins = pins
        self._dry_run = dry_run
        self._unknown: tuple[int, int] | None = None

    def pieces(self, show: Callable[[str], None]) -> Iterator[Retired]:
        """Remove what may go, and yield each. Raises as `Keeping.run`."""
        show("reading what notifications announce")
        yield from self._keeping.run(
            self._announced(show), self._pins, self._pins.now_s(), dry_run=self._dry_run
        )
        if self._dry_run:
            show("counting the refs that stay")
            self._unknown = self._keeping.unknown()

    def _announced(self, show: Callable[[str], None]) -> Iterator[Announced]:
        tell = seldom(show)
        for number, told in enumerate(self._pins.announced()):
            tell(f"reading what notifications announce: {number:,}")
            yield told

    def summary(self) -> dict[str, object]:
        """Return what the summary has of it."""
        kept = {why.value: 0 for why in Why}
        for family in self._keeping.families.values():
            for why, count in family.kept.items():
                kept[why] += count
        found: dict[str, object] = {"subjects": len(self._keeping.families), "kept": kept}
        if self._unknown:
            found["newest_not_known"], found["by_no_rule"] = self._unknown
        return found

    def print_json(self) -> None:
        """Print a line for each subject."""
        for family in self._keeping.families.values():
            output.json_line({"subject": family.name, "refs": f"{family.prefix}/*",
                              "gone": family.gone, "gone_bytes": family.gone_bytes,
                              "kept": dict(family.kept), "agrees": family.agrees})  # fmt: skip

    def print_table(self) -> None:
        """Print a row for each subject that loses something, and what else stays."""
        losing = [one for one in self._keeping.families.values() if one.gone]
        head = ("subject", "would go" if self._dry_run else "gone", "bytes", "stay", "because")
        if losing:
            output.line()
            output.table(head, [_row(one) for one in losing[:_ROWS_MAX]], right=head[1:4])
        if len(losing) > _ROWS_MAX:
            output.hint(f"{len(losing) - _ROWS_MAX:,} more subjects lose refs: --json has them")
        if self._unknown:
            not_known, by_no_rule = self._unknown
            output.hint(
                f"{not_known:,} refs stay because the notifications in Redis do not tell, of each"
                " stream that publishes here, which one is the newest of their subject,"
                f" {by_no_rule:,} because no rule is for them"
            )


class FromSource:
    """What becomes of a producers' refs that the fleet has, and of those that nobody announced."""

    def __init__(
        self, source: VersionedStore, fleet: Store, rule: Published, pins: Pins, *, dry_run: bool
    ) -> None:
        """Raises `UsageError` for a fleet's store that is the producers', or does not tell."""
        if same_storage(source, fleet):
            raise UsageError(f"--keep {rule}: it is for a producers' store; name it by --store")
        self.fleet = needs(fleet, Capability.LIST, "does not list what it has")
        self._pins, self._dry_run = pins, dry_run
        self._refs = PublishedRefs(source, self.fleet, rule, pins.now_s(), AT_ONCE)

    def pieces(self, show: Callable[[str], None]) -> Iterator[Retired]:
        """Remove what may go, and yield each. Raises as `PublishedRefs.run`."""
        show("looking at what the fleet's store has")

        def announced() -> Iterator[str]:
            return (one.ref for one in self._pins.announced())

        return self._refs.run(self._pins, announced, dry_run=self._dry_run)

    def summary(self) -> dict[str, object]:
        """Return what the summary has of it."""
        return {"published": self._refs.gone - self._refs.orphans, "orphans": self._refs.orphans}

    def print_json(self) -> None:
        """Print nothing: there is a line for each ref."""

    def print_table(self) -> None:
        """Print how many refs were what."""
        output.hint(
            f"of the refs, the fleet's store has {self._refs.gone - self._refs.orphans:,}, and"
            f" {self._refs.orphans:,} were never announced"
        )


def _row(family: Family) -> tuple[str, ...]:
    stay = sum(family.kept.values())
    because = ", ".join(f"{why} {count:,}" for why, count in family.kept.items())
    return family.name, f"{family.gone:,}", f"{family.gone_bytes:,}", f"{stay:,}", because

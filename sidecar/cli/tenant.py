"""`sidecar tenant erase`: all that is stored of a tenant that leaves goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import typer

from sidecar.cli import options
from sidecar.cli.options import DryRun, Json
from sidecar.cli.servers import Fleet, Servers, Source
from sidecar.errors import UsageError
from sidecar.ops.asking import ask_all
from sidecar.ops.erasing import EraseOrder, Erasing, Plan, under_way
from sidecar.ops.underway import Unended
from sidecar.redis.census import Named
from sidecar.stores import explained, named, needs, open_existing
from sidecar.terminal import output
from sidecar.terminal.groups import REQUIRED, option
from sidecar.terminal.person import whoami
from sidecar.terminal.progress import progress
from sidecar.terminal.stopping import cleaned_up
from sidecar.wire.defaults import STREAM
from sidecar.wire.erasures import Erasure
from sidecar.wire.event import MAX_NAME_CHARS
from sidecar.wire.scope import Scope
from sidecar.wire.urls import redact
from store import Capability, Store, VersionedStore

_ROWS_MAX = 50


@dataclass(frozen=True)
class Everywhere(Source):
    """The options that say where a tenant may have left anything."""

    notify_redis: list[str] | None = options.notify_redis_of_all("these stores")
    fleet_store: str | None = options.fleet_store()
    stream: list[str] | None = options.stream_besides()
    dead_stream: list[str] | None = options.dead_stream_besides()

    @property
    def _fleet(self) -> Fleet:
        named = next(iter(self.notify_redis or ()), None)
        return Fleet(self.data_dir, self.redis, named, self.fleet_store)

    @property
    def servers(self) -> Servers:
        """The first pair of servers."""
        return self._fleet

    def stores(self) -> tuple[dict[str, VersionedStore], str]:
        """Open both stores, by their URLs without secrets; return also the fleet's URL.

        Raises `UsageError` and `Unreachable`.
        """
        fleet = self._fleet
        fleet_url = redact(fleet.fleet_url)
        opened = {fleet_url: _able("--fleet-store", fleet.fleet())}
        needs(opened[fleet_url], Capability.LIST, "keeps no record of what went")
        source = _able(
            "--source-store",
            open_existing("--source-store", self.source_store, self.source_default, self.redis),
        )
        if source.location != opened[fleet_url].location:
            url = self.source_store or self.source_default.absolute().as_uri()
            opened[redact(url)] = source
        return opened, fleet_url


@dataclass(frozen=True)
class Why:
    """The options that say what is a tenant's, and why it goes."""

    reason: str = option(REQUIRED, "Why; kept on record.", "TEXT")
    tenant_scope: list[str] | None = option(
        None,
        "As the workers have it: what an event names counts only where its tenant may, and what"
        " lies in the tenant's corner goes, announced or not.",
        "PATTERN",
    )


def erase(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Its tenant_id.")],
    where: Everywhere,
    why: Why,
    *,
    dry_run: DryRun = False,
    continue_: Annotated[
        bool,
        typer.Option("--continue", help="Continue a run that was killed: it is under way no more."),
    ] = False,
    json: Json = False,
) -> None:
    """Remove all artifacts of a tenant, from the fleet's store and from the producer's.

    All versions, what was put and never announced (with --tenant-scope), what is in quarantine.
    What another tenant names, too, stays, and is told. References stay in streams and archive, and
    resolving them says that the artifact was erased. Refused while an event of the tenant has not
    ended; it is paused meanwhile, and no resume lifts that. A run that was killed leaves it paused:
    run it again with --continue. Nothing brings back what went.

    With --json a line for each ref, then a summary.

    Exit codes: 1 nothing is known of such a tenant, 2 an event of it has not ended, another run is
    under way, or a log that names a store was not asked, or a backend cannot purge; 3 something
    came meanwhile, and is left; 4 Redis or a store is out of reach.

    Examples:
      sidecar tenant erase t_7 --reason "contract ended" --dry-run

      sidecar tenant erase t_7 --reason "contract ended" --tenant-scope 'stacks/{tenant}/*'

    """
    _check(tenant, why)
    with progress(json=json) as show, cleaned_up():
        erasing = Erasing(_order(tenant, where, why, show, over=continue_))
        done = _rehearsed(erasing) if dry_run else _done(erasing)
    tell = _print_json if json else _print
    tell(tenant, done)
    if done.waiting:
        output.hint(f"now it would be refused: {under_way(tenant, done.waiting)}")


def _check(tenant: str, why: Why) -> None:
    if not 0 < len(tenant) <= MAX_NAME_CHARS:
        raise UsageError(f"TENANT: name one, in 1 to {MAX_NAME_CHARS} characters")
    if not why.reason.strip():
        raise UsageError("--reason: say why; it is kept on record")


class _Done(NamedTuple):
    """What went, or would go."""

    plan: Plan
    counts: Counter[str]
    size_bytes: int
    erasure: Erasure | None = None
    """None after a dry run."""
    waiting: Sequence[Unended] = ()
    """Events for which it would be refused."""


def _rehearsed(erasing: Erasing) -> _Done:
    plan = erasing.plan()
    pieces = list(erasing.pieces(plan, dry_run=True))
    counts = Counter(piece.kind for piece in pieces)
    size_bytes = sum(piece.size_bytes for piece in pieces)
    return _Done(plan, counts, size_bytes, waiting=erasing.waiting())


def _done(erasing: Erasing) -> _Done:
    plan, erasure = erasing.run()
    return _Done(plan, Counter(erasure.counts), erasure.size_bytes, erasure)


def _order(
    tenant: str, where: Everywhere, why: Why, show: Callable[[str], None], *, over: bool
) -> EraseOrder:
    stores, fleet_url = where.stores()
    urls = (where.servers.control_url, where.servers.notify_url)
    named = Named(tuple(where.stream or ()), STREAM, (), tuple(where.dead_stream or ()))
    others = {url: store for url, store in stores.items() if url != fleet_url}
    with explained():
        asked = ask_all(urls, (where.notify_redis or [])[1:], named)
    return EraseOrder(
        tenant, why.reason, whoami(), asked, stores[fleet_url], others, fleet_url,
        Scope(why.tenant_scope or ()), show, over,
    )  # fmt: skip


def _able(option_: str, opened: Store) -> VersionedStore:
    with named(option_):
        return needs(opened, Capability.PURGE, "may leave something of what it deletes")


def _print_json(tenant: str, done: _Done) -> None:
    plan = done.plan
    for ref, versions in plan.gone.items():
        gone = [{"checksum": one.checksum, "size_bytes": one.size_bytes} for one in versions]
        output.json_line({"ref": ref, "versions": gone})
    for ref, why in plan.claims.kept.items():
        output.json_line({"ref": ref, "kept": why})
    output.json_line({"summary": {
        "tenant": tenant, "refs": len(plan.gone), "kept": len(plan.claims.kept),
        "pieces": dict(done.counts), "size_bytes": done.size_bytes, "dry_run": not done.erasure,
    }})  # fmt: skip


def _print(tenant: str, done: _Done) -> None:
    plan, erasure = done.plan, done.erasure
    versions = sum(map(len, plan.gone.values()))
    pieces = ", ".join(f"{count:,} {kind}s" for kind, count in sorted(done.counts.items()))
    would = "erased" if erasure else "would go"
    output.line(
        f"{output.visible(tenant)}: {len(plan.gone):,} refs with {versions:,} versions {would}:"
        f" {pieces or 'nothing'}, {done.size_bytes:,} bytes"
    )
    _print_kept(list(plan.claims.kept.items()))
    if erasure and erasure.complete:
        output.hint("on record in the fleet's store: `sidecar store history`")


def _print_kept(kept: list[tuple[str, str]]) -> None:
    for ref, why in kept[:_ROWS_MAX]:
        output.hint(f"{ref!r} stays: {why}")
    if len(kept) > _ROWS_MAX:
        output.hint(f"{len(kept) - _ROWS_MAX:,} more stay: --json has them")

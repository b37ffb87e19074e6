"""`sidecar store verify` and `sidecar store gc`: what keeps a store sound, and small."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

import typer

from sidecar.cli import options
from sidecar.cli.options import DryRun, Json
from sidecar.cli.servers import Fleet, Servers
from sidecar.cli.store import Place, Prefix
from sidecar.cli.store_keep import FromSource, Keep, Refs
from sidecar.errors import SidecarError, UsageError
from sidecar.ops.asking import all_pins, ask, check_all_asked, forget_all, to_ask
from sidecar.ops.keeping import Retired
from sidecar.ops.pins import CheckedPins, UnfinishedPins
from sidecar.ops.verifying import VerifyOrder, cores
from sidecar.ops.verifying import verify as verified
from sidecar.redis.census import Named
from sidecar.redis.keys import check_name
from sidecar.stores import explained, needs
from sidecar.terminal import output
from sidecar.terminal.groups import flag, option, read
from sidecar.terminal.person import whoami
from sidecar.terminal.progress import progress, seldom, size, summed_up
from sidecar.wire.defaults import STREAM
from sidecar.wire.keeping import SHORTEST_GRACE_S, Published, Rules, written
from sidecar.wire.logbook import Forgotten, Log
from sidecar.wire.moments import rfc3339
from sidecar.wire.removals import Removal, announce, put_on_record
from sidecar.wire.units import seconds
from store import Capability, Checked, Collected, Pin, Retention, Store, StoreError, VersionedStore

_KINDS: Final = ("version", "object", "leftover")


@dataclass(frozen=True)
class Verifying:
    """The options that say how."""

    processes: int | None = option(None, "Default: one a processor core.", "N", min=1, max=256)
    no_quarantine: bool = flag("Leave what is damaged where it is.")


def verify(where: Place, how: Verifying, prefix: Prefix = "", *, json: Json = False) -> None:
    """Read all that is stored, and report what is damaged.

    What is damaged is moved aside: reading it stays an error, and the next put of the same
    content heals it. What no store has written (`.DS_Store`, `.nfs…`, a console's folder marker) is
    named, and left alone. With --json a line for each of these, then a summary.

    Exit codes: 1 something is damaged, 2 the backend cannot verify, 3 stopped before the end, 4
    the store is out of reach, or not all of it was verified.

    Examples:
      sidecar store verify

      sidecar store verify stacks/t_1 --no-quarantine --json | jq -r 'select(.error) | .ref'

      sidecar store verify --store file:///var/lib/node --processes 2

    """
    prefix = read(options.checked_ref, "PREFIX", prefix.removesuffix("/"))
    needs(where.opened(), Capability.VERIFY, "cannot be verified")
    order = VerifyOrder(where.url, prefix, not how.no_quarantine, how.processes or cores())
    found = _Verified(json=json)
    with (
        progress(json=json) as show,
        summed_up(found.summarise),
        closing(verified(order)) as reports,
    ):
        for report in reports:
            found.add(report.pieces, report.size_bytes, report.found)
            show(found.text())
        if prefix and not found.pieces:
            raise SidecarError(f"nothing lies at or under {prefix!r}")
    if found.damaged:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Kept:
    """The options that say what stays."""

    keep_last: int = option(
        1, "Keep so many newest versions of every ref, the current one counted.", "N", min=1
    )
    keep_newer: float = option(
        "0s", "Keep versions that were stored within that time.", "DURATION", unit=seconds
    )
    grace: str = option(
        "24h",
        "Remove nothing that was in use within that time: longer than any Put takes, and than any"
        " way from a Put to its event.",
        "DURATION",
    )
    allow_short_grace: bool = flag(
        "Let --grace be under a minute: nobody stores here now, or nobody is slower."
    )

    def retention(self) -> Retention:
        """Return what stays of every ref. Raises `UsageError`."""
        grace_s = read(seconds, "--grace", self.grace)
        if grace_s < SHORTEST_GRACE_S and not self.allow_short_grace:
            raise UsageError(
                f"--grace {self.grace}: under a minute, what a slow producer has just stored could"
                " go before its event comes; give a longer one, or --allow-short-grace when nobody"
                " is that slow"
            )
        return Retention(grace_s=grace_s, keep_last=self.keep_last, keep_newer_s=self.keep_newer)


@dataclass(frozen=True)
class Gone:
    """The options that say which logs are gone for good."""

    forget: list[str] | None = option(
        None, "A log that is registered in this store, and is gone for good. Repeatable.", "LOG"
    )
    reason: str = option("", "Why it is forgotten; kept on record.", "TEXT")

    def logs(self) -> tuple[str, ...]:
        """Return their ids. Raises `UsageError`."""
        if self.forget and not self.reason.strip():
            raise UsageError("--forget wants --reason: it is kept with the log's record")
        return tuple(self.forget or ())


@dataclass(frozen=True)
class Logs(Place):
    """The options that say where there are logs whose events name the store."""

    redis: str | None = options.redis_url()
    notify_redis: list[str] | None = options.notify_redis_of_all("this store")
    stream: list[str] | None = options.stream_besides()
    dead_stream: list[str] | None = options.dead_stream_besides()

    @property
    def servers(self) -> Servers:
        """The first pair of servers."""
        return Servers(self.data_dir, self.redis, next(iter(self.notify_redis or ()), None))

    @property
    def others(self) -> list[str]:
        """The further servers with notifications."""
        return (self.notify_redis or [])[1:]

    def from_source(
        self, source: VersionedStore, rule: Published, named: Named, *, dry_run: bool
    ) -> FromSource:
        """Return what follows a rule that asks what the fleet has. Raises `UsageError`."""
        servers = self.servers
        fleet = Place(None, self.fleet_store, self.data_dir).opened(servers.named)
        asked = ask(servers.control_url, servers.notify_url, named, UnfinishedPins)
        with explained():
            check_all_asked(to_ask(needs(fleet, Capability.LIST, "keeps no logs"), ()), [asked])
        return FromSource(source, fleet, rule, asked.pins, dry_run=dry_run)

    def pins(self, store: VersionedStore, named: Named, logs: list[Log]) -> CheckedPins:
        """Return what events name; some of it is in `store`. Raises as `all_pins`."""
        urls = (self.servers.control_url, self.servers.notify_url)
        return all_pins(store, urls, self.others, named, logs, self._fleet)

    def _fleet(self) -> Store | None:
        """Open the fleet's store, which says who was erased; None where that cannot be had."""
        notify = next(iter(self.notify_redis or ()), None)
        with suppress(SidecarError):
            return Fleet(self.data_dir, self.redis, notify, self.fleet_store).fleet_if_any()
        return None

    def named(self, notifications: list[str] | None) -> Named:
        """Return the streams that are named beside those that are found."""
        return Named(tuple(self.stream or ()), STREAM, tuple(notifications or ()),
                     tuple(self.dead_stream or ()))  # fmt: skip


@dataclass(frozen=True)
class Registered:
    """The options that say whose events name the store."""

    keep_from_stream: list[str] | None = option(
        None, "Notification stream besides those that are found. Repeatable.", "NAME",
        unit=check_name,
    )  # fmt: skip
    without_stream: bool = flag("No log names this store: ask no Redis.")


def gc(
    where: Logs, kept: Kept, keep: Keep, *, registered: Registered, gone: Gone,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Remove the versions that nobody needs, and data that no version names.

    Refs stay, and with them what they point at now, unless --keep says which may go: of the
    versions of a stack that were announced, never the newest. Kept is also what any event in Redis
    names: of every notification, control and dead-letter stream there, found by itself. Every log
    that publishes into the store is registered in it; nothing is removed while one was not asked.
    May run while workers and producers do. With --json a line for each piece, then a summary.

    Exit codes: 2 this Redis does not look like the one whose events name this store, or the
    backend collects no garbage; 3 stopped before the end; 4 Redis or the store is out of reach.

    Examples:
      sidecar store gc --redis redis://localhost --fleet-store s3://fleet --keep-last 3

      sidecar store gc --keep last=10,age=30d --dry-run

      sidecar store gc --store file:///var/lib/archive --without-stream --json

    """
    retention = kept.retention()
    server = None if registered.without_stream else where.servers.named
    opened = needs(where.opened(server), Capability.COLLECT, "collects no garbage")
    rules = keep.rules(opened, without_stream=registered.without_stream)
    refs: FromSource | Refs | None = None
    named, forgotten = where.named(registered.keep_from_stream), gone.logs()
    with explained():
        logs = to_ask(opened, forgotten)
    if registered.without_stream:
        _check_without(named, logs)
        pins: Callable[[], Iterable[Pin]] = tuple
    else:
        if isinstance(rules, Published):
            refs = where.from_source(opened, rules, named, dry_run=dry_run)
        pins = asked = where.pins(
            refs.fleet if isinstance(refs, FromSource) else opened, named, logs
        )
        if rules and not isinstance(rules, Published):
            refs = Refs(opened, rules, asked, retention, logs, dry_run=dry_run)
    if not dry_run:
        _forget(opened, gone)
    found = _Collected(opened, rules, dry_run=dry_run, json=json, refs=refs)
    with progress(json=json) as show, summed_up(found.summarise), explained():
        try:
            collecting = opened.collect(retention, _told(pins, show), dry_run=dry_run)
        except ValueError as error:
            raise UsageError(f"--grace {kept.grace}: {error}") from error
        found.begin()
        for retired in refs.pieces(show) if refs else ():
            found.add_ref(retired)
            show(found.text())
        show("looking for what could go")
        for piece in collecting:
            found.add(piece)
            show(found.text())


def _forget(store: VersionedStore, gone: Gone) -> None:
    """Note of the logs that are gone who said so. Raises as a store does, in words for people."""
    record = Forgotten(whoami(), rfc3339(time.time_ns() // 1000), gone.reason)
    with explained():
        forget_all(store, gone.logs(), record)


class _Verified:
    """What a verification has found so far."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._since = time.monotonic()
        self.pieces = self.size_bytes = self.damaged = self.quarantined = self.foreign = 0

    def add(self, pieces: int, size_bytes: int, found: Checked | None) -> None:
        self.pieces += pieces
        self.size_bytes += size_bytes
        if found:
            self.foreign += found.is_foreign
            self.damaged += found.error is not None
            self.quarantined += found.quarantined is not None
            self._print(found)

    def text(self) -> str:
        rate = self.size_bytes / max(time.monotonic() - self._since, 0.001)
        return (
            f"{self.pieces:,} checked, {size(self.size_bytes)}, {size(rate)}/s,"
            f" {self.damaged:,} damaged"
        )

    def summarise(self, *, complete: bool) -> None:
        if not (complete or self.pieces):
            return  # it was refused, or went wrong before it began
        if self._json:
            output.json_line({"summary": {
                "pieces": self.pieces, "size_bytes": self.size_bytes, "damaged": self.damaged,
                "quarantined": self.quarantined, "foreign": self.foreign, "complete": complete,
            }})  # fmt: skip
            return
        verdict = f"{self.damaged:,} damaged, {self.quarantined:,} of them moved aside"
        if not self.damaged:
            verdict = "all intact" if complete else "intact so far"
        output.line(f"{self.pieces:,} checked, {self.size_bytes:,} bytes: {verdict}")
        if self.foreign:
            output.hint(f"{self.foreign:,} names are no store's own, and were passed over")

    def _print(self, found: Checked) -> None:
        if self._json:
            output.json_line(found._asdict())
            return
        error = found.error or ""
        where = "" if found.where in error else found.where
        moved = f"(moved to {found.quarantined})" if found.quarantined else ""
        kind = ("foreign", "dim") if found.is_foreign else ("damaged", "bold red")
        output.styled([
            kind, (where, ""), (found.ref or "", "bold"), (error, "red"), (moved, "dim"),
        ])  # fmt: skip


class _Collected:
    """What a collection has removed so far, or would have."""

    def __init__(
        self, store: VersionedStore, rules: Rules, *, dry_run: bool, json: bool,
        refs: Refs | FromSource | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._removal = Removal(rfc3339(time.time_ns() // 1000), whoami(), written(rules))
        self._dry_run = dry_run
        self._refs = refs
        self._gone: set[str] = set()
        self._json = json
        self._pieces: Counter[str] = Counter()
        self._size_bytes: Counter[str] = Counter()

    def begin(self) -> None:
        if not self._dry_run:
            announce(self._store, self._removal)

    def add_ref(self, retired: Retired) -> None:
        self._gone.add(retired.ref)
        self._removal.ref_went(retired.ref, retired.checksum, retired.size_bytes)
        self._pieces["ref"] += 1
        self._size_bytes["ref"] += retired.size_bytes
        if self._json:
            output.json_line({"kind": "ref", **retired._asdict()})

    def add(self, piece: Collected) -> None:
        if piece.ref in self._gone:
            return  # of a dry run: it would have gone with its ref
        self._removal.went(piece.kind, piece.size_bytes)
        self._pieces[piece.kind] += 1
        self._size_bytes[piece.kind] += piece.size_bytes
        if self._json:
            output.json_line(piece._asdict())

    def text(self) -> str:
        doing = "would remove" if self._dry_run else "removed"
        return f"{doing} {self._pieces.total():,} pieces, {size(self._size_bytes.total())}"

    def summarise(self, *, complete: bool) -> None:
        if not self._dry_run:
            self._put_on_record(complete=complete)
        if not (complete or self._pieces):
            return  # it was refused, or went wrong before it began
        if self._json:
            if self._refs:
                self._refs.print_json()
            output.json_line({"summary": {
                **{f"{kind}s": self._pieces[kind] for kind in self._kinds},
                "size_bytes": self._size_bytes.total(), "dry_run": self._dry_run,
                "complete": complete, **(self._refs.summary() if self._refs else {}),
            }})  # fmt: skip
        else:
            self._print_table()
            if self._refs:
                self._refs.print_table()

    def _put_on_record(self, *, complete: bool) -> None:
        self._removal.complete = complete
        try:
            put_on_record(self._store, self._removal)
        except StoreError as error:
            output.hint(f"what went is not on record: {error}")

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("ref", *_KINDS) if self._refs else _KINDS

    def _print_table(self) -> None:
        pieces, sizes = self._pieces, self._size_bytes
        rows = [(f"{kind}s", f"{pieces[kind]:,}", f"{sizes[kind]:,}") for kind in self._kinds]
        rows.append(("in all", f"{pieces.total():,}", f"{sizes.total():,}"))
        head = "would remove" if self._dry_run else "removed"
        output.table((head, "pieces", "bytes"), rows, right=("pieces", "bytes"))


def _told(
    pins: Callable[[], Iterable[Pin]], show: Callable[[str], None]
) -> Callable[[], Iterator[Pin]]:
    """Show how many pins have been read."""

    def told() -> Iterator[Pin]:
        tell = seldom(show)
        for number, pin in enumerate(pins()):
            tell(f"reading what events name: {number:,}")
            yield pin

    return told


def _check_without(named: Named, logs: list[Log]) -> None:
    check_all_asked(logs, ())
    if named.notifications:
        raise UsageError(
            "--without-stream says that no log names this store; --keep-from-stream names one:"
            " choose"
        )

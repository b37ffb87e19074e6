"""`sidecar store verify` and `sidecar store gc`: what keeps a store sound, and small."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sidecar.cli.options import (
    CONNECTION,
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    FleetStore,
    Json,
    NotifyRedis,
    Redis,
)
from sidecar.cli.store import StoreUrl, needs, open_chosen, url_of
from sidecar.errors import Incomplete, SidecarError, UsageError

if TYPE_CHECKING:
    from sidecar.redis.census import Named
    from store import Checked, Collected, Pin, VersionedStore

SHORTEST_GRACE_S: Final = 60.0
_SHOW_EVERY_S: Final = 0.1

Streams = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SIDECAR_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Control stream besides those that are found. Repeatable. Default:"
        f" {STREAM}, if there is one.",
    ),
]
DeadStreams = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SIDECAR_DEAD_STREAM",
        metavar="NAME",
        rich_help_panel=CONNECTION,
        help="Dead-letter stream besides those that are found. Repeatable.",
    ),
]


def verify(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="A ref, or what refs lie under. Default: all.")
    ] = "",
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    processes: Annotated[
        int | None,
        typer.Option(
            envvar="SIDECAR_PROCESSES", metavar="N", min=1, help="Default: one a processor core."
        ),
    ] = None,
    *,
    no_quarantine: Annotated[
        bool,
        typer.Option(
            "--no-quarantine",
            envvar="SIDECAR_NO_QUARANTINE",
            help="Leave what is damaged where it is.",
        ),
    ] = False,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Read all that is stored, and tell what is damaged.

    What is damaged is moved aside: reading it stays an error, and the next put of the same
    content heals it. With --json a line for each damaged piece, then a summary.

    Exit codes: 1 something is damaged, 2 the backend cannot verify, 3 stopped before the end, 4
    the store is out of reach, or not all of it was verified.

    Examples:
      sidecar store verify

      sidecar store verify stacks/t_1 --no-quarantine --json | jq -r 'select(.error) | .ref'

      sidecar store verify --store file:///var/lib/node --processes 2

    """
    from sidecar.cli.progress import progress
    from sidecar.verifying import Order, cores
    from sidecar.verifying import verify as verified
    from store import Capability

    prefix = prefix.removesuffix("/")
    _check_prefix(prefix)
    needs(open_chosen(store, fleet_store, data_dir), Capability.VERIFY, "cannot be verified")
    url = url_of(store, fleet_store, data_dir)
    order = Order(url, prefix, not no_quarantine, processes or cores())
    found = _Verified(json=json)
    with (
        progress(json=json) as show,
        summed_up(found.summarise),
        closing(verified(order)) as reports,
    ):
        for report in reports:
            found.add(report.pieces, report.size_bytes, report.damaged)
            show(found.text())
        if prefix and not found.pieces:
            raise SidecarError(f"nothing lies at or under {prefix!r}")
    if found.damaged:
        raise typer.Exit(1)


def gc(
    store: StoreUrl = None,
    fleet_store: FleetStore = None,
    keep_last: Annotated[
        int,
        typer.Option(
            envvar="SIDECAR_KEEP_LAST",
            metavar="N",
            min=1,
            help="Keep so many newest versions of every ref, the current one counted.",
        ),
    ] = 1,
    keep_newer: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_KEEP_NEWER",
            metavar="DURATION",
            help="Keep versions that were stored within that time.",
        ),
    ] = "0s",
    grace: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_GRACE",
            metavar="DURATION",
            help="Remove nothing that was in use within that time: longer than any Put takes, and"
            " than any way from a Put to its event.",
        ),
    ] = "24h",
    keep_from_stream: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SIDECAR_KEEP_FROM_STREAM",
            metavar="NAME",
            help="Notification stream besides those that are found. Repeatable.",
        ),
    ] = None,
    *,
    without_stream: Annotated[
        bool,
        typer.Option(
            "--without-stream",
            envvar="SIDECAR_WITHOUT_STREAM",
            help="No log names this store: ask no Redis.",
        ),
    ] = False,
    allow_short_grace: Annotated[
        bool,
        typer.Option(
            "--allow-short-grace",
            envvar="SIDECAR_ALLOW_SHORT_GRACE",
            help="Let --grace be under a minute: nobody stores here now, or nobody is slower.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="SIDECAR_DRY_RUN", help="Tell what would be removed."),
    ] = False,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = None,
    dead_stream: DeadStreams = None,
    json: Json = False,
) -> None:
    """Remove the versions that nobody needs, and data that no version names.

    Refs stay, and with them what they point at now. Kept is also what any event in Redis names:
    of every notification, control and dead-letter stream there, found by itself. May run while
    workers and producers do. With --json a line for each piece removed, then a summary.

    Exit codes: 2 this Redis does not look like the one whose events name this store, or the
    backend collects no garbage; 3 stopped before the end; 4 Redis or the store is out of reach.

    Examples:
      sidecar store gc --dry-run

      sidecar store gc --redis redis://localhost --keep-last 3 --keep-newer 7d

      sidecar store gc --store file:///var/lib/archive --without-stream --json

    """
    from sidecar.cli.progress import progress
    from sidecar.redis.census import Named
    from sidecar.stores import explained
    from store import Capability, Retention

    retention = Retention(
        grace_s=_grace(grace, allow_short=allow_short_grace),
        keep_last=keep_last,
        keep_newer_s=_duration("--keep-newer", keep_newer),
    )
    opened = needs(
        open_chosen(store, fleet_store, data_dir), Capability.COLLECT, "collects no garbage"
    )
    named = Named(tuple(stream or ()), STREAM, tuple(keep_from_stream or ()),
                  tuple(dead_stream or ()))  # fmt: skip
    if without_stream:
        _check_without(named)
        pins: Callable[[], Iterable[Pin]] = tuple
    else:
        pins = _pins(opened, data_dir, redis, notify_redis, named)
    found = _Collected(dry_run=dry_run, json=json)
    with progress(json=json) as show, summed_up(found.summarise), explained():
        show("looking for what could go")
        try:
            collecting = opened.collect(retention, _told(pins, show), dry_run=dry_run)
        except ValueError as error:
            raise UsageError(f"--grace {grace}: {error}") from error
        for piece in collecting:
            found.add(piece)
            show(found.text())


class _Verified:
    """What a verification has found so far."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._since = time.monotonic()
        self.pieces = self.size_bytes = self.damaged = self.quarantined = 0

    def add(self, pieces: int, size_bytes: int, damaged: Checked | None) -> None:
        self.pieces += pieces
        self.size_bytes += size_bytes
        if damaged:
            self.damaged += 1
            self.quarantined += damaged.quarantined is not None
            self._print(damaged)

    def text(self) -> str:
        from sidecar.cli.progress import size

        rate = self.size_bytes / max(time.monotonic() - self._since, 0.001)
        return (
            f"{self.pieces:,} checked, {size(self.size_bytes)}, {size(rate)}/s,"
            f" {self.damaged:,} damaged"
        )

    def summarise(self, *, complete: bool) -> None:
        from sidecar.cli import output

        if not (complete or self.pieces):
            return  # it was refused, or went wrong before it began
        if self._json:
            output.json_line({"summary": {
                "pieces": self.pieces, "size_bytes": self.size_bytes, "damaged": self.damaged,
                "quarantined": self.quarantined, "complete": complete,
            }})  # fmt: skip
            return
        verdict = f"{self.damaged:,} damaged, {self.quarantined:,} of them moved aside"
        if not self.damaged:
            verdict = "all intact" if complete else "intact so far"
        output.line(f"{self.pieces:,} checked, {self.size_bytes:,} bytes: {verdict}")

    def _print(self, damaged: Checked) -> None:
        from sidecar.cli import output

        if self._json:
            output.json_line(damaged._asdict())
            return
        error = damaged.error or ""
        parts = [("damaged", "bold red"), (damaged.ref or "", "bold"), (error, "red")]
        if damaged.where not in error:
            parts.insert(1, (damaged.where, ""))
        if damaged.quarantined:
            parts.append((f"(moved to {damaged.quarantined})", "dim"))
        output.styled([part for part in parts if part[0]])


class _Collected:
    """What a collection has removed so far, or would have."""

    def __init__(self, *, dry_run: bool, json: bool) -> None:
        self._dry_run = dry_run
        self._json = json
        self._pieces: Counter[str] = Counter()
        self._size_bytes: Counter[str] = Counter()

    def add(self, piece: Collected) -> None:
        from sidecar.cli import output

        self._pieces[piece.kind] += 1
        self._size_bytes[piece.kind] += piece.size_bytes
        if self._json:
            output.json_line(piece._asdict())

    def text(self) -> str:
        from sidecar.cli.progress import size

        doing = "would remove" if self._dry_run else "removed"
        return f"{doing} {self._pieces.total():,} pieces, {size(self._size_bytes.total())}"

    def summarise(self, *, complete: bool) -> None:
        from sidecar.cli import output

        if not (complete or self._pieces):
            return  # it was refused, or went wrong before it began
        kinds = ("version", "object", "leftover")
        if self._json:
            output.json_line({"summary": {
                **{f"{kind}s": self._pieces[kind] for kind in kinds},
                "size_bytes": self._size_bytes.total(), "dry_run": self._dry_run,
                "complete": complete,
            }})  # fmt: skip
            return
        head = "would remove" if self._dry_run else "removed"
        rows = [
            (f"{kind}s", f"{self._pieces[kind]:,}", f"{self._size_bytes[kind]:,}") for kind in kinds
        ]
        rows.append(("in all", f"{self._pieces.total():,}", f"{self._size_bytes.total():,}"))
        output.table((head, "pieces", "bytes"), rows, right=("pieces", "bytes"))


@contextmanager
def summed_up(summarise: Callable[..., None]) -> Iterator[None]:
    """Sum up what was done, also when it ends early. Ctrl-C and SIGTERM end it (exit code 3)."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    complete = False
    try:
        yield
        complete = True
    except KeyboardInterrupt:
        raise Incomplete("stopped before the end") from None
    except SystemExit as left:
        raise SystemExit(Incomplete.exit_code) from left  # `| head` has had enough
    finally:
        signal.signal(signal.SIGTERM, before)
        summarise(complete=complete)


def _told(
    pins: Callable[[], Iterable[Pin]], show: Callable[[str], None]
) -> Callable[[], Iterator[Pin]]:
    """Show how many pins have been read."""

    def told() -> Iterator[Pin]:
        due = 0.0
        for number, pin in enumerate(pins()):
            if time.monotonic() >= due:
                show(f"reading what events name: {number:,}")
                due = time.monotonic() + _SHOW_EVERY_S
            yield pin

    return told


def _pins(
    opened: VersionedStore,
    data_dir: Path,
    redis: str | None,
    notify_redis: str | None,
    named: Named,
) -> Callable[[], Iterable[Pin]]:
    """Return the pins of all events, once the servers look like the right ones."""
    from sidecar.cli.servers import Servers
    from sidecar.pins import Acquainted, Pins
    from sidecar.redis.census import Registrar
    from sidecar.redis.client import Side

    servers = Servers(data_dir, redis, notify_redis)
    control, notify = Side.open(servers.control, STREAM), Side.open(servers.notify, NOTIFY_STREAM)
    registrar = Registrar(control, notify, named)
    registrar.take()  # a wrong one is told before the store is walked
    return Acquainted(opened, Pins(control, notify, registrar), servers.notify)


def _check_without(named: Named) -> None:
    if named.notifications:
        raise UsageError(
            "--without-stream says that no log names this store; --keep-from-stream names one:"
            " choose"
        )


def _grace(text: str, *, allow_short: bool) -> float:
    grace_s = _duration("--grace", text)
    if grace_s < SHORTEST_GRACE_S and not allow_short:
        raise UsageError(
            f"--grace {text}: under a minute, what a slow producer has just stored could go before"
            " its event comes; give a longer one, or --allow-short-grace when nobody is that slow"
        )
    return grace_s


def _duration(option: str, text: str) -> float:
    from sidecar.settings import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _check_prefix(prefix: str) -> None:
    from sidecar.stores import explained
    from store import check_ref

    with explained():
        if prefix:
            check_ref(prefix)

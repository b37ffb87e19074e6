"""`sidecar trace`: one event, or all about a ref or stack, hop by hop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

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
    Streams,
)
from sidecar.cli.review import Bundle, SinceWindow, UntilWindow
from sidecar.errors import Incomplete, SidecarError, UsageError

if TYPE_CHECKING:
    from sidecar.cli.review import Review
    from sidecar.replay.timeline import Life
    from sidecar.replay.trace import Trace
    from store import Version, VersionedStore

_STYLES: Final = {
    "ok": "green", "failed": "bold red", "absent": "red", "waits": "yellow", "unknown": "yellow",
}  # fmt: skip
_SIGNS: Final = {"ok": "+", "failed": "!", "absent": "-", "waits": "~", "unknown": "?"}
_KINDS: Final = ("event", "ref", "stack")


def trace(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ID|REF|TENANT/STACK[@VERSION]",
            help="An event_id, STREAM/ENTRY_ID, a control_version, the ID of a notification or dead"
            " letter; else an artifact_ref; else a stack, or one version of it.",
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as",
            envvar="SIDECAR_AS",
            metavar="KIND",
            help="Take it for an event, a ref, or a stack.",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count",
            "-n",
            envvar="SIDECAR_COUNT",
            min=1,
            help="Of a ref or stack, only the newest so many events.",
        ),
    ] = 20,
    look_around: Annotated[
        str,
        typer.Option(
            envvar="SIDECAR_LOOK_AROUND",
            metavar="TIME",
            help="How far from an event its repeats are looked for.",
        ),
    ] = "5m",
    since: SinceWindow = None,
    until: UntilWindow = None,
    *,
    json: Json = False,
    bundle: Bundle = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    fleet_store: FleetStore = None,
) -> None:
    """Tell of one event, or of all about a ref or stack, hop by hop: status, times and the mend.

    From the producer's clock over the control entry and the artifact in the fleet's store to the
    notification, or to the dead letter and what came of that. Of a ref also the versions that the
    store has. Where neither index nor letters know an event, the streams are read through, the
    newest first; --since and --until bound that.

    Exit codes: 1 there is nothing by that name, 3 nothing is left of it where something has
    expired.

    Examples:
      sidecar trace evt_4711

      sidecar trace stacks/t_1/web/7 --as ref

      sidecar trace t_1/web@7

      sidecar trace 1791234567890123 --bundle incident.zip

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.progress import progress
    from sidecar.cli.review import Review
    from sidecar.replay.trace import traces

    if kind not in (None, *_KINDS):
        raise UsageError(f"--as {kind!r}: say event, ref or stack")
    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    review = Review.of(history, since, until)
    with progress(json=json) as tell:
        tell("looking for it")
        found, versions = _found(review, what, kind, count, look_around)
    if not (found or versions):
        raise _absent(review, what, kind)
    if history.store is None:
        output.hint("no store to look for artifacts in: name it with --fleet-store")
    for version in versions:
        _print_version(what, version, json=json)
    for one in traces(history, found):
        _print(one, json=json)


def _found(
    review: Review, what: str, kind: str | None, count: int, look_around: str
) -> tuple[list[Life], list[Version]]:
    from sidecar.replay.trace import by_ref, by_stack, find
    from sidecar.settings import seconds

    try:
        around_us = int(seconds(look_around) * 1e6)
    except ValueError as error:
        raise UsageError(f"--look-around: {error}") from error
    history, window = review.history, review.window
    found: list[Life] = []
    versions: list[Version] = []
    if kind in (None, "event"):
        found = find(history, what, window, around_us)
    if kind == "ref" or (kind is None and not found):
        found, versions = by_ref(history, what, window, count), _versions(review, what)
    if kind == "stack" or (kind is None and not (found or versions)):
        found = by_stack(history, what, window, count)
    return found, versions


def _versions(review: Review, ref: str) -> list[Version]:
    from sidecar.stores import explained
    from store import InvalidRef, NotFound

    store = _listing(review)
    if store is None:
        return []
    with explained():
        try:
            return list(store.versions(ref))[::-1]
        except (NotFound, InvalidRef):
            return []


def _listing(review: Review) -> VersionedStore | None:
    """Return the store, if it can say what is in it."""
    from store import Capability

    store = review.history.store
    return store if store and Capability.LIST in store.capabilities else None


def _absent(review: Review, what: str, kind: str | None) -> SidecarError:
    from sidecar.cli.review import moment
    from sidecar.replay.window import Window

    gaps = [
        f"{one.stream} before {moment(gap.last)} ({gap.why})"
        for one in review.covered()
        for gap in one.missing
    ]
    if gaps:
        return Incomplete(
            f"nothing is left of {what!r}: it may have been in what has expired: {'; '.join(gaps)}"
        )
    never = ", and there never was" if review.window == Window() else ""
    under = _ref_under(review, what)
    mend = f"; refs lie under it: `sidecar replay show --ref {what}` shows them" if under else ""
    return SidecarError(
        f"there is no {kind or 'event, ref or stack'} {what!r} in {review.history.describe()},"
        f" {review.window}{never}{mend}"
    )


def _ref_under(review: Review, ref: str) -> bool:
    from sidecar.stores import explained
    from store import InvalidRef

    store = _listing(review)
    if store is None:
        return False
    with explained():
        try:
            return next(store.list(ref.rstrip("/")), None) is not None
        except InvalidRef:
            return False


def _print_version(ref: str, version: Version, *, json: bool) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339

    if json:
        output.json_line({"version": {"ref": ref, **version._asdict()}})
        return
    output.styled([
        ("version", "bold"), (rfc3339(version.stored_at * 1e6), "dim"), (version.checksum, ""),
        (f"{version.size_bytes:,} + {version.manifest_size_bytes:,} bytes", "dim"),
        *([("current", "green")] if version.current else []),
    ])  # fmt: skip


def _print(one: Trace, *, json: bool) -> None:
    from sidecar.cli import output
    from sidecar.cli.replay import whose
    from sidecar.moments import rfc3339, span

    if json:
        row: dict[str, Any] = one.life.to_json()
        output.json_line(row | {"hops": [hop.to_json() for hop in one.hops]})
        return
    kind = one.life.event.type if one.life.event else "?"
    output.line()
    output.styled([(one.life.event_id or "?", "bold"), (kind, "cyan"), (whose(one.life), "")])
    before_us: int | None = None
    for hop in one.hops:
        took = span((hop.at_us - before_us) / 1e6) if hop.at_us and before_us else ""
        style = _STYLES[hop.mark.value]
        output.styled([
            (f"  {_SIGNS[hop.mark.value]} {hop.name:<12}", style),
            (rfc3339(hop.at_us) if hop.at_us else f"{'-':<24}", "dim"),
            (f"{'+' + took if took and not took.startswith('-') else took:>8}", "dim"),
            (hop.detail, ""),
        ])  # fmt: skip
        if hop.mend:
            output.styled([(f"      mend: {hop.mend}", "dim")])
        before_us = hop.at_us or before_us

"""`sidecar trace`: one event, or all about a ref, hop by hop."""

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
    from store import Version

_STYLES: Final = {
    "ok": "green", "failed": "bold red", "absent": "red", "waits": "yellow", "unknown": "yellow",
}  # fmt: skip
_SIGNS: Final = {"ok": "+", "failed": "!", "absent": "-", "waits": "~", "unknown": "?"}
_KINDS: Final = ("event", "ref")


def trace(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ID|REF",
            help="An event_id, STREAM/ENTRY_ID, a control_version, the ID of a notification or dead"
            " letter, or else an artifact_ref.",
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as", envvar="SIDECAR_AS", metavar="KIND", help="Take it for an event, or for a ref."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count",
            "-n",
            envvar="SIDECAR_COUNT",
            min=1,
            help="Of a ref, only the newest so many.",
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
    """Tell of one event, or of all about a ref, hop by hop: with status, times and the mend.

    From the producer's clock over the control entry and the artifact in the fleet's store to the
    notification, or to the dead letter and what came of that. Of a ref also the versions that the
    store has. Where neither index nor letters know an event, the streams are read through, the
    newest first; --since and --until bound that.

    Exit codes: 1 there is nothing by that name, 3 nothing is left of it where something has
    expired.

    Examples:
      sidecar trace evt_4711

      sidecar trace stacks/t_1/web/7 --as ref

      sidecar trace 1791234567890123 --bundle incident.zip

    """
    from sidecar.cli import output
    from sidecar.cli.histories import open_history
    from sidecar.cli.progress import progress
    from sidecar.cli.review import Review
    from sidecar.replay.trace import traces

    if kind not in (None, *_KINDS):
        raise UsageError(f"--as {kind!r}: say event or ref")
    history = open_history(
        data_dir, redis, notify_redis, stream, notify_stream, dead_stream, fleet_store, bundle
    )
    review = Review.of(history, since, until)
    with progress(json=json) as tell:
        tell("looking for it")
        found, versions = _found(review, what, kind, count, look_around)
    if not (found or versions):
        raise _absent(review, what)
    if history.store is None:
        output.hint("no store to look for artifacts in: name it with --fleet-store")
    for version in versions:
        _print_version(what, version, json=json)
    for one in traces(history, found):
        _print(one, json=json)


def _found(
    review: Review, what: str, kind: str | None, count: int, look_around: str
) -> tuple[list[Life], list[Version]]:
    from sidecar.replay.trace import by_ref, find
    from sidecar.settings import seconds

    try:
        around_us = int(seconds(look_around) * 1e6)
    except ValueError as error:
        raise UsageError(f"--look-around: {error}") from error
    if kind != "ref":
        found = find(review.history, what, review.window, around_us)
        if found or kind == "event":
            return found, []
    return by_ref(review.history, what, review.window, count), _versions(review, what)


def _versions(review: Review, ref: str) -> list[Version]:
    from sidecar.stores import explained
    from store import Capability, InvalidRef, NotFound

    store = review.history.store
    if store is None or Capability.LIST not in store.capabilities:
        return []
    with explained():
        try:
            return list(store.versions(ref))[::-1]
        except (NotFound, InvalidRef):
            return []


def _absent(review: Review, what: str) -> SidecarError:
    from sidecar.cli.review import moment

    gaps = [
        f"{one.stream} before {moment(gap.last)} ({gap.why})"
        for one in review.covered()
        for gap in one.missing
    ]
    if gaps:
        return Incomplete(
            f"nothing is left of {what!r}: it may have been in what has expired: {'; '.join(gaps)}"
        )
    return SidecarError(
        f"there is no event and no ref {what!r} in {review.history.describe()}, {review.window},"
        " and there never was"
    )


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

"""`sidecar trace`: one event, or all about a ref or stack, hop by hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.cli.filters import Between
from sidecar.cli.histories import Archived
from sidecar.cli.options import Bundle, Json
from sidecar.cli.review import Review
from sidecar.errors import UsageError
from sidecar.replay.lookup import KINDS, Asked, absent, look_up
from sidecar.replay.trace import Hop, Trace, traces
from sidecar.terminal import output
from sidecar.terminal.groups import REQUIRED, argument, option
from sidecar.terminal.progress import progress
from sidecar.wire.moments import rfc3339, span
from sidecar.wire.units import said, seconds
from store import Version

_STYLES: Final = {
    "ok": "green", "failed": "bold red", "absent": "red", "waits": "yellow", "unknown": "yellow",
}  # fmt: skip
_SIGNS: Final = {"ok": "+", "failed": "!", "absent": "-", "waits": "~", "unknown": "?"}


@dataclass(frozen=True)
class Meant:
    """What is looked for."""

    what: str = argument(
        REQUIRED,
        "ID|REF|TENANT/STACK[@VERSION]",
        "An event_id, STREAM/ENTRY_ID, a control_version, the ID of an entry, notification or dead"
        " letter; else an artifact_ref; else a stack, or one version of it.",
    )
    kind: str | None = option(None, "Take it for an event, a ref, or a stack.", "KIND", "--as")
    count: int = option(
        20, "Of a ref or stack, only the newest so many events.", None, "--count", "-n", min=1
    )
    look_around: float = option(
        "5m", "How far from an event its repeats are looked for.", "TIME", unit=seconds
    )


def trace(
    meant: Meant, *, between: Between, json: Json = False, bundle: Bundle = None, where: Archived
) -> None:
    """Show one event, or all about a ref or stack, hop by hop: status, times and the fix.

    From the producer's clock over the control entry and the artifact in the fleet's store to the
    notification, or to the dead letter and what came of that. Of a ref also the versions that the
    store has. Where neither index nor dead letters know an event, the streams are read through, the
    newest first; --since and --until bound that.

    Exit codes: 1 there is nothing by that name, 3 nothing is left of it where something has
    expired.

    Examples:
      sidecar trace evt_4711

      sidecar trace stacks/t_1/web/7 --as ref

      sidecar trace t_1/web@7

      sidecar trace 1791234567890123 --bundle incident.zip

    """
    if meant.kind not in (None, *KINDS):
        raise UsageError(f"--as: {said(meant.kind)} is no kind; say event, ref or stack")
    review = Review.of(where.history(bundle), between)
    history = review.history
    with progress(json=json) as tell:
        tell("looking for it")
        asked = Asked(meant.what, meant.kind, meant.count, int(meant.look_around * 1e6))
        found, versions = look_up(history, review.window, asked)
    if not (found or versions):
        raise absent(history, review.window, asked)
    if history.store is None:
        output.hint("no store to look for artifacts in: name it with --fleet-store")
    for version in versions:
        _print_version(meant.what, version, json=json)
    for one in traces(history, found):
        _print(one, json=json)


def _print_version(ref: str, version: Version, *, json: bool) -> None:
    if json:
        output.json_line({"version": {"ref": ref, **version._asdict()}})
        return
    output.styled([
        ("version", "bold"), (rfc3339(version.stored_at * 1e6), "dim"), (version.checksum, ""),
        (f"{version.size_bytes:,} + {version.manifest_size_bytes:,} bytes", "dim"),
        *([("current", "green")] if version.current else []),
    ])  # fmt: skip


def _print(one: Trace, *, json: bool) -> None:
    if json:
        output.json_line(one.life.to_json() | {"hops": [hop.to_json() for hop in one.hops]})
        return
    kind = one.life.event.type if one.life.event else "?"
    output.line()
    output.styled([(one.life.event_id or "?", "bold"), (kind, "cyan"), (one.life.whose, "")])
    before_us: int | None = None
    for hop in one.hops:
        _print_hop(hop, before_us)
        before_us = hop.at_us or before_us


def _print_hop(hop: Hop, before_us: int | None) -> None:
    """Print one station; `before_us` is when the event was at the one before it."""
    took = span((hop.at_us - before_us) / 1e6) if hop.at_us and before_us else ""
    output.styled([
        (f"  {_SIGNS[hop.mark.value]} {hop.name:<12}", _STYLES[hop.mark.value]),
        (rfc3339(hop.at_us) if hop.at_us else f"{'-':<24}", "dim"),
        (f"{'+' + took if took and not took.startswith('-') else took:>8}", "dim"),
        (hop.detail, ""),
    ])  # fmt: skip
    if hop.fix:
        output.styled([(f"      fix: {hop.fix}", "dim")])

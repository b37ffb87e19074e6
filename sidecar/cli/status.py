"""`sidecar status`: what is where, what waits, what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Final

import typer

from sidecar.cli.options import Json, LiveOnly
from sidecar.cli.servers import Fleet, Live
from sidecar.errors import SidecarError
from sidecar.ops.growing import Growing, growing
from sidecar.ops.status import (
    MAX_LETTERS,
    PAGE_LETTERS,
    ControlStatus,
    DeadStatus,
    NotifyStatus,
    ReaderStatus,
    Status,
    collect,
    memory_by_part,
)
from sidecar.redis.fleet import Noted
from sidecar.redis.halts import Halt
from sidecar.redis.keys import CONSUMER
from sidecar.redis.members import Held, Member
from sidecar.redis.parts import Parts
from sidecar.redis.takeovers import Takeover
from sidecar.terminal import output
from sidecar.terminal.progress import size
from sidecar.terminal.watching import again_and_again
from sidecar.wire.moments import rfc3339, span

_NOBODY: Final = "none holds the lease; if one runs, its log and /readyz?strict say what it lacks"
_UNKNOWN: Final = "unknown"
_PARTS: Final = {
    "control": "control streams", "notifications": "notifications", "dead": "dead letters",
    "index": "deduplication index", "own": "other keys",
}  # fmt: skip
_STYLES: Final = {_NOBODY: "yellow", _UNKNOWN: "yellow"}


@dataclass(frozen=True)
class _Where(Fleet, Live):
    """All streams of a system, and the store that tells how much a day adds."""

    def growing(self) -> Growing:
        """Read what grows, without sizes where the store cannot be opened."""
        try:
            fleet = self.fleet_if_any()
        except SidecarError:
            fleet = None
        return growing(self.notify, self.keys[0], fleet)


def status(
    where: _Where,
    *,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Show it again and again until Ctrl-C; with --json a line each time."
        ),
    ] = False,
    json: Json = False,
    _bundle: LiveOnly = None,
) -> None:
    """Show streams, lag, pending entries, leases, halts, dead letters, readers, what Redis forgot.

    What a day adds to the stores is about what it was the day before; for the bytes it looks into
    the fleet's store. How much memory each part takes in Redis is an estimate. Changes nothing. A
    lag that the server does not know is shown as unknown (null in JSON).

    Examples:
      sidecar status

      sidecar status --redis redis://localhost --stream eu:events --stream us:events

      sidecar status --json | jq '.streams[] | select(.halt)'

      sidecar status --watch

    """
    grows: list[Growing] = []

    def show() -> None:
        letters = PAGE_LETTERS if watch else MAX_LETTERS
        found = collect(where.control, where.notify, where.keys, letters=letters)
        if not grows:  # it is of a day: once is enough
            grows.append(where.growing())
        parts = memory_by_part(where.control, where.notify, where.keys)
        found = replace(found, growing=grows[0], parts=parts)
        if json:
            output.json_line(found.to_json())
        else:
            _print(found)

    if watch:
        again_and_again(show, draw=not json)
    else:
        show()


def _print(found: Status) -> None:
    for stream in found.streams:
        _print_stream(stream)
        output.line()
    _print_notifications(found.notifications, found.fleet)
    if found.growing:
        _print_growing(found.growing)
    _print_dead(found.dead)
    _print_parts(found.parts)
    if found.readers:
        _print_table(("reader", "has passed", "last heard of"), map(_reader, found.readers))
    for what, detail in found.warnings:
        output.line()
        output.styled([(f"{what} ", "bold red"), (detail, "")])
    held = [one for worker in found.workers for one in worker.held]
    if held:
        output.line()
        output.table(
            ("held back", "tenant", "since", "tries", "next", "why"), [_held(one) for one in held]
        )
    if found.workers:
        _print_table(("worker", "owns"), map(_worker, found.workers))
    if found.takeovers:
        _print_table(("taken over", "at", "by", "before"), map(_takeover, found.takeovers))


def _print_table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    output.line()
    output.table(titles, list(rows))


def _reader(reader: ReaderStatus) -> tuple[str, str, str]:
    heard = f"{span(reader.silent_s)} ago"
    if reader.expired:
        heard += "; EXPIRED: what it has not read may be trimmed"
    return reader.name, str(reader.control_version), heard


def _held(one: Held) -> tuple[str, str, str, str, str, str]:
    ends = "" if one.outage else "; then a dead letter, by --retry-budget"
    tries, why = f"{one.attempts:,}", f"{one.error}{ends}"
    return f"{one.event_id} ({one.entry})", one.tenant_id, one.since, tries, one.next_at, why


def _worker(worker: Member) -> tuple[str, str]:
    return worker.name, ", ".join(sorted(worker.owns)) or "nothing"


def _takeover(one: Takeover) -> tuple[str, str, str, str]:
    return one.stream, one.at, one.by, one.before or _UNKNOWN


def _print_stream(stream: ControlStatus) -> None:
    output.styled([("control stream", "bold"), (stream.stream, "bold cyan")])
    if not stream.exists:
        output.line("  there is no such stream yet")
    rows = [
        ("  length", f"{stream.length:,}"),
        ("  lag", _lag(stream)),
        ("  pending", _pending(stream)),
        *_elsewhere(stream),
        ("  worker", _owner(stream)),
    ]
    if stream.dead_in_a_row:
        rows.append(("  dead in a row", f"{stream.dead_in_a_row:,}"))
    rows += _halted(stream.halt)
    output.pairs(rows, _STYLES | ({stream.halt.reason: "bold red"} if stream.halt else {}))
    if stream.paused:
        titles = ("  paused tenant", "since", "by", "why")
        _print_table(titles, [(f"  {who}", why.since, why.by, why.reason)
                              for who, why in sorted(stream.paused.items())])  # fmt: skip


def _halted(halt: Halt | None) -> list[tuple[str, str]]:
    if halt is None:
        return []
    since = f"since {halt.since} by {halt.by}; `sidecar resume` resumes it"
    return [("  HALTED", halt.reason), ("", since)]


def _lag(stream: ControlStatus) -> str:
    if not stream.group:
        return "no worker has read it yet"
    if stream.position_beyond_end:
        return f"{_UNKNOWN}: the group's position was set beyond the end; a worker sets it back"
    return _UNKNOWN if stream.lag is None else f"{stream.lag:,} not read yet"


def _pending(stream: ControlStatus) -> str:
    if stream.oldest_pending is None:
        return f"{stream.pending:,}"
    said = f"{stream.pending:,}, the oldest {stream.oldest_pending}"
    if stream.oldest_pending_age_s is None:
        return f"{said}, of unknown age"
    return f"{said} appended {span(stream.oldest_pending_age_s)} ago"


def _elsewhere(stream: ControlStatus) -> list[tuple[str, str]]:
    return [
        ("", f"{count:,} of them under consumer {name!r}, not a worker's; a worker takes them over")
        for name, count in stream.pending_by_consumer.items()
        if name != CONSUMER
    ]


def _owner(stream: ControlStatus) -> str:
    if not stream.owner_alive:
        return _NOBODY
    return f"{stream.owner or 'alive'}, its lease runs {stream.lease_remaining_ms} ms more"


def _print_notifications(found: NotifyStatus, fleet: Noted) -> None:
    output.styled([("notifications", "bold"), (found.stream, "bold cyan")])
    last = "none yet"
    if found.last_control_version is not None and found.last_age_s is not None:
        cv = found.last_control_version
        last = f"{cv} ({rfc3339(cv)}, {span(found.last_age_s)} ago)"
    rows = [("  length", f"{found.length:,}"), ("  last", last)]
    if found.trimmed:
        rows.append(("  trimmed", f"up to {found.trimmed} ({rfc3339(found.trimmed)})"))
    if fleet.store:
        rows.append(("  fleet store", f"{fleet.store} (noted as {fleet.url or _UNKNOWN})"))
    output.pairs(rows)
    output.line()


def _print_growing(found: Growing) -> None:
    output.styled([("stores", "bold")])
    size = _UNKNOWN if found.bytes_a_day is None else f"{found.bytes_a_day:,}"
    refs = _UNKNOWN if found.refs_a_day is None else f"{found.refs_a_day:,}"
    output.pairs([
        ("  a day adds", f"about {refs} refs, {size} bytes, to the fleet's and to the producers'"),
        ("  fleet's", _kept(found.keep, "--keep")),
        ("  producers'", _kept(found.source_keep, "--source-keep")),
    ], _STYLES)  # fmt: skip
    output.line()


def _kept(rule: str | None, option: str) -> str:
    if rule is None:
        return _UNKNOWN
    return rule or f"kept for ever, as far as workers go: they have no {option}"


def _print_parts(parts: Parts | None) -> None:
    output.line()
    output.styled([("memory in Redis", "bold")])
    if parts is None:
        output.line(f"  {_UNKNOWN}: this user may not send MEMORY USAGE")
        return
    about = {name: f"about {size(count)}" for name, count in parts.by_name.items()}
    if parts.index_at_most:
        about["index"] = f"under {size(parts.index)}"
    output.pairs([(f"  {_PARTS[name]}", said) for name, said in about.items()])


def _print_dead(found: DeadStatus) -> None:
    output.styled([("dead letters", "bold"), (found.stream, "bold cyan")])
    rows = [("  length", f"{found.length:,}")]
    rows += [(f"  {reason}", f"{count:,}") for reason, count in found.by_reason.items()]
    if found.counted < found.length:
        rows.append(("", f"reasons of the newest {found.counted:,} only"))
    output.pairs(rows)

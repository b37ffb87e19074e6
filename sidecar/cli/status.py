"""`sidecar status`: what is where, what waits, what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    DeadStream,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.cli.review import LiveOnly

if TYPE_CHECKING:
    from sidecar.redis.members import Member
    from sidecar.status import ControlStatus, DeadStatus, NotifyStatus, ReaderStatus, Status

_NOBODY: Final = "none alive"
_UNKNOWN: Final = "unknown"


def status(
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    dead_stream: DeadStream = None,
    *,
    json: Json = False,
    _bundle: LiveOnly = None,
) -> None:
    """Show streams, lag, pending entries, leases, halts, dead letters and readers.

    Changes nothing. A lag that the server does not know is shown as unknown (null in JSON).

    Examples:
      sidecar status

      sidecar status --redis redis://localhost --stream eu:events --stream us:events

      sidecar status --json | jq '.streams[] | select(.halt)'

    """
    from sidecar.cli import output
    from sidecar.cli.servers import Servers, keys_of
    from sidecar.redis.client import Side
    from sidecar.status import collect

    servers = Servers(data_dir, redis, notify_redis)
    keys = keys_of(stream, notify_stream, dead_stream)
    control = Side.open(servers.control, keys[0].control)
    found = collect(control, Side.open(servers.notify, notify_stream), keys)
    if json:
        output.json_line(found.to_json())
        return
    _print(found)


def _print(found: Status) -> None:
    from sidecar.cli import output

    for stream in found.streams:
        _print_stream(stream)
        output.line()
    _print_notifications(found.notifications)
    _print_dead(found.dead)
    if found.readers:
        output.line()
        output.table(
            ("reader", "has passed", "last heard of"), [_reader(one) for one in found.readers]
        )
    if len(found.workers) > 1:
        output.line()
        output.table(("worker", "owns"), [_worker(one) for one in found.workers])


def _reader(reader: ReaderStatus) -> tuple[str, str, str]:
    from sidecar.moments import span

    heard = f"{span(reader.silent_s)} ago"
    if reader.expired:
        heard += "; EXPIRED: what it has not read may be trimmed"
    return reader.name, str(reader.control_version), heard


def _worker(worker: Member) -> tuple[str, str]:
    return worker.name, ", ".join(sorted(worker.owns)) or "nothing"


def _print_stream(stream: ControlStatus) -> None:
    from sidecar.cli import output

    output.styled([("control stream", "bold"), (stream.stream, "bold cyan")])
    if not stream.exists:
        output.line("  there is no such stream yet")
    rows = [
        ("  length", f"{stream.length:,}"),
        ("  lag", _lag(stream)),
        ("  pending", _pending(stream)),
        ("  worker", _owner(stream)),
    ]
    if stream.dead_in_a_row:
        rows.append(("  dead in a row", f"{stream.dead_in_a_row:,}"))
    styles = {_NOBODY: "yellow", _UNKNOWN: "yellow"}
    if stream.halt:
        rows += [
            ("  HALTED", stream.halt.reason),
            ("", f"since {stream.halt.since} by {stream.halt.by}; `sidecar resume` lets it go on"),
        ]
        styles[stream.halt.reason] = "bold red"
    output.pairs(rows, styles)


def _lag(stream: ControlStatus) -> str:
    if not stream.group:
        return "no worker has read it yet"
    return _UNKNOWN if stream.lag is None else f"{stream.lag:,} not read yet"


def _pending(stream: ControlStatus) -> str:
    from sidecar.moments import span

    if stream.oldest_pending_age_s is None:
        return f"{stream.pending:,}"
    age = span(stream.oldest_pending_age_s)
    return f"{stream.pending:,}, the oldest {stream.oldest_pending} appended {age} ago"


def _owner(stream: ControlStatus) -> str:
    if not stream.owner_alive:
        return _NOBODY
    return f"alive, its lease runs {stream.lease_remaining_ms} ms more"


def _print_notifications(found: NotifyStatus) -> None:
    from sidecar.cli import output
    from sidecar.moments import rfc3339, span

    output.styled([("notifications", "bold"), (found.stream, "bold cyan")])
    last = "none yet"
    if found.last_control_version is not None and found.last_age_s is not None:
        cv = found.last_control_version
        last = f"{cv} ({rfc3339(cv)}, {span(found.last_age_s)} ago)"
    rows = [("  length", f"{found.length:,}"), ("  last", last)]
    if found.trimmed:
        rows.append(("  trimmed", f"up to {found.trimmed} ({rfc3339(found.trimmed)})"))
    output.pairs(rows)
    output.line()


def _print_dead(found: DeadStatus) -> None:
    from sidecar.cli import output

    output.styled([("dead letters", "bold"), (found.stream, "bold cyan")])
    rows = [("  length", f"{found.length:,}")]
    rows += [(f"  {reason}", f"{count:,}") for reason, count in found.by_reason.items()]
    if found.counted < found.length:
        rows.append(("", f"reasons of the newest {found.counted:,} only"))
    output.pairs(rows)

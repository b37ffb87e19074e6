"""`sidecar pause` and `sidecar resume`: a control stream halted by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.options import (
    DATA_DIR,
    NOTIFY_STREAM,
    STREAM,
    DataDir,
    Json,
    NotifyRedis,
    NotifyStream,
    Redis,
    Streams,
)
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.redis.halts import Change


def pause(
    reason: Annotated[
        str,
        typer.Option(envvar="SIDECAR_REASON", metavar="TEXT", help="Why; whoever looks reads it."),
    ],
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    *,
    json: Json = False,
) -> None:
    """Halt control streams: nothing is published or dead-lettered until `sidecar resume`.

    Nothing is lost meanwhile: entries wait in the stream. A stream that is halted already stays
    so, with its first reason.

    Examples:
      sidecar pause --reason "bad deploy of the node agent"

      sidecar pause --stream eu:events --stream us:events --reason "migrating the fleet store"

    """
    if not reason.strip():
        raise UsageError("--reason: say why, for whoever finds the stream halted")
    _change("pause", reason, data_dir, redis, notify_redis, stream, notify_stream, json=json)


def resume(
    reason: Annotated[
        str,
        typer.Option(envvar="SIDECAR_REASON", metavar="TEXT", help="Why it may go on; kept."),
    ] = "",
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    notify_redis: NotifyRedis = None,
    stream: Streams = [STREAM],  # noqa: B006 -- read only; typer shows it in the help
    notify_stream: NotifyStream = NOTIFY_STREAM,
    *,
    json: Json = False,
) -> None:
    """Let halted control streams go on, whoever halted them.

    The count of dead letters in a row begins anew.

    Examples:
      sidecar resume

      sidecar resume --stream eu:events --reason "producer rolled back"

    """
    _change("resume", reason, data_dir, redis, notify_redis, stream, notify_stream, json=json)


def _change(
    verb: str,
    reason: str,
    data_dir: DataDir,
    redis: str | None,
    notify_redis: str | None,
    streams: list[str],
    notify_stream: str,
    *,
    json: bool,
) -> None:
    from sidecar.cli import output
    from sidecar.cli.servers import Servers, keys_of, now, utf8, whoami
    from sidecar.redis import halts
    from sidecar.redis.client import connect, translated

    act = halts.pause if verb == "pause" else halts.resume
    url = Servers(data_dir, redis, notify_redis).notify
    client, by = connect(url, key=notify_stream), whoami()
    for keys in keys_of(streams, notify_stream, None):
        with translated(url):
            change = act(client, keys, reason=utf8("--reason", reason), by=by, now=now())
            known = client.exists(keys.fence)
        if not known:
            output.hint(
                f"no worker has run for {keys.control!r} with {notify_stream!r} here; are the"
                " names and the server right?"
            )
        if change.unrecorded:
            output.hint(
                f"it is done, but {keys.halts} has no record of it, for incident reviews:"
                f" {change.unrecorded}"
            )
        if json:
            halted = verb == "pause"
            output.json_line(
                {"stream": keys.control, "halted": halted, "changed": change.changed}
                | change.halt._asdict()
            )
        else:
            output.line(f"{output.visible(keys.control)}: {_words(verb, change)}")


def _words(verb: str, change: Change) -> str:
    from sidecar.cli.output import visible

    halt = change.halt
    about = visible(f"{halt.reason} (since {halt.since} by {halt.by})")
    if verb == "pause":
        return f"paused: {about}" if change.changed else f"halted already, left as it was: {about}"
    return f"resumed; it was halted: {about}" if change.changed else "not halted, nothing to resume"

"""`sidecar pause` and `sidecar resume`: a control stream halted by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from sidecar.cli.options import Json
from sidecar.cli.servers import ControlStreams
from sidecar.errors import UsageError
from sidecar.redis import halts
from sidecar.redis.client import Side, connect
from sidecar.redis.errors import translated
from sidecar.redis.halts import Change
from sidecar.redis.keys import Keys
from sidecar.terminal import output
from sidecar.terminal.person import whoami
from sidecar.wire.moments import rfc3339


def pause(
    where: ControlStreams,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept for those who look.")],
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
        raise UsageError("--reason: say why, for those who find the stream halted")
    _change(where, halts.pause, reason, json=json)


def resume(
    where: ControlStreams,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it may continue; kept.")] = "",
    *,
    json: Json = False,
) -> None:
    """Resume halted control streams, no matter who halted them.

    The count of dead letters in a row begins anew.

    Examples:
      sidecar resume

      sidecar resume --stream eu:events --reason "producer rolled back"

    """
    _change(where, halts.resume, reason, json=json)


def _change(where: ControlStreams, act: Callable[..., Change], reason: str, *, json: bool) -> None:
    url = where.notify_url
    client, by = connect(url, key=where.notify_stream), whoami()
    now = rfc3339(time.time() * 1e6)
    for keys in where.keys:
        with translated(url):
            change = act(client, keys, reason=reason, by=by, now=now)
            known = client.exists(keys.fence)
        if not known:
            output.hint(
                f"no worker has run for {keys.control!r} with {where.notify_stream!r} here; are the"
                " names and the server right?"
            )
        _print(keys, change, pausing=act is halts.pause, json=json)


def _print(keys: Keys, change: Change, *, pausing: bool, json: bool) -> None:
    if change.unrecorded:
        output.hint(
            f"it is done, but {keys.halts} has no record of it, for incident reviews:"
            f" {change.unrecorded}"
        )
    if json:
        changed = {"stream": keys.control, "halted": pausing, "changed": change.changed}
        output.json_line(changed | change.halt._asdict())
    else:
        said = _paused(change) if pausing else _resumed(change)
        output.line(f"{output.visible(keys.control)}: {said}")


def _paused(change: Change) -> str:
    about = _about(change)
    return f"paused: {about}" if change.changed else f"halted already, left as it was: {about}"


def _resumed(change: Change) -> str:
    if not change.changed:
        return "not halted, nothing to resume"
    return f"resumed; it was halted: {_about(change)}"


def _about(change: Change) -> str:
    halt = change.halt
    return output.visible(f"{halt.reason} (since {halt.since} by {halt.by})")


def tell_of_halts(notify: Side, keys: Iterable[Keys]) -> None:
    """Show a person which of the streams are halted: nothing comes of what was appended there."""
    for one in keys:
        with translated(notify.url):
            halt = halts.in_force(notify.client, one)
        if halt:
            output.hint(
                f"{one.control} is halted ({halt.reason}): nothing is published until"
                " `sidecar resume`"
            )

"""`sidecar pause` and `sidecar resume`: a control stream halted by hand, or one tenant of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import typer

from sidecar.cli.options import Json
from sidecar.cli.servers import ControlStreams
from sidecar.errors import UsageError
from sidecar.redis import halts, tenants
from sidecar.redis.client import Side, connect
from sidecar.redis.errors import translated
from sidecar.redis.halts import Change
from sidecar.redis.keys import Keys
from sidecar.terminal import output
from sidecar.terminal.groups import NO_VARIABLE
from sidecar.terminal.person import whoami
from sidecar.wire.event import MAX_NAME_CHARS
from sidecar.wire.moments import rfc3339

_Tenant = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Only this tenant; the others continue.", envvar=NO_VARIABLE),
]
"""A variable that is set for `dead ls` and `replay` must not steer what is halted."""
_Act = Callable[..., Change]


def pause(
    where: ControlStreams,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept for those who look.")],
    *,
    tenant: _Tenant = None,
    json: Json = False,
) -> None:
    """Halt control streams: nothing is published or dead-lettered until `sidecar resume`.

    Nothing is lost meanwhile: entries wait in the stream, those of a paused tenant in the group's
    pending list. What is halted or paused already stays so, with its first reason.

    Examples:
      sidecar pause --reason "bad deploy of the node agent"

      sidecar pause --stream eu:events --stream us:events --reason "migrating the fleet store"

      sidecar pause --tenant t_7 --reason "its importer repeats itself"

    """
    if not reason.strip():
        raise UsageError("--reason: say why, for those who find the stream halted")
    _change(where, _Deed(halts.pause, tenants.pause_tenant, tenant), reason, json=json)


def resume(
    where: ControlStreams,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it may continue; kept.")] = "",
    *,
    tenant: _Tenant = None,
    json: Json = False,
) -> None:
    """Resume halted control streams, or one paused tenant of them, no matter who halted them.

    The count of dead letters in a row begins anew. To resume a stream resumes no tenant of it.

    Examples:
      sidecar resume

      sidecar resume --stream eu:events --reason "producer rolled back"

    """
    _change(where, _Deed(halts.resume, tenants.resume_tenant, tenant), reason, json=json)


class _Deed:
    """What is done to a stream, or to one tenant of it."""

    def __init__(self, to_streams: _Act, to_tenants: _Act, tenant: str | None) -> None:
        self.tenant = tenant
        self.pausing = to_streams is halts.pause
        self.do = to_streams
        if tenant is not None:
            if not 0 < len(tenant) <= MAX_NAME_CHARS:
                raise UsageError(f"--tenant: name one, in 1 to {MAX_NAME_CHARS} characters")
            self.do = partial(to_tenants, tenant=tenant)

    def to_json(self, keys: Keys) -> dict[str, Any]:
        """Return what is done to what."""
        if self.tenant is None:
            return {"stream": keys.control, "halted": self.pausing}
        return {"stream": keys.control, "tenant": self.tenant, "paused": self.pausing}


def _change(where: ControlStreams, deed: _Deed, reason: str, *, json: bool) -> None:
    url = where.notify_url
    client, by = connect(url, key=where.notify_stream), whoami()
    now = rfc3339(time.time() * 1e6)
    for keys in where.keys:
        with translated(url):
            change = deed.do(client, keys, reason=reason, by=by, now=now)
            known = client.exists(keys.fence)
        if not known:
            output.hint(
                f"no worker has run for {keys.control!r} with {where.notify_stream!r} here; are the"
                " names and the server right?"
            )
        _print(keys, change, deed, json=json)


def _print(keys: Keys, change: Change, deed: _Deed, *, json: bool) -> None:
    if change.unrecorded:
        output.hint(
            f"it is done, but {keys.halts} has no record of it, for incident reviews:"
            f" {change.unrecorded}"
        )
    if json:
        output.json_line(deed.to_json(keys) | {"changed": change.changed} | change.halt._asdict())
    else:
        whose = "" if deed.tenant is None else f", tenant {deed.tenant!r}"
        was = "halted" if deed.tenant is None else "paused"
        said = _paused(change, was) if deed.pausing else _resumed(change, was)
        output.line(f"{output.visible(keys.control + whose)}: {said}")


def _paused(change: Change, was: str) -> str:
    about = _about(change)
    return f"paused: {about}" if change.changed else f"{was} already, left as it was: {about}"


def _resumed(change: Change, was: str) -> str:
    if not change.changed:
        return f"not {was}, nothing to resume"
    return f"resumed; it was {was}: {_about(change)}"


def _about(change: Change) -> str:
    halt = change.halt
    return output.visible(f"{halt.reason} (since {halt.since} by {halt.by})")


def tell_of_halts(notify: Side, keys: Iterable[Keys]) -> None:
    """Show a person what is halted or paused: nothing comes of what was appended there."""
    for one in keys:
        with translated(notify.url):
            halt = halts.in_force(notify.client, one)
            paused = tenants.read_paused(notify.client, one).tenants
        if paused:
            output.hint(
                f"of {one.control} {len(paused):,} tenants are paused: `sidecar status` has them"
            )
        if halt:
            output.hint(
                f"{one.control} is halted ({halt.reason}): nothing is published until"
                " `sidecar resume`"
            )

"""`sidecar emit`: the producer's side by hand."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.cli.options import DATA_DIR, STREAM, DataDir, Redis, SourceStore, Stream
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.event import Event, Rejected

INT64_MAX: Final = 2**63 - 1

_OPTIONS: Final = {
    "event_id": "--event-id", "type": "--type", "tenant_id": "--tenant", "stack_id": "--stack",
    "version": "--version", "base_version": "--base-version", "artifact_ref": "--ref",
}  # fmt: skip


def emit(
    type_: Annotated[
        str,
        typer.Option(
            "--type", envvar="SIDECAR_TYPE", metavar="TYPE", help="What happened: stack.activated."
        ),
    ],
    ref: Annotated[
        str,
        typer.Option(envvar="SIDECAR_REF", metavar="REF", help="Where the artifact is put."),
    ] = "",
    data: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_DATA",
            metavar="FILE",
            help="The artifact's data; - is standard input. Default: an event without artifact.",
        ),
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_MANIFEST",
            metavar="FILE",
            help="The artifact's manifest; - is standard input. Default: an empty one.",
        ),
    ] = None,
    tenant: Annotated[
        str, typer.Option(envvar="SIDECAR_TENANT", metavar="ID", help="Whose change it is.")
    ] = "",
    stack: Annotated[
        str, typer.Option(envvar="SIDECAR_STACK", metavar="ID", help="Which stack changed.")
    ] = "",
    version: Annotated[
        int,
        typer.Option(envvar="SIDECAR_VERSION", metavar="N", help="The stack's version, from 1."),
    ] = 0,
    base_version: Annotated[
        int,
        typer.Option(
            envvar="SIDECAR_BASE_VERSION",
            metavar="N",
            help="The version that the producer saw before.",
        ),
    ] = 0,
    event_id: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_EVENT_ID",
            metavar="ID",
            help="Who may try again passes its own: one event_id is published once."
            " Default: a new one.",
        ),
    ] = None,
    traceparent: Annotated[
        str | None,
        typer.Option(
            envvar="SIDECAR_TRACEPARENT",
            metavar="W3C",
            help="Trace context; it is carried to the notification.",
        ),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    redis: Redis = None,
    stream: Stream = STREAM,
    source_store: SourceStore = None,
) -> None:
    """Put an artifact into the producer's store, then append its event.

    Prints the event as it was appended, one JSON object.

    Examples:
      sidecar emit --type stack.activated --tenant t_1 --stack web --version 7
        --ref stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      sidecar emit --type tenant.created --tenant t_2

      pg_dump app | sidecar emit --type actor.changed --ref rows/actors/9 --data -

    """
    from sidecar.cli import files, output
    from sidecar.cli.servers import Servers, utf8
    from sidecar.event import KNOWN_TYPES, Rejected
    from sidecar.producer import Producer
    from sidecar.redis.client import check_stream, connect
    from sidecar.stores import explained, open_store

    texts = {"--type": type_, "--ref": ref, "--tenant": tenant, "--stack": stack}
    for option, value in {**texts, "--event-id": event_id, "--traceparent": traceparent}.items():
        utf8(option, value or "")
    for option, number in (("--version", version), ("--base-version", base_version)):
        if not 0 <= number <= INT64_MAX:
            raise UsageError(f"{option} {number}: an integer from 0 to {INT64_MAX}")
    _check_use(ref, data, manifest)
    fields = _given(tenant_id=tenant, stack_id=stack, version=version, base_version=base_version)
    manifest_blob = files.read("--manifest", manifest) if manifest else b""
    url = Servers(data_dir, redis).control
    check_stream(connect(url, key=stream), url, stream)
    file = files.opened("--data", data) if data else nullcontext()
    with explained(), file as opened:
        # Without an artifact no store is touched: a producer of events alone needs none.
        target = source_store or (data_dir / "source").absolute().as_uri() if data else "memory:"
        producer = Producer(url, stream, open_store(target))
        try:
            event = producer.publish(
                type=type_, ref=ref, data=opened, manifest=manifest_blob,
                event_id=event_id or None, traceparent=traceparent or None, **fields,
            )  # fmt: skip
        except Rejected as error:
            raise UsageError(_mend(error)) from error
    if type_ not in KNOWN_TYPES:
        output.hint(
            f"the type {type_!r} is not one of the contract's: workers dead-letter it unless they"
            f" run with --allow-type {type_}"
        )
    output.json_line(_as_appended(event))


def _check_use(ref: str, data: str | None, manifest: str | None) -> None:
    if data and not ref:
        raise UsageError("--data needs --ref: where shall the artifact be put?")
    if (ref or manifest) and not data:
        raise UsageError("--ref and --manifest need --data: an event names the artifact it brings")
    if data == manifest == "-":
        raise UsageError("--data and --manifest cannot both be standard input; name a file")


def _given(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON values
    return {name: value for name, value in fields.items() if value}


def _mend(error: Rejected) -> str:
    field, colon, problem = error.detail.partition(": ")
    option = _OPTIONS.get(field)
    if not colon or option is None:
        return f"{error}; nothing was written"
    return f"{option}: {problem} ({error.reason}, {field}); nothing was written"


def _as_appended(event: Event) -> dict[str, Any]:
    body = event.model_dump(mode="json")
    return {k: v for k, v in body.items() if v or k in ("id", "event_id", "type")}

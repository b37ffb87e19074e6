"""`sidecar emit`: the producer's side by hand."""

from __future__ import annotations

import re
import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from sidecar.cli import options
from sidecar.cli.servers import Servers, Source
from sidecar.cli.wait import EXIT, to_json
from sidecar.errors import UsageError
from sidecar.ops.missing import unserved
from sidecar.producer import Producer
from sidecar.redis.client import check_stream, connect
from sidecar.stores import explained, named, no_store, open_store
from sidecar.terminal import files, output
from sidecar.terminal.groups import flag, option
from sidecar.terminal.stopping import cleaned_up
from sidecar.wire.defaults import STREAM
from sidecar.wire.event import KNOWN_TYPES, Event, Rejected
from sidecar.wire.units import said, seconds
from store import Store

INT64_MAX: Final = 2**63 - 1

_OPTIONS: Final = {
    "event_id": "--event-id", "type": "--type", "tenant_id": "--tenant", "stack_id": "--stack",
    "version": "--version", "base_version": "--base-version", "artifact_ref": "--ref",
}  # fmt: skip


@dataclass(frozen=True)
class _Stream(Servers):
    """A control stream to append to, and where its events end."""

    stream: str = options.stream(STREAM, "Control stream.")
    notify_stream: str = options.notify_stream()
    dead_stream: str | None = options.dead_stream()


@dataclass(frozen=True)
class Produced(Source, _Stream):
    """Where an artifact and its event go."""

    def opened(self) -> Store:
        """Open the store to put into, or make it. Raises `UsageError` when none is known."""
        if self.redis and not self.source_store:
            raise UsageError(no_store("--source-store", self.source_default, self.redis))
        with named("--source-store" if self.source_store else "--data-dir"):
            return open_store(self.source_store or self.source_default.absolute().as_uri())

    def producer(self, store: Store) -> Producer:
        """Return what appends there. Raises `UsageError`."""
        return Producer(
            self.control_url, self.stream, store, notify_url=self.notify_url,
            notify_stream=self.notify_stream, dead_stream=self.dead_stream,
        )  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """The options that say which artifact an event brings, if any."""

    ref: str = option("", "Where the artifact is put.", "REF", unit=options.checked_ref)
    data: str | None = option(
        None,
        "The artifact's data; - is standard input. Default: an event without artifact.",
        "FILE",
    )
    manifest: str | None = option(
        None, "The artifact's manifest; - is standard input. Default: an empty one.", "FILE"
    )

    def check(self) -> None:
        """Raise `UsageError` for options that lack another."""
        if self.data and not self.ref:
            raise UsageError("--data needs --ref: where shall the artifact be put?")
        if (self.ref or self.manifest) and not self.data:
            raise UsageError(
                "--ref and --manifest need --data: an event names the artifact it brings"
            )
        files.check_one_standard(self.data, self.manifest, "input")


def _traceparent(text: str) -> str:
    """Return a trace context. Raises `ValueError` for what is none: nobody could follow it."""
    if not re.fullmatch("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", text):
        raise ValueError(f"{said(text)} is no trace context; write 00-TRACE_ID-SPAN_ID-01, in hex")
    return text


@dataclass(frozen=True)
class Change:
    """The options that say what changed; the fields of an event that it may lack."""

    tenant: str = option("", "Whose change it is.", "ID")
    stack: str = option("", "Which stack changed.", "ID")
    version: int = option(0, "The stack's version, from 1.", "N")
    base_version: int = option(0, "The version that the producer saw before.", "N")
    event_id: str | None = option(
        None,
        "Who may try again passes its own: one event_id is published once. Default: a new one.",
        "ID",
    )
    traceparent: str | None = option(
        None, "Trace context; it is carried to the notification.", "W3C", unit=_traceparent
    )

    def check(self) -> None:
        """Raise `UsageError` for a value that no event can have."""
        for name, number in (("--version", self.version), ("--base-version", self.base_version)):
            if not 0 <= number <= INT64_MAX:
                raise UsageError(f"{name} {number}: an integer from 0 to {INT64_MAX}")

    def fields(self) -> dict[str, Any]:
        """Return what is given, as `Producer.publish` takes it."""
        given = {
            "tenant_id": self.tenant, "stack_id": self.stack, "version": self.version,
            "base_version": self.base_version, "event_id": self.event_id,
            "traceparent": self.traceparent,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Waited:
    """The options that say whether its end is waited for."""

    wait: bool = flag("Wait until it is published or dead, and print that, too.")
    timeout: float = option("60s", "With --wait: for so long.", "TIME", unit=seconds)


def emit(
    type_: Annotated[str, typer.Option(metavar="TYPE", help="What happened: stack.activated.")],
    artifact: Artifact,
    change: Change,
    waited: Waited,
    where: Produced,
) -> None:
    """Put an artifact into the producer's store, then append its event.

    Prints the event as it was appended, one JSON object; with --wait a second one, as `sidecar
    wait --json` does. Exit codes: 1 with --wait it is a dead letter, 3 with --wait it still waits.

    Examples:
      sidecar emit --type stack.activated --tenant t_1 --stack web --version 7
        --ref stacks/t_1/web/7 --data dump.tar --manifest manifest.json

      sidecar emit --type tenant.created --tenant t_2

      sidecar emit --type tenant.created --tenant t_2 --wait --timeout 10s

      pg_dump app | sidecar emit --type actor.changed --ref rows/actors/9 --data -

    """
    change.check()
    artifact.check()
    data, manifest = artifact.data, artifact.manifest
    manifest_blob = files.read("--manifest", manifest) if manifest else b""
    url = where.control_url
    check_stream(connect(url, key=where.stream), url, where.stream)
    file = files.opened("--data", data) if data else nullcontext()
    with cleaned_up(), explained(), file as opened:
        # Without an artifact no store is touched: a producer of events alone needs none.
        producer = where.producer(where.opened() if data else open_store("memory:"))
        try:
            event = producer.publish(
                type=type_, ref=artifact.ref, data=opened, manifest=manifest_blob,
                **change.fields(),
            )  # fmt: skip
        except Rejected as error:
            raise UsageError(_fix(error)) from error
    if type_ not in KNOWN_TYPES:
        output.hint(
            f"the type {type_!r} is not one of the contract's: workers dead-letter it unless they"
            f" run with --allow-type {shlex.quote(type_)}"
        )
    output.hints(unserved(url, where.stream, where.notify_stream))
    output.json_line(_as_appended(event))
    if waited.wait:
        found = producer.outcome(event.event_id, waited.timeout)
        output.json_line(to_json(found))
        raise typer.Exit(EXIT[found.state])


def _fix(error: Rejected) -> str:
    field, colon, problem = error.detail.partition(": ")
    name = _OPTIONS.get(field)
    if not colon or name is None:
        return f"{error}; nothing was written"
    return f"{name}: {problem} ({error.reason}, {field}); nothing was written"


def _as_appended(event: Event) -> dict[str, Any]:
    body = event.model_dump(mode="json")
    return {k: v for k, v in body.items() if v or k in ("id", "event_id", "type")}

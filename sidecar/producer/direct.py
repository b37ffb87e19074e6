"""The producer's side: Put the artifact, then append the event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from sidecar.errors import UsageError
from sidecar.producer.checking import BLOBS, body_of, entry_of, wrong
from sidecar.redis.awaiting import Awaiting, Outcome, Sought
from sidecar.redis.client import Side, connect, url_of
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys, named
from sidecar.telemetry.traceparent import TracerProvider
from sidecar.telemetry.tracing import spans_of
from sidecar.wire.defaults import NOTIFY_STREAM
from sidecar.wire.event import Event
from sidecar.wire.ids import Origin
from store import Capability, Readable, Store, checksum_of, versioned

_CHUNK_BYTES: Final = 1 << 20
MOST_REMEMBERED: Final = 10_000
"""Of so many events a producer knows which entries they were."""


class Producer:
    """Appends control events to one stream, each after its artifact is in `store`.

        producer = Producer("redis://…", "control:events", store.open_url("file:///var/lib/node"))
        producer.publish(type="stack.activated", tenant_id="t_1", stack_id="web", version=7,
                         ref="stacks/t_1/web/7", data=dump, manifest=manifest)

    With a path in place of the URL, that of a file that has it, each new connection reads the login
    there again. Safe to use from several threads. Raises `UsageError` for a URL that is none, for a
    store that is none, and for a stream's name that is a URL.

    With an OpenTelemetry `tracer_provider`, each event has a span, whose traceparent is sent.
    `notify_url` (default: the same), `notify_stream` and `dead_stream` are for `outcome`.
    """

    def __init__(
        self, redis_url: str | Path, stream: str, store: Store, *,
        tracer_provider: TracerProvider | None = None, notify_url: str | Path | None = None,
        notify_stream: str = NOTIFY_STREAM, dead_stream: str | None = None,
    ) -> None:  # fmt: skip
        if not callable(getattr(store, "put", None)):
            raise UsageError(
                f"store: a store is wanted, and not {type(store).__name__}: store.open_url(…) opens"
                " one"
            )
        self._url = url_of(redis_url)
        self._stream = named("stream", stream)
        self._client = connect(self._url, key=stream)
        self._notify_url = self._url if notify_url is None else url_of(notify_url)
        self._keys = Keys.of(stream, notify_stream, dead_stream)
        self._sent: OrderedDict[str, Sought] = OrderedDict()
        self._store = store
        self._spans = spans_of(tracer_provider)

    def publish(
        self,
        *,
        type: str,  # noqa: A002 -- the contract's name
        ref: str = "",
        data: bytes | Readable | None = None,
        manifest: bytes = b"",
        event_id: str | None = None,
        traceparent: str | None = None,
        **fields: Any,  # noqa: ANN401 -- any JSON value may ride along
    ) -> Event:
        """Put `data` and `manifest` at `ref`, append the event, and return it.

        `data` may be a binary file: it is read to its end, in constant memory where the store
        declares `stream`. Without `data` the event names no artifact, and `ref` and `manifest` must
        be empty. `fields` are those of the event (`tenant_id`, `stack_id`, `version`, …) and any
        others, which are passed on as they are; with `data` those of the artifact are set here. A
        caller that may retry passes its own `event_id`: the same one again is published once.

        Raises `event.Rejected`, with the field's name, before anything is written when the event or
        its artifact breaks a rule, `store.StoreError` when the Put fails (then nothing is
        appended), and `Unreachable` when Redis is away (then the artifact is there, and trying
        again is safe).
        """
        body = body_of(type, event_id, fields, ref, data, manifest)
        with self._span(body, traceparent) as context:
            return self._send(body, context, ref, data, manifest)

    def _span(
        self, body: Mapping[str, object], traceparent: str | None
    ) -> AbstractContextManager[str | None]:
        """Return what lasts as long as the event is sent, and yields the traceparent to send."""
        if self._spans is None:
            return nullcontext(traceparent)
        return self._spans.sending(self._stream, body, traceparent)

    def _send(
        self, body: dict[str, Any], traceparent: str | None, ref: str,
        data: bytes | Readable | None, manifest: bytes,
    ) -> Event:  # fmt: skip
        event, entry, digest = entry_of(body, traceparent, self._stream)
        if isinstance(data, BLOBS):
            self._store.put(ref, data, manifest)
        elif data is not None:
            body["checksum"] = self._put_from(ref, data, manifest)
            event, entry, digest = entry_of(body, traceparent, self._stream)
        with translated(self._url):
            at: Any = self._client.xadd(self._stream, {**entry})  # type: ignore[dict-item]
        self._remember(event.event_id, Origin.of(self._stream, at.decode()), digest)
        return event

    def _remember(self, event_id: str, origin: str, digest: bytes) -> None:
        """Keep in mind what `outcome` can tell from an event of the same event_id."""
        self._sent[event_id] = Sought(event_id, origin=origin, content=digest)
        while len(self._sent) > MOST_REMEMBERED:
            with suppress(KeyError):  # another thread was first
                self._sent.popitem(last=False)

    def outcome(self, event_id: str, timeout_s: float) -> Outcome:
        """Return what became of an event, after at most `timeout_s` seconds.

        Wakes at once when its notification or its dead letter comes, and outlives a Redis that
        goes away and comes back. `state` is `published` (with the `control_version`), `dead` (with
        `reason`, `detail` and `fix`), `waiting` (`waits_for` says for what), or `duplicate`: the
        one that this producer sent is absorbed by one that was published before, which can be told
        of the last `MOST_REMEMBERED` that it sent. An event of which the deduplication index knows
        nothing any more is waited for; `sidecar wait` looks into the archive, too.

        On a connection of its own, with the rights of the user `waiter` in deploy/redis/users.acl.
        Raises `Unreachable` when Redis is away at the end, `UsageError` when it refuses the login
        or a command, and `Rejected` for an event_id that no event can have.
        """
        try:
            event_id.encode()
        except UnicodeEncodeError as error:
            raise wrong("event_id", "it is no text: a lone surrogate") from error
        sought = self._sent.get(event_id, Sought(event_id))
        with closing(connect(self._url, key=self._stream)) as client:
            control = Side(client, self._url)
            return Awaiting(control, self._notify_url, [self._keys], sought).outcome(timeout_s)

    def _put_from(self, ref: str, data: Readable, manifest: bytes) -> str:
        """Put what `data` reads, and return its checksum."""
        streaming = versioned(self._store, Capability.STREAM)
        if streaming is not None:
            return streaming.put_from(ref, data, manifest)
        blob = b"".join(iter(partial(data.read, _CHUNK_BYTES), b""))
        self._store.put(ref, blob, manifest)
        return checksum_of(blob)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

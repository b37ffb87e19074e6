"""Spans, by OpenTelemetry's conventions for messaging. Imported behind `tracing` alone.

A span has the ids of an event, cut to a bounded size, and never its data, a ref, a URL or the text
of an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from sidecar.telemetry.traceparent import Parent, TracerProvider, parent_of

Attributes = dict[str, str | int]

SCOPE: Final = "artifact-sidecar"
LONGEST: Final = 256
"""Characters of a text in a span."""
MOST_LINKS: Final = 100
_IDS: Final = {
    "event_id": "sidecar.event_id", "type": "sidecar.event_type",
    "tenant_id": "sidecar.tenant_id", "stack_id": "sidecar.stack_id",
}  # fmt: skip
_TYPES: Final = {"publish": "send", "publish_batch": "send", "resolve": "process"}
_KINDS: Final = {
    "send": SpanKind.PRODUCER, "publish": SpanKind.PRODUCER, "publish_batch": SpanKind.CLIENT,
    "process": SpanKind.CONSUMER, "resolve": SpanKind.CONSUMER,
}  # fmt: skip


@dataclass(slots=True)
class Made:
    """A span that is to be made of what is over. Times are nanoseconds since the epoch."""

    name: str
    began_ns: int
    ended_ns: int
    about: Attributes = field(default_factory=dict)
    error: str = ""
    """Of what kind it failed; empty of one that did not."""


def text(value: str) -> str:
    """Return a text as it may stand in a span, of any origin."""
    return value[:LONGEST].encode(errors="replace").decode()


def ids_of(fields: Mapping[str, object]) -> Attributes:
    """Return who an event is, from its fields."""
    found = ((name, fields.get(field)) for field, name in _IDS.items())
    return {name: text(value) for name, value in found if isinstance(value, str) and value}


def operation(name: str, stream: str) -> Attributes:
    """Return what the conventions want to know of something that is done with a stream."""
    return {
        "messaging.system": "redis",
        "messaging.operation.name": name,
        "messaging.operation.type": _TYPES.get(name, name),
        "messaging.destination.name": text(stream),
    }


def operates(name: str, stream: str) -> str:
    """Return the name of a span of such an operation."""
    return f"{name} {text(stream)}"


class Spans:
    """Makes spans with the tracer of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer: trace.Tracer = provider.get_tracer(SCOPE)

    @contextmanager
    def sending(
        self, stream: str, fields: Mapping[str, object], traceparent: str | None
    ) -> Iterator[str | None]:
        """Have a span for as long as an event is sent; yields the traceparent to send with it.

        It is a part of what `traceparent` names, else of the caller's current span.
        """
        parent = _remote((traceparent or "").encode(errors="replace"))
        with self._current("send", stream, fields, parent) as span:
            yield _traceparent(span.get_span_context()) or traceparent

    @contextmanager
    def resolving(
        self, stream: str, fields: Mapping[str, object], traceparent: str | None
    ) -> Iterator[None]:
        """Have a span for as long as a notification is resolved, in its producer's trace.

        It has a link to the caller's current span. Of a notification without a trace, it is a part
        of that span.
        """
        parent = _remote((traceparent or "").encode(errors="replace"))
        around = trace.get_current_span().get_span_context()
        links = [Link(around)] if parent is not None and around.is_valid else []
        with self._current("resolve", stream, fields, parent, links):
            yield

    def begun(self, made: Made, parent: Parent | SpanContext | None, *to: SpanContext) -> Span:
        """Return a span of the past, not ended, below `parent`, with links."""
        above = _context(parent) if parent else None
        about = made.about | ({"error.type": made.error} if made.error else {})
        name = str(made.about.get("messaging.operation.name", ""))
        span = self._tracer.start_span(
            made.name,
            trace.set_span_in_context(NonRecordingSpan(above or trace.INVALID_SPAN_CONTEXT)),
            _KINDS.get(name, SpanKind.INTERNAL), about, [Link(one) for one in to[:MOST_LINKS]],
            made.began_ns,
        )  # fmt: skip
        if made.error:
            span.set_status(Status(StatusCode.ERROR))
        return span

    def make(self, steps: Iterable[Made], parent: SpanContext, *to: SpanContext) -> None:
        """Make spans of the past below `parent`, each with these links."""
        for made in steps:
            self.begun(made, parent, *to).end(made.ended_ns)

    @contextmanager
    def _current(
        self, name: str, stream: str, fields: Mapping[str, object], parent: SpanContext | None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:  # fmt: skip
        above = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None
        with self._tracer.start_as_current_span(
            operates(name, stream), above, _KINDS[name], operation(name, stream) | ids_of(fields),
            links, record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise


def _remote(traceparent: bytes) -> SpanContext | None:
    parent = parent_of(traceparent)
    return _context(parent) if parent else None


def _context(parent: Parent | SpanContext) -> SpanContext:
    if isinstance(parent, SpanContext):
        return parent
    flags = TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)


def _traceparent(context: SpanContext) -> str:
    """Return it as it is sent; empty of a tracer that makes no spans."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

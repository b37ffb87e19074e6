"""Traces: the spans of each finished event whose producer sampled it, made when it is finished.

So nothing is done for them on the way but to note when an artifact was resolved, and a worker
without `--traces` is the same but for one look at an attribute a run. Imported only with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

from opentelemetry.trace import Span, SpanContext
from structlog.typing import FilteringBoundLogger

from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Verdict
from sidecar.redis.times import is_wait
from sidecar.telemetry.spans import Attributes, Made, Spans, ids_of, operates, operation
from sidecar.telemetry.traceparent import Parent, parent_of
from sidecar.wire.event import Event
from sidecar.wire.ids import EntryId
from sidecar.worker.opening import Opener
from sidecar.worker.outcomes import Finished
from sidecar.worker.pipeline import Admitted, Carried, Pipeline
from sidecar.worker.window import Item
from store import ArtifactReader, Position


class TimedPipeline(Pipeline):
    """A pipeline that notes when an artifact was resolved, and when all was done."""

    def __init__(self, *parts: Any, clock: Callable[[], float]) -> None:  # noqa: ANN401 -- as above
        super().__init__(*parts)
        self._clock = clock
        self._own = threading.local()

    def carry(self, admitted: Admitted, position: Position) -> None:
        """See `Pipeline`."""
        self._own.resolved_at = 0.0
        try:
            super().carry(admitted, position)
        finally:
            admitted.carried = Carried(self._own.resolved_at, self._clock())

    def _open(self, event: Event, source: Opener, limits: Mapping[str, Any]) -> ArtifactReader:
        artifact = super()._open(event, source, limits)
        self._own.resolved_at = self._clock()
        return artifact


class _End(NamedTuple):
    """A finished item, how it ended, and the span that it is a part of."""

    item: Item
    outcome: str
    parent: Parent


class Traces:
    """Makes the spans of one relay's events. See `host.Traces`."""

    def __init__(
        self, spans: Spans, keys: Keys, log: FilteringBoundLogger, *,
        second_step: str, room: Callable[[int], AbstractContextManager[int]],
        clock: Callable[[], float], wall_clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """`second_step` is what follows when an artifact is resolved. `room` says of how many
        events, of so many, spans may be made within it.
        """
        self._spans = spans
        self._keys = keys
        self._log = log
        self._second_step, self._room = second_step, room
        self._clock, self._wall_clock = clock, wall_clock
        self._epoch = 0.0
        """When the relay's clock was at 0, in seconds since the epoch."""
        self._failed = False

    def published(
        self, run: Sequence[Item], verdicts: Sequence[Verdict], finished: Sequence[Finished],
        began: float,
    ) -> None:  # fmt: skip
        """See `host.Traces`."""
        with self._harmless(), self._sampled(finished) as ends:
            if ends:
                versions = {
                    item.id: verdict.control_version
                    for item, verdict in zip(run, verdicts, strict=False)
                }
                self._make(ends, began, self._keys.notifications, len(run), versions)

    def buried(self, finished: Sequence[Finished], began: float) -> None:
        """See `host.Traces`."""
        with self._harmless(), self._sampled(finished) as ends:
            if ends:
                self._make(ends, began, self._keys.dead, len(finished), {})

    @contextmanager
    def _sampled(self, finished: Sequence[Finished]) -> Iterator[list[_End]]:
        """Yield what belongs to a trace that its producer sampled, as many as may be made."""
        ends = []
        for item, outcome in finished:
            traceparent = item.entry.fields.get(b"traceparent")
            parent = parent_of(traceparent) if traceparent else None
            if parent and parent.is_sampled:
                ends.append(_End(item, outcome, parent))
        with self._room(len(ends)) if ends else nullcontext(0) as fit:
            yield ends[:fit]

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Let no trace that cannot be made end a relay; say so once."""
        try:
            yield
        except Exception:  # noqa: BLE001 -- whatever a provider raises
            if not self._failed:
                self._log.exception("traces cannot be made; a bug, please report it")
            self._failed = True

    def _make(
        self, ends: Sequence[_End], began: float, target: str, count: int,
        versions: dict[EntryId, int],
    ) -> None:  # fmt: skip
        """Make the spans of events that were sent together to `target`, `count` in all."""
        now = self._clock()
        self._epoch = self._wall_clock() - now
        processes = [self._process(end) for end in ends]
        sent = partial(Made, began_ns=self._ns(began), ended_ns=self._ns(now))
        batch = self._batch(sent, target, count, processes) if count > 1 else []
        for end, process in zip(ends, processes, strict=True):
            context = process.get_span_context()
            self._spans.make(self._steps(end.item), context)
            about = operation("publish", target)
            if version := versions.get(end.item.id):
                about["messaging.message.id"] = EntryId.of_version(version)
            self._spans.make([sent(operates("publish", target), about=about)], context, *batch)
            process.end(self._ns(now))

    def _batch(
        self, sent: Callable[..., Made], target: str, count: int, processes: Sequence[Span]
    ) -> list[SpanContext]:
        """Make the span of a run, in a trace of its own, with links to those of its events."""
        about = operation("publish_batch", target) | {"messaging.batch.message_count": count}
        made = sent(operates("publish_batch", target), about=about)
        span = self._spans.begun(made, None, *(one.get_span_context() for one in processes))
        span.end(made.ended_ns)
        return [span.get_span_context()]

    def _process(self, end: _End) -> Span:
        """Begin the span of all that the worker does for an event; make that of its wait."""
        item, stream = end.item, self._keys.control
        taken_ns = int(item.trouble.first_seen * 1e9)
        appended_ns = item.id.ms * 10**6
        if appended_ns <= taken_ns and is_wait((taken_ns - appended_ns) / 1e6):
            wait = Made("wait", appended_ns, taken_ns)
            self._spans.begun(wait, end.parent).end(taken_ns)
        is_dead = item.bury is not None and end.outcome == item.bury.reason.value
        error = end.outcome if is_dead else ""
        made = Made(operates("process", stream), taken_ns, 0, self._about(end), error)
        return self._spans.begun(made, end.parent)

    def _about(self, end: _End) -> Attributes:
        item = end.item
        ids = ids_of(item.admitted.body) if item.admitted else {}
        return operation("process", self._keys.control) | ids | {
            "messaging.message.id": item.id, "messaging.consumer.group.name": self._keys.group,
            "sidecar.outcome": end.outcome, "sidecar.attempts": item.trouble.attempts,
        }  # fmt: skip

    def _steps(self, item: Item) -> Iterator[Made]:
        """Yield what was done for its artifact, if it has one and was no duplicate."""
        carried = item.admitted.carried if item.admitted else None
        if carried is None:
            return
        began, ended = self._ns(item.began), self._ns(carried.ended_at)
        resolved = self._ns(carried.resolved_at) if carried.resolved_at else ended
        if item.trouble.attempts > 1:
            yield Made("held back", self._ns(item.trouble.since), began)
        error = type(item.error).__name__ if item.error else ""
        yield Made("resolve", began, resolved, error="" if carried.resolved_at else error)
        if carried.resolved_at:
            yield Made(self._second_step, resolved, ended, error=error)

    def _ns(self, at: float) -> int:
        """Return a time of the relay's clock as nanoseconds since the epoch."""
        return int((self._epoch + at) * 1e9)

"""Sends the spans of this process by OTLP. Imported behind `tracing` alone.

The SDK has the queue, which is bounded, and the thread that sends: nobody waits for a collector. It
reads the OTEL_… variables; those that it leaves to others are read here. A full queue would drop
single spans, each after it was made: so events are left out whole, before, while it is full.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from sidecar import __version__
from sidecar.errors import UsageError
from sidecar.telemetry.spans import SCOPE, Spans

CLOSE_S: Final = 2.0
"""How long the end of a process waits for what is not sent yet."""
SAY_EVERY_S: Final = 60.0
MOST_SAID: Final = 20
"""Different complaints in that time."""
MOST_QUEUED: Final = 2048
SPANS_EACH: Final = 7
"""Of one event at most, with its share of the batch's."""
_LOGGER: Final = "opentelemetry"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ONLY_PROTOCOL: Final = "http/protobuf"


class Exporting:
    """The spans of one process on their way to a collector."""

    def __init__(self, instance: str, say: Callable[[str], None]) -> None:
        """Raises `ValueError` for a variable that the SDK refuses."""
        self._heard = _Heard(say)
        self._heard.listen()
        try:
            self._exporter = _Exporter()
            self._most = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or MOST_QUEUED)
            self._queue = _Queue(self._exporter, self._most)
            self._provider = TracerProvider(resource=_resource(instance), shutdown_on_exit=False)
        except BaseException:
            self._heard.stop()
            raise
        self._provider.add_span_processor(self._queue)
        self._making = threading.Lock()
        self.spans = Spans(self._provider)

    @contextmanager
    def room(self, wanted: int) -> Iterator[int]:
        """Yield of how many events, of so many, spans may be made now; the others have none.

        Relays make theirs one after another: so two of them never fill the same room.
        """
        with self._making:
            room = self._most - self._queue.given + self._exporter.taken
            fit = min(wanted, max(0, room) // SPANS_EACH)
            if fit < wanted:
                self._heard.say("events are left out: the collector does not keep up")
            yield fit

    def close(self) -> None:
        """Send what is not sent yet, for as long as `CLOSE_S`."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            let_go: Callable[[], None] = self._exporter.shutdown
            let_go()  # it may wait for another try
        self._heard.stop()


class _Exporter(OTLPSpanExporter):
    """Counts what it takes out of the queue, whatever becomes of it."""

    taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        return super().export(spans)


class _Queue(BatchSpanProcessor):
    """Counts what is put into it: what the sampler left out is not."""

    def __init__(self, exporter: _Exporter, most: int) -> None:
        super().__init__(exporter, most)
        self.given = 0
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        if span.context and span.context.trace_flags.sampled:
            with self._lock:
                self.given += 1
        super().on_end(span)


def opened(instance: str, say: Callable[[str], None]) -> Exporting | None:
    """See `tracing.exporting`."""
    if not _is_wanted():
        return None
    for name in _ENDPOINTS:
        if not (os.environ.get(name) or "http://").startswith(("http://", "https://")):
            raise UsageError(f"{name}: a URL is wanted that begins with http:// or https://")
    try:
        return Exporting(instance, say)
    except (ValueError, OSError) as error:
        raise UsageError(f"an OTEL_… variable: {type(error).__name__}: {error}") from error


def _is_wanted() -> bool:
    """Tell whether the variables have spans sent. Raises `UsageError` for what cannot be done."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        raise UsageError("OTEL_TRACES_EXPORTER: otlp and none are what is there")
    given = next(filter(os.environ.get, _PROTOCOLS), "")
    if given and os.environ[given] != _ONLY_PROTOCOL:
        raise UsageError(f"{given}: {_ONLY_PROTOCOL} is what is there")
    return exporter != "none"


def _resource(instance: str) -> Resource:
    """Return what these spans are of; what the variables say comes first."""
    own = {"service.name": SCOPE, "service.version": __version__, "service.instance.id": instance}
    return Resource.create(own).merge(OTELResourceDetector().detect())


class _Heard(logging.Handler):
    """Says what the SDK complains of, each once a minute, and without the values.

    Among them may be a header with a token, or the collector's whole URL.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._said_at: dict[str, float] = {}

    def listen(self) -> None:
        """Hear the SDK's loggers, in place of standard error."""
        logger = logging.getLogger(_LOGGER)
        logger.propagate = False
        logger.addHandler(self)

    def stop(self) -> None:
        """Hear them no more."""
        logger = logging.getLogger(_LOGGER)
        logger.removeHandler(self)
        logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Say what the SDK says."""
        self.say(_without_values(record))

    def say(self, told: str) -> None:
        """Say it, unless it was said a moment ago, or much else was."""
        now = time.monotonic()
        recent = {one: at for one, at in self._said_at.items() if now - at < SAY_EVERY_S}
        if told not in recent and len(recent) < MOST_SAID:
            self._said_at = recent | {told: now}  # anew: another thread may be looking at the other
            self._say(told)


def _without_values(record: logging.LogRecord) -> str:
    given = record.args if isinstance(record.args, tuple) else ()
    try:
        return str(record.msg) % tuple(map(_harmless, given))
    except (TypeError, ValueError):
        return str(record.msg)


def _harmless(value: object) -> object:
    if isinstance(value, BaseException):
        return type(value).__name__
    return value if isinstance(value, int | float) else "…"

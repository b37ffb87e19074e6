"""Traces: from a producer through the worker to a controller, as an OTLP collector sees them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.errors import UsageError
from sidecar.feed import AsyncFeed, Feed
from sidecar.producer import Producer
from sidecar.redis.keys import Keys
from sidecar.telemetry import exporting as sender
from sidecar.telemetry import tracing
from sidecar.telemetry.spans import LONGEST, Made, Spans, text
from sidecar.telemetry.traceparent import parent_of
from sidecar.worker import app
from sidecar.worker.settings import build
from sidecar.worker.tracing import Traces
from store import Artifact, NotFound, Unavailable, checksum_of
from tests.collector import Collector, collecting
from tests.sidecar.harness import PATIENCE_S, Rig, data_of, eventually, silent_log

TRACE: Final = "a" * 32
SAMPLED: Final = f"00-{TRACE}-{'b' * 16}-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which the variables lead; what is made is sent soon."""
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


def run(rig: Rig, stores: dict[str, str], **options: Any) -> int:
    """Run a worker with traces until all is done; return its exit code."""
    stop = threading.Event()
    one = {"lease_s": 1, "retry_budget_s": 0, "drain": True, "traces": True} | options
    return app.run(build(redis=rig.url, **stores, **one), silent_log(), stop)


def traced(rig: Rig, event_id: str = "e", traceparent: bytes | str = SAMPLED, **more: Any) -> None:
    """Append an event with a traceparent."""
    body = {"event_id": event_id, "type": "run.abort", "tenant_id": "t", **more}
    rig.add(json.dumps(body), traceparent=traceparent)


def entries(rig: Rig, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return what a stream has."""
    found: Any = rig.client.xrange(stream)
    return list(found)


def artifact(rig: Rig, event_id: str = "e", **more: Any) -> dict[str, Any]:
    """Put an artifact at the source; return the fields that name it."""
    rig.plant(f"r/{event_id}", data_of(event_id))
    return {"artifact_ref": f"r/{event_id}", "checksum": _checksum(event_id), **more}


def _checksum(event_id: str) -> str:
    return checksum_of(data_of(event_id))


@contextmanager
def application(collector: Collector) -> Iterator[TracerProvider]:
    """The tracer of a producer's or controller's own program."""
    provider = TracerProvider(resource=Resource({"service.name": "app"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{collector.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield provider
    finally:
        provider.shutdown()


def resolved(rig: Rig, provider: TracerProvider, *, awaited: bool) -> Artifact:
    """Resolve the first notification, by one of the feed's faces."""
    if not awaited:
        with Feed(rig.url, store=rig.fleet, tracer_provider=provider) as feed:
            return feed.resolve(feed.poll()[0])

    async def resolve() -> Artifact:
        async with AsyncFeed(rig.url, store=rig.fleet, tracer_provider=provider) as feed:
            return await feed.resolve((await feed.poll())[0])

    return asyncio.run(resolve())


@pytest.mark.parametrize("awaited", [False, True])
def test_an_event_is_one_trace_from_producer_to_controller(
    rig: Rig, stores: dict[str, str], collector: Collector, *, awaited: bool
) -> None:
    """Sending, waiting, resolving, putting, publishing and a controller's resolve are one trace."""
    with application(collector) as provider:
        producer = Producer(rig.url, rig.control, rig.source, tracer_provider=provider)
        producer.publish(
            type="stack.activated", event_id="e", tenant_id="t", stack_id="s", version=1,
            ref="r", data=b"data",
        )  # fmt: skip
        producer.close()
        assert run(rig, stores) == 0
        assert resolved(rig, provider, awaited=awaited).data == b"data"

    by_name = {one.name: one for one in collector.spans}
    sent, process = by_name["send control:events"], by_name["process control:events"]
    assert {one.trace for one in collector.spans} == {sent.trace}
    assert {name: one.parent for name, one in by_name.items()} == {
        "send control:events": "", "wait": sent.id, "process control:events": sent.id,
        "resolve": process.id, "put": process.id, "publish control:notifications": process.id,
        "resolve control:notifications": sent.id,
    }  # fmt: skip
    order = ["wait", "resolve", "put", "publish control:notifications"]
    times = [t for name in order for t in (by_name[name].began_ns, by_name[name].ended_ns)]
    assert times == sorted(times)
    kinds = {one.kind for one in collector.spans if one.name.startswith(("send", "publish"))}
    assert kinds == {"PRODUCER"}
    assert process.kind == by_name["resolve control:notifications"].kind == "CONSUMER"
    assert entries(rig, rig.notify)[0][1][b"traceparent"].decode() == (
        f"00-{sent.trace}-{sent.id}-03"
    )


def test_a_span_says_by_the_conventions_what_it_is_of(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attributes are the conventions', and ids; the variables name the service."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,deployment.environment=lab")
    traced(rig, stack_id="s", **artifact(rig, secret="no business of a trace"))
    assert run(rig, stores) == 0
    (process,), (publish,) = (
        collector.named("process control:events"),
        collector.named("publish control:notifications"),
    )
    entry, note = entries(rig, rig.control)[0][0], entries(rig, rig.notify)[0][0]
    assert process.about == {
        "messaging.system": "redis", "messaging.operation.name": "process",
        "messaging.operation.type": "process", "messaging.destination.name": rig.control,
        "messaging.message.id": entry.decode(), "messaging.consumer.group.name": rig.keys.group,
        "sidecar.event_id": "e", "sidecar.event_type": "run.abort", "sidecar.tenant_id": "t",
        "sidecar.stack_id": "s", "sidecar.outcome": "published", "sidecar.attempts": 1,
    }  # fmt: skip
    assert publish.about == {
        "messaging.system": "redis", "messaging.operation.name": "publish",
        "messaging.operation.type": "send", "messaging.destination.name": rig.notify,
        "messaging.message.id": note.decode(),
    }  # fmt: skip
    assert process.resource["service.name"] == "mine"
    assert process.resource["deployment.environment"] == "lab"
    assert process.resource["service.instance.id"]


def test_a_run_is_linked_to_its_events(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """What is published together has a span of its own, linked with each of its events."""
    for name in "abc":
        traced(rig, name, f"00-{name * 32}-{'b' * 16}-01")
    traced(rig, "not sampled", f"00-{'d' * 32}-{'b' * 16}-00")
    assert run(rig, stores) == 0
    (batch,) = collector.named("publish_batch control:notifications")
    processes = collector.named("process control:events")
    assert batch.about["messaging.batch.message_count"] == 4
    assert batch.kind == "CLIENT"
    assert batch.trace not in {one.trace for one in processes}
    assert set(batch.links) == {one.id for one in processes}
    assert len(processes) == 3
    published = collector.named("publish control:notifications")
    assert [one.links for one in published] == [(batch.id,)] * 3


NOT_SAMPLED: Final = (
    b"", b"\xff\x00", b"x" * 2000, f"{SAMPLED[:-1]}0".encode(), SAMPLED.upper().encode(),
    f"{SAMPLED}-more".encode(), f"ff{SAMPLED[2:]}".encode(),
    f"00-{'0' * 32}-{'b' * 16}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(),
)  # fmt: skip


def test_what_no_producer_sampled_has_no_span(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceparent that is not sampled, absent or malformed has no span, and crosses as it is."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    for number, traceparent in enumerate(NOT_SAMPLED):
        traced(rig, f"e{number}", traceparent)
    traced(rig, "sampled")
    assert run(rig, stores) == 0
    found = [one.about["sidecar.event_id"] for one in collector.named("process control:events")]
    assert found == ["sampled"]
    crossed = [fields.get(b"traceparent", b"") for _, fields in entries(rig, rig.notify)]
    assert crossed == [*NOT_SAMPLED, SAMPLED.encode()]


def test_polling_has_no_span(rig: Rig, stores: dict[str, str], collector: Collector) -> None:
    """A worker and a feed that only wait send nothing, and a span is there of what came then."""
    stop = threading.Event()
    settings = build(redis=rig.url, lease_s=1, traces=True, **stores)
    worker = threading.Thread(target=app.run, args=(settings, silent_log(), stop), daemon=True)
    worker.start()
    try:
        eventually(lambda: rig.client.exists(rig.keys.lease))
        with application(collector) as provider, Feed(rig.url, tracer_provider=provider) as feed:
            assert not feed.poll(wait_s=0.1)
        assert not collector.requests
        traced(rig)
        eventually(lambda: collector.named("process control:events"))
    finally:
        stop.set()
        worker.join(PATIENCE_S)
    assert not worker.is_alive()


def test_a_dead_letter_says_its_reason(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """An event that ends as a dead letter has its reason as the error, and the failed step, too."""
    ref = {"artifact_ref": "nothing", "checksum": _checksum("e")}
    traced(rig, "missing", **ref)
    rig.add("{", traceparent=SAMPLED)
    assert run(rig, stores) == 0
    assert sorted(rig.reasons()) == ["artifact_missing", "malformed"]
    processes = {one.about["error.type"]: one for one in collector.named("process control:events")}
    assert processes.keys() == {"artifact_missing", "malformed"}
    assert all(one.is_error for one in processes.values())
    (resolve,) = collector.named("resolve")
    assert resolve.is_error
    assert resolve.about == {"error.type": "NotFound"}
    assert len(collector.named(f"publish {rig.keys.dead}")) == 2


def test_an_event_that_is_held_back_shows_how_long(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """Tries that failed before the last one are one span, however many they were."""
    tries = iter([Unavailable("away"), NotFound("not yet")])

    def fail(_: str) -> None:
        for error in tries:
            raise error

    rig.source.on_get = fail
    traced(rig, **artifact(rig))
    assert run(rig, stores, retry_budget_s=60) == 0
    (process,), (held,) = collector.named("process control:events"), collector.named("held back")
    (resolve,) = collector.named("resolve")
    assert process.about["sidecar.attempts"] == 3
    assert held.parent == process.id
    assert process.began_ns <= held.began_ns < held.ended_ns <= resolve.began_ns
    assert not process.is_error


def test_in_one_store_nothing_is_put(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """Where source and fleet are one store, the second step is to verify."""
    traced(rig, **artifact(rig))
    assert run(rig, stores | {"fleet_store": stores["source_store"]}) == 0
    assert len(collector.named("verify")) == 1
    assert not collector.named("put")


def test_hostile_ids_are_cut_and_cost_no_other_span(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """Whatever stands in an event, its trace is sent, in a bounded size."""
    traced(rig, "\U0001f600" * 256, tenant_id="\x00\u202e\n" * 85, stack_id="\ufffe" * 256)
    assert run(rig, stores) == 0
    (process,) = collector.named("process control:events")
    assert process.about["sidecar.tenant_id"] == "\x00\u202e\n" * 85
    assert process.about["sidecar.event_id"] == "\U0001f600" * 256


@given(st.text(st.characters(exclude_categories=())))
def test_a_text_in_a_span_is_bounded_and_utf8(value: str) -> None:
    """Lone surrogates, which protobuf refuses with the whole batch, are replaced."""
    said = text(value * 100)
    assert len(said) <= LONGEST
    said.encode()


# --- a collector in trouble ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["away", "refuses", "breaks", "never answers"])
def test_a_collector_in_trouble_does_not_touch_the_relay(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:  # fmt: skip
    """However the collector fails, everything is published, and the worker ends."""
    monkeypatch.setattr(sender, "CLOSE_S", 0.1)
    over = threading.Event()
    if trouble == "away":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    elif trouble == "never answers":
        collector.before_answer = lambda: over.wait(PATIENCE_S)
    else:
        collector.status = {"refuses": 401, "breaks": 503}[trouble]
    for number in range(20):
        traced(rig, f"e{number}", **artifact(rig, f"e{number}"))
    try:
        assert run(rig, stores) == 0
    finally:
        over.set()
    assert len(rig.published()) == 20
    rig.audit()


def test_while_the_queue_is_full_events_are_left_out_whole(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a collector that stands still, events are published, and have all spans or none."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "30")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    go_on = threading.Event()
    collector.before_answer = lambda: go_on.wait(PATIENCE_S)
    said: list[str] = []
    real = tracing.exporting

    def exporting(instance: str, _say: object) -> Any:
        sending = real(instance, said.append)
        assert sending
        stack.callback(sending.close)
        return mock.Mock(spec_set=sending, spans=sending.spans, room=sending.room)

    monkeypatch.setattr("sidecar.worker.app.exporting", exporting)
    stack = ExitStack()
    for number in range(300):
        traced(rig, f"e{number}")
    assert run(rig, stores) == 0
    assert len(rig.published()) == 300
    go_on.set()
    stack.close()
    count = len(collector.named("process control:events"))
    assert 0 < count < 30
    assert len(collector.named("wait")) == count
    assert len(collector.named("publish control:notifications")) == count
    assert said == ["events are left out: the collector does not keep up"]


def test_what_the_sdk_complains_of_is_said_once_and_without_values(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No token in a header and no URL with a login reaches a log; repeats are left out."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization bearer tok3n")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:tok3n@127.0.0.1:1/tok3n")
    said: list[str] = []
    sending = tracing.exporting("me", said.append)
    assert sending
    monkeypatch.setattr(sending._exporter._client, "_compute_backoff", lambda _: 0.0)
    for _ in range(2):
        sending._exporter.export(_some_spans(1))
    sending.close()
    assert any("ConnectionError" in one for one in said)
    assert len(said) == len(set(said))
    assert "tok3n" not in "".join(said)
    assert not caplog.records  # they go nowhere else
    assert logging.getLogger("opentelemetry").propagate


def test_two_relays_never_fill_the_same_room(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one makes its spans another waits, and finds what is left; nothing is dropped."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "70")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "70")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    said: list[str] = []
    sending = tracing.exporting("me", said.append)
    assert sending

    def make(wanted: int, before: Callable[[], object] = lambda: None) -> None:
        with sending.room(wanted) as fit:
            before()
            steps = [Made("one", 1, 2) for _ in range(fit * sender.SPANS_EACH)]
            sending.spans.make(steps, trace.INVALID_SPAN_CONTEXT)

    other = threading.Thread(target=make, args=(9,))

    def meanwhile() -> None:
        other.start()
        other.join(0.1)  # it waits

    make(8, meanwhile)
    other.join(PATIENCE_S)
    assert sending._queue.given == 70
    sending.close()
    assert len(collector.named("one")) == 70
    assert said == ["events are left out: the collector does not keep up"]


@pytest.mark.usefixtures("collector")
def test_what_a_sampler_leaves_out_takes_no_room() -> None:
    """Room is counted of what is in the queue: a span that is not sampled never is."""
    sending = tracing.exporting("me", lambda _: None)
    assert sending
    with sending.room(10**6) as before:
        sending._queue.on_end(mock.Mock(context=mock.Mock(trace_flags=mock.Mock(sampled=False))))
        for _ in range(sender.SPANS_EACH):
            sending._queue.on_end(mock.Mock(context=None))
    with sending.room(10**6) as after:
        assert after == before
    sending.close()


def test_complaints_of_the_sdk_are_bounded() -> None:
    """However many different ones there are, some are said and kept in mind."""
    said: list[str] = []
    heard = sender._Heard(said.append)
    for number in range(1000):
        heard.say(f"complaint {number}")
    assert len(said) == len(heard._said_at) == sender.MOST_SAID


def _some_spans(count: int) -> Sequence[Any]:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    return [tracer.start_span("one") for _ in range(count)]


def test_a_provider_that_breaks_ends_no_relay(rig: Rig) -> None:
    """What cannot be traced is published all the same."""

    class Broken:
        def get_tracer(self, *_: object) -> Any:
            return self

        def start_span(self, *_: object) -> Any:
            raise RuntimeError("broken")

    traces = Traces(
        Spans(Broken()), Keys.of("c", "n"), silent_log(),
        second_step="put", room=nullcontext, clock=lambda: 0.0, wall_clock=lambda: 0.0,
    )  # fmt: skip
    traced(rig)
    with rig.relay(drain=True, traces=traces) as running:
        assert running.finish()
    assert rig.published() == ["e"]
    assert traces._failed


# --- settings ------------------------------------------------------------------------------------


def test_without_the_extra_traces_are_refused_in_words(
    rig: Rig, stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--traces` without OpenTelemetry's packages is refused, with what to install; exit code 2."""
    monkeypatch.delitem(sys.modules, "sidecar.telemetry.exporting")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[otel\]'") as refused:
        run(rig, stores)
    assert refused.value.exit_code == 2
    traced(rig)
    assert run(rig, stores, traces=False) == 0
    assert rig.published() == ["e"]


def test_without_traces_nothing_of_opentelemetry_is_imported() -> None:
    """A worker, a producer and a feed import it only where they are told to trace."""
    program = "import sys, sidecar.worker.app, sidecar.producer, sidecar.feed; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    ours = {"sidecar.telemetry.spans", "sidecar.telemetry.exporting", "sidecar.worker.tracing"}
    assert not ours & set(ran.stdout.split())  # redis-py imports the SDK's metrics by itself


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")]
)
def test_the_variables_switch_traces_off(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch,
    name: str, value: str,
) -> None:  # fmt: skip
    """Where a variable says so, nothing is sent."""
    monkeypatch.setenv(name, value)
    traced(rig)
    assert run(rig, stores) == 0
    assert rig.published() == ["e"]
    assert not collector.requests


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
     ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
     ("OTEL_EXPORTER_OTLP_ENDPOINT", "tok3n@collector:4317"), ("OTEL_BSP_MAX_QUEUE_SIZE", "1")],
)  # fmt: skip
def test_a_variable_that_cannot_be_meant_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It is a `UsageError` that names the variable, and shows no secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="OTEL_") as refused:
        tracing.exporting("me", lambda _: None)
    assert "tok3n" not in str(refused.value)
    assert logging.getLogger("opentelemetry").propagate


def test_a_sampler_of_the_variables_takes_fewer(
    rig: Rig, stores: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OTEL_TRACES_SAMPLER` leaves out events though their producer sampled them."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traced(rig)
    assert run(rig, stores) == 0
    assert not collector.spans


# --- producers and feeds -------------------------------------------------------------------------


def sent_by(rig: Rig, provider: TracerProvider | None, **more: Any) -> str:
    """Publish an event; return the traceparent that it was sent with."""
    producer = Producer(rig.url, rig.control, rig.source, tracer_provider=provider)
    producer.publish(type="run.abort", **more)
    producer.close()
    fields = entries(rig, rig.control)[-1][1]
    return fields.get(b"traceparent", b"").decode()


def test_a_producer_sends_what_it_is_told_without_a_tracer(rig: Rig) -> None:
    """Without a provider a traceparent is sent as it was given, also a malformed one."""
    assert sent_by(rig, None) == ""
    assert sent_by(rig, None, traceparent="odd") == "odd"


def test_a_producers_span_is_a_part_of_what_it_is_told(rig: Rig, collector: Collector) -> None:
    """The given traceparent is the parent, sampled or not; a malformed one is left out."""
    with application(collector) as provider:
        sent = parent_of(sent_by(rig, provider, traceparent=SAMPLED).encode())
        assert sent
        assert (f"{sent.trace_id:x}", sent.is_sampled) == (TRACE, True)
        unsampled = parent_of(sent_by(rig, provider, traceparent=SAMPLED[:-1] + "0").encode())
        assert unsampled
        assert (f"{unsampled.trace_id:x}", unsampled.is_sampled) == (TRACE, False)
        assert parent_of(sent_by(rig, provider, traceparent="odd").encode())
        with provider.get_tracer("app").start_as_current_span("outer") as outer:
            inner = parent_of(sent_by(rig, provider).encode())
            assert inner
            assert inner.trace_id == outer.get_span_context().trace_id
    assert collector.named("send control:events")[0].trace == TRACE


def test_a_provider_that_makes_no_spans_changes_nothing(rig: Rig) -> None:
    """With a provider that is switched off, the traceparent is sent as it was given."""
    off: Any = trace.NoOpTracerProvider()
    assert sent_by(rig, off, traceparent=SAMPLED) == SAMPLED
    assert sent_by(rig, off) == ""
    never = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    assert sent_by(rig, never).endswith("-02")


def test_a_resolve_that_fails_says_of_what_kind(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """The span of a resolve has the error's type and nothing of its text; the error is raised."""
    rig.emit("e")
    assert run(rig, stores, traces=False) == 0
    with application(collector) as provider:
        outer = provider.get_tracer("app").start_as_current_span("outer")
        feed = Feed(rig.url, store=rig.fleet, tracer_provider=provider)
        with feed, outer, pytest.raises(ValueError, match="names no artifact"):
            feed.resolve(feed.poll()[0])
    (span,), (around,) = collector.named("resolve control:notifications"), collector.named("outer")
    assert span.is_error
    assert span.about["error.type"] == "ValueError"
    assert span.parent == around.id


def test_a_resolve_is_linked_to_what_the_controller_does(
    rig: Rig, stores: dict[str, str], collector: Collector
) -> None:
    """A resolve belongs to its producer's trace, and has a link to the span around it."""
    traced(rig, **artifact(rig))
    assert run(rig, stores, traces=False) == 0
    with application(collector) as provider:
        outer = provider.get_tracer("app").start_as_current_span("outer")
        feed = Feed(rig.url, store=rig.fleet, tracer_provider=provider)
        with feed, outer, feed.open(feed.poll()[0]) as reader:
            assert reader.readall() == data_of("e")
    (span,), (around,) = collector.named("resolve control:notifications"), collector.named("outer")
    assert (span.trace, span.parent, span.links) == (TRACE, "b" * 16, (around.id,))


_HEX: Final = rb"(00|01|ff|[0-9a-f]{2})-(0{32}|[0-9a-f]{32})-(0{16}|[0-9a-f]{16})-[0-9a-f]{2}"


@given(st.binary(max_size=80) | st.from_regex(_HEX + rb"(-[a-z]{0,3})?", fullmatch=True))
def test_a_traceparent_is_read_as_opentelemetry_reads_it(raw: bytes) -> None:
    """Ours takes and refuses what the library's propagator does, but for white space around it."""
    context = TraceContextTextMapPropagator().extract({"traceparent": raw.decode("latin-1")})
    theirs = trace.get_current_span(context).get_span_context()
    ours = parent_of(raw)
    if raw.strip(b" \t") == raw:
        assert (ours is not None) == theirs.is_valid
    if ours:
        assert (ours.trace_id, ours.span_id) == (theirs.trace_id, theirs.span_id)
        assert ours.is_sampled == theirs.trace_flags.sampled

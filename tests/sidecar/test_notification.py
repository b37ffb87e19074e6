"""The outbound contract: what a notification holds, how big it is, how it is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import notification
from sidecar.wire.event import Rejected, entry_size_bytes
from sidecar.wire.notification import MAX_NOTIFICATION_BYTES, Notification
from sidecar.worker.pipeline import Pipeline, Rules
from store import checksum_of
from store.memory import MemoryStore
from tests.sidecar.harness import Rig
from tests.sidecar.test_event import FULL, ORIGIN, admit, written

ZERO = {
    "tenant_id": "", "stack_id": "", "version": 0, "base_version": 0, "artifact_ref": "",
    "checksum": "", "manifest_checksum": "", "created_at": "",
}  # fmt: skip
OMITTED = frozenset(ZERO)
STAMP = 1_790_000_000_123_456
"""A control_version of today's length."""


def entry(rig: Rig) -> dict[bytes, bytes]:
    """Return the fields of the only notification, as the server has them."""
    found: Any = rig.client.xrange(rig.notify)
    assert len(found) == 1
    fields: dict[bytes, bytes] = found[0][1]
    return fields


def test_zero_values_are_omitted() -> None:
    """Zero values and nulls are left out, as the Go side leaves them out."""
    for zero in (ZERO, dict.fromkeys(ZERO)):
        body = {"event_id": "e", "type": "run.abort", **zero}
        got = json.loads(written(admit(json.dumps(body))))
        assert got == {"id": 0, "event_id": "e", "type": "run.abort", "control_version": 1}


def test_some_fields_are_always_there() -> None:
    """`id`, `event_id`, `type` and `control_version` are there whatever the producer wrote."""
    got = json.loads(written(admit('{"event_id":"e","type":"run.abort","id":null}')))
    assert got["id"] == 0
    assert {"id", "event_id", "type", "control_version"} <= got.keys()


def test_zero_values_of_unknown_fields_are_kept() -> None:
    """Zero values are only omitted where the table says what zero is."""
    unknown = {"a": 0, "b": "", "c": None, "d": False, "e": [], "f": {}}
    got = json.loads(written(admit(json.dumps({"event_id": "e", "type": "run.abort", **unknown}))))
    assert {key: got[key] for key in unknown} == unknown


def test_a_go_reader_decodes_it(rig: Rig) -> None:
    """Integers are integers, strings are strings, zero values absent: a Go struct takes it."""
    rig.emit_artifact("e", version=2**53 + 1, id=2**63 - 1, created_at="2026-11-22T12:00:00Z")
    rig.drain()
    got = json.loads(entry(rig)[b"event"])
    types = {"id": int, "version": int, "base_version": int, "control_version": int}
    for field, value in got.items():
        assert type(value) is types.get(field, str)
        assert value or field not in OMITTED
    assert (got["version"], got["id"]) == (2**53 + 1, 2**63 - 1)
    assert got["control_version"] < 2**53


def test_no_needless_escapes() -> None:
    """JSON is written without needless escapes, so that the size limit means bytes of text."""
    raw = written(admit('{"event_id":"e","type":"run.abort","x":"\\u00e9\\/\\u0041<&>"}'))
    assert '"x":"é/A<&>"'.encode() in raw


@pytest.mark.parametrize("traceparent", [b"", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"])
@pytest.mark.parametrize("artifact", ["none", "unpinned manifest", "pinned manifest"])
def test_the_size_is_the_real_entrys_size(rig: Rig, traceparent: bytes, artifact: str) -> None:
    """The size that is checked is exactly that of the entry that the server then holds."""
    data, manifest = b"data", b"manifest"
    rig.source.plant("a/é", data, manifest)
    body: dict[str, Any] = {"event_id": "é", "type": "run.abort", "x": [1, {"y": "😀\n"}]}
    if artifact != "none":
        body |= {"artifact_ref": "a/é", "checksum": checksum_of(data)}
    if artifact == "pinned manifest":
        body["manifest_checksum"] = checksum_of(manifest)
    fields = {"event": json.dumps(body).encode()}
    if traceparent:
        fields["traceparent"] = traceparent
    entry_id = rig.add(fields.pop("event"), **fields)
    rig.drain()
    admitted = Pipeline(MemoryStore(), MemoryStore(), Rules()).admit(
        {b"event": json.dumps(body).encode()}, ""
    )
    predicted = notification.size_bytes(
        admitted.unstamped,
        f"{rig.control}/{entry_id}",
        traceparent,
        stamps_manifest=artifact == "unpinned manifest",
    )
    assert entry_size_bytes(entry(rig)) == predicted


def test_the_limit_is_exact(rig: Rig) -> None:
    """A notification of exactly 8 KiB is published; one with a byte more would be too_large."""
    rig.source.plant("r", b"data")
    body = {"event_id": "a", "type": "run.abort", "artifact_ref": "r"}
    body |= {"checksum": checksum_of(b"data"), "pad": ""}
    rig.add(json.dumps(body))
    rig.drain()
    room = MAX_NOTIFICATION_BYTES - entry_size_bytes(entry(rig))
    rig.client.delete(rig.notify)
    rig.add(json.dumps(body | {"event_id": "b", "pad": "x" * room}))
    rig.add(json.dumps(body | {"event_id": "c", "pad": "x" * (room + 1)}))
    rig.drain()
    assert entry_size_bytes(entry(rig)) == MAX_NOTIFICATION_BYTES
    assert rig.published() == ["b"]
    assert rig.reasons() == ["too_large"]


def test_a_large_traceparent_counts(rig: Rig) -> None:
    """The 8 KiB hold with the carried traceparent, too."""
    rig.add('{"event_id":"e","type":"run.abort"}', traceparent="x" * 9000)
    rig.drain()
    assert rig.reasons() == ["too_large"]


def test_parse_reads_what_was_published(rig: Rig) -> None:
    """A published notification reads back with its position, origin and trace."""
    data = b"data"
    rig.source.plant("stacks/t_1/web/42", data)
    body = FULL | {"checksum": checksum_of(data), "manifest_checksum": ""}
    entry_id = rig.add(json.dumps(body), traceparent="00-ab-cd-01")
    rig.drain()
    got = Notification.of_entry(entry(rig))
    for field, value in body.items():
        if field not in ("control_version", "manifest_checksum"):
            assert got.model_dump()[field] == value
    assert got.manifest_checksum == checksum_of(b"{}")
    assert got.control_version == rig.notifications()[0]["control_version"]
    assert got.origin == f"{rig.control}/{entry_id}"
    assert got.traceparent == "00-ab-cd-01"


def test_parse_without_a_trace(client: redis.Redis) -> None:
    """Without a traceparent there is None, and odd bytes in it, or in an origin, break nothing."""
    del client
    fields = {b"event": written(admit(json.dumps(FULL))), b"origin": ORIGIN.encode()}
    assert Notification.of_entry(fields).traceparent is None
    assert Notification.of_entry(fields | {b"traceparent": b"\xff"}).traceparent == "\ufffd"
    assert Notification.of_entry(fields | {b"origin": b"\xff"}).to_json()["origin"] == r"\xff"


@pytest.mark.parametrize("field", ["origin", "traceparent"])
@pytest.mark.parametrize("value", ["theirs", 5, {"a": 1}, None])
def test_parse_takes_unknown_fields_of_any_name(field: str, value: object) -> None:
    """An event may have unknown fields called like the entry's own: a reader still reads it."""
    raw = json.dumps({"event_id": "e", "type": "run.abort", field: value})
    got = Notification.of_entry({b"event": written(admit(raw)), b"origin": ORIGIN.encode()})
    assert got.origin == ORIGIN


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(max_size=5)
            | st.floats(allow_nan=False, allow_infinity=False),
            lambda inner: st.lists(inner, max_size=2),
            max_leaves=4,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_whatever_is_admitted_can_be_parsed(unknown: dict[str, Any]) -> None:
    """Every event that is let through reads back on the other side."""
    raw = json.dumps({**unknown, "event_id": "e", "type": "run.abort"})
    try:
        admitted = admit(raw)
    except Rejected:
        return
    json_text = admitted.unstamped + str(STAMP).encode() + b"}"
    assert (
        Notification.of_entry({b"event": json_text, b"origin": b"s/1-1"}).control_version == STAMP
    )


def test_nesting_that_is_let_through_can_be_parsed() -> None:
    """The deepest event that is let through reads back."""
    raw = '{"event_id":"e","type":"run.abort","x":' + "[" * 63 + "]" * 63 + "}"
    Notification.of_entry({b"event": written(admit(raw)), b"origin": b"s/1-1"})

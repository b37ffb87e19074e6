"""Notifications as CloudEvents."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from sidecar.wire.cloudevent import cloud_event
from sidecar.wire.notification import Notification

STAMP: Final = 1_791_234_567_890_123
SHA: Final = "sha256:" + "ab" * 32
FULL: Final = {
    "id": 7, "event_id": "e1", "type": "stack.activated", "tenant_id": "t_1", "stack_id": "web",
    "version": 2**62, "artifact_ref": "stacks/ž:1 a/7", "checksum": SHA, "manifest_checksum": SHA,
    "control_version": STAMP, "created_at": "2026-11-22T12:00:00+01:00", "region": "eu-1",
}  # fmt: skip


def notified(body: dict[str, Any], **more: bytes) -> Notification:
    """Return the notification of an event."""
    fields = {b"event": json.dumps(body).encode(), b"origin": b"control:events/1-0"}
    return Notification.of_entry(fields | {name.encode(): value for name, value in more.items()})


def test_an_artifact_is_referred_to() -> None:
    """What a controller pins the artifact with is there, and the artifact is the event's data."""
    assert cloud_event(notified(FULL, traceparent=b"00-x")) == {
        "specversion": "1.0", "id": "e1", "source": "control%3Aevents", "type": "stack.activated",
        "time": "2026-11-22T12:00:00+01:00", "subject": "t_1/web",
        "controlversion": str(STAMP), "tenantid": "t_1", "stackid": "web",
        "stackversion": str(2**62), "origin": "control:events/1-0", "traceparent": "00-x",
        "dataref": "stacks/%C5%BE%3A1%20a/7", "checksum": SHA, "manifestchecksum": SHA,
    }  # fmt: skip


def test_without_an_artifact_the_event_is_the_data() -> None:
    """All that the event says is there, unknown fields too; its time is that of publishing."""
    body = {"id": 0, "event_id": "e", "type": "run.abort", "control_version": STAMP, "x": [1.5]}
    found = cloud_event(notified(body))
    assert found["data"] == body
    assert found["datacontenttype"] == "application/json"
    assert found["time"] == "2026-10-05T21:09:27.890Z"
    assert "dataref" not in found


@pytest.mark.parametrize("tenant", ["a\x00b", "\x1b[31m", "a\u0085", "\u202e"])
def test_attributes_are_what_the_standard_allows(tenant: str) -> None:
    """Names are lower-case and short, texts have no control characters, and none is empty."""
    found = cloud_event(notified({**FULL, "tenant_id": tenant}))
    for name, value in found.items():
        assert re.fullmatch("[a-z0-9]{1,20}", name)
        assert value
        assert str(value).isprintable()

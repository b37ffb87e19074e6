"""A notification as a CloudEvent 1.0, in its JSON format.

An artifact is referred to by `dataref`, as that extension has it: the event's data is the
artifact. Without one, the data is the notification's event. Public: docs/contract.md,
"Notification".
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from sidecar.lines import visible
from sidecar.wire.ids import Origin
from sidecar.wire.moments import rfc3339
from sidecar.wire.notification import Notification

SCHEMA: Final = "urn:artifact-sidecar:notification:1"


def cloud_event(one: Notification) -> dict[str, Any]:
    """Return the CloudEvent that says what a notification says.

    Its source and id are unique together for as long as event_ids are. `dataref` is the ref,
    percent-encoded, relative to the fleet's store. Numbers are texts: an Integer has 32 bits here.
    """
    texts = {"specversion": "1.0", **_standard(one), **_extensions(one)}
    said = {name: visible(text) for name, text in texts.items() if text}
    return said | (_artifact(one) if one.artifact_ref else _data(one))


def _standard(one: Notification) -> dict[str, str]:
    whose = "/".join(part for part in (one.tenant_id, one.stack_id) if part)
    return {
        "id": one.event_id,
        "source": quote(Origin(one.origin).stream, safe="/"),
        "type": one.type,
        "time": one.created_at or rfc3339(one.control_version),
        "subject": (whose if one.stack_id else one.artifact_ref) or whose,
    }


def _extensions(one: Notification) -> dict[str, str]:
    return {
        "controlversion": str(one.control_version), "tenantid": one.tenant_id,
        "stackid": one.stack_id, "stackversion": str(one.version or ""), "origin": one.origin,
        "traceparent": one.traceparent or "",
    }  # fmt: skip


def _artifact(one: Notification) -> dict[str, Any]:
    return {
        "dataref": quote(one.artifact_ref), "checksum": one.checksum,
        "manifestchecksum": one.manifest_checksum,
    }  # fmt: skip


def _data(one: Notification) -> dict[str, Any]:
    event = json.loads(one.to_fields()[b"event"])
    return {"datacontenttype": "application/json", "dataschema": SCHEMA, "data": event}

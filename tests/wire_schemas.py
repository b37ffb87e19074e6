"""JSON Schemas of what crosses a process, and AsyncAPI of the three streams, made from the models.

`python -m tests.wire_pages` writes them, a test compares them. What a schema cannot say is said by
`LEFT_OUT` in `tests/wire/test_published.py`, and by docs/wire.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sidecar.wire.defaults import NOTIFY_STREAM, STREAM
from sidecar.wire.event import FIELDS, KNOWN_TYPES, Event, Reason
from sidecar.wire.notification import ALWAYS, Notification
from store.refs import REF_MAX_BYTES

VERSION: Final = 1
"""Of event, notification, dead letter and record: docs/contract.md, "Versions"."""
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
SHA256: Final = "^sha256:[0-9a-f]{64}$"
RFC3339: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
_SEGMENT: Final = r"(?!\.\.?(?:/|$))[^/\x00-\x1f\x7f-\x9f]+"
REF: Final = f"^{_SEGMENT}(?:/{_SEGMENT})*$"
PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Most of what an event_id may have: no class here has Unicode's other unprintable characters."""
_FOLDED: Final = {"s": "sS\u017f", "k": "kK\u212a"}
"""Beside the two cases of a letter: what folds to it."""


class Strict(BaseModel):
    """What has no fields but these."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DeadLetter(BaseModel):
    """An entry of the dead-letter stream. Its fields are texts."""

    event: Annotated[str, Field(description="The original bytes, cut at 16 KiB.")]
    reason: Annotated[str, Field(min_length=1, examples=[one.value for one in Reason])]
    detail: Annotated[str, Field(description="What exactly was wrong, for people.")]
    origin: Annotated[str, Field(pattern="^.+/[0-9]+-[0-9]+$")]
    attempts: Annotated[str, Field(pattern="^[0-9]+$")]
    first_seen: Annotated[str, Field(pattern=RFC3339)]
    dead_at: Annotated[str, Field(pattern=RFC3339)]
    traceparent: str | None = None
    truncated: Literal["1"] | None = None


class ManifestEnvelope(Strict):
    """What a record's header says of the manifest and the data that follow it, field by field.

    Manifest and data are opaque. The header is the envelope in which file and object stores keep
    them: see docs/wire.md, "Records".
    """

    ref: Annotated[str, Field(max_length=REF_MAX_BYTES, json_schema_extra={"pattern": REF})]
    checksum: Annotated[str, Field(pattern=SHA256)]
    size_bytes: Annotated[int, Field(ge=0)]
    manifest_checksum: Annotated[str, Field(pattern=SHA256)]
    manifest_size_bytes: Annotated[int, Field(ge=0)]
    position: Annotated[str, Field(pattern="^[0-9]{1,20}-[0-9]{1,20}$")] | None = None
    stored: Annotated[str, Field(pattern=RFC3339)]
    at: Literal["inline", "object"]


def schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by its name."""
    return {
        "event": event(), "notification": notification(),
        "dead-letter": _plain("dead-letter", DeadLetter),
        "manifest-envelope": _plain("manifest-envelope", ManifestEnvelope),
    }  # fmt: skip


def event() -> dict[str, Any]:
    """Return what a producer's event must fit: an absent field, its zero and null are the same."""
    made = _plain("event", Event)
    for name, field in made["properties"].items():
        if name not in made["required"]:
            field["type"] = [field["type"], "null"]
    made["properties"]["event_id"]["pattern"] = PRINTABLE
    made["properties"]["artifact_ref"] |= {"pattern": f"^$|{REF}", "maxLength": REF_MAX_BYTES}
    made["properties"]["type"]["examples"] = sorted(KNOWN_TYPES)
    made["propertyNames"] = {"anyOf": [{"enum": list(FIELDS)}, {"not": {"pattern": other_case()}}]}
    set_ = {"type": "string", "minLength": 1}
    made["allOf"] = [
        {
            "if": {"required": ["artifact_ref"], "properties": {"artifact_ref": set_}},
            "then": {"required": ["checksum"], "properties": {"checksum": set_}},
        },
        {
            "if": {"required": ["type"], "properties": {"type": {"const": "stack.activated"}}},
            "then": {
                "required": ["tenant_id", "stack_id", "version"],
                "properties": {
                    "tenant_id": set_, "stack_id": set_,
                    "version": {"type": "integer", "minimum": 1},
                },
            },
        },
    ]  # fmt: skip
    return _strict_ends(made)


def notification() -> dict[str, Any]:
    """Return what the field `event` of each notification fits."""
    made = _plain("notification", Notification)
    made["required"] = sorted(ALWAYS)
    made["properties"]["control_version"]["minimum"] = 1
    for name in ("checksum", "manifest_checksum"):
        made["properties"][name]["pattern"] = SHA256
    made["properties"]["artifact_ref"] |= {"pattern": REF, "maxLength": REF_MAX_BYTES}
    made["dependentRequired"] = {"artifact_ref": ["checksum", "manifest_checksum"]}
    for field in made["properties"].values():
        field.pop("default", None)  # what would be that is absent
    return _strict_ends(made)


def other_case() -> str:
    """Return a pattern of the keys that a Go reader takes for a field, its own name among them."""
    return f"^(?:{'|'.join(map(_any_case, FIELDS))})$"


def _any_case(name: str) -> str:
    letters = [f"[{_FOLDED.get(c, c + c.upper())}]" if c.isalpha() else c for c in name]
    return "".join(letters).replace("[sS\u017f][tT]", "(?:[sS\u017f][tT]|[\ufb05\ufb06])")


def _plain(name: str, model: type[BaseModel]) -> dict[str, Any]:
    made: dict[str, Any] = model.model_json_schema()
    made["properties"] = {name: _field(one) for name, one in made["properties"].items()}
    made["title"] = name.replace("-", " ")
    head = {"$schema": DRAFT, "$id": f"urn:artifact-sidecar:{name}:{VERSION}"}
    return _strict_ends(head | made)


def _field(made: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema; an optional one is absent, or what it is."""
    plain = {key: one for key, one in made.items() if key not in ("title", "anyOf")}
    if "anyOf" not in made:
        return plain
    what: dict[str, Any] = made["anyOf"][0]
    return {key: one for key, one in plain.items() if key != "default"} | what


def _ends(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: re.sub(r"\$$", r"$(?![\\s\\S])", one)
            if key == "pattern" and isinstance(one, str)
            else _ends(one)
            for key, one in value.items()
        }
    return [_ends(one) for one in value] if isinstance(value, list) else value


def _strict_ends(schema: dict[str, Any]) -> dict[str, Any]:
    """Return it with patterns that end at the end, and not before a last line feed."""
    made: dict[str, Any] = _ends(schema)
    return made


# --- AsyncAPI ------------------------------------------------------------------------------------


def asyncapi() -> dict[str, Any]:
    """Return the three streams: what an entry of each is, who appends it and who reads it."""
    names = {"control": STREAM, "notifications": NOTIFY_STREAM, "dead": f"{{{NOTIFY_STREAM}}}:dead"}
    messages = {"control": "event", "notifications": "notification", "dead": "dead-letter"}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "artifact-sidecar",
            "version": f"{VERSION}.0.0",
            "description": "Redis streams. docs/contract.md binds; docs/wire.md says how to read.",
        },
        "defaultContentType": "application/json",
        "servers": {"redis": {"host": "redis:6379", "protocol": "redis", "protocolVersion": "6.2"}},
        "channels": {
            name: {
                "address": address,
                "description": _CHANNELS[name],
                "messages": {messages[name]: {"$ref": f"#/components/messages/{messages[name]}"}},
            }
            for name, address in names.items()
        },
        "operations": {
            name: {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "summary": summary,
            }
            for name, (action, channel, summary) in _OPERATIONS.items()
        },
        "components": {"messages": {name: _message(name) for name in messages.values()}},
    }


_CHANNELS: Final = {
    "control": "A control stream; a worker may serve several. Producers append.",
    "notifications": "The notification stream. An entry's ID is its control_version.",
    "dead": "The dead-letter stream, unless --dead-stream names another.",
}
_OPERATIONS: Final = {
    "produce": ("receive", "control", "A producer appends an event: XADD S * event JSON."),
    "follow": ("send", "notifications", "A controller reads on from its cursor: XREAD."),
    "bury": ("send", "dead", "An operator reads what ended without a notification."),
}
"""Seen from the worker: what it receives, and what it sends."""


def _message(name: str) -> dict[str, Any]:
    return {"name": name, "contentType": "application/octet-stream", "payload": _entry(name)}


def _entry(name: str) -> dict[str, Any]:
    """Return the schema of an entry: field names and values of a stream, which are texts."""
    if name == "dead-letter":
        return {"$ref": f"./{name}.schema.json"}
    text: dict[str, Any] = {"type": "string"}
    fields: dict[str, Any] = {
        "event": text | {
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": f"./{name}.schema.json"},
        },
        "traceparent": text | {"description": "W3C trace context, passed on as it is."},
    }  # fmt: skip
    required = ["event"]
    if name == "notification":
        origin = {"pattern": "^.+/[0-9]+-[0-9]+$", "description": "<control stream>/<entry ID>"}
        fields["origin"] = text | origin
        required.append("origin")
        signature = {"pattern": "^1 [0-9a-f]{16} [0-9]{1,5} [A-Za-z0-9+/]+=*$"}
        fields["signature"] = text | signature | {
            "description": "Who vouches for it: docs/wire.md, Verify a signature.",
        }  # fmt: skip
    return _strict_ends({"type": "object", "properties": fields, "required": required})

"""What producers check before anything is written: the worker's own rules."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from sidecar.wire import notification
from sidecar.wire.event import Event, Reason, Rejected, content_digest, decode
from sidecar.wire.ids import LAST, Origin
from sidecar.wire.moments import rfc3339
from sidecar.wire.scope import refuse_reserved
from store import check_ref, checksum_of

BLOBS: Final = (bytes, bytearray, memoryview)
_OF_ARTIFACT: Final = {"artifact_ref", "checksum", "manifest_checksum"}


def body_of(
    type_: str, event_id: str | None, fields: Mapping[str, Any],
    ref: str, data: Any, manifest: bytes,  # noqa: ANN401 -- bytes or a file
) -> dict[str, Any]:  # fmt: skip
    """Return the event's JSON object; of a file that is still to be read, with another checksum.

    Raises `Rejected` and `store.InvalidRef`.
    """
    check_artifact(ref, data, manifest, fields)
    body: dict[str, Any] = {
        "id": 0,
        "event_id": event_id or f"evt_{uuid.uuid4().hex}",
        "type": type_,
        "created_at": rfc3339(time.time() * 1e6),
        **fields,
    }
    if data is not None:
        check_ref(ref)
        refuse_reserved(ref)
        body["artifact_ref"] = ref
        body["checksum"] = checksum_of(data if isinstance(data, BLOBS) else b"")
        body["manifest_checksum"] = checksum_of(manifest)
    return body


def check_artifact(ref: Any, data: Any, manifest: Any, fields: Mapping[str, Any]) -> None:  # noqa: ANN401 -- whatever a caller gives
    """Raise `Rejected`, with the field's name, for what is no artifact."""
    if not isinstance(ref, str):
        raise wrong("ref", f"a string is wanted, and not {type(ref).__name__}")
    if not isinstance(manifest, BLOBS):
        raise wrong("manifest", f"bytes are wanted, and not {type(manifest).__name__}: encode it")
    if data is None and (ref or manifest):
        raise wrong("data", "missing: ref and manifest are of an artifact; give its bytes")
    if not (data is None or isinstance(data, BLOBS) or hasattr(data, "read")):
        kind = type(data).__name__
        raise wrong("data", f"bytes or a binary file are wanted, and not {kind}: encode it")
    given = sorted(_OF_ARTIFACT & fields.keys())
    if data is not None and given:
        raise wrong(given[0], "it is set from ref, data and manifest; leave it out")


def wrong(field: str, problem: str) -> Rejected:
    """Return the error of a field that breaks a rule."""
    return Rejected(Reason.INVALID_EVENT, f"{field}: {problem}")


def entry_of(
    body: dict[str, Any], traceparent: str | None, stream: str
) -> tuple[Event, dict[bytes, bytes], bytes]:
    """Return the event, its entry, and the digest of its content. Raises `Rejected`."""
    entry = {b"event": _json(body)}
    if traceparent:
        try:
            entry[b"traceparent"] = traceparent.encode()
        except UnicodeEncodeError as error:
            raise wrong("traceparent", "it is no text: a lone surrogate") from error
    event, digest = check_entry(entry, stream)
    return event, entry, digest


def check_entry(entry: Mapping[bytes, bytes], stream: str) -> tuple[Event, bytes]:
    """Return the event of an entry for the stream, and the digest of its content.

    Raises `Rejected`.
    """
    event, plain = decode(entry)
    notification.check_size(
        notification.unstamped(plain, event.manifest_checksum), Origin.of(stream, LAST),
        entry.get(b"traceparent", b""), stamps_manifest=False,
    )  # fmt: skip
    return event, content_digest(plain)


def _json(body: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as error:
        raise Rejected(Reason.MALFORMED, f"a field is not fit for JSON: {error}") from error

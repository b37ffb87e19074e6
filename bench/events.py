"""The events and artifacts that every contender gets."""

from __future__ import annotations

import hashlib
import json

import redis

CONTROL, NOTIFICATIONS = "control:events", "control:notifications"
DATA_BYTES = 4096
MANIFEST = json.dumps({"kind": "bench", "format": "raw", "pad": "x" * 200}).encode()


def artifact(i: int) -> bytes:
    """Return the data of the artifact of this number."""
    return hashlib.shake_128(i.to_bytes(8)).digest(DATA_BYTES)


def ref_of(i: int) -> str:
    """Return its ref."""
    return f"stacks/t_{i % 20}/web/{i}"


def fill(
    url: str, count: int, *, artifacts: bool, trouble: bool = False, sampled_every: int = 0
) -> None:
    """Append `count` events of 20 tenants to the control stream.

    With `sampled_every`, each has a traceparent, and one in so many is sampled. With `trouble`, a
    tenant more has one beside each tenth, whose artifact is not there.
    """
    pipeline = redis.Redis.from_url(url).pipeline(transaction=False)
    for i in range(count):
        event = {
            "id": i,
            "event_id": f"evt_{i:012}",
            "type": "hostname.revoked",
            "tenant_id": f"t_{i % 20}",
            "created_at": "2026-11-22T12:00:00.000Z",
        }
        if artifacts:
            checksum = hashlib.sha256(artifact(i)).hexdigest()
            event |= {"artifact_ref": ref_of(i), "checksum": f"sha256:{checksum}"}
        pipeline.xadd(CONTROL, {"event": json.dumps(event), **_trace(i, sampled_every)})
        if trouble and i % 10 == 0:
            missing = {"artifact_ref": "missing", "checksum": "sha256:" + "0" * 64}
            event |= {"event_id": f"trouble_{i}", "tenant_id": "t_trouble", **missing}
            pipeline.xadd(CONTROL, {"event": json.dumps(event)})
        if i % 5000 == 0:
            pipeline.execute()
    pipeline.execute()


def _trace(i: int, sampled_every: int) -> dict[str, str]:
    if not sampled_every:
        return {}
    return {"traceparent": f"00-{i + 1:032x}-{i + 1:016x}-0{int(i % sampled_every == 0)}"}

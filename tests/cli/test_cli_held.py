"""What a worker holds back is explained by `status`."""

from __future__ import annotations

import json
from typing import Any

import pytest

import store
from sidecar.redis.keys import Keys
from sidecar.redis.lease import Lease
from sidecar.redis.members import Held, Members
from sidecar.worker.settings import file_url
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli
from tests.sidecar.harness import eventually

pytestmark = pytest.mark.server


def test_a_version_that_never_was_there_is_not_said_to_be_gone(sidecar: Cli) -> None:
    """Of a ref with another version `trace` says just that, until the event's own was published."""
    sidecar.bring("before", "ref/a", b"old")
    sidecar.work()
    pinned = {"artifact_ref": "ref/a", "checksum": store.checksum_of(b"never put")}
    event = {"event_id": "never", "type": "key.changed", **pinned}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    out = sidecar("trace", "never").out
    assert "has another version of ref/a, not this one" in out
    assert "is gone" not in out


def test_a_held_event_is_explained(sidecar: Cli) -> None:
    """Whose it is, since when, how often it was tried, when next, and why; until it is through."""
    sidecar.lay_out()
    event = {
        "event_id": "stuck", "type": "key.changed", "tenant_id": "t1", "artifact_ref": "ref/a",
        "checksum": store.checksum_of(b"data a"),
    }  # fmt: skip
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    with sidecar.running("run", "--lease", "1", "--retry-budget", "600"):

        def held() -> list[dict[str, Any]]:
            workers = sidecar("status", "--json").object()["workers"]
            return [one for worker in workers for one in worker["held"]]

        (one,) = eventually(held)
        assert (one["tenant_id"], one["event_id"], one["outage"]) == ("t1", "stuck", False)
        assert str(one["entry"]).startswith(f"{STREAM}/")
        assert one["since"] <= one["next_at"]
        out = sidecar("status").out
        assert "HELD BACK" in out
        assert "stuck" in out
        trace = sidecar("trace", "stuck")
        assert "held back" in trace.out
        assert "NotFound" in trace.out
        source = store.open_url(file_url(sidecar.directory / "data-dir" / "source"))
        source.put("ref/a", b"data a", b"{}")
        eventually(lambda: not held())


def test_what_is_held_back_is_shown_once(sidecar: Cli) -> None:
    """By who holds the fence of its stream; one that had it before tells of it for a while yet."""
    keys = Keys.of(STREAM, NOTIFICATIONS)
    one = Held(f"{STREAM}/1-0", "t", "e", "NotFound", 1, "s", "n", outage=False)
    before, owner = (
        Members(sidecar.client, keys, name=name, serves=[STREAM], lease_s=60)
        for name in ("host:1", "host:2")
    )
    for worker in (before, owner):
        worker.beat([], held=[one])
    assert Lease(sidecar.client, keys, lease_s=60, worker=owner.id).acquire() is not None
    workers = sidecar("status", "--json").object()["workers"]
    assert {found["name"]: len(found["held"]) for found in workers} == {"host:1": 0, "host:2": 1}

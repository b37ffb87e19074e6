"""What somebody made of a group's position, redrive and repair do not believe."""

from __future__ import annotations

import json
import time
from typing import Final

from sidecar.redis.keys import Keys
from tests.cli.harness import NOTIFICATIONS, STREAM, Cli

KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
BEFORE: Final = f"{int(time.time() * 1000) - 60_000}-0"


def test_what_was_handed_out_and_is_not_pending_overtakes(sidecar: Cli) -> None:
    """A worker has it delivered again from the lowest unfinished entry: so it waits still."""
    body = {"event_id": "new", "type": "key.changed", "tenant_id": "t", "stack_id": "web"}
    old = json.dumps({**body, "event_id": "old"})
    sidecar.lay_out()
    sidecar.letter(json.loads(old), BEFORE)
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    new = sidecar.client.xadd(STREAM, {"event": json.dumps(body)})
    sidecar.client.set(KEYS.low, new)
    sidecar.client.xgroup_setid(STREAM, KEYS.group, "$")
    ran = sidecar("dead", "redrive", "--all", "--json", "--reason", "x")
    assert (ran.code, ran.objects()[0]["result"]) == (3, "refused")

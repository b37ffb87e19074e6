"""How many commands Redis runs for an event: the number repeats, time does not."""

from __future__ import annotations

from typing import Any

import redis

from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import Outbound, Publisher
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin

EVENTS = 100
MOST_AN_EVENT = 3
MOST_A_RUN = 12


def outbound(number: int) -> Outbound:
    """Return an event to publish."""
    identity = identity_digest(f"e{number}") + b"c" * 16
    origin = Origin.of("control", EntryId(f"{number + 1}-0"))
    return Outbound(identity, b'{"event_id":"e","control_version":', origin, b"")


def test_an_event_costs_redis_so_many_commands(redis_url: str, client: redis.Redis) -> None:
    """The publish script runs no command more for an event, nor for a run, than it did."""
    keys = Keys.of("control", "notifications")
    publisher = Publisher(connect(redis_url), keys, lease_s=60, dedup_window_s=60)
    publisher.acquire()
    publisher.publish([outbound(0)], FIRST)
    client.config_resetstat()
    publisher.publish([outbound(number) for number in range(1, EVENTS + 1)], FIRST)
    stats: Any = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
    made = sum(count for name, count in calls.items() if not name.startswith("config"))
    assert calls["xadd"] == EVENTS
    assert made <= EVENTS * MOST_AN_EVENT + MOST_A_RUN, calls

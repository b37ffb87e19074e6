"""How many commands Redis runs for an event: the number repeats, time does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import MOST_LETTERS, Letter, Outbound, Publisher
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, EntryId, Origin

EVENTS = 100
MOST_AN_EVENT = 3
MOST_A_RUN = 12
MOST_A_LETTER = 5


def outbound(number: int) -> Outbound:
    """Return an event to publish."""
    identity = identity_digest(f"e{number}") + b"c" * 16
    origin = Origin.of("control", EntryId(f"{number + 1}-0"))
    return Outbound(identity, b'{"event_id":"e","control_version":', origin, b"")


@contextmanager
def counted(client: redis.Redis) -> Iterator[Counter[str]]:
    """Yield what is, at the end, how often each command ran meanwhile."""
    calls: Counter[str] = Counter()
    client.config_resetstat()
    yield calls
    stats: Any = client.info("commandstats")
    found = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
    calls.update({name: count for name, count in found.items() if not name.startswith("config")})


@pytest.fixture
def publisher(redis_url: str) -> Publisher:
    """The owner of the control stream, whose scripts are loaded."""
    keys = Keys.of("control", "notifications")
    owner = Publisher(connect(redis_url), keys, lease_s=60, dedup_window_s=60)
    owner.acquire()
    owner.publish([outbound(0)], FIRST)
    return owner


def test_an_event_costs_redis_so_many_commands(publisher: Publisher, client: redis.Redis) -> None:
    """The publish script runs no command more for an event, nor for a run, than it did."""
    with counted(client) as calls:
        publisher.publish([outbound(number) for number in range(1, EVENTS + 1)], FIRST)
    assert calls["xadd"] == EVENTS
    assert calls.total() <= EVENTS * MOST_AN_EVENT + MOST_A_RUN, calls


def test_dead_letters_cost_redis_one_script(publisher: Publisher, client: redis.Redis) -> None:
    """A run of dead letters is one script, and no letter costs more commands than it did."""
    letters = [
        Letter(
            Origin.of("control", EntryId(f"{number + 1}-0")), identity_digest(f"{number}") * 2,
            {"event": b"{", "reason": "malformed"},
        )
        for number in range(MOST_LETTERS)
    ]  # fmt: skip
    with counted(client) as calls:
        publisher.bury(letters, FIRST, max_in_a_row=len(letters) + 1, now="now")
    assert (calls["xadd"], calls["evalsha"]) == (len(letters), 1)
    assert calls.total() <= len(letters) * MOST_A_LETTER + MOST_A_RUN, calls

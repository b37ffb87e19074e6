"""What waits in a control stream may overtake what is redriven, wherever its group stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sidecar.ops.overtakers import Candidate, Overtakers
from sidecar.redis.client import Side
from sidecar.redis.keys import Keys
from sidecar.redis.publisher import dead_mark, origin_digest
from sidecar.redis.source import Entry
from sidecar.wire.event import Event
from sidecar.wire.identity import identity_of
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.subject import Change

KEYS = Keys.of("control:events", "control:notifications")


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to the real, empty server."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def candidate(letter: str, entry: str) -> Candidate:
    """Return an old event, the dead letter of an entry."""
    old = Event(event_id="old", type="run.abort", tenant_id="t", stack_id="web", version=1)
    origin = Origin(f"{KEYS.control}/{entry}")
    return Candidate(letter, origin, KEYS.control, Change.of(old, origin, None), known_ms=0)


def overtaker_of_6(server: redis.Redis, redis_url: str, *besides: Candidate) -> str:
    """Say what has overtaken the event of the entry 6-0, redriven together with others."""
    control, batch = Side(server, redis_url), [candidate("1-0", "6-0"), *besides]
    overtakers = Overtakers(control, server, KEYS, [KEYS.control], batch)
    overtakers.advance()
    return overtakers.of("1-0")


@pytest.mark.parametrize("position", ["0-0", "99-0", "9999999999999-0"])
@pytest.mark.parametrize("low", [None, "6-0"])
def test_what_is_not_read_yet_waits(
    server: redis.Redis, redis_url: str, position: str, low: str | None
) -> None:
    """A newer event waits above the group's position, also where that was set beyond the end."""
    for entry in ("5-0", "7-0"):
        body = {"event_id": f"e{entry}", "tenant_id": "t", "stack_id": "web", "version": 1}
        server.xadd(KEYS.control, {"event": json.dumps(body)}, id=entry)
    server.xgroup_create(KEYS.control, KEYS.group, position)
    if low:
        server.set(KEYS.low, low)
    assert overtaker_of_6(server, redis_url) == "e7-0 overtakes it: it waits as control:events/7-0"


def test_what_was_handed_out_and_is_not_pending_waits_no_more(
    server: redis.Redis, redis_url: str
) -> None:
    """It came to its end; that is among what is published, or it is nothing."""
    body = {"event_id": "new", "tenant_id": "t", "stack_id": "web", "version": 1}
    server.xadd(KEYS.control, {"event": json.dumps(body)}, id="7-0")
    server.xgroup_create(KEYS.control, KEYS.group, "7-0")
    assert overtaker_of_6(server, redis_url) == ""


@pytest.mark.parametrize("how", ["published", "dead letter", "pending", "unknown", "redriven too"])
def test_what_was_handed_out_above_the_lowest_unfinished_entry_waits_unless_it_is_finished(
    server: redis.Redis, redis_url: str, how: str
) -> None:
    """Whoever acknowledged it, or set the group's position past it."""
    body = {"event_id": "new", "type": "run.abort", "tenant_id": "t", "stack_id": "web"}
    fields: Any = {b"event": json.dumps(body).encode()}
    server.xadd(KEYS.control, fields, id="7-0")
    server.xgroup_create(KEYS.control, KEYS.group, "0")
    server.xreadgroup(KEYS.group, "worker", {KEYS.control: ">"})
    server.set(KEYS.low, "7-0")
    if how != "pending":
        server.xack(KEYS.control, KEYS.group, "7-0")
    known, content = identity_of(fields)
    if how == "dead letter":
        known = origin_digest(f"{KEYS.control}/7-0")
        content = dead_mark(Entry(EntryId("7-0"), fields))
    if how in ("published", "dead letter"):
        server.hset(KEYS.seen(known), known[2:], content + b"1")
    besides = [candidate("8-0", "7-0")] if how == "redriven too" else []
    waits = bool(overtaker_of_6(server, redis_url, *besides))
    assert waits == (how in ("pending", "unknown"))


def test_who_may_not_read_what_is_finished_looks_at_all(
    server: redis.Redis, redis_url: str
) -> None:
    """The shipped redriver has no right to `low`: it refuses rather than overlook what waits."""
    body = {"event_id": "new", "tenant_id": "t", "stack_id": "web", "version": 1}
    server.xadd(KEYS.control, {"event": json.dumps(body)}, id="7-0")
    server.xgroup_create(KEYS.control, KEYS.group, "9999999999999-0")
    server.acl_setuser(
        "meek", reset=True, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-get"]
    )
    try:
        with redis.Redis.from_url(redis_url, protocol=2, username="meek", password="x") as meek:
            assert "waits as control:events/7-0" in overtaker_of_6(meek, redis_url)
    finally:
        server.acl_deluser("meek")

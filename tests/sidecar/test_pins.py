"""What events name, read from servers that change, and fail, meanwhile."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sidecar.errors import Unreachable, UsageError
from sidecar.ops.pins import Pins
from sidecar.redis.census import Named, Registrar
from sidecar.redis.client import Side, connect
from store import Pin, checksum_of
from tests import leaks, servers

CONTROL, DEAD, NOTIFICATIONS = "c", "{n}:dead", "n"
CHECKSUM = checksum_of(b"")
MANY = 450
"""More entries than are read in two pages."""


def _pins(url: str, notify_url: str | None = None) -> Pins:
    control, notify = Side(connect(url), url), Side(connect(notify_url or url), notify_url or url)
    named = Named(control=(CONTROL,), notifications=(NOTIFICATIONS,))
    return Pins(control, notify, Registrar(control, notify, named))


def _append(client: redis.Redis, stream: str, *refs: str) -> list[Any]:
    more: dict[Any, Any] = {CONTROL: {}, DEAD: {"reason": "r", "origin": "o"}}.get(
        stream, {"origin": "o"}
    )
    with client.pipeline() as batch:
        for ref in refs:
            event = json.dumps({"artifact_ref": ref, "checksum": CHECKSUM})
            batch.xadd(stream, {"event": event, **more})
        return list(batch.execute())


def _fill(client: redis.Redis, *streams: str) -> None:
    for stream in streams:
        _append(client, stream, *(f"{stream}/{i}" for i in range(MANY)))


def _until(pins: Iterator[Pin], ref: str) -> None:
    for pin in pins:
        if pin.ref == ref:
            return
    raise AssertionError(f"{ref} did not come")


def _move(client: redis.Redis, source: str, entry: bytes, target: str) -> bytes:
    """Move the event `e` as the sidecar does, and trim what it left, too."""
    (moved,) = _append(client, target, "e")
    client.xdel(source, entry)
    assert isinstance(moved, bytes)
    return moved


def test_all_streams_are_read_whole(redis_url: str) -> None:
    """Every event of every kind of stream is a pin."""
    with redis.Redis.from_url(redis_url) as client:
        _fill(client, CONTROL, DEAD, NOTIFICATIONS)
    found = {pin.ref for pin in _pins(redis_url)()}
    assert found == {
        f"{stream}/{i}" for stream in (CONTROL, DEAD, NOTIFICATIONS) for i in range(MANY)
    }


@pytest.mark.parametrize(
    ("at", "source", "target"),
    [
        (f"{DEAD}/0", CONTROL, DEAD),
        (f"{DEAD}/0", DEAD, CONTROL),
        (f"{DEAD}/0", CONTROL, NOTIFICATIONS),
        (f"{CONTROL}/0", CONTROL, DEAD),
        (f"{CONTROL}/0", CONTROL, NOTIFICATIONS),
        (f"{CONTROL}/0", DEAD, CONTROL),
        (f"{NOTIFICATIONS}/0", CONTROL, NOTIFICATIONS),
        (f"{NOTIFICATIONS}/0", CONTROL, DEAD),
    ],
)
def test_an_event_that_moves_meanwhile_is_met(
    client: redis.Redis, redis_url: str, at: str, source: str, target: str
) -> None:
    """Wherever reading is just then, and though nothing is left where it came from."""
    _fill(client, CONTROL, DEAD, NOTIFICATIONS)
    (entry,) = _append(client, source, "e")
    pins = _pins(redis_url)()
    met = []
    for pin in pins:
        met.append(pin.ref)
        if pin.ref == at and entry:
            _move(client, source, entry, target)
            entry = None
    assert "e" in met


def test_an_event_that_dies_and_is_redriven_meanwhile_is_met(
    client: redis.Redis, redis_url: str
) -> None:
    """Dead before the control stream is read, back there before the letters are read again."""
    _fill(client, CONTROL, DEAD, NOTIFICATIONS)
    (entry,) = _append(client, CONTROL, "e")
    pins = _pins(redis_url)()
    _until(pins, f"{CONTROL}/0")  # the first page of control entries is read, e is on the last
    letter = _move(client, CONTROL, entry, DEAD)
    _until(pins, f"{CONTROL}/{MANY - 1}")
    _move(client, DEAD, letter, CONTROL)
    assert "e" in {pin.ref for pin in pins}


def test_a_flushed_server_does_not_pass_for_an_empty_one(
    client: redis.Redis, redis_url: str
) -> None:
    """What was found at first and is gone at last means that pins may lack."""
    _fill(client, CONTROL, NOTIFICATIONS)
    pins = _pins(redis_url)()
    _until(pins, f"{CONTROL}/0")
    client.flushall()
    with pytest.raises(Unreachable, match="lost entries"):
        list(pins)


def test_a_stream_made_anew_meanwhile_is_told(client: redis.Redis, redis_url: str) -> None:
    """Its entries begin again below the last one that was seen."""
    _fill(client, CONTROL, NOTIFICATIONS)
    pins = _pins(redis_url)()
    _until(pins, f"{CONTROL}/0")
    client.delete(NOTIFICATIONS)
    client.xadd(NOTIFICATIONS, {"a": "b"}, id="1-1")
    with pytest.raises(Unreachable, match="lost entries"):
        list(pins)


def test_a_server_that_goes_away_half_way_is_told() -> None:
    """The pins end with an error, never early."""
    with (
        servers.running(servers.usual()) as server,
        redis.Redis.from_url(server.url) as client,
        leaks.closed(),
    ):
        _fill(client, CONTROL, NOTIFICATIONS)
        pins = _pins(server.url)()
        _until(pins, f"{CONTROL}/0")
        server.process.kill()
        server.process.wait()
        with pytest.raises(Unreachable, match="cannot be reached"):
            list(pins)


def test_another_server_in_its_place_is_told(client: redis.Redis, redis_url: str) -> None:
    """After a failover or a restart what came last may be lost, though the streams are there."""
    _fill(client, CONTROL, NOTIFICATIONS)
    with servers.running(servers.usual()) as other, redis.Redis.from_url(other.url) as replacement:
        _fill(replacement, CONTROL, NOTIFICATIONS)
        pins = _pins(redis_url)
        seen = pins()
        _until(seen, f"{CONTROL}/0")
        for side in (pins._control, pins._notify):
            side.client.connection_pool.disconnect()
            side.client.connection_pool.connection_kwargs["port"] = other.port
            side.client.connection_pool.reset()
        with pytest.raises(Unreachable, match="was restarted"):
            list(seen)


def test_a_cluster_is_refused() -> None:
    """Streams on its other nodes would be overlooked."""
    with (
        servers.running(servers.usual(), arguments=("--cluster-enabled", "yes")) as server,
        pytest.raises(UsageError, match="Cluster"),
    ):
        list(_pins(server.url)())


def test_a_replica_is_refused(redis_url: str) -> None:
    """It may lag behind, and lack the newest events."""
    port = redis_url.rpartition(":")[2].partition("/")[0]
    with (
        servers.running(
            servers.usual(), arguments=("--replicaof", "127.0.0.1", str(port))
        ) as server,
        pytest.raises(UsageError, match="replica"),
    ):
        list(_pins(server.url)())


def test_two_servers_are_read_each_for_its_streams(redis_url: str, client: redis.Redis) -> None:
    """Control streams on the one; notifications and letters on the other."""
    with servers.running(servers.usual()) as other, redis.Redis.from_url(other.url) as notify:
        _append(client, CONTROL, "control")
        _append(client, NOTIFICATIONS, "no notification: it is on the wrong server")
        _append(notify, NOTIFICATIONS, "notified")
        _append(notify, DEAD, "dead")
        found = {pin.ref for pin in _pins(redis_url, other.url)()}
    assert found == {"control", "notified", "dead"}


def test_memory_does_not_grow_with_the_streams(client: redis.Redis, redis_url: str) -> None:
    """Ten times the events take no more memory."""

    def peak_bytes() -> int:
        tracemalloc.start()
        count = sum(1 for _ in _pins(redis_url)())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == client.xlen(CONTROL) + client.xlen(NOTIFICATIONS)
        return peak

    _fill(client, CONTROL, NOTIFICATIONS)
    few = peak_bytes()
    for _ in range(9):
        _fill(client, NOTIFICATIONS)
    assert peak_bytes() < 1.5 * few

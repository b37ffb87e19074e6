"""With --wait-replicas, what no replica has taken over is not acknowledged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from sidecar.redis.publisher import NotReplicated, Publisher
from sidecar.wire.ids import EntryId
from tests import servers
from tests.servers import Server
from tests.sidecar.harness import Rig, eventually
from tests.sidecar.test_publisher import KEYS, bury, letter, outbound


@dataclass
class Pair:
    """A primary and its replica, which can be frozen."""

    client: redis.Redis
    url: str
    replica: Server

    def freeze(self) -> None:
        """Let the replica take over nothing more, its connection staying open."""
        os.kill(self.replica.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue."""
        os.kill(self.replica.process.pid, signal.SIGCONT)

    @property
    def publisher(self) -> Publisher:
        """The owner of the control stream, who waits for the replica."""
        found = Publisher(self.client, KEYS, lease_s=1, dedup_window_s=3600, wait_replicas=1)
        assert found.acquire() is not None
        return found


def replicated(work: Callable[[], Sequence[object]]) -> int:
    """Return how many results there are once the replica has them, late on a busy machine."""
    found: list[Sequence[object]] = []

    def done() -> bool:
        with suppress(NotReplicated):
            found.append(work())
        return bool(found)

    eventually(done)
    return len(found[0])


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary whose replica is in step."""
    with servers.running(servers.usual(), arguments=("--repl-diskless-sync-delay", "0")) as primary:
        follows = ("--replicaof", "127.0.0.1", str(primary.port))
        with (
            servers.running(servers.usual(), arguments=follows) as replica,
            redis.Redis.from_url(primary.url, protocol=2) as client,
        ):
            found = Pair(client, primary.url, replica)
            eventually(lambda: client.set("in", "step") and client.wait(1, 100) == 1)
            yield found
            found.thaw()


def test_a_frozen_replica_is_noticed_by_whatever_is_written(pair: Pair) -> None:
    """Publish, duplicate and dead letter, also one there already: all wait for the replica."""
    one = pair.publisher
    known, conflict = outbound("a"), outbound("a", "other")
    assert replicated(lambda: one.publish([known], EntryId("1-0"))) == 1
    assert replicated(lambda: bury(one, letter("s/1-0"))) == 1
    pair.freeze()
    for run in ([known, conflict], [known], [outbound("b")]):
        pair.client.connection_pool.disconnect()  # a new connection has nothing to wait for yet
        with pytest.raises(NotReplicated, match="0 of 1"):
            one.publish(run, EntryId("2-0"))
    for dead in (letter("s/1-0"), letter("s/2-0", "a"), letter("s/3-0")):
        pair.client.connection_pool.disconnect()
        with pytest.raises(NotReplicated, match="0 of 1"):
            bury(one, dead)
    pair.thaw()
    eventually(lambda: pair.client.set("in", "step") and pair.client.wait(1, 100) == 1)
    both = [outbound("a"), outbound("b")]
    assert replicated(lambda: one.publish(both, EntryId("2-0"))) == 2


def test_a_relay_waits_for_its_replica_and_goes_on(pair: Pair) -> None:
    """While the replica is frozen nothing is acknowledged, and that is said; then all continues."""
    rig = Rig(pair.url, pair.client, wait_replicas=1)
    rig.emit("a")
    with rig.relay() as run:
        eventually(lambda: rig.published() == ["a"] and rig.pending() == 0)
        pair.freeze()
        rig.emit("b")
        rig.add("{")
        eventually(lambda: run.observer.state_now == "waiting")
        assert any("0 of 1 replicas" in detail for _, detail in run.observer.states)
        assert rig.pending() > 0
        pair.thaw()
        eventually(lambda: rig.reasons() == ["malformed"] and rig.pending() == 0)
    assert rig.published() == ["a", "b"]
    rig.audit()


def test_without_it_nobody_waits(pair: Pair) -> None:
    """A relay that was not asked to wait continues beside a frozen replica."""
    rig: Any = Rig(pair.url, pair.client)
    pair.freeze()
    rig.emit("a")
    rig.drain()
    assert rig.published() == ["a"]

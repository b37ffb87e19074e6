"""Many streams over several real workers: spread on join, leave and crash, order kept."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from sidecar.redis.client import connect
from sidecar.redis.keys import Keys
from sidecar.redis.members import Member, registered_workers
from sidecar.redis.publisher import Publisher
from sidecar.redis.source import ControlStream
from sidecar.worker.host import Host, Route
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.relay import Relay
from sidecar.worker.settings import Options, build
from sidecar.worker.share import Share
from tests.sidecar.harness import (
    NOTIFICATIONS,
    AtWork,
    Recorder,
    Rig,
    at_work,
    eventually,
    silent_log,
)

STREAMS = [f"control:{number}" for number in range(6)]
KEYS = Keys.of(STREAMS[0], NOTIFICATIONS)


def worker(rig: Rig, stores: dict[str, str]) -> AbstractContextManager[AtWork]:
    """Run a worker of all streams for as long as the block lasts."""
    return at_work(build(redis=rig.url, streams=tuple(STREAMS), lease_s=0.6, **stores))


def loads(rig: Rig) -> list[int]:
    """Return how many streams each worker says that it owns, ascending."""
    return sorted(len(member.owns) for member in registered_workers(rig.client, KEYS))


def owners(rig: Rig) -> Counter[Any]:
    """Return how many leases each token holds."""
    return Counter(rig.client.get(Keys.of(stream, NOTIFICATIONS).lease) for stream in STREAMS)


class Sender:
    """Sends events to all streams, one after the other, in a thread of its own."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            stream = STREAMS[self.count % len(STREAMS)]
            event = f'{{"event_id":"{self.count}","type":"run.abort","tenant_id":"{stream}"}}'
            self._rig.client.xadd(stream, {"event": event})
            self.count += 1


def test_streams_are_spread_as_workers_come_and_go(rig: Rig, stores: dict[str, str]) -> None:
    """One worker has all six streams, two have three each, three have two; and back again.

    Meanwhile events come, and each is published once and in its stream's order.
    """
    with ExitStack() as stack:
        sender = stack.enter_context(Sender(rig))
        first = stack.enter_context(worker(rig, stores))
        eventually(lambda: loads(rig) == [6])
        second = stack.enter_context(worker(rig, stores))
        eventually(lambda: loads(rig) == [3, 3], "two workers")
        stack.enter_context(worker(rig, stores))
        eventually(lambda: loads(rig) == [2, 2, 2], "three workers")
        first.end()
        eventually(lambda: loads(rig) == [3, 3], "one left")
        second.end()
        eventually(lambda: loads(rig) == [6], "two left")
        eventually(lambda: None not in owners(rig))
        sent = sender.count
        eventually(lambda: len(rig.published()) >= sent)
    rig.audit()


def test_a_crashed_workers_streams_are_spread_over_the_others(
    rig: Rig, stores: dict[str, str]
) -> None:
    """Leases of a worker that is silent run out, and the others share its streams."""
    with ExitStack() as stack:
        for stream in STREAMS[:3]:  # a worker that died: leases and a register, and no one there
            keys = Keys.of(stream, NOTIFICATIONS)
            rig.client.set(keys.lease, "dead", px=600)
            rig.client.set(keys.fence, "dead")
        rig.client.hset(KEYS.workers, "dead", '{"name":"dead","serves":[],"owns":[]}')
        stack.enter_context(worker(rig, stores))
        stack.enter_context(worker(rig, stores))
        eventually(lambda: sorted(owners(rig).values()) == [1] * 6 and None not in owners(rig))
        eventually(lambda: [load for load in loads(rig) if load] == [3, 3])


def test_what_is_given_back_is_left_to_others_each_time(rig: Rig) -> None:
    """A worker waits half a lease for the others, also when it took this stream that way before."""
    now, other = [0.0], "control:other"
    share = Share([rig.control, other])
    idle = Member("b", "idle", frozenset({rig.control, other}), frozenset())
    client = connect(rig.url)
    publisher = Publisher(client, rig.keys, lease_s=60, dedup_window_s=60)
    relay = Relay(
        Route(rig.control, ControlStream(client, client, rig.keys), publisher),
        Pipeline(rig.source, rig.fleet, rig.rules),
        Host(ThreadPoolExecutor(1), share, clock=lambda: now[0]), Options(lease_s=60),
        Recorder(), silent_log(),
    )  # fmt: skip
    share.see([idle])
    share.took(other)  # its share; the idle one is to take what is left
    assert relay._ownership._acquire() is None
    now[0] += 30
    assert relay._ownership._acquire() is not None
    share.see([idle])
    assert share.gives(rig.control)
    publisher.release()
    assert relay._ownership._acquire() is None
    now[0] += 30
    assert relay._ownership._acquire() is not None
    client.close()

"""Servers that come back empty, or go away one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.sidecar.harness import Rig, eventually, last_said
from tests.topology.harness import Node, server, until

pytestmark = pytest.mark.server

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Sent:
    """A rig whose producer sends runs of events, and what is known of the notifications."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.highest = 0

    def run(self, name: str, count: int = 20) -> None:
        """Send so many events, and wait until they are published, each once and in order."""
        ids = [f"{name}{number}" for number in range(count)]
        for event_id in ids:
            self.rig.emit_artifact(event_id)
        eventually(lambda: ids[-1] in self.rig.published(), f"{ids[-1]} is published")
        new = [note for note in self.rig.notifications() if note["event_id"] in ids]
        assert [note["event_id"] for note in new] == ids
        assert new[0]["control_version"] > self.highest
        self.highest = new[-1]["control_version"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two servers that keep what they were told on disk."""
    with ExitStack() as stack:
        found = server(tmp_path, *DURABLE), server(tmp_path, *DURABLE)
        for node in found:
            stack.callback(node.kill)
            node.start()
        yield found


@pytest.fixture
def rig(nodes: tuple[Node, Node]) -> Iterator[Rig]:
    """A rig on the first of them."""
    with redis.Redis.from_url(nodes[0].url, protocol=2) as client:
        yield Rig(nodes[0].url, client)


def test_a_server_emptied_under_a_worker_is_filled_again(rig: Rig) -> None:
    """FLUSHALL, twice: what comes after is published, once, and control_version still rises."""
    sent = Sent(rig)
    with rig.relay() as run:
        sent.run("a")
        for name in ("b", "c"):
            rig.client.flushall()
            sent.run(name)
            assert rig.published() == [f"{name}{number}" for number in range(20)]
        assert run.error is None
    rig.audit()
    assert rig.pending() == 0


def test_a_server_emptied_between_two_workers_does_not_count_from_the_start(rig: Rig) -> None:
    """The next worker knows nothing of before, and its control_versions are higher all the same."""
    sent = Sent(rig)
    for name in ("a", "b"):
        with rig.relay():
            sent.run(name)
        rig.client.flushall()


def test_a_server_that_comes_back_without_its_files_is_filled_again(
    rig: Rig, nodes: tuple[Node, Node]
) -> None:
    """The process dies and its disk with it: the worker continues with the empty one."""
    node, sent = nodes[0], Sent(rig)
    with rig.relay() as run:
        sent.run("a")
        node.kill()
        node.forget()
        node.start()
        sent.run("b")
    assert not any("script" in detail for _, detail in run.observer.states)
    rig.audit()


def test_a_lost_index_repeats_only_what_was_unfinished(rig: Rig, nodes: tuple[Node, Node]) -> None:
    """The notification server alone is emptied: finished entries are not published again."""
    with redis.Redis.from_url(nodes[1].url, protocol=2) as notify:
        with rig.relay(publisher_url=nodes[1].url):
            for number in range(20):
                rig.emit(f"a{number}")
            eventually(lambda: notify.xlen(rig.notify) == 20, "all are published")
            eventually(lambda: rig.pending() == 0, "all are acknowledged")
            notify.flushall()
            for number in range(20):
                rig.emit(f"b{number}")
            eventually(lambda: notify.xlen(rig.notify) == 20, "the new ones are published")
            eventually(lambda: rig.pending() == 0, "all are acknowledged")
        fields = [entry[b"event"] for _, entry in notify.xrange(rig.notify)]
        assert all(b'"event_id":"b' in event.replace(b" ", b"") for event in fields)


@pytest.mark.parametrize("which", [0, 1])
def test_either_of_two_servers_may_go_away(rig: Rig, nodes: tuple[Node, Node], which: int) -> None:
    """With notifications on a server of their own, the worker outlives the death of either."""
    rig_notes = Rig(nodes[1].url, redis.Redis.from_url(nodes[1].url, protocol=2))
    with rig_notes.client, rig.relay(publisher_url=nodes[1].url, lease_s=0.5) as run:
        emit(rig, "a")
        eventually(lambda: len(rig_notes.published()) == 20, "all are published")
        nodes[which].kill()
        if which:
            emit(rig, "b")
        eventually(lambda: last_said(run, str(nodes[which].port)), "it waits, and says for whom")
        assert run.observer.state_now == "waiting"
        nodes[which].start()
        if not which:
            emit(rig, "b")
        eventually(lambda: run.observer.state_now == "active", "it continues")
        ids = [f"{name}{number}" for name in "ab" for number in range(20)]
        until(lambda: rig_notes.published() == ids, "all are published, once, in order")
        eventually(lambda: rig.pending() == 0, "all are acknowledged")


def emit(rig: Rig, name: str) -> None:
    for number in range(20):
        rig.emit(f"{name}{number}")

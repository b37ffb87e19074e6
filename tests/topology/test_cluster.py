"""A Cluster of three masters: streams on different nodes, slots that move, masters that die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from sidecar.errors import UsageError
from sidecar.redis.client import Side, check_server, check_stream, connect
from tests.cli.harness import Cli
from tests.faults import outside
from tests.sidecar.faces import FACES
from tests.sidecar.test_feed_faces import published
from tests.topology.commands import STREAMS, do_all
from tests.topology.harness import Cluster, cluster, until
from tests.topology.load import at_work

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters without replicas, for tests that use streams of their own."""
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.mark.proof
def test_a_worker_outlives_a_slot_that_moves_and_a_master_that_dies(tmp_path: Path) -> None:
    """Control and notification stream lie on two nodes; both move, one node dies; all holds."""
    with cluster(tmp_path, replicas=True) as nodes:
        with at_work(nodes.url, tmp_path, replicas=1) as work:
            assert nodes.owner(outside.CONTROL) is not nodes.owner(outside.NOTIFICATIONS)
            for stream in (outside.CONTROL, outside.NOTIFICATIONS):
                target = next(one for one in nodes.masters if one is not nodes.owner(stream))
                nodes.move(stream, target)
                work.goes_on()
            gone = nodes.owner(outside.NOTIFICATIONS)
            gone.kill()
            until(lambda: nodes.owner(outside.NOTIFICATIONS) is not gone, "its replica takes over")
            gone.start()  # its successor's replica: without one nothing would be acknowledged
            work.goes_on()
        assert work.troubles == []


def test_doctor_looks_at_each_node(three: Cluster, tmp_path: Path) -> None:
    """Whichever node is set up wrongly is named, also one without a stream: a slot may move."""
    sidecar = Cli(three.url, tmp_path, mock.Mock())
    for node in three.masters:
        node.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        found = sidecar("doctor", "--json", env=sidecar.stores(wanted=True)).objects()
        node.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        (said,) = (one["what"] for one in found if one["kind"] == "eviction")
        assert f"(its node 127.0.0.1:{node.port})" in said


@pytest.mark.parametrize("face", FACES)
def test_a_follower_goes_where_its_slot_goes(three: Cluster, face: str) -> None:
    """Both faces of the feed follow a stream from node to node, without a gap or a repeat."""
    stream = f"moves:{face}"
    with (
        closing(FACES[face](three.url, notify_stream=stream)) as feed,
        closing(connect(three.url, key=stream)) as client,
    ):
        following = feed.follow()
        for cv, node in enumerate((*three.masters, three.masters[0]), 1000):
            if node is not three.owner(stream):
                three.move(stream, node)
            until(lambda: client.type(stream), "the slot's owner answers")
            published(client, cv, stream=stream)
            assert next(following).control_version == cv


def test_all_commands_work_on_a_cluster(three: Cluster, tmp_path: Path) -> None:
    """Every command finds its streams, on whichever nodes they lie."""
    nodes = {three.owner(key) for key in (*STREAMS, outside.NOTIFICATIONS)}
    assert len(nodes) > 1
    do_all(three.url, tmp_path)


def test_a_dead_letter_stream_in_another_slot_is_refused(three: Cluster, tmp_path: Path) -> None:
    """On a Cluster the worker and the commands refuse it, with exit code 2 and the fix."""
    sidecar = Cli(three.url, tmp_path, mock.Mock())
    sidecar.lay_out()
    with closing(connect(three.url, key="{control:notifications}:fleet")) as client:
        client.delete("{control:notifications}:fleet")  # another test's store
    for run, *command in (
        (sidecar.process, "run", "--drain"), (sidecar, "status"), (sidecar, "audit"),
        (sidecar, "dead", "ls"),
    ):  # fmt: skip
        ran = run(*command, "--dead-stream", "graveyard")
        assert ran.code == 2, ran.err
        assert "in another slot" in ran.err
        assert "{control:notifications}:dead" in ran.err
    assert sidecar("status", "--dead-stream", "{control:notifications}:other").code == 0


def test_a_node_named_alone_is_refused_with_the_url_to_write(
    three: Cluster, tmp_path: Path
) -> None:
    """redis:// of a Cluster's node: exit code 2, and the message has redis+cluster://."""
    ran = Cli(three.masters[0].url, tmp_path, mock.Mock()).process(
        "run", "--drain", "--notify-stream", "n"
    )
    assert ran.code == 2
    assert "redis+cluster://" in ran.err
    for node in three.masters:
        with closing(connect(node.url)) as client, pytest.raises(UsageError, match="is a node of"):
            check_server(client, node.url, writes=True)
    wrong = next(one for one in three.masters if one is not three.owner("k"))
    with (
        closing(connect(wrong.url)) as client,
        pytest.raises(UsageError, match=r"redis\+cluster://"),
    ):
        check_stream(client, wrong.url, "k")


def test_the_nodes_learnt_on_the_way_outlive_those_in_the_url(tmp_path: Path) -> None:
    """With the only node of the URL dead, a client that knew the others continues."""
    with cluster(tmp_path, replicas=True) as nodes:
        named = nodes.masters[0]
        url = f"redis+cluster://127.0.0.1:{named.port}"
        key = next(k for k in map(str, range(100)) if nodes.owner(k) is nodes.masters[1])
        with closing(connect(url, key=key)) as client:
            assert client.set(key, 1)
            named.kill()
            client.connection_pool.disconnect()
            assert client.get(key) == b"1"


def test_every_node_is_looked_at(three: Cluster) -> None:
    """A side lists each master of a Cluster once, and reaches the owner of any key."""
    side = Side.open(three.url, "a")
    ports = {client.config_get("port")["port"] for client in side.nodes().values()}
    assert ports == {str(node.port) for node in three.masters}
    for key in map(str, range(30)):
        assert side.at(key).set(key, 1)
    for client in side.nodes().values():
        check_server(client, three.url, writes=True)

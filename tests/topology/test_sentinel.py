"""Redis behind Sentinel: masters die, freeze, wake up and lose their replicas."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import redis

from sidecar.redis.client import connect
from tests.sidecar.faces import FACES
from tests.sidecar.harness import Rig, eventually, last_said
from tests.sidecar.test_feed_faces import published
from tests.topology import failovers
from tests.topology.commands import do_all
from tests.topology.harness import until, watched
from tests.topology.load import at_work

pytestmark = pytest.mark.server


@pytest.mark.proof
def test_a_dead_and_a_frozen_master_cost_nothing(tmp_path: Path) -> None:
    """Two failovers under load with --wait-replicas: all is conserved, in order, applied once."""
    with watched(tmp_path) as fleet:
        url = fleet.url + "?socket_timeout=1.5"  # so long a frozen master is waited for
        with at_work(url, tmp_path, replicas=failovers.REPLICAS) as work:
            for frozen in (False, True):
                gone = fleet.fail_over(frozen=frozen)
                gone.thaw() if frozen else fleet.bring_back(gone)
                work.goes_on()
                until(lambda: fleet.whole(failovers.REPLICAS), "the replicas are in step again")
        assert work.troubles == []
        log = [json.loads(line) for line in work.log()]
        waits = [line["detail"] for line in log if line["event"] == "waiting"]
        assert waits, log


@pytest.mark.slow
def test_many_failovers_break_no_promise(tmp_path: Path) -> None:
    """Failover after failover, dead masters and frozen ones: not one promise is broken."""
    assert failovers.run(tmp_path, failovers=20, seed=20261125)["violations"] == []


def test_what_a_master_that_woke_up_takes_is_not_acknowledged(tmp_path: Path) -> None:
    """The old master wakes up and believes it is the master: what it is told is not acknowledged.

    Once the Sentinels reach it, the same worker is refused by it, and what it was told is gone.
    """
    with watched(tmp_path) as fleet:
        old = fleet.fail_over(frozen=True)
        until(lambda: len(fleet.master.call("ROLE")[2]) == 1, "the other replica follows")
        for sentinel in fleet.sentinels:
            sentinel.freeze()
        old.thaw()
        with redis.Redis.from_url(old.url, protocol=2) as client:
            rig = Rig(old.url, client, wait_replicas=1)
            assert old.role() == "master"
            rig.emit("lost")
            with rig.relay(lease_s=0.6) as run:
                eventually(lambda: last_said(run, "0 of 1"), "it waits for a replica")
                assert (rig.published(), rig.pending()) == (["lost"], 1)
                for sentinel in fleet.sentinels:
                    sentinel.thaw()
                until(lambda: old.role() != "master", "the Sentinels reach the old master")
                eventually(lambda: last_said(run, "is a replica"), "it is refused")
        assert run.observer.outcomes == {}
        with closing(connect(fleet.url)) as now:
            assert now.exists(rig.control, rig.notify, rig.keys.dead) == 0


def test_sentinels_may_die_but_one(tmp_path: Path) -> None:
    """One Sentinel of three that answers is enough, wherever it stands in the URL."""
    with watched(tmp_path) as fleet:
        for sentinel in fleet.sentinels[:2]:
            sentinel.kill()
        for _ in range(3):
            with closing(connect(fleet.url)) as client:
                until(client.ping, "the Sentinel that is left knows the master")


@pytest.mark.parametrize("face", FACES)
def test_a_follower_outlives_a_failover(tmp_path: Path, face: str) -> None:
    """Both faces of the feed follow the stream to the next master, without a gap or a repeat."""
    with (
        watched(tmp_path) as fleet,
        closing(FACES[face](fleet.url)) as feed,
        closing(connect(fleet.url)) as client,
    ):
        following = feed.follow()
        for first in (1000, 2000):
            expected = [*range(first, first + 10)]
            published(client, *expected)
            assert [next(following).control_version for _ in expected] == expected
            if first == 1000:
                until(lambda: client.wait(2, 100) == 2, "the replicas have it")
                fleet.fail_over()
                until(client.ping, "the next master answers")


@pytest.mark.slow
def test_all_commands_work_through_sentinels(tmp_path: Path) -> None:
    """Every command finds the master that the Sentinels name."""
    with watched(tmp_path, replicas=1) as fleet:
        do_all(fleet.url, tmp_path)

"""The workers of a fleet are replaced one by one by another release's, under load: G1 to G7 hold.

`make upgrade FROM=COMMIT` takes another release than the one named here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.faults import outside
from tests.faults.crashing import CrashingRedis
from tests.faults.fleet import Fleet
from tests.faults.load import Load
from tests.faults.releases import FEED, PRODUCER, TODAY, Release, Workers, earlier, party, wait_for
from tests.faults.watch import FenceWatch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FROM: Final = os.environ.get("_SIDECAR_TEST_FROM") or "c4fd807"
"""A release of a day before this test: anchors, but an older form of `{N}:pruned`."""


class Deployment:
    """A fleet under load, whose workers may be of several releases."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        server = stack.enter_context(CrashingRedis(root / "redis"))
        self.client: Any = stack.enter_context(redis.Redis.from_url(server.url, protocol=2))
        self.watch = FenceWatch(server.port)
        stack.enter_context(self.watch.running())
        self.where = (server.url, *((root / name).as_uri() for name in ("source", "fleet")))
        self.workers = stack.enter_context(closing(Workers(TODAY)))
        self.fleet = Fleet(self.workers, self.client, server.url, root, size=3, lease_s=2.0)
        self.load = Load(server.url, root / "source", seed=7, per_second=20)
        self.checker = outside.Checker(self.client, root / "fleet")
        self.wrong: list[str] = []

    def begin(self, release: Release) -> None:
        """Start all workers."""
        self.workers.release = release
        self.fleet.fill()
        self.fleet.progress()

    def replace(self, release: Release) -> None:
        """Replace each worker by one of that release, while all the others work."""
        self.workers.release = release
        for old in list(self.fleet.workers):
            self.fleet.terminate(old)
            self.fleet.see_off(old)
            self.fleet.fill()
            self.fleet.progress()
            self.wrong += self.checker.look()

    def finish(self) -> None:
        """Stop all workers, and let one more, of the release that is there, finish."""
        self.fleet.stop()
        self.fleet.drain()
        self.wrong += self.checker.look() + self.fleet.violations + self.watch.violations

    def event_ids(self) -> list[str]:
        """Return those of all notifications, in order."""
        notifications = self.client.xrange(outside.NOTIFICATIONS)
        return [json.loads(fields[b"event"])["event_id"] for _, fields in notifications]

    def audit(self, release: Release) -> str:
        """Return what an audit says."""
        url, source, fleet = self.where
        ran = release.sidecar(
            "audit", "--redis", url, "--source-store", source, "--fleet-store", fleet
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment without workers yet."""
    with ExitStack() as stack:
        yield Deployment(tmp_path, stack)


def test_workers_are_replaced_one_by_one(deployment: Deployment, tmp_path: Path) -> None:
    """There and back again, with a producer and a feed of each release: all is published once, in
    order, resolvable and under the fence, and each feed reads it all.
    """
    before, where = earlier(FROM, tmp_path / "before"), deployment.where
    with deployment.load.running(), party(before, PRODUCER, "old", where) as old:
        deployment.begin(before)
        with (
            party(before, FEED, "feed-old", where) as old_feed,
            party(TODAY, FEED, "feed-new", where) as new_feed,
            party(TODAY, PRODUCER, "new", where) as new,
        ):
            deployment.replace(TODAY)
            deployment.replace(before)
            deployment.replace(TODAY)
            sent = {*old.stop(), *new.stop()}
            wait_for(old_feed, sent)
            wait_for(new_feed, sent)
            both = old_feed.stop(), new_feed.stop()
    deployment.finish()
    published = deployment.event_ids()
    assert deployment.wrong == []
    assert sent <= set(published)
    assert all(read == published[: len(read)] for read in both)
    assert "G1 to G4 hold" in deployment.audit(TODAY)
    assert deployment.watch.writes > 0

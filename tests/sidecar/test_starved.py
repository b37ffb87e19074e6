"""Workers that are slower than their lease: they share a stream all the same."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
import redis

from sidecar.redis.ends import Ends
from sidecar.redis.source import ControlStream
from sidecar.wire.ids import EntryId
from tests.proofs import sampled
from tests.sidecar.harness import Rig, eventually

LEASE_S = 0.2


class Starved(ControlStream):
    """What a worker without processor time has: each look takes longer than its lease."""

    def look(self, known: EntryId) -> Ends:
        """Look, late."""
        time.sleep(1.1 * LEASE_S)
        return super().look(known)


@pytest.mark.parametrize("workers", sampled(["2", "3"], ["2"]))
def test_starved_workers_do_not_take_over_from_each_other_for_ever(
    redis_url: str, client: redis.Redis, workers: str
) -> None:
    """None is through with what a tenure begins with before its lease runs out, and one gets on."""
    rig = Rig(redis_url, client, lease_s=LEASE_S, stream_class=Starved)
    rig.emit("a")
    with ExitStack() as stack:
        for _ in range(int(workers)):
            stack.enter_context(rig.relay())
        eventually(lambda: rig.published() == ["a"])
        rig.emit("b")
        eventually(lambda: rig.published() == ["a", "b"])
        eventually(lambda: not rig.pending())

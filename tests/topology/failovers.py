"""Sentinel failovers one after the other under load; then a count of broken promises."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Final

from tests.topology.harness import until, watched
from tests.topology.load import at_work

REPLICAS: Final = 2
"""All that there are: any that is promoted has what was accepted.

Sentinel chooses by what each replica's INFO said up to a second ago, so with WAIT for one of two
it may promote the one that lacks that second (so it was seen on Redis 6.2, 119 events).
"""


def run(directory: Path, failovers: int, seed: int) -> dict[str, Any]:
    """Let the master die, or freeze and wake up later, so many times; return what came of it."""
    choose = random.Random(seed)
    began = time.monotonic()
    with watched(directory) as fleet:
        with at_work(fleet.url, directory, replicas=REPLICAS) as work:
            for _ in range(failovers):
                frozen = choose.random() < 0.3
                gone = fleet.fail_over(frozen=frozen)
                if frozen and choose.random() < 0.5:
                    work.waits()  # the old master wakes up late
                gone.thaw() if frozen else fleet.bring_back(gone)
                work.goes_on()
                until(lambda: fleet.whole(REPLICAS), "the replicas are in step again")
        return {
            "failovers": failovers, "seed": seed, "accepted": len(work.producer.accepted),
            "applied": len(work.controller.applied), "seen_again": work.controller.seen_again,
            "violations": work.troubles, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

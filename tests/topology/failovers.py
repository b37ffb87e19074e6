"""Sentinel failovers one after the other under load; then a count of broken promises."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from tests.topology.harness import until, watched
from tests.topology.load import at_work


def run(directory: Path, failovers: int, seed: int) -> dict[str, Any]:
    """Let the master die, or freeze and wake up later, so many times; return what came of it."""
    choose = random.Random(seed)
    began = time.monotonic()
    with watched(directory) as fleet:
        with at_work(fleet.url, directory, replicas=1) as work:
            for _ in range(failovers):
                frozen = choose.random() < 0.3
                gone = fleet.fail_over(frozen=frozen)
                if frozen and choose.random() < 0.5:
                    work.goes_on()  # the old master wakes up late
                gone.thaw() if frozen else fleet.bring_back(gone)
                work.goes_on()
                until(lambda: fleet.whole(2), "the replicas are in step again")
        return {
            "failovers": failovers, "seed": seed, "accepted": len(work.producer.accepted),
            "applied": len(work.controller.applied), "seen_again": work.controller.seen_again,
            "violations": work.troubles, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

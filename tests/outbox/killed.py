"""Pumps that are killed at any instruction: `python -m tests.outbox.killed KIND DIR REDIS KILLS SEED`.

Stages a few events in each round, forks a pump, and kills it some milliseconds later; at the end one
pump sends the rest. Prints which event_ids were staged, in order, one JSON array.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.outbox.places import KINDS, Place

LONGEST_S: Final = 0.025
"""From a pump's first instruction on; a whole round takes it about half as long."""


def main(kind: str, directory: str, redis_url: str, kills: str, seed: str) -> None:
    """Stage and kill so often."""
    rng, staged = random.Random(int(seed)), list[str]()
    place = KINDS[kind](Path(directory), redis_url)
    for number in range(int(kills)):
        staged += _stage(place, rng, number)
        _kill_a_pump(place, rng)
    place.pumped()
    print(json.dumps(staged))  # noqa: T201 -- what it is for
    place.close()


def _stage(place: Place, rng: random.Random, number: int) -> list[str]:
    made = []
    for tenant in rng.sample("abc", rng.randint(1, 3)):
        event_ids = [f"{tenant}{number}.{i}" for i in range(rng.randint(1, 3))]
        artifact: dict[str, Any] = {"ref": f"r/{tenant}", "data": event_ids[0].encode()}
        place.stage(*event_ids, tenant=tenant, **(artifact if rng.random() < 0.5 else {}))
        made += event_ids
    return made


def _kill_a_pump(place: Place, rng: random.Random) -> None:
    child = os.fork()
    if child == 0:
        try:
            place.pumped()
        finally:
            os._exit(0)
    time.sleep(rng.random() * LONGEST_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])

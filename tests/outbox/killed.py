"""Pumps that are killed: `python -m tests.outbox.killed KIND SERVER DIRECTORY REDIS KILLS SEED`.

Stages a few events in each round, forks a pump, and kills it at a random line of the product. One
pump sends the rest. Prints which event_ids were staged, in order, one JSON array.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.outbox.places import KINDS, Place

STEPS: Final = 500
"""Lines of the product in which a pump can be killed: a round of a few events has 200 to 400."""


def main(kind: str, server: str, directory: str, redis_url: str, kills: str, seed: str) -> None:
    """Stage and kill so often."""
    rng, staged = random.Random(int(seed)), list[str]()
    place = KINDS[kind](Path(directory), redis_url, server)
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
    """Let a pump run up to a line of ours, whatever the load: there it is gone at once."""
    left = rng.randrange(STEPS)

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_globals["__name__"].startswith("sidecar.producer"):
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    child = os.fork()
    if child == 0:
        try:
            sys.settrace(step)
            place.pumped()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Plays incidents from a seed: one to three scenes among each other, and their answer."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import examples.incident.unseen  # noqa: F401 -- its scenes belong to the corpus
from examples.incident.fleet import Answer, Fleet
from examples.incident.scenes import FIRST, LAST, SCENES

TENANTS: Final = ("t_acme", "t_borealis", "t_cyan", "t_dahlia", "t_ember")
MOST: Final = 3


def chosen(seed: int, names: Sequence[str]) -> list[str]:
    """Return which scenes an incident has: first each alone, then two and three in turn.

    Of those that take other traces with them, and of those that leave something waiting, only one.
    """
    if seed < len(names):
        return [names[seed]]
    rng = random.Random(seed)
    found: list[str] = []
    for name in rng.sample(names, len(names)):
        alike = next((kind for kind in (FIRST, LAST) if name in kind), None)
        if alike is None or not alike.intersection(found):
            found.append(name)
        if len(found) == min(len(names), 2 + seed % (MOST - 1)):
            break
    return found


def play(seed: int, names: Sequence[str], bundle: Path) -> Answer:
    """Play these scenes on a fleet of their own, and export it into `bundle`.

    What is true of it lies beside the bundle, as JSON. Raises as the scenes do.
    """
    with tempfile.TemporaryDirectory(prefix="incident-") as directory:
        fleet = Fleet(Path(directory), seed)
        try:
            fleet.start()
            _play(fleet, names)
            fleet.sidecar("replay", "export", str(bundle))
        finally:
            fleet.close()
    told = {"seed": seed, "scenes": list(names), **fleet.answer.to_json()}
    bundle.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    return fleet.answer


def _play(fleet: Fleet, names: Sequence[str]) -> None:
    fleet.ordinary(3)
    steps = {
        name: SCENES[name](fleet, tenant) for name, tenant in zip(names, TENANTS, strict=False)
    }
    for name in filter(FIRST.__contains__, names):
        _all(fleet, steps.pop(name))
    late = [steps.pop(name) for name in filter(LAST.__contains__, names)]
    going = list(steps.values())
    while going:
        one = fleet.random.choice(going)
        if next(one, _OVER) is _OVER:
            going.remove(one)
        fleet.ordinary(fleet.random.randrange(3))
    fleet.settle()
    for one in late:
        _all(fleet, one)


def _all(fleet: Fleet, steps: Iterator[None]) -> None:
    for _ in steps:
        fleet.ordinary()


_OVER: Final = object()

"""What a seed fixes at the beginning of a whole run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sidecar.worker.width import AUTO, STALL_WIDTH, Threads
from tests.simulation.whole.kinds import Deed

LONG_S: Final = 7 * 86400.0


@dataclass(frozen=True)
class FleetPlan:
    """One fleet: its streams, and who serves them."""

    notifications: str
    streams: tuple[str, ...]
    ids: tuple[str, ...]
    """By stream, what its producers give for IDs: auto, low, or early."""
    workers: int
    events: int
    feeds: tuple[str, ...]
    """What each does: poll, follow, or register."""


@dataclass(frozen=True)
class Plan:
    """What the seed fixes at the beginning."""

    fleets: tuple[FleetPlan, ...]
    servers: int
    chaos_s: float
    pauses: float
    threads: int
    lease_s: float
    retry_budget_s: float
    max_consecutive_dead: int
    dedup_window_s: float
    batch: int
    window: int
    max_held: int
    crashes_till_careful: int
    trim_control: str
    trim_notifications: str
    trim_dead: str
    archive: bool
    archive_rows: int
    apart: bool
    """Whether each worker serves one control stream, and not all."""
    shards: int
    """Of the index."""
    stacks: float
    """How many of the events activate a stack."""
    operator_s: float
    """How long an operator's command takes between two steps, at most."""
    store_threads: Threads = STALL_WIDTH
    """How many artifacts a relay carries at once. `threads` is how many run at a time."""
    sends_again: bool = False
    """Whether producers send an event again when its artifact comes late: only in a scene."""
    plain_versions: bool = False
    """Whether refs of stacks end in the version alone, as keep rules have it: only in a scene."""

    @classmethod
    def draw(cls, chance: random.Random) -> Plan:
        """Draw one."""
        window = chance.choice((1, 2, 4, 8, 1000))
        dedup_window_s = chance.choice((1.0, 3.0, LONG_S, LONG_S))
        steady = chance.random() < 0.08
        if steady:  # a stream that is never idle for as long as the index remembers
            dedup_window_s = 1.0
        fleets = [
            _fleet(chance, "control", chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2, 2, 3)))
        ]
        if chance.random() < 0.2:
            fleets.append(_fleet(chance, "other", 1, 1))
        if steady:
            fleets = [replace(fleets[0], events=90, workers=1)]
        return cls(
            fleets=tuple(fleets),
            servers=chance.choice((1, 2)),
            chaos_s=7.0 if steady else chance.choice((1.5, 2.0, 3.0, 5.0)),
            pauses=chance.choice((0.3, 0.9, 0.9)),
            threads=chance.randint(1, 3),
            lease_s=chance.choice((1.0, 2.0)),
            retry_budget_s=chance.choice((0.0, 0.5, 2.0)),
            max_consecutive_dead=_row(chance, steady=steady),
            dedup_window_s=dedup_window_s,
            batch=chance.choice((1, 2, 500)) if window < 1000 else 500,
            window=window,
            max_held=chance.choice((1, 2, 10_000)),
            crashes_till_careful=chance.choice((1, 2, 3)),
            trim_control=chance.choice(("never", "age=1s", "length=3")),
            trim_notifications=chance.choice(("never", "age=2s", "length=4")),
            trim_dead=chance.choice(("never", "never", "age=2s")),
            archive=chance.random() < 0.25,
            archive_rows=chance.choice((2, 5, 1000)),
            apart=chance.random() < 0.2,
            shards=1 if steady else 4,
            stacks=chance.choice((0.15, 0.15, 0.7)),
            operator_s=chance.choice((0.0, 0.0, 0.03)),
        )


def _row(chance: random.Random, *, steady: bool) -> int:
    """Return how many dead letters in a row halt.

    Halted again and again, a steady stream would not be through before the index forgets.
    """
    drawn = chance.choice((0, 2, 100))
    return 100 if steady else drawn


def _fleet(chance: random.Random, name: str, streams: int, workers: int) -> FleetPlan:
    tagged = chance.random() < 0.3
    names = [f"{name}:events", f"{name}:rows", f"{name}:dns"][:streams]
    return FleetPlan(
        notifications=f"{{{name}}}:notifications" if tagged else f"{name}:notifications",
        streams=tuple(names),
        ids=tuple(chance.choice(("auto", "auto", "auto", "low", "early")) for _ in names),
        workers=workers,
        events=chance.choice((3, 5, 8, 12, 20)),
        feeds=tuple(
            chance.choice(("poll", "follow", "register")) for _ in range(chance.choice((0, 1, 2)))
        ),
    )


@dataclass(frozen=True)
class Scene:
    """What a run has whatever its seed draws: so seeds come to what only few would come to."""

    deeds: tuple[Deed, ...] = ()
    """Are done, beside those that are drawn."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the plan."""
    fleet: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the first fleet's plan."""

    def set(self, plan: Plan) -> Plan:
        """Return the plan with all of it."""
        first, *others = plan.fleets
        return replace(plan, fleets=(replace(first, **self.fleet), *others), **self.plan)


DRAWN: Final = Scene()
"""All as the seed draws it."""
WIDE: Final = Scene(
    plan={
        "store_threads": AUTO,
        "threads": STALL_WIDTH,
        "window": 1000,
        "batch": 500,
        "pauses": 0.1,
    },
    fleet={"events": 60},
)  # fmt: skip
"""How many artifacts are carried at once follows what comes through, and enough come at once."""
KEEPING: Final = Scene(
    deeds=(Deed.KEEP,),
    plan={"stacks": 0.7, "plain_versions": True, "trim_notifications": "length=4"},
    fleet={"events": 20},
)
"""Refs go by keep rules."""
ERASING: Final = Scene(
    deeds=(Deed.ERASE,), plan={"stacks": 0.4, "operator_s": 0.05}, fleet={"events": 20}
)
"""Tenants are erased, in some seconds: so that much comes meanwhile."""
ERASING_AND_KEEPING: Final = Scene(
    deeds=(*KEEPING.deeds, *ERASING.deeds),
    plan={**KEEPING.plan, "operator_s": 0.05},
    fleet=KEEPING.fleet,
)
WIDE_EVERY: Final = 8


def scene_of(seed: int) -> Scene:
    """Return what a seed is run in where nobody says."""
    turn, which = divmod(seed, WIDE_EVERY)
    erasing = ERASING_AND_KEEPING if turn % 3 == 0 else ERASING
    scenes = {WIDE_EVERY - 1: WIDE, WIDE_EVERY - 5: KEEPING, WIDE_EVERY - 3: erasing}
    return scenes.get(which, DRAWN)

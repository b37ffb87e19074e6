"""Look for seeds on which the whole simulation catches a break.

When a mutant's seed catches it no more, for the code has other timing, and for a new one:
`python -m tests.simulation --kind whole --first 2000 --seeds 1000 --hunt [NAME …]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tests.simulation.whole.kinds import Deed
from tests.simulation.whole.mutants import MUTANTS, SOUGHT, Area, Mutant, broken
from tests.simulation.whole.world import World, simulate

MEETS: Final[dict[Area, Callable[[World], bool]]] = {
    Area.FEED: lambda world: any(fleet.plan.feeds for fleet in world.fleets),
    Area.TRIMMING: lambda _: True,
    Area.ARCHIVE: lambda world: world.plan.archive,
    Area.REDRIVE: lambda world: Deed.REDRIVE in world.faults.deeds,
    Area.REPAIR: lambda _: True,  # every run ends with an audit
    Area.COLLECTION: lambda world: Deed.COLLECT in world.faults.deeds,
    Area.KEEPING: lambda world: world.steady,
    Area.SPREADING: lambda world: any(fleet.plan.workers > 1 for fleet in world.fleets),
    Area.ERASING: lambda _: True,
    Area.PAUSING: lambda world: Deed.PAUSE_TENANT in world.faults.deeds,
}
"""Whether a seed comes to what is broken at all."""


def meets(mutant: Mutant, seed: int) -> bool:
    """Tell whether a seed comes to what is broken at all."""
    return MEETS[mutant.area](World(seed, keeps_trace=False, scene=mutant.scene))


def violation_of(mutant: Mutant, seed: int) -> str:
    """Run a seed with the break; say what the simulation reports, empty for nothing."""
    with broken(mutant):
        return simulate(seed, keeps_trace=False, scene=mutant.scene).violation


def violation_without(mutant: Mutant, seed: int) -> str:
    """Run a seed in the same scene without the break; say what is reported."""
    return simulate(seed, keeps_trace=False, scene=mutant.scene).violation


def found(mutant: Mutant, seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield the seeds that catch a break, and what is reported: nothing without the break."""
    for seed in seeds:
        if meets(mutant, seed):
            violation = violation_of(mutant, seed)
            if violation and not violation_without(mutant, seed):
                yield seed, violation


def first_found(names: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """Yield for each break its name, the first seed that catches it, and what is reported."""
    for mutant in (*MUTANTS, *SOUGHT):
        if mutant.name in names or not names:
            seed, violation = next(found(mutant, seeds), ("by no seed", "nothing"))
            yield f"{mutant.name} {seed}: {violation.strip().splitlines()[-1]}"

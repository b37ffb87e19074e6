"""Runs a fuzzer in batches, and measures what it costs: inputs per second, memory, the slowest.

A batch is a run of Hypothesis from a seed of its own, so that what Hypothesis remembers of inputs
does not grow with their number. What fails is shrunk, and shown with the seed of its batch.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

BATCH: Final = 200
WARM: Final = 20
WARM_INPUTS: Final = 10_000
"""Batches, or inputs, after which memory is looked at for the first time: by then all is imported,
and caches are full."""


class Fuzzer(NamedTuple):
    """What is tried, and what must hold of each input."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], int]
    """Tries what was drawn, and variants of it; returns how many inputs that were. Raises when
    something is wrong."""


@dataclass(slots=True)
class Totals:
    """What a run has done so far."""

    inputs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    """The longest that an input took, on average of those that were drawn together."""
    warm_bytes: int = 0
    grown_bytes: int = 0
    """The most by which the process was larger between two batches than when it was warm."""

    def __str__(self) -> str:
        """Return them for a person."""
        return (
            f"{self.inputs:,} inputs in {self.seconds:.0f} s"
            f" ({self.inputs / max(self.seconds, 1e-9):,.0f} per second),"
            f" slowest {self.slowest_s * 1000:.0f} ms,"
            f" memory grown by {self.grown_bytes / (1 << 20):.1f} MiB"
        )


def run_batch(fuzzer: Fuzzer, number: int, totals: Totals, drawn: int = BATCH) -> None:
    """Draw so often, from the seed `number`, and try that. Raises what the check raises."""

    def check(value: Any) -> None:
        began = time.perf_counter()
        inputs = fuzzer.check(value)
        totals.slowest_s = max(totals.slowest_s, (time.perf_counter() - began) / inputs)
        totals.inputs += inputs

    began = time.monotonic()
    tried = settings(
        max_examples=drawn, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    seed(number)(tried(given(fuzzer.inputs)(check)))()
    totals.seconds += time.monotonic() - began


def run(
    fuzzer: Fuzzer, first: int, is_over: Callable[[Totals], bool], show: Callable[[Totals], None]
) -> Totals:
    """Run batches from the seed `first` on until `is_over`. Raises what the check raises."""
    totals, number = Totals(), first
    while not is_over(totals):
        run_batch(fuzzer, number, totals)
        number += 1
        _measure(totals, number - first)
        show(totals)
    return totals


def _measure(totals: Totals, batches: int) -> None:
    if batches < WARM and totals.inputs < WARM_INPUTS:
        return
    gc.collect()
    size_bytes = psutil.Process().memory_info().rss
    totals.warm_bytes = totals.warm_bytes or size_bytes
    totals.grown_bytes = max(totals.grown_bytes, size_bytes - totals.warm_bytes)

"""In which order findings are told: the gravest first, and none before what led to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sidecar.replay.explain.findings import Finding


def causal(found: Iterable[Finding], rank: Callable[[Finding], Any]) -> list[Finding]:
    """Sort findings by rank, the lowest first; causes come right before their first effect.

    So a cause stands where the gravest of what it led to would stand.
    """
    by_rank = sorted(found, key=rank)
    by_key = {one.key: one for one in by_rank}
    told: dict[str, Finding] = {}
    begun: set[str] = set()

    def tell(one: Finding) -> None:
        if one.key in begun:
            return  # told, or it is among its own causes
        begun.add(one.key)
        for cause in sorted((by_key[key] for key in one.causes if key in by_key), key=rank):
            tell(cause)
        told[one.key] = one

    for one in by_rank:
        tell(one)
    return list(told.values())

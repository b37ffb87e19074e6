"""A cause is told inside what came of it, and not above that, where it would sound harmless."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sidecar.replay.explain.findings import Finding, Level


def folded(found: Iterable[Finding], rank: Callable[[Finding], Any]) -> list[Finding]:
    """Put each cause into the one thing that came of it, where that is as grave or graver.

    An error is never put into another finding: it is wrong by itself. A cause of several things
    stays beside them. `rank` is lowest for the gravest.
    """
    by_key = {one.key: one for one in found}
    effects: defaultdict[str, list[str]] = defaultdict(list)
    for one in by_key.values():
        for cause in dict.fromkeys(one.causes):
            effects[cause].append(one.key)
    into = {
        key: its[0] for key, its in effects.items()
        if key in by_key and len(its) == 1 and _belongs(by_key[key], by_key[its[0]], rank)
    }  # fmt: skip
    told: dict[str, Finding] = {}

    def tell(key: str) -> Finding:
        if key not in told:
            told[key] = by_key[key]  # one that is among its own causes
            causes = dict.fromkeys(by_key[key].causes)
            inside = [tell(cause) for cause in causes if into.get(cause) == key]
            told[key] = _joined(by_key[key], inside)
        return told[key]

    return [_advised(tell(key), by_key) for key in by_key if not _is_inside(key, into)]


def _belongs(cause: Finding, effect: Finding, rank: Callable[[Finding], Any]) -> bool:
    return cause.level is not Level.ERROR and rank(effect) <= rank(cause)


def _is_inside(key: str, into: dict[str, str]) -> bool:
    """Tell whether it is told inside another; not where that is inside of it in turn."""
    seen = {key}
    while (key := into.get(key, "")) and key not in seen:
        seen.add(key)
    return bool(len(seen) > 1 and not key)


def _joined(one: Finding, reasons: list[Finding]) -> Finding:
    cures = [reason.fix for reason in reasons if reason.cures and reason.fix]
    evidence = dict.fromkeys([*one.evidence, *(each for r in reasons for each in r.evidence)])
    return replace(
        one, reasons=tuple(reasons), fix=cures[0] if cures else one.fix, evidence=tuple(evidence),
        about=one.about.union(*(reason.about for reason in reasons)),
        causes=(*one.causes, *(each for reason in reasons for each in reason.causes)),
    )  # fmt: skip


def _advised(one: Finding, by_key: dict[str, Finding]) -> Finding:
    """Leave away its own fix where what led to it is told beside it, and its fix is for both."""
    inside = {each.key for each in one.parts}
    beside = [by_key[key] for each in one.parts for key in each.causes
              if key in by_key and key not in inside]  # fmt: skip
    return replace(one, fix="") if any(cause.cures for cause in beside) else one

"""All rules over a window, and what of it concerns the one who asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from sidecar.history import History
from sidecar.replay.explain import (
    deaths,
    halts,
    losses,
    outages,
    producers,
    readers,
    records,
    settings,
    subjects,
    waits,
)
from sidecar.replay.explain.facts import MOST, Facts, unrecorded
from sidecar.replay.explain.findings import Finding, Level, at, names
from sidecar.replay.explain.folding import folded
from sidecar.replay.explain.links import links
from sidecar.replay.explain.ordering import causal
from sidecar.replay.explain.summary import Summary, summary
from sidecar.replay.timeline import Life
from sidecar.replay.window import Window

_ROOMS: Final = (
    subjects, records, outages, halts, deaths, losses, settings, waits, readers, producers,
)  # fmt: skip
KINDS: Final = tuple(
    dict.fromkeys((losses.LOST, *(kind for room in _ROOMS for kind in room.KINDS)))
)
"""All kinds of findings, the gravest first."""
_ORDER: Final = {kind.name: n for n, kind in enumerate(KINDS)}
_LEVELS: Final = list(Level)


@dataclass
class Explanation:
    """What was found of a window, the gravest first, and each below what led to it."""

    findings: list[Finding] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    """The events that were asked for; empty where everything was."""
    unknown: list[str] = field(default_factory=list)
    """What cannot be known, in words."""
    unrecorded: list[str] = field(default_factory=list)
    """What of the window is gone, in words."""
    as_of: str = ""
    """When `now` is."""

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers of the findings, by key; of one that is told inside another, that one's."""
        told = enumerate(self.findings, 1)
        return {part.key: n for n, one in told for part in one.parts}

    @property
    def summary(self) -> Summary:
        """The findings in few lines."""
        return summary(self.findings, self.numbers, self.as_of, self.unrecorded)

    @property
    def expired(self) -> bool:
        """Whether a part of the window is gone."""
        return bool(self.unrecorded)

    @property
    def is_wrong(self) -> bool:
        """Whether something was found that nobody meant."""
        return any(one.level is not Level.NOTE for one in self.findings)


def explain(history: History, window: Window, what: str = "") -> Explanation:
    """Apply all rules to a window; with `what`, tell only what concerns that.

    Raises as the history does, and `Unreachable` when the store is away.
    """
    return explain_facts(Facts.read(history, window), what)


def explain_facts(facts: Facts, what: str = "") -> Explanation:
    """Apply all rules to what is on record; raises as `explain` does."""
    facts = replace(facts, asked=what)
    found = _linked(facts, _all(facts))
    asked = [life for life in facts.lives if what in names(life)] if what else []
    if what:
        unsent = None if asked else subjects.never_sent(facts, what)
        found = _about(facts, [*found, *([unsent] if unsent else [])], asked, what)
    # What is about it comes before what was about everybody.
    found = folded(found, _rank)
    found = causal(found, lambda one: (bool(what) and what not in one.about, *_rank(one)))
    return Explanation(found, asked, list(_unknown(facts)), unrecorded(facts), at(facts.now_us))


def _all(facts: Facts) -> list[Finding]:
    rules = chain.from_iterable(room.RULES for room in _ROOMS)
    found = chain.from_iterable(rule(facts) for rule in rules)
    return list({one.key: one for one in found}.values())


def _linked(facts: Facts, found: list[Finding]) -> list[Finding]:
    """Name what led to what where the two come of different rules."""
    more: defaultdict[str, list[str]] = defaultdict(list)
    for effect, cause in links(facts, found):
        more[effect].append(cause)
    return [replace(one, causes=(*one.causes, *more[one.key])) for one in found]


def _rank(one: Finding) -> tuple[int, int, int, str]:
    return _LEVELS.index(one.level), _ORDER[one.kind], one.at_us, one.key


def _about(facts: Facts, found: list[Finding], asked: list[Life], what: str) -> list[Finding]:
    """Return what concerns the events that are meant, and what led to that."""
    kept = {one.key for one in found if what in one.about or _touches(facts, one, asked)}
    by_key = {one.key: one for one in found}
    todo = list(kept)
    while todo:
        for cause in by_key[todo.pop()].causes:
            if cause in by_key and cause not in kept:
                kept.add(cause)
                todo.append(cause)
    return [one for one in found if one.key in kept]


def _touches(facts: Facts, one: Finding, asked: list[Life]) -> bool:
    """Tell whether what is about everybody was in the time of one of the events."""
    if not one.everybody:
        return False
    until_us = one.until_us or facts.now_us
    return any(
        0 < life.begun_us <= until_us and (life.ended_us or facts.now_us) >= one.at_us
        for life in asked
    )


def _unknown(facts: Facts) -> Iterable[str]:
    for gap in facts.gaps:
        yield f"what was in {gap} is not on record any more"
    if facts.left_out:
        first = at(min((one.ended_us for one in facts.lives if one.ended_us), default=0))
        yield (
            f"the {MOST:,} events that ended last were looked at, from {first} on;"
            f" {facts.left_out:,} came before: narrow the window with --since and --until"
        )
    if len(facts.held_up) > halts.MOST_HALTS:
        yield (
            f"of {len(facts.held_up):,} halts and pauses the {halts.MOST_HALTS} newest are told:"
            " narrow the window with --since and --until"
        )
    if facts.history.store is None:
        yield "no store to look for artifacts in"


def newest_of(lives: Iterable[Life]) -> Life | None:
    """Return the event that ended last, or waits."""
    return max(lives, key=lambda life: life.ended_us or life.seen_us, default=None)

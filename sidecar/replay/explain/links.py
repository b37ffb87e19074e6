"""What led to what, where the two come of different rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from sidecar.replay.explain.deaths import TRIMMED
from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import Finding
from sidecar.replay.explain.losses import CUT, MADE_ANEW
from sidecar.replay.explain.records import FLAPPING, GROUP_LOST
from sidecar.replay.explain.settings import died_of
from sidecar.replay.explain.waits import NOT_SERVED

SLACK_US: Final = 2_000_000
"""So far apart two finders of one thing may note it."""


def links(facts: Facts, found: Iterable[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the key of what came of something, and the key of that."""
    yield from died_of(facts)
    by_kind: defaultdict[str, list[Finding]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one)
    for kinds, fits in _PAIRS:
        for cause, effect in product(*(by_kind[kind.name] for kind in kinds)):
            if fits(cause, effect):
                yield effect.key, cause.key


def _meanwhile(cause: Finding, effect: Finding) -> bool:
    """Tell whether nothing was served while workers of that stream died."""
    begins_before = effect.until_us is None or cause.at_us <= effect.until_us
    until_us = (cause.until_us or cause.at_us) + SLACK_US
    return bool(cause.about & _streams(effect)) and begins_before and effect.at_us <= until_us


def _went_with_it(cut: Finding, group: Finding) -> bool:
    """Tell whether a group went with the stream: trimming leaves it."""
    is_deleted = MADE_ANEW in cut.head
    return is_deleted and bool(cut.about & group.about) and cut.at_us <= group.at_us + SLACK_US


def _was_cut(cut: Finding, dead: Finding) -> bool:
    """Tell whether what died lay before the first entry that was left."""
    entries = [one.origin for one in dead.hit if one.origin.stream in cut.about]
    return any(one.entry and one.entry.ms * 1000 < (cut.until_us or 0) for one in entries)


def _streams(one: Finding) -> set[str]:
    return {life.origin.stream for life in one.hit}


_PAIRS: Final = (
    ((FLAPPING, NOT_SERVED), _meanwhile),
    ((CUT, GROUP_LOST), _went_with_it),
    ((CUT, TRIMMED), _was_cut),
)

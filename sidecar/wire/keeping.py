"""Keep rules: which refs of a subject stay, as an operator writes them.

    stacks/*/web/*:last=10,age=30d

Before the colon is a pattern of refs: segments, in which `*` is any text without a slash. The last
one is `*` alone: the version of the event that announced the ref, in digits. Refs that differ only
there are the versions of one subject, a *family*. After the colon is what stays of each family: the
`last` highest versions, and what was stored within `age`. Without a pattern the rule is for
`stacks/TENANT/STACK/VERSION`.

    published+1h

For a producer's store: what the fleet's store has had for so long goes. With `,orphans=30d` behind
it also what was put so long ago and never announced, of stacks of which the fleet has a later one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Self

from sidecar.wire.event import RESERVED
from sidecar.wire.scope import matches
from sidecar.wire.units import said, seconds
from store import InvalidRef, check_ref

USUAL: Final = "stacks/*/*/*"
KEEPS_LITTLE_S: Final = 86_400.0
"""A rule that keeps no more than the newest version, and what is younger than that, wants a yes."""
SHORTEST_GRACE_S: Final = 60.0
"""What a slow producer has just stored must not go before its event comes."""
_PUBLISHED: Final = "published+"
_ORPHANS: Final = ",orphans="
_LAST_MAX: Final = 10**6
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}")
_FORM: Final = "write PATTERN:last=N,age=DURATION, with one of them at least: stacks/*/*/*:last=10"


class Versioned(NamedTuple):
    """A ref, taken apart."""

    family: str
    """What it has in common with the other versions of its subject: all but the last segment."""
    version: int


def versioned(ref: str) -> Versioned | None:
    """Take a ref apart; None when its last segment is no version."""
    family, _, leaf = ref.rpartition("/")
    return Versioned(family, int(leaf)) if family and _VERSION.fullmatch(leaf) else None


class KeepRule(NamedTuple):
    """What stays of each family that the pattern fits."""

    pattern: tuple[str, ...]
    """Of the family: without the version."""
    last: int = 1
    age_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule. Raises `ValueError` for what is none, or fits nothing sensible."""
        pattern, colon, keeps = text.rpartition(":")
        return cls(_pattern(pattern if colon else USUAL), *_keeps(keeps))

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{'/'.join(self.pattern)}/*:last={self.last},age={self.age_s:.12g}s"

    @property
    def keeps_little(self) -> bool:
        """Whether next to nothing stays but the newest of each subject."""
        return self.last <= 1 and self.age_s < KEEPS_LITTLE_S

    def fits(self, family: str) -> bool:
        """Tell whether this is a family that the rule is for."""
        segments = family.split("/")
        return len(segments) == len(self.pattern) and all(
            matches(part.split("*"), segment)
            for part, segment in zip(self.pattern, segments, strict=True)
        )


class Published(NamedTuple):
    """Of a producer's store goes what the fleet's has had for `age_s`, and what was put and never
    announced after `orphans_s`; None is never.
    """

    age_s: float
    orphans_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule. Raises `ValueError`."""
        age, comma, orphans = text.removeprefix(_PUBLISHED).partition(_ORPHANS)
        age_s = seconds(age)
        if age_s < SHORTEST_GRACE_S:
            raise ValueError(
                f"{text}: under a minute, what a slow producer has just stored could go before its"
                " event comes; write published+1h"
            )
        orphans_s = seconds(orphans) if comma else None
        if orphans_s is not None and orphans_s < max(age_s, KEEPS_LITTLE_S):
            raise ValueError(
                f"{text}: orphans are kept for a day at least, and no less than what is published:"
                " an event may come long after its artifact; write published+7d,orphans=30d"
            )
        return cls(age_s, orphans_s)

    def __str__(self) -> str:
        """Return it as it is written."""
        orphans = "" if self.orphans_s is None else f"{_ORPHANS}{self.orphans_s:.12g}s"
        return f"{_PUBLISHED}{self.age_s:.12g}s{orphans}"


STACKS: Final = KeepRule(tuple(USUAL.split("/")[:-1]))
"""Fits the families of refs as most producers write them."""


Rules = tuple[KeepRule, ...] | Published
"""Of one store."""


def written(rules: Iterable[KeepRule] | Published) -> list[str]:
    """Return rules as they are written."""
    return [str(one) for one in ([rules] if isinstance(rules, Published) else rules)]


def unattended(text: str) -> KeepRule:
    """Read a rule that is followed while nobody looks. Raises `ValueError` as `KeepRule.parse`,
    and for one that keeps little.
    """
    rule = KeepRule.parse(text)
    if rule.keeps_little:
        raise ValueError(
            f"{rule}: next to nothing but the newest of each subject would stay; give a higher"
            " last=, or an age= of a day at least; by hand, `sidecar store gc --keep` takes it"
            " with --yes"
        )
    return rule


def source_rules(texts: Iterable[str], parse: Callable[[str], KeepRule] = unattended) -> Rules:
    """Read the rules for a producer's store, `parse` the others. Raises `ValueError` as that."""
    rules = [Published.parse(one) if one.startswith(_PUBLISHED) else parse(one)
             for one in texts]  # fmt: skip
    keeping = tuple(rule for rule in rules if isinstance(rule, KeepRule))
    published = [rule for rule in rules if isinstance(rule, Published)]
    if len(rules) > max(len(keeping), 1):
        raise ValueError(f"{published[0]} is a rule of its own: give it alone")
    return published[0] if published else keeping


def rule_of(rules: Iterable[KeepRule], family: str) -> KeepRule | None:
    """Return what stays of a family: whatever any rule keeps; None when none is for it."""
    fitting = [rule for rule in rules if rule.fits(family)]
    if not fitting:
        return None
    last, age_s = max(rule.last for rule in fitting), max(rule.age_s for rule in fitting)
    return KeepRule(fitting[0].pattern, last, age_s)


def _pattern(text: str) -> tuple[str, ...]:
    *family, version = text.split("/")
    if version != "*" or not family:
        raise ValueError(
            f"the pattern {said(text)} does not end in /*, where the event's version is: write"
            " stacks/*/web/*. A ref without a version is a subject of its own, whose newest stays"
        )
    try:
        check_ref("/".join(family))
    except InvalidRef as error:
        raise ValueError(f"the pattern {said(text)} fits no ref: {error}") from None
    if f"{'/'.join(family)}/".startswith(RESERVED):
        raise ValueError(f"refs under {RESERVED} are the sidecar's own: no rule is for them")
    return tuple(family)


def _keeps(text: str) -> tuple[int, float]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name in found or name not in ("last", "age"):
            raise ValueError(f"{said(part)} says nothing of what stays; {_FORM}")
        found[name] = value
    return _last(found.get("last", "1")), seconds(found.get("age", "0"))


def _last(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _LAST_MAX:
        raise ValueError(
            f"last={text} is no number from 1 to {_LAST_MAX:,}: the newest of a subject always"
            " stays"
        )
    return int(text)

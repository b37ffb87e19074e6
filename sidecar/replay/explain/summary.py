"""What happened in one to three lines: what is wrong now and why, what is over, and whom it hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.halts import BY_ITSELF
from sidecar.replay.explain.facts import subject_of_life
from sidecar.replay.explain.findings import NOT_ON_RECORD, Finding, Level, at, counted, of_tenants
from sidecar.replay.timeline import Life

MOST: Final = 4
"""So many findings are named in a line."""


@dataclass(frozen=True)
class Summary:
    """What an explanation comes to."""

    wrong: list[str]
    """What is wrong now: each with its cause, when, and by whom."""
    look: list[str]
    """What may be in order, or do no harm: somebody has to look."""
    over: list[str]
    """What is over, or was meant."""
    hit: list[Life]
    """The events that came to harm."""
    still: list[Life]
    """Those of them that are not set right."""

    @property
    def lines(self) -> list[str]:
        """The same for a person; none where nothing was found."""
        if not (self.wrong or self.look or self.over):
            return []
        now = f"Wrong now: {_joined(self.wrong)}" if self.wrong else "Nothing is wrong now"
        now += f". To look at: {_joined(self.look)}" if self.look else ""
        over = [f"Over: {_joined(self.over)}"] if self.over else []
        hit = [f"Hit: {_whom(self.hit)}{self._still()}"] if self.hit else []
        return [f"{line}." for line in (now, *over, *hit)]

    def _still(self) -> str:
        left = len(_events(self.still))
        if left == len(_events(self.hit)):
            return ""
        return f". Still: {_whom(self.still)}" if left else ". None of these still"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "summary": self.lines, "wrong": self.wrong, "look": self.look, "over": self.over,
            "hit": _counts(self.hit), "still": _counts(self.still),
        }  # fmt: skip


def summary(found: Collection[Finding], numbers: dict[str, int]) -> Summary:
    """Sum up findings, which are told by these numbers."""
    errors = [one for one in found if one.level is Level.ERROR]
    causes = {key for one in errors for key in one.causes}
    kinds: dict[str, list[str]] = {"wrong": [], "look": [], "over": []}
    for one in found:
        if one.level is Level.ERROR or (one.key in causes and not one.is_over):
            kind = "wrong"
        else:
            kind = "over" if one.is_over or one.level is Level.NOTE else "look"
        kinds[kind].append(_item(one, numbers))
    hit = [life for one in found for life in one.hit]
    return Summary(**kinds, hit=hit, still=[life for one in errors for life in one.hit])


def _item(one: Finding, numbers: dict[str, int]) -> str:
    """Return a finding in few words, with what led to it, and by which number it is told."""
    causes = ", ".join(map(str, one.caused_by(numbers)))
    led = f"caused by {causes}, " if causes else ""
    meant = "it may be meant that " if one.level is Level.NOTE and not one.is_over else ""
    return f"{meant}{_because(one)} [{led}see {numbers[one.key]}]"


def _because(one: Finding, *, is_reason: bool = False) -> str:
    told = (one.short if is_reason else "") or one.brief or one.head
    when = f" ({', '.join(_when(one))})" if one.is_dated else ""
    reasons = (f", because {_because(reason, is_reason=True)}" for reason in one.reasons)
    return f"{told}{when}{'; and'.join(reasons)}"


def _when(one: Finding) -> Iterator[str]:
    """Yield when it was, and where somebody did it, who."""
    if one.at_us:
        yield at(one.at_us)
    if one.by == BY_ITSELF:
        yield "by the sidecar itself"
    elif "@" in one.by:
        yield f"by {one.by}"
    elif one.is_nobodys:
        yield NOT_ON_RECORD


def _joined(items: list[str]) -> str:
    more = len(items) - MOST
    return "; ".join(items[:MOST]) + (f"; and {more:,} more" if more > 0 else "")


def _events(lives: Iterable[Life]) -> set[str]:
    return {f"{life.origin}" or life.event_id for life in lives}


def _counts(lives: list[Life]) -> dict[str, int]:
    return {
        "tenants": len({life.tenant_id for life in lives}),
        "subjects": len({*map(subject_of_life, lives)} - {None}), "events": len(_events(lives)),
    }  # fmt: skip


def _whom(lives: list[Life]) -> str:
    counts = _counts(lives)
    whose = of_tenants([tenant for tenant, _ in Counter(
        life.tenant_id for life in lives
    ).most_common()])  # fmt: skip
    subjects = f" (of {counted(counts['subjects'], 'subject')})" if counts["subjects"] else ""
    return f"{counted(counts['events'], 'event')}{subjects}{whose}"

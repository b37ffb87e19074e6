"""What happened in few lines: what is wrong now and why, what is over, whom it hit, what is not
known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sidecar.redis.halts import BY_ITSELF
from sidecar.replay.explain.facts import subject_of_life
from sidecar.replay.explain.findings import (
    NAMED,
    NOT_ON_RECORD,
    Finding,
    Harm,
    Level,
    counted,
    said,
)
from sidecar.replay.timeline import Life

MOST: Final = 4
"""So many findings are named in a line."""


@dataclass(frozen=True)
class Summary:
    """What an explanation comes to."""

    as_of: str
    """When `now` is."""
    wrong: list[str]
    """What is wrong now: each with its cause, when, and by whom."""
    look: list[str]
    """What may be in order, or do no harm: somebody has to look."""
    over: list[str]
    """What is over, or was meant."""
    hit: dict[str, list[Life]]
    """The events that came to harm, by which; each under the gravest alone."""
    still: dict[str, list[Life]]
    """Those of them that are not set right."""
    also: list[str]
    """What else came to harm."""
    unrecorded: list[str]
    """What of the window is not on record any more."""

    @property
    def lines(self) -> list[str]:
        """The same for a person; none where nothing was found."""
        if not (self.wrong or self.look or self.over):
            return []
        nothing = "Nothing on record" if self.unrecorded else "Nothing"
        as_of = f"now ({self.as_of})"
        wrong = f"Wrong {as_of}: {_joined(self.wrong)}" if self.wrong else ""
        now = wrong or f"{nothing} is wrong {as_of}"
        now += f". To look at: {_joined(self.look)}" if self.look else ""
        over = [f"Over: {_joined(self.over)}"] if self.over else []
        hit = filter(None, ("; ".join(_each(self.hit)) + self._still(), "; ".join(self.also)))
        whom = [f"Hit: {one}" for one in (". Besides: ".join(hit),) if one]
        gone = [f"Not on record: {_joined(self.unrecorded)}"] if self.unrecorded else []
        return [f"{line}." for line in (now, *over, *whom, *gone)]

    def _still(self) -> str:
        if not self.hit or _all(self.still) == _all(self.hit):
            return ""
        return f". Still: {'; '.join(_each(self.still))}" if self.still else ". None of these still"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "summary": self.lines, "wrong": self.wrong, "look": self.look, "over": self.over,
            "hit": _counts(self.hit), "still": _counts(self.still), "also": self.also,
            "unrecorded": self.unrecorded,
        }  # fmt: skip


def summary(
    found: Collection[Finding], numbers: dict[str, int], as_of: str, unrecorded: list[str]
) -> Summary:
    """Sum up findings, which are told by these numbers."""
    parts = [part for one in found for part in one.parts]
    return Summary(
        as_of, **_by_standing(found, numbers), hit=_by_harm((one.harm, one.hit) for one in parts),
        still=_by_harm((one.harm, one.left) for one in parts),
        also=list(dict.fromkeys(one.also for one in parts if one.also)), unrecorded=unrecorded,
    )  # fmt: skip


def _by_standing(found: Collection[Finding], numbers: dict[str, int]) -> dict[str, list[str]]:
    """Return what is wrong now, what has to be looked at, and what is over, each in few words."""
    errors = [one for one in found if one.level is Level.ERROR]
    causes = {key for one in errors for key in one.causes}
    kinds: dict[str, list[str]] = {"wrong": [], "look": [], "over": []}
    for one in found:
        if one.level is Level.ERROR or (one.key in causes and not one.is_over):
            kind = "wrong"
        else:
            kind = "over" if one.is_over or one.level is Level.NOTE else "look"
        kinds[kind].append(_item(one, numbers))
    return kinds


def _by_harm(hits: Iterable[tuple[Harm, tuple[Life, ...]]]) -> dict[str, list[Life]]:
    """Return who came to which harm, the gravest first: nobody is counted twice."""
    order, seen, found = list(Harm), set[str](), dict[str, list[Life]]()
    for harm, lives in sorted(hits, key=lambda one: order.index(one[0])):
        new = {_name(life): life for life in lives if _name(life) not in seen}
        seen.update(new)
        if new:
            found.setdefault(harm.value, []).extend(new.values())
    return found


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
    if one.dated:
        yield one.dated
    if one.by == BY_ITSELF:
        yield "by the sidecar itself"
    elif "@" in one.by:
        yield f"by {one.by}"
    elif one.is_nobodys:
        yield NOT_ON_RECORD


def _joined(items: list[str]) -> str:
    more = len(items) - MOST
    return "; ".join(items[:MOST]) + (f"; and {more:,} more" if more > 0 else "")


def _name(life: Life) -> str:
    return str(life.origin) or str(life.end_id)


def _all(harmed: dict[str, list[Life]]) -> set[str]:
    return {_name(life) for lives in harmed.values() for life in lives}


def _counts(harmed: dict[str, list[Life]]) -> dict[str, int]:
    lives = [life for some in harmed.values() for life in some]
    return {
        "tenants": len({life.tenant_id for life in lives} - {""}),
        "subjects": len({*map(subject_of_life, lives)} - {None}), "events": len(lives),
        **{harm: len(some) for harm, some in harmed.items()},
    }  # fmt: skip


def _each(harmed: dict[str, list[Life]]) -> list[str]:
    return [f"{harm}: {_whose(lives)}" for harm, lives in harmed.items()]


def _whose(lives: list[Life]) -> str:
    """Return how many events of whom: of a few tenants how many of each, of more the first."""
    counts = Counter(life.tenant_id for life in lives).most_common()
    all_ = counted(len(lives), "event")
    each = [f"{n:,} of {said(tenant)}" if tenant else f"{n:,} without a known tenant"
            for tenant, n in counts]  # fmt: skip
    if len(counts) == 1:
        return all_ + each[0].removeprefix(f"{len(lives):,}")
    if len(counts) <= NAMED:
        return f"{all_} ({', '.join(each)})"
    return f"{all_} of {len(counts):,} tenants ({', '.join(each[:NAMED])}, …)"

"""Rules about what Redis and the workers have on record: losses, and tenures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from sidecar.lines import quoted
from sidecar.redis.forgotten import Forgotten, Part
from sidecar.redis.scan import text
from sidecar.redis.source import Entry
from sidecar.redis.tenures import ENDED
from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import Facts, Tenure
from sidecar.replay.explain.findings import (
    Finding,
    Kind,
    Level,
    at,
    command,
    said,
)
from sidecar.wire.event import Reason
from sidecar.wire.moments import rfc3339

REDIS_LOST: Final = Kind(
    "redis_lost", "Redis lost entries, notifications or the worker's notes.",
    "whether somebody emptied it, or a failover or restart lost its last writes",
)  # fmt: skip
GROUP_LOST: Final = Kind(
    "group_touched", "A consumer group was gone, and a worker made it again.", "who removed it"
)
FLAPPING: Final = Kind(
    "flapping",
    "A control stream passed from worker to worker again and again, without being given back.",
    "whether a worker of a release before this one was stopped in good order",
)
REMADE: Final = Kind("remade", "A control stream was recreated by hand (`sidecar stream remake`).")
KINDS: Final = (REDIS_LOST, GROUP_LOST, FLAPPING, REMADE)
WITH_IT_US: Final = 1_000_000
"""A group that was found to be gone so near the loss of a stream went with that."""
_SEND_AGAIN: Final = (
    "let producers send again what came in that time; the events that were published already are"
    " absorbed"
)
_WHO_LOST_IT: Final = (
    "Somebody emptied Redis or deleted keys, or it came back without its last writes: which of"
    " these, and by whom, is not on record"
)
TOGETHER_US: Final = 60_000_000
"""What was noticed within so long is one loss."""
OFTEN: Final = 5
"""So many tenures within `OFTEN_US` are too many: a rollout of three workers takes three."""
OFTEN_US: Final = 600_000_000


def redis_lost(facts: Facts) -> Iterator[Finding]:
    """Yield what Redis had lost; what was noticed together is one loss.

    A group that went with its stream is a part of that; else somebody touched it, and that alone.
    """
    losses: list[list[Forgotten]] = []
    groups: list[list[Forgotten]] = []
    for one in sorted(facts.forgotten, key=lambda one: (not one.loses_events, one.noticed_us)):
        near = [each for each in losses if abs(one.noticed_us - each[0].noticed_us) < WITH_IT_US]
        if not one.loses_events and near:
            near[0].append(one)
            continue
        alike = losses if one.loses_events else groups
        if alike and one.noticed_us - alike[-1][0].noticed_us < TOGETHER_US:
            alike[-1].append(one)
        else:
            alike.append([one])
    yield from map(_loss, (*losses, *groups))


def _loss(parts: list[Forgotten]) -> Finding:
    is_loss = any(one.loses_events for one in parts)
    grave = sorted(parts, key=lambda one: not one.loses_events)
    head = "; ".join(_missing(one) for one in grave)
    lost = ", ".join(dict.fromkeys(_part(one) for one in grave if one.loses_events == is_loss))
    return Finding(
        (REDIS_LOST if is_loss else GROUP_LOST).name, Level.ERROR if is_loss else Level.WARNING,
        head, parts[0].noticed_us, f"lost:{parts[0].noticed_us}",
        about=frozenset(one.stream for one in parts), everybody=True,
        evidence=(command("audit"), command("status")),
        fix=_SEND_AGAIN if is_loss else "find out who may run XGROUP DESTROY, or DEL",
        brief=f"{'Redis lost' if is_loss else 'somebody removed'} {lost}", also=_unknown(grave),
        is_by_hand=not is_loss, is_over=not is_loss,
        then=_WHO_LOST_IT if is_loss else "A worker made it again, and nothing is lost",
    )  # fmt: skip


def _part(one: Forgotten) -> str:
    """Name what was lost."""
    return {
        Part.CONTROL: f"entries of {one.stream}", Part.GROUP: f"the consumer group on {one.stream}",
        Part.NOTES: "what workers note for themselves",
        Part.NOTIFICATIONS: f"notifications of {one.stream}",
    }.get(Part(one.lost), one.lost) if one.lost in list(Part) else one.lost  # fmt: skip


def _missing(one: Forgotten) -> str:
    """Say what was gone, when that was noticed, and from when on it may be missing."""
    what = "it" if one.lost == Part.GROUP else "all"
    there = f" ({what} was there at {one.whole_until})" if one.whole_until else ""
    was = "was" if one.lost == Part.GROUP else "were"
    told = f"{_part(one)} {was} gone at {one.noticed}{there}"
    if not one.loses_events or one.lost == Part.NOTES:
        return told
    since = rfc3339(one.from_us) if one.from_us else "the beginning"
    return f"{told}: what came from {since} to then may be missing"


def _unknown(parts: list[Forgotten]) -> str:
    """Say from when to when what came may be lost, nobody knows what."""
    gone = [one for one in parts if one.loses_events and one.lost != Part.NOTES]
    if not gone:
        return ""
    first, last = min(one.from_us for one in gone), max(one.noticed_us for one in gone)
    return f"unknown: what came {f'from {at(first)} to' if first else 'up to'} {at(last)}"


def flapping(facts: Facts) -> Iterator[Finding]:
    """Yield each stream that changed hands again and again, and not in good order."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    ends = _given_back(facts)
    for one in facts.tenures:
        if facts.has(one.at_us):
            streams[one.stream].append(one)
    for stream, tenures in streams.items():
        # A worker that begins anew, as Redis was away or forgot, has passed on nothing; nor has
        # one that was stopped in good order lost anything.
        run = _run([*tenures[:1], *(
            now for before, now in pairwise(tenures)
            if before.by != now.by and not _is_clean(ends, before, now.at_us)
        )])  # fmt: skip
        if run:
            yield _flapping(facts, stream, run)


def _given_back(facts: Facts) -> dict[tuple[str, str], list[int]]:
    """Return when which worker gave which control stream back in good order."""
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for one in facts.records:
        if text(one.fields, "what") == ENDED:
            whose = text(one.fields, "stream"), text(one.fields, "by")
            found[whose].append(one.id.control_version)
    return found


def _is_clean(ends: dict[tuple[str, str], list[int]], tenure: Tenure, until_us: int) -> bool:
    """Tell whether a tenure ended in good order before that."""
    return any(tenure.at_us <= us <= until_us for us in ends.get((tenure.stream, tenure.by), ()))


def _run(tenures: list[Tenure]) -> list[Tenure]:
    """Return the most tenures that began within `OFTEN_US`, if they are too many."""
    most: list[Tenure] = []
    for n, first in enumerate(tenures):
        near = [one for one in tenures[n:] if one.at_us - first.at_us <= OFTEN_US]
        most = near if len(near) > len(most) else most
    return most if len(most) >= OFTEN else []


def _flapping(facts: Facts, stream: str, run: list[Tenure]) -> Finding:
    who = ", ".join(dict.fromkeys(one.by for one in run))
    brief = f"{stream} passed from worker to worker {len(run) - 1} times"
    head = (
        f"{brief} from {at(run[0].at_us)} to {at(run[-1].at_us)}, and no worker gave it back in"
        f" good order: each ended by a crash, a kill, or a lease that ran out ({said(who)})"
    )
    return Finding(
        FLAPPING.name, Level.WARNING, head, run[0].at_us, f"flapping:{stream}", run[-1].at_us,
        about=frozenset({stream}), everybody=True, evidence=(command("status"),),
        fix="the workers' logs, and their machines', tell why each ended: a crash, no memory, a"
        " lease that is too short, or a machine without time",
        causes=tuple(dict.fromkeys(_killed(facts, stream, run))), brief=brief,
    )  # fmt: skip


def _killed(facts: Facts, stream: str, run: list[Tenure]) -> Iterator[str]:
    """Yield the keys of what workers are known to have died over meanwhile."""
    for one in facts.deaths:
        its = one.reason == Reason.POISON and one.life.origin.stream == stream
        if its and run[0].at_us <= one.at_us <= run[-1].at_us + OFTEN_US:
            yield key_of(facts, one)


def remade(facts: Facts) -> Iterator[Finding]:
    """Yield each time that a control stream was made anew."""
    for one in facts.records:
        if text(one.fields, "what") == "remade" and facts.has(one.id.control_version):
            yield _remade(one)


def _remade(one: Entry) -> Finding:
    stream, by, reason = (text(one.fields, name) for name in ("stream", "by", "reason"))
    at_us, lost = one.id.control_version, text(one.fields, "lost_entries")
    gone = f"; {lost} pending entries had been deleted before" if lost.strip("0") else ""
    why = f"reason given: {quoted(said(reason))}"
    return Finding(
        REMADE.name, Level.WARNING if gone else Level.NOTE,
        f"{stream} was recreated at {at(at_us)} by {by}, {why}{gone}", at_us,
        f"remade:{at_us}", by=by, about=frozenset({stream}), everybody=True,
        evidence=(command("status"),), brief=f"{stream} was recreated, {why}",
        then="A producer had given an ID above which no entry can come", is_over=True,
    )  # fmt: skip


RULES = (redis_lost, flapping, remade)

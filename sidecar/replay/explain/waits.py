"""Rules about what waited for long: behind another event, for its artifact, or for a worker."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import LACKING, Death, Facts, Tenure
from sidecar.replay.explain.findings import (
    Finding,
    Harm,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    events_of,
    names_of,
    said,
)
from sidecar.replay.stalls import Stall
from sidecar.replay.timeline import End, Life
from sidecar.wire.moments import span

LATE: Final = Kind(
    "artifact_late",
    "An event was published long after its turn came, while those of other tenants were: its"
    " artifact came late.",
    "whether its artifact was not there yet, or could not be read, where the store has no record",
)
HELD: Final = Kind(
    "held_behind",
    "Events waited behind one of their tenant that was tried again: it waits still, or has died.",
)
NOT_SERVED: Final = Kind(
    "not_served",
    "Events waited, and nothing of their control stream was finished, though it was not halted.",
    "whether no worker ran, or what it needs (Redis, a store) was away, where no tenure began",
)
KINDS: Final = (LATE, HELD, NOT_SERVED)
LONG_US: Final = 3_000_000
"""So long a wait is worth telling: a run of events, or a large artifact, takes less."""
DEAD_TIME_US: Final = 5_000_000
"""So long without an end is worth telling: a worker that is replaced takes less."""
MAX_TOLD: Final = 100
_HELD_UP: Final = (
    "no worker began meanwhile, so Redis, a store or the worker's machine held it up; which of them"
    " is not on record"
)
_LOST_LEASE: Final = "it had lost its lease, as its machine stood still or Redis was away"
TENURE_SLACK_US: Final = 2_000_000
NAMED: Final = 10
"""On average so many of those that waited behind one can be asked for: memory stays bounded."""


class _Slow(NamedTuple):
    """An event that was tried again."""

    life: Life
    turn_us: int
    """From when on it was."""
    waited: int
    """So many of its tenant waited behind it."""
    behind: list[Life]
    """Those of them that may be asked for."""


class _Queue:
    """The events of one tenant of one control stream that ended, in entry order."""

    def __init__(self, facts: Facts, lives: list[Life]) -> None:
        self.facts = facts
        self.lives = sorted(lives, key=lambda life: life.begun_us)

    def slow(self) -> Iterator[_Slow]:
        """Yield each event that was tried again."""
        free_us, room = 0, NAMED * len(self.lives)
        begun = [life.begun_us for life in self.lives]
        for n, life in enumerate(self.lives):
            turn_us, free_us = max(life.begun_us, free_us), max(life.ended_us, free_us)
            if life.ended_us - turn_us >= LONG_US and self._alone(life, turn_us):
                waited = bisect_left(begun, life.ended_us, n + 1) - n - 1
                behind = self.lives[n + 1 : n + 1 + min(waited, room)]
                room -= len(behind)
                yield _Slow(life, turn_us, waited, behind)

    def _alone(self, life: Life, turn_us: int) -> bool:
        """Tell whether others came later and were done sooner: then it was not the worker.

        What died of having been tried again says so itself.
        """
        stream, tenant = life.origin.stream, life.tenant_id
        if self.facts.halted(stream, tenant, turn_us, life.ended_us):
            return False
        if life.reason in LACKING:
            return True
        if any(one.overlaps(stream, turn_us, life.ended_us) for one in self.facts.outages):
            return False
        apart_us = LONG_US // 3  # what was done just before a worker stood still is no witness
        soonest_us = self.facts.index.others[stream].soonest(tenant, turn_us + apart_us - 1)
        return soonest_us is not None and soonest_us < life.ended_us - apart_us


def slow(facts: Facts) -> Iterator[Finding]:
    """Yield each event that was tried again for long before it ended."""
    queues: defaultdict[tuple[str, str], list[Life]] = defaultdict(list)
    again = {one.end_id for known in facts.repeated.values() for one in known[1:]}
    for life in facts.lives:
        ended = life.delay_s is not None and life.end in (End.PUBLISHED, End.DEAD)
        if ended and life.end_id not in again:
            queues[life.origin.stream, life.tenant_id].append(life)
    for lives in queues.values():
        if max(life.ended_us - life.begun_us for life in lives) >= LONG_US:
            for one in _Queue(facts, lives).slow():
                if one.life.end is End.PUBLISHED:
                    yield _late(one)
                elif one.waited:
                    yield _held_behind(facts, one)


def _late(slow: _Slow) -> Finding:
    life, turn_us, waited, behind = slow
    took = span((life.ended_us - turn_us) / 1e6)
    others = f"; {counted(waited, 'event')} of its tenant waited behind it" if waited else ""
    late, why = f"{called(life)} arrived {took} late", "came late, or could not be read"
    ref = life.event.artifact_ref if life.event else ""
    head = (
        f"{late}, at {at(life.ended_us)}, while others were published: its artifact {said(ref)}"
        f" {why}; its turn had come at {at(turn_us)}{others}"
    )
    return Finding(
        LATE.name, Level.WARNING, head, turn_us, f"late:{life.origin}", life.ended_us,
        about=names_of((life, *behind)), evidence=(command("trace", life.event_id),),
        fix="the producer puts the artifact before it appends the event",
        brief=f"{late}: its artifact {why}", hit=(life, *behind), harm=Harm.LATE, is_over=True,
    )  # fmt: skip


def _held_behind(facts: Facts, slow: _Slow) -> Finding:
    life, turn_us, waited, behind = slow
    took = span((life.ended_us - turn_us) / 1e6)
    brief = f"{counted(waited, 'event')} of {life.tenant_id} waited behind {called(life)}"
    head = (
        f"{brief}, which was tried for {took}, from {at(turn_us)} until it died at"
        f" {at(life.ended_us)} of {life.reason}"
    )
    return Finding(
        HELD.name, Level.WARNING, head, turn_us, f"held:{life.origin}", life.ended_us,
        about=names_of((life, *behind)), evidence=(command("trace", life.event_id),),
        fix="--retry-budget says how long a tenant waits for one event", brief=brief,
        causes=(key_of(facts, Death(life, life.reason, life.detail, life.ended_us, None)),),
        then="What waited was done then", hit=tuple(behind), harm=Harm.LATE, is_over=True,
    )  # fmt: skip


def waiting(facts: Facts) -> Iterator[Finding]:
    """Yield what waits now, by tenant: behind which event, or for a worker."""
    heads: defaultdict[tuple[str, str], list[Life]] = defaultdict(list)
    for life in facts.waiting:
        stream, tenant = life.origin.stream, life.tenant_id
        if not facts.halted(stream, tenant, facts.now_us, facts.now_us):
            heads[stream, tenant].append(life)
    unserved: defaultdict[str, list[Life]] = defaultdict(list)
    tried = {one.entry: one for one in facts.held} if heads else {}
    for (stream, tenant), lives in heads.items():
        one = tried.get(lives[0].origin)
        if one and one.outage:
            continue  # it waits for a store
        if one:
            yield _held(lives, f"tried {one.attempts} times since {one.since}: {one.error}")
        elif facts.now_us - lives[0].begun_us < LONG_US:
            continue
        elif _passed(facts, lives[0], tenant):
            yield _held(lives, "others were published meanwhile, so it is tried again")
        else:
            unserved[stream] += lives
    yield from (_unserved(facts, stream, lives) for stream, lives in unserved.items())


def _passed(facts: Facts, head: Life, tenant: str) -> bool:
    """Tell whether what other tenants sent later is done."""
    return facts.index.others[head.origin.stream].soonest(tenant, head.begun_us) is not None


def _held(lives: list[Life], why: str) -> Finding:
    head, *behind = lives
    more = f", and {counted(len(behind), 'event')} of its tenant behind it" if behind else ""
    missing = why.removeprefix("tried ").partition(": ")[2].startswith("NotFound")
    short = "its artifact is not in the source store" if missing else "it is tried again and again"
    brief = f"{called(head)} waits{more}: {short}"
    told = f"{called(head)} has waited since {at(head.begun_us)}{more}: {said(why)}"
    return Finding(
        HELD.name, Level.ERROR, told, head.begun_us, f"held:{head.origin}",
        about=names_of(lives), evidence=(command("trace", head.event_id), command("status")),
        fix="put its artifact where the event says; else it dies when its --retry-budget ends, and"
        " what waits behind it continues", brief=brief,
        hit=tuple(lives), harm=Harm.WAITS, when=f"since {at(head.begun_us)}",
    )  # fmt: skip


def _unserved(facts: Facts, stream: str, lives: list[Life]) -> Finding:
    ended_us = facts.index.others[stream].last_us
    took = span((facts.now_us - ended_us) / 1e6)
    since = f"was finished since {at(ended_us)} ({took})" if ended_us else "was ever finished"
    why = "no worker serves it, or one cannot reach something"
    count = f"{counted(len(lives), 'event')} of {stream} {'waits' if len(lives) == 1 else 'wait'}"
    head = f"{count}, the oldest since {at(lives[0].begun_us)}, and nothing of it {since}: {why}"
    return Finding(
        NOT_SERVED.name, Level.ERROR, head, ended_us or lives[0].begun_us, f"unserved:{stream}",
        about=names_of(lives) | {stream}, everybody=True,
        evidence=(command("status"), command("doctor")),
        fix="run `sidecar doctor`: it names what cannot be reached; if nothing, start a worker",
        brief=f"{count}, and nothing {since}: {why}", hit=tuple(lives), harm=Harm.WAITS,
        is_dated=False,
    )  # fmt: skip


def stalled(facts: Facts) -> Iterator[Finding]:
    """Yield when nothing was finished for long, though events of several tenants waited."""
    for stall in facts.stalls[:MAX_TOLD]:
        lives = _waited(facts, stall)
        if stall.to_us - stall.from_us < DEAD_TIME_US or not lives:
            continue
        stream = lives[0].origin.stream
        if any(one.overlaps(stream, stall.from_us, stall.to_us) for one in facts.outages):
            continue
        yield _stall(facts, stall, lives)


def _waited(facts: Facts, stall: Stall) -> list[Life]:
    """Return what waited, without what was halted or tried again for tenants of its own.

    Nothing where all is of one tenant.
    """
    found = [
        life for life in facts.lives
        if 0 < life.begun_us < stall.to_us - LONG_US // 2 and life.ended_us >= stall.to_us
        and not facts.halted(life.origin.stream, life.tenant_id, stall.from_us, stall.to_us)
    ]  # fmt: skip
    retried = {life.tenant_id for life in found if life.reason in LACKING}
    found = [life for life in found if life.tenant_id not in retried]
    return found if len({life.tenant_id for life in found}) > 1 else []


def _ended_by(facts: Facts, stall: Stall) -> tuple[Tenure | None, str, str]:
    """Return the tenure that began when it was over, why so late, and that in few words."""
    until_us = stall.to_us + TENURE_SLACK_US
    earlier = [t for t in facts.tenures if t.at_us <= stall.from_us]
    one = next((t for t in facts.tenures if stall.from_us < t.at_us < until_us), None)
    if one is None:
        return None, _HELD_UP, "why is not on record"
    if earlier and earlier[-1].by == one.by:
        why = f"{one.by} had to begin again at {at(one.at_us)}: {_LOST_LEASE}"
        return one, why, "its worker had lost its lease"
    why = f"no worker served it until {one.by} began at {at(one.at_us)}"
    return one, why, "no worker served it"


def _stall(facts: Facts, stall: Stall, lives: list[Life]) -> Finding:
    tenure, why, short = _ended_by(facts, stall)
    took = span((stall.to_us - stall.from_us) / 1e6)
    stream = lives[0].origin.stream
    head = (
        f"nothing of {stream} was finished from {at(stall.from_us)} to {at(stall.to_us)} ({took}),"
        f" while {events_of(lives)} waited: {why}"
    )
    return Finding(
        NOT_SERVED.name, Level.WARNING, head, stall.from_us, f"stall:{stall.from_us}", stall.to_us,
        tenure.by if tenure else "", names_of(lives) | {stream}, everybody=True,
        evidence=(command("status"), command("replay", "show")),
        fix="have a worker stand by; its log tells why the one before ended",
        brief=f"nothing of {stream} was finished for {took}: {short}", hit=tuple(lives),
        harm=Harm.LATE,
        is_over=True,
    )  # fmt: skip


RULES = (slow, waiting, stalled)

"""Rules about what is not there: entries without an end, and artifacts that went since."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from sidecar.history import Reach
from sidecar.redis.forgotten import Part
from sidecar.redis.retention import parse_policy
from sidecar.replay.artifacts import State, put_of
from sidecar.replay.explain.deaths import ERASED
from sidecar.replay.explain.facts import EACH, MAX_LOOKED_AT, Facts
from sidecar.replay.explain.findings import (
    NOT_ON_RECORD,
    WHY,
    Finding,
    Harm,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    deletion,
    events_of,
    names_of,
    of_tenants,
    said,
)
from sidecar.replay.explain.settings import moved_since, moves
from sidecar.replay.timeline import End, Life
from sidecar.wire.ids import EntryId

LOST: Final = Kind(
    "lost", "An entry was acknowledged, and neither notification nor dead letter is there.",
    "whether it was lost, or what would show its end was deleted by hand: `sidecar audit` looks",
)  # fmt: skip
GONE: Final = Kind(
    "artifact_gone",
    "The newest notification of a subject pins an artifact that the store has no more, or damaged.",
    "whether it was collected or deleted by hand: the store keeps no record of it; live, what is"
    " damaged: only an export and `sidecar store verify` read the data",
)
CUT: Final = Kind(
    "cut_by_hand",
    "Entries of a control stream are gone before any worker trims them: somebody trimmed it, or"
    " deleted it. What no worker had read then never arrives.",
    "who did it, and what had not been read; where a Redis before 7.0 holds it, which of the two",
)
FOREIGN: Final = Kind(
    "foreign", "A notification names no control entry that it came from: no worker published it.",
    "who appended it",
)  # fmt: skip
MADE_ANEW: Final = "was deleted and made anew"
KINDS: Final = (LOST, CUT, FOREIGN, GONE)
TRIMMED: Final = "trimmed"
"""What a history says of a gap that trimming left."""


def lost(facts: Facts) -> Iterator[Finding]:
    """Yield what came to nothing, where all that would show its end can be read."""
    lives = [life for life in facts.lives if life.end is End.UNKNOWN]
    if facts.gaps or not lives:
        return
    first = lives[0]
    is_, them = ("is", "it, and it was") if len(lives) == 1 else ("are", "them, and they were")
    brief = f"{events_of(lives)} {is_} lost: a worker finished {them} neither published nor dead"
    head = (
        f"{brief}; {'it is' if len(lives) == 1 else 'the first is'} {called(first)} of"
        f" {at(first.begun_us)}"
    )
    yield Finding(
        LOST.name, Level.ERROR, head, first.begun_us, "lost", about=names_of(lives),
        evidence=(command("audit"), command("trace", first.event_id or first.origin)),
        fix=f"have {'it' if len(lives) == 1 else 'them'} published:"
        f" {command('audit', '--repair', '--reason', WHY)}",
        causes=tuple(f"lost:{one.noticed_us}" for one in facts.forgotten), brief=brief,
        hit=tuple(lives),
    )  # fmt: skip


def cut_by_hand(facts: Facts) -> Iterator[Finding]:
    """Yield each control stream that lacks entries which its workers still keep.

    Entries that were published lie before its first: they were there. What Redis itself forgot is
    told by the workers.
    """
    told = {one.stream for one in facts.forgotten if one.lost == Part.CONTROL} | facts.remade
    for stream in facts.history.streams.control:
        reach = None if stream in told else facts.history.reach(stream)
        if reach and reach.first and (last := _last_gone(facts, stream, reach.first)):
            yield from _cut(facts, last, reach)


def _last_gone(facts: Facts, stream: str, first: EntryId) -> Life | None:
    """Return what was published of the newest entry before the first one that is there."""
    gone = [
        one for one in facts.published
        if one.origin.stream == stream and one.begun_us and (one.origin.entry or first) < first
    ]  # fmt: skip
    return max(gone, key=lambda one: one.begun_us, default=None)


def _cut(facts: Facts, last: Life, reach: Reach) -> Iterator[Finding]:
    """Yield how a stream lost it: by no gap it is another stream, with one it was trimmed."""
    entry, first = last.origin.entry, reach.first
    if not (entry and first):
        return
    gaps = reach.missing(entry, entry)
    if not gaps:
        yield _cut_finding(last, first, MADE_ANEW)
    elif gaps[0].why == TRIMMED and _is_kept(facts, last):
        yield _cut_finding(last, first, "was trimmed, and not by a worker")


def _is_kept(facts: Facts, life: Life) -> bool:
    """Tell whether all workers were told to keep an entry as young as this one."""
    ages = [
        _age_s(str(one.settings.get("trim_control", "")))
        for one in facts.tenures if one.stream == life.origin.stream
    ]  # fmt: skip
    return bool(ages) and facts.now_us - life.begun_us < min(ages) * 1e6


def _age_s(told: str) -> float:
    """Return how old an entry is, in seconds, before such a policy lets it go; 0 for any age."""
    try:
        policy = parse_policy(told)
    except ValueError:
        return 0.0  # of another release
    if policy.length is not None or policy.full_s is not None:
        return 0.0
    return math.inf if policy.age_s is None else policy.age_s


def _cut_finding(last: Life, first: EntryId, how: str) -> Finding:
    stream, at_us = last.origin.stream, first.ms * 1000
    brief = f"{stream} {how} between {at(last.begun_us)} and {at(at_us)}"
    head = (
        f"{brief}: its first entry is of the latter time, while {called(last)} of the former had"
        " been published from it"
    )
    return Finding(
        CUT.name, Level.ERROR, head, last.begun_us, f"cut:{stream}", at_us,
        about=frozenset({stream}), everybody=True, evidence=(command("audit"), command("status")),
        fix="let producers send again what they sent in that time; what was published already is"
        " absorbed. Find out who may run XTRIM and DEL there",
        brief=f"{brief}, {NOT_ON_RECORD}", is_by_hand=True, is_dated=False,
        also=f"unknown: what came to {stream} from {at(last.begun_us)} to {at(at_us)}",
        then="What no worker had read by then never arrives; how much that was is not on record",
    )  # fmt: skip


def foreign(facts: Facts) -> Iterator[Finding]:
    """Yield what somebody else than a worker appended to the notifications."""
    lives = [life for life in facts.published if life.origin.entry is None]
    if lives:
        yield _by_hand(facts, lives)


def _by_hand(facts: Facts, lives: list[Life]) -> Finding:
    first = lives[0]
    deleted = deletion(facts.history.streams.notifications, first)
    brief = f"somebody else than a worker wrote {counted(len(lives), 'notification')}"
    head = (
        f"{brief}, the first at {at(first.ended_us)}: {called(first)}, control_version"
        f" {first.control_version}, which came from no entry of a control stream"
    )
    return Finding(
        FOREIGN.name, Level.ERROR, head, first.ended_us, "foreign", about=names_of(lives),
        evidence=(command("audit"), command("trace", str(first.control_version))),
        fix="find out who may append to the notifications, and have producers send events instead;"
        f" delete what should not stand: {deleted}",
        brief=brief, is_by_hand=True, hit=tuple(lives), harm=Harm.WRONG,
    )  # fmt: skip


def artifact_gone(facts: Facts) -> Iterator[Finding]:
    """Yield the newest state of a subject that a controller cannot resolve."""
    newest = sorted(
        (lives[-1] for lives in facts.by_subject.values()), key=lambda one: one.ended_us
    )
    gone: list[tuple[Life, State]] = []
    erased: dict[tuple[str, str], list[Life]] = {}
    for life in newest[-MAX_LOOKED_AT:]:
        store = facts.history.store
        put = put_of(life.event, store) if store else None
        if put and put.state is State.ERASED:
            erased.setdefault((life.tenant_id, put.why), []).append(life)
        elif put and put.state is not State.THERE:
            gone.append((life, put.state))
    yield from _each_gone(facts, gone)
    yield from (_erased(tenant, lives, why) for (tenant, why), lives in erased.items())


def _each_gone(facts: Facts, gone: list[tuple[Life, State]]) -> Iterator[Finding]:
    """Yield each, or where these are many and nobody asks for one, all that have one cause."""
    by_cause: dict[str, list[tuple[Life, State]]] = {}
    moved = list(moves(facts)) if gone else []
    for life, state in gone:
        by_cause.setdefault(moved_since(moved, life), []).append((life, state))
    for cause, some in by_cause.items():
        if facts.asked or len(some) <= (1 if cause else EACH):
            yield from (_gone(life, state, cause) for life, state in some)
        else:
            yield _many_gone([life for life, _ in some], cause)


def _erased(tenant: str, lives: list[Life], why: str) -> Finding:
    brief = f"{counted(len(lives), 'subject')}{of_tenants([tenant])} cannot be resolved any more"
    return Finding(
        ERASED.name, Level.NOTE, f"{brief}, the last {called(lives[-1])}: it was {why}",
        lives[-1].ended_us, f"erased:{tenant}",
        about=names_of(lives), evidence=(command("store", "history"),), brief=f"{brief}: {why}",
        is_over=True,
    )  # fmt: skip


def _many_gone(lives: list[Life], cause: str) -> Finding:
    first = lives[0]
    brief = f"{events_of(lives, 'subject')} cannot be resolved"
    head = (
        f"{brief}: the artifacts of their newest notifications are not in the fleet's store, or"
        f" damaged; the first is {called(first)}, control_version {first.control_version},"
        f" published at {at(first.ended_us)}"
    )
    return Finding(
        GONE.name, Level.ERROR, head, first.ended_us, f"gone:{cause}", about=names_of(lives),
        evidence=(command("audit"), command("trace", first.event_id)),
        fix="see that this is the fleet's store; `sidecar audit --repair --reason WHY` puts them"
        " again from the producer's store, or restore it from a backup",
        causes=(cause,) * bool(cause), brief=brief, hit=tuple(lives), harm=Harm.GONE,
    )  # fmt: skip


def _gone(life: Life, state: State, cause: str) -> Finding:
    assert life.event  # noqa: S101 -- it has a subject
    when = f"published at {at(life.ended_us)}"
    where = "damaged" if state is State.CORRUPT else "not in the fleet's store"
    gone = "" if cause or state is State.CORRUPT else f"; when it went, and {NOT_ON_RECORD}"
    brief = f"{called(life)} cannot be resolved: its artifact, {when}, is {where}{gone}"
    version = "" if state in (State.CORRUPT, State.ABSENT) else ", though others of that ref are"
    head = (
        f"{called(life)} cannot be resolved: its artifact {said(life.event.artifact_ref)}, {when}"
        f" as control_version {life.control_version}, is {where}{version}{gone}"
    )
    return Finding(
        GONE.name, Level.ERROR, head, life.ended_us, f"gone:{life.control_version}",
        about=names_of((life,)), evidence=(command("trace", life.event_id), command("audit")),
        fix="`sidecar audit --repair --reason WHY` puts it again from the producer's"
        " store, or restore it from a backup",
        causes=(cause,) * bool(cause), brief=brief, hit=(life,), harm=Harm.GONE, is_dated=False,
    )  # fmt: skip


RULES = (lost, cut_by_hand, foreign, artifact_gone)

"""The rule about halts: which streams and tenants were held up, by whom, and who waited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.history.halts import NOBODY, SOMEBODY, HaltPeriod
from sidecar.lines import quoted
from sidecar.redis.halts import BY_ITSELF
from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import Facts, is_of
from sidecar.replay.explain.findings import (
    NOT_ON_RECORD,
    WHY,
    Finding,
    Harm,
    Kind,
    Level,
    at,
    command,
    events_of,
    names_of,
    said,
)
from sidecar.replay.timeline import End, Life
from sidecar.wire.moments import span

HALTED: Final = Kind("halted", "A control stream was halted, by hand or by dead letters in a row.")
PAUSED: Final = Kind("paused", "A tenant was paused, by hand or by its dead letters in a row.")
KINDS: Final = (HALTED, PAUSED)
_WAITED: Final = (End.PUBLISHED, End.DEAD, End.WAITING, End.REDRIVEN)
_MILLISECOND_US: Final = 1000
MOST_HALTS: Final = 200
"""So many are told each: who may pause may do so 10,000 times."""


def halted(facts: Facts) -> Iterator[Finding]:
    """Yield each halt and pause of the window, the newest of more than `MOST_HALTS`."""
    for halt in facts.held_up[-MOST_HALTS:]:
        yield _finding(facts, halt)


def key_of_halt(halt: HaltPeriod) -> str:
    """Return the key of the finding about a halt."""
    return f"halt:{halt.stream}:{halt.tenant or ''}:{halt.since_us}"


def _finding(facts: Facts, halt: HaltPeriod) -> Finding:
    waited = list(_waited(facts, halt))
    tenants = () if halt.tenant is None else (halt.tenant,)
    shown = ("--tenant", halt.tenant) if halt.tenant is not None else ()
    lasts = halt.until_us is None
    return Finding(
        (HALTED if halt.tenant is None else PAUSED).name, _level(halt), _head(halt),
        halt.since_us, key_of_halt(halt), halt.until_us, halt.by,
        names_of(waited) | {halt.stream, *tenants}, everybody=halt.tenant is None,
        evidence=(command("replay", "show", *shown),), is_over=not lasts and not _is_broken(halt),
        fix=_fix(halt), causes=tuple(dict.fromkeys(_causes(facts, halt))), brief=_brief(halt),
        then=f"{_resumed(halt)}{_who_waited(waited, lasts=lasts)}{_too_early(facts, halt)}",
        hit=tuple(waited), harm=Harm.WAITS if lasts else Harm.LATE,
        when=f"since {at(halt.since_us)}" if lasts else "",
    )  # fmt: skip


def _head(halt: HaltPeriod) -> str:
    begun, ended = f"has been {_done(halt)} since", ""
    if halt.until_us is not None:
        took = span((halt.until_us - halt.since_us) / 1e6)
        begun, ended = f"was {_done(halt)} from", f" to {at(halt.until_us)} ({took})"
    return f"{_whom(halt)} {begun} {at(halt.since_us)}{ended}, {_by(halt)}{_why(halt)}"


def _brief(halt: HaltPeriod) -> str:
    if halt.until_us is None:
        return f"{_whom(halt)} is {_done(halt)}{_why(halt)}"
    took = span((halt.until_us - halt.since_us) / 1e6)
    if _is_broken(halt):
        ended = f"ended after {took} without a resume; {halt.resumed_why}, {NOT_ON_RECORD}"
        return f"{_whom(halt)} was {_done(halt)}{_why(halt)}, and that {ended}"
    return f"{_whom(halt)} was {_done(halt)} for {took}{_why(halt)}"


def _whom(halt: HaltPeriod) -> str:
    return halt.stream if halt.tenant is None else f"{said(halt.tenant or 'no tenant')}"


def _done(halt: HaltPeriod) -> str:
    return "halted" if halt.tenant is None else "paused"


def _by(halt: HaltPeriod) -> str:
    on = "" if halt.tenant is None else f" on {halt.stream}"
    return f"by the sidecar itself{on}" if halt.by == BY_ITSELF else f"by {halt.by}{on}"


def _why(halt: HaltPeriod) -> str:
    """Say why: a person's words in quotation marks."""
    if halt.by == BY_ITSELF:
        return f", after {said(halt.reason)}"
    return f", reason given: {quoted(said(halt.reason))}"


def _resumed(halt: HaltPeriod) -> str:
    if halt.until_us is None:
        return "Nobody has resumed it"
    if halt.resumed_by == NOBODY:
        return f"It ended without a resume: {halt.resumed_why}, {NOT_ON_RECORD}"
    if halt.resumed_by == SOMEBODY:
        return f"It ended at the latest then, {NOT_ON_RECORD}"
    why = f"reason given: {quoted(said(halt.resumed_why))}"
    return f"{halt.resumed_by} resumed it, {why if halt.resumed_why else 'without a reason'}"


def _who_waited(waited: list[Life], *, lasts: bool) -> str:
    if not waited:
        return "; no event waited for it"
    waits = "waits" if len(waited) == 1 else "wait"
    return f"; {events_of(waited)} {waits if lasts else 'waited'}"


def _too_early(facts: Facts, halt: HaltPeriod) -> str:
    """Say where a halt in a row of dead letters came again before anything was published."""
    same = [one for one in facts.halts if _whose(one) == _whose(halt)]
    again_us = min((one.since_us for one in same if one.since_us > halt.since_us), default=0)
    until_us = halt.until_us or again_us
    if not again_us or halt.by != BY_ITSELF:
        return ""
    if any(until_us <= one.ended_us < again_us for one in facts.index.published_of(halt)):
        return ""
    return (
        f". It was resumed too early: at {at(again_us)} it was held again, and nothing of it had"
        " been published meanwhile"
    )


def _whose(halt: HaltPeriod) -> tuple[str, str | None, str]:
    return halt.stream, halt.tenant, halt.by


def _level(halt: HaltPeriod) -> Level:
    if halt.until_us is None:
        return Level.ERROR
    return Level.WARNING if halt.by == BY_ITSELF or halt.resumed_by == NOBODY else Level.NOTE


def _is_broken(halt: HaltPeriod) -> bool:
    """Tell whether it is over, and nobody is on record to have lifted it."""
    return halt.until_us is not None and halt.resumed_by == NOBODY


def _fix(halt: HaltPeriod) -> str:
    tenant = ("--tenant", halt.tenant) if halt.tenant is not None else ()
    if _is_broken(halt):
        again = command("pause", "--stream", halt.stream, *tenant, "--reason", WHY)
        if halt.by == BY_ITSELF:
            return f"look whether what it was halted for is fixed; if not: {again}"
        return f"ask {halt.by} whether it should still hold; if so: {again}"
    if halt.until_us is not None:
        return ""
    resume = command("resume", "--stream", halt.stream, *tenant, "--reason", WHY)
    first = "once its cause is fixed" if halt.by == BY_ITSELF else f"once {halt.by} agrees"
    return f"{first}: {resume}"


def _waited(facts: Facts, halt: HaltPeriod) -> Iterator[Life]:
    """Yield what came before the halt was over, and ended after it began."""
    until_us = halt.until_us or facts.now_us
    for life in facts.lives:
        in_its_time = 0 < life.begun_us < until_us and not 0 < life.ended_us < until_us
        if is_of(halt, life) and in_its_time and life.end in _WAITED:
            yield life


def _causes(facts: Facts, halt: HaltPeriod) -> Iterator[str]:
    """Yield the keys of what died in a row right before it, where the sidecar halted it."""
    if halt.by != BY_ITSELF:
        return
    before = (one.ended_us for one in facts.index.published_of(halt))
    since_us = max((us for us in before if us <= halt.since_us), default=0)
    for death in facts.deaths:
        if since_us <= death.at_us <= halt.since_us + _MILLISECOND_US and is_of(halt, death.life):
            yield key_of(facts, death)


RULES = (halted,)

"""The rule about halts: which streams and tenants were held up, by whom, and who waited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.history.halts import HaltPeriod
from sidecar.redis.halts import BY_ITSELF
from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import UNKNOWN, Facts, is_of
from sidecar.replay.explain.findings import Finding, Kind, Level, at, command, counted, names_of
from sidecar.replay.timeline import End, Life

HALTED: Final = Kind("halted", "A control stream was halted, by hand or by dead letters in a row.")
PAUSED: Final = Kind("paused", "A tenant was paused, by hand or by its dead letters in a row.")
KINDS: Final = (HALTED, PAUSED)
_WAITED: Final = (End.PUBLISHED, End.DEAD, End.WAITING, End.REDRIVEN)
_MILLISECOND_US: Final = 1000


def halted(facts: Facts) -> Iterator[Finding]:
    """Yield each halt and pause of the window."""
    for halt in facts.held_up:
        yield _finding(facts, halt)


def key_of_halt(halt: HaltPeriod) -> str:
    """Return the key of the finding about a halt."""
    return f"halt:{halt.stream}:{halt.tenant or ''}:{halt.since_us}"


def _finding(facts: Facts, halt: HaltPeriod) -> Finding:
    waited = list(_waited(facts, halt))
    who = f"; {counted(len(waited), 'event')} waited" if waited else "; no event waited for it"
    tenants = () if halt.tenant is None else (halt.tenant,)
    shown = ("--tenant", halt.tenant) if halt.tenant is not None else ()
    return Finding(
        (HALTED if halt.tenant is None else PAUSED).name, _level(halt),
        f"{halt}{who}{_too_early(facts, halt)}",
        halt.since_us, key_of_halt(halt), halt.until_us, halt.by,
        names_of(waited) | {halt.stream, *tenants}, everybody=halt.tenant is None,
        evidence=(command("replay", "show", *shown),), fix=_fix(halt),
        causes=tuple(dict.fromkeys(_causes(facts, halt))),
    )  # fmt: skip


def _too_early(facts: Facts, halt: HaltPeriod) -> str:
    """Say where a halt in a row of dead letters came again before anything was published."""
    same = [one for one in facts.halts if _whose(one) == _whose(halt)]
    again_us = min((one.since_us for one in same if one.since_us > halt.since_us), default=0)
    until_us = halt.until_us or again_us
    if not again_us or halt.by != BY_ITSELF:
        return ""
    if any(until_us <= one.ended_us < again_us for one in _its(facts, halt)):
        return ""
    return (
        f". It was resumed too early: at {at(again_us)} it was held again, and nothing of it had"
        " been published meanwhile"
    )


def _whose(halt: HaltPeriod) -> tuple[str, str | None, str]:
    return halt.stream, halt.tenant, halt.by


def _its(facts: Facts, halt: HaltPeriod) -> Iterator[Life]:
    return (one for one in facts.published if is_of(halt, one))


def _level(halt: HaltPeriod) -> Level:
    if halt.until_us is None:
        return Level.ERROR
    return Level.WARNING if halt.by == BY_ITSELF or halt.resumed_by == UNKNOWN else Level.NOTE


def _fix(halt: HaltPeriod) -> str:
    if halt.until_us is not None:
        return ""
    tenant = ("--tenant", halt.tenant) if halt.tenant is not None else ()
    resume = command("resume", "--stream", halt.stream, *tenant, "--reason", "…")
    return "once its cause is fixed: " + resume


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
    before = (one.ended_us for one in _its(facts, halt))
    since_us = max((us for us in before if us <= halt.since_us), default=0)
    for death in facts.deaths:
        if since_us <= death.at_us <= halt.since_us + _MILLISECOND_US and is_of(halt, death.life):
            yield key_of(facts, death.life, death.reason)


RULES = (halted,)

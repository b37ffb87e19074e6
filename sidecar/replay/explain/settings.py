"""Rules about workers' settings: one that began with another limit, or with another store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

from sidecar.replay.explain.deaths import fate_of, key_of
from sidecar.replay.explain.facts import Death, Facts, Tenure
from sidecar.replay.explain.findings import (
    WHY,
    Finding,
    Kind,
    Level,
    at,
    command,
    counted,
    names_of,
    said,
)
from sidecar.replay.timeline import Life
from sidecar.wire.event import Reason

LIMIT: Final = Kind(
    "limit_changed",
    "A worker began with another limit than the one before it, and events died of that since.",
    "who set it so",
)
UNNAMED: Final = "that of its data directory"
OTHER_STORE: Final = Kind(
    "other_store", "A worker began with another fleet's store than the one before it.",
    "who set it so; whether it is the same store by another name",
)  # fmt: skip
KINDS: Final = (OTHER_STORE, LIMIT)
_LIMITS: Final = {
    "max_artifact_size": Reason.ARTIFACT_TOO_LARGE, "allow_type": Reason.UNKNOWN_TYPE,
    "tenant_scope": Reason.FORBIDDEN_REF, "event_id_scope": Reason.FORBIDDEN_ID,
    "source_store": Reason.ARTIFACT_MISSING, "retry_budget": Reason.ARTIFACT_MISSING,
}  # fmt: skip
"""By setting, the reason of which events die that it does not let through."""


class Change(NamedTuple):
    """A setting that changed from one tenure to the next, and what died of that."""

    name: str
    old: Any
    new: Any
    now: Tenure
    died: list[Death]
    restored: Tenure | None
    """The tenure that began with the old one again."""

    @property
    def key(self) -> str:
        """Of the finding about it."""
        return f"limit:{self.name}:{self.now.at_us}"


def changes(facts: Facts) -> Iterator[Change]:
    """Yield each setting that changed from one tenure to the next, and that events died of."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    for one in facts.tenures:
        streams[one.stream].append(one)
    for tenures in streams.values():
        for n, (before, now) in enumerate(pairwise(tenures), 1):
            for name in _LIMITS:
                if name in before.settings and name in now.settings:
                    yield from _changed(facts, name, before, tenures[n:])


def _changed(facts: Facts, name: str, before: Tenure, since: list[Tenure]) -> Iterator[Change]:
    now, old, new = since[0], before.settings[name], since[0].settings[name]
    if old == new or not _is_narrower(name, old, new):
        return
    other = next((one for one in since if one.settings.get(name) != new), None)
    until_us = other.at_us if other else facts.now_us
    died = [
        one for one in facts.deaths
        if one.reason == _LIMITS[name] and now.at_us <= one.at_us <= until_us
        and one.life.origin.stream == now.stream
    ]  # fmt: skip
    if died:
        restored = other if other and other.settings.get(name) == old else None
        yield Change(name, old, new, now, died, restored)


def _is_narrower(name: str, old: Any, new: Any) -> bool:  # noqa: ANN401 -- any setting
    if name in ("max_artifact_size", "retry_budget") and isinstance(old, int | float):
        return isinstance(new, int | float) and new < old
    return True


def limit_changed(facts: Facts) -> Iterator[Finding]:
    """Yield what changed of the workers' limits and killed events."""
    yield from (_limit(facts, one) for one in changes(facts))


def _limit(facts: Facts, change: Change) -> Finding:
    option, now, died = _option(change.name), change.now, change.died
    lacks = sum(fate_of(facts, one).is_open for one in died)
    never = f"; {lacks:,} of them did not arrive" if lacks else ", and none is missing now"
    old, new = map(_value, (change.old, change.new))
    brief = f"{option} went from {old} to {new} on {now.stream}"
    head = (
        f"the worker {now.by} began to serve {now.stream} at {at(now.at_us)} with {option} {new}"
        f" where {old} had been before{_until(change.restored)}"
    )
    return Finding(
        LIMIT.name, Level.WARNING, head, now.at_us, change.key,
        change.restored.at_us if change.restored else None, by=now.by,
        about=names_of(one.life for one in died) | {now.stream},
        evidence=(command("dead", "ls", "--only", died[0].reason),),
        fix=_fix(change, lacks), brief=brief, is_by_hand=True,
        then=f"{counted(len(died), 'event')} died of {died[0].reason} since{never}",
        hit=tuple(one.life for one in died), is_over=bool(change.restored and not lacks),
        cures=True,
    )  # fmt: skip


def _until(restored: Tenure | None) -> str:
    return f", until {at(restored.at_us)}" if restored else ""


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(value: Any) -> str:  # noqa: ANN401 -- any setting
    return "its default" if value is None else said(str(value))


def _fix(change: Change, lacks: int) -> str:
    option, old = _option(change.name), _value(change.old)
    reason = change.died[0].reason
    again = command("dead", "redrive", "--all", "--only", reason, "--reason", WHY)
    if change.restored:
        return f"the workers have it as it was; redrive what died: {again}" if lacks else ""
    redrive = f"; then redrive what died: {again}" if lacks else ""
    return f"start the workers with {option} {old} again, if it was not meant{redrive}"


class Moved(NamedTuple):
    """A time in which workers of a control stream had another fleet's store than before it."""

    was: str
    now: str
    first: Tenure
    restored: Tenure | None
    """The tenure that began with the former store again."""

    @property
    def key(self) -> str:
        """Of the finding about it."""
        return f"store:{self.first.stream}:{self.first.at_us}"


def moves(facts: Facts) -> Iterator[Moved]:
    """Yield each change of a stream's fleet store; the way back is the end of one."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    for one in facts.tenures:
        if "fleet_store" in one.settings:
            streams[one.stream].append(one)
    for tenures in streams.values():
        runs = [(name, next(run)) for name, run in groupby(tenures, _store)]
        for n, (now, first) in enumerate(runs):
            is_back = n > 1 and now == runs[n - 2][0]
            if n and not is_back:
                again = runs[n + 1] if n + 1 < len(runs) else None
                restored = again[1] if again and again[0] == runs[n - 1][0] else None
                yield Moved(runs[n - 1][0], now, first, restored)


def _store(tenure: Tenure) -> str:
    return str(tenure.settings["fleet_store"] or UNNAMED)


def other_store(facts: Facts) -> Iterator[Finding]:
    """Yield each time that a stream's workers had another fleet's store."""
    for one in moves(facts):
        if facts.has(one.first.at_us):
            yield _other(one)


def _other(one: Moved) -> Finding:
    stream, worker, since = one.first.stream, one.first.by, at(one.first.at_us)
    head = (
        f"the worker {worker} began to serve {stream} at {since} with the fleet's store"
        f" {said(one.now)} where {said(one.was)} had been before{_until(one.restored)}"
    )
    return Finding(
        OTHER_STORE.name, Level.WARNING, head, one.first.at_us, one.key,
        one.restored.at_us if one.restored else None, by=worker, about=frozenset({stream}),
        everybody=True, evidence=(command("status"), command("audit")), cures=True,
        fix=f"what was published meanwhile lies in {said(one.now)} alone: `sidecar audit --repair"
        " --reason WHY` puts it again from the producer's store" if one.restored else
        "see that both are one store, or that all artifacts were copied; else start the workers"
        f" with {said(one.was)} again",
        brief=f"workers of {stream} had another fleet's store, {said(one.now)}", is_by_hand=True,
    )  # fmt: skip


def moved_since(moved: Iterable[Moved], life: Life) -> str:
    """Return the key of what changed the fleet's store between its notification and now."""
    mine = [one for one in moved if one.first.stream == life.origin.stream]
    for one in mine:
        if one.restored and one.first.at_us <= life.ended_us <= one.restored.at_us:
            return one.key
    lasts = [one for one in mine if one.restored is None and one.first.at_us > life.ended_us]
    return lasts[-1].key if lasts else ""


def died_of(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield for what died of a limit its key, and that of the change that led to it."""
    for change in changes(facts):
        for key in {key_of(facts, one) for one in change.died}:
            yield key, change.key


RULES = (other_store, limit_changed)

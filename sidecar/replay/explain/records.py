"""Rules about what Redis and the workers have on record: losses, tenures, settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from sidecar.redis.forgotten import Forgotten
from sidecar.redis.scan import text
from sidecar.replay.explain.deaths import key_of
from sidecar.replay.explain.facts import Death, Facts, Tenure
from sidecar.replay.explain.findings import (
    Finding,
    Kind,
    Level,
    at,
    command,
    counted,
    names_of,
    said,
)
from sidecar.wire.event import Reason

REDIS_LOST: Final = Kind(
    "redis_lost", "Redis was found to have forgotten entries, notifications or the worker's notes.",
    "whether somebody emptied it, or a failover or restart lost its last writes",
)  # fmt: skip
GROUP_LOST: Final = Kind(
    "group_touched", "A consumer group was gone, and a worker made it again.", "who removed it"
)
FLAPPING: Final = Kind("flapping", "A control stream passed from worker to worker again and again.")
LIMIT: Final = Kind(
    "limit_changed",
    "A worker began with another limit than the one before it, and events died of that since.",
)
REMADE: Final = Kind("remade", "A control stream was made anew by hand (`sidecar stream remake`).")
UNNAMED: Final = "that of its data directory"
OTHER_STORE: Final = Kind(
    "other_store", "A worker began with another fleet's store than the one before it.",
    "whether it is the same store by another name",
)  # fmt: skip
KINDS: Final = (REDIS_LOST, GROUP_LOST, OTHER_STORE, FLAPPING, LIMIT, REMADE)
WITH_IT_US: Final = 1_000_000
"""A group that was found to be gone so near the loss of a stream went with that."""
TOGETHER_US: Final = 60_000_000
"""What was noticed within so long is one loss."""
OFTEN: Final = 5
"""So many tenures within `OFTEN_US` are too many: a rollout of three workers takes three."""
OFTEN_US: Final = 600_000_000
_LIMITS: Final = {
    "max_artifact_size": Reason.ARTIFACT_TOO_LARGE, "allow_type": Reason.UNKNOWN_TYPE,
    "tenant_scope": Reason.FORBIDDEN_REF, "event_id_scope": Reason.FORBIDDEN_ID,
    "source_store": Reason.ARTIFACT_MISSING, "retry_budget": Reason.ARTIFACT_MISSING,
}  # fmt: skip
"""By setting, the reason of which events die that it does not let through."""


def redis_lost(facts: Facts) -> Iterator[Finding]:
    """Yield what Redis forgot; what was noticed together is one loss.

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
    what = "Redis forgot: " + "; ".join(str(one) for one in grave)
    return Finding(
        (REDIS_LOST if is_loss else GROUP_LOST).name, Level.ERROR if is_loss else Level.WARNING,
        what, parts[0].noticed_us, f"lost:{parts[0].noticed_us}",
        about=frozenset(one.stream for one in parts), everybody=True,
        evidence=(command("audit"), command("status")),
        fix="let producers send again what came in that time; the events that were published"
        " already are absorbed" if is_loss else "find out who may run XGROUP DESTROY",
    )  # fmt: skip


def flapping(facts: Facts) -> Iterator[Finding]:
    """Yield each stream that changed hands again and again."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    for one in facts.tenures:
        if facts.has(one.at_us):
            streams[one.stream].append(one)
    for stream, tenures in streams.items():
        # A worker that begins anew, as Redis was away or forgot, has passed on nothing.
        run = _run(
            [*tenures[:1], *(one for before, one in pairwise(tenures) if before.by != one.by)]
        )
        if run:
            yield _flapping(facts, stream, run)


def _run(tenures: list[Tenure]) -> list[Tenure]:
    """Return the most tenures that began within `OFTEN_US`, if they are too many."""
    most: list[Tenure] = []
    for n, first in enumerate(tenures):
        near = [one for one in tenures[n:] if one.at_us - first.at_us <= OFTEN_US]
        most = near if len(near) > len(most) else most
    return most if len(most) >= OFTEN else []


def _flapping(facts: Facts, stream: str, run: list[Tenure]) -> Finding:
    who = ", ".join(dict.fromkeys(one.by for one in run))
    what = (
        f"{stream} changed hands {len(run)} times from {at(run[0].at_us)} to {at(run[-1].at_us)}:"
        f" {said(who)}"
    )
    return Finding(
        FLAPPING.name, Level.WARNING, what, run[0].at_us, f"flapping:{stream}", run[-1].at_us,
        about=frozenset({stream}), everybody=True, evidence=(command("status"),),
        fix="the workers' logs tell why each tenure ended: a crash, a lease that is too short, or"
        " a machine without time",
        causes=tuple(dict.fromkeys(_killed(facts, stream, run))),
    )  # fmt: skip


def _killed(facts: Facts, stream: str, run: list[Tenure]) -> Iterator[str]:
    """Yield the keys of what workers are known to have died over meanwhile."""
    for one in facts.deaths:
        its = one.reason == Reason.POISON and one.life.origin.stream == stream
        if its and run[0].at_us <= one.at_us <= run[-1].at_us + OFTEN_US:
            yield key_of(facts, one.life, one.reason)


def limit_changed(facts: Facts) -> Iterator[Finding]:
    """Yield each setting that changed from one tenure to the next, and that events died of."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    for one in facts.tenures:
        streams[one.stream].append(one)
    for tenures in streams.values():
        ends = [one.at_us for one in tenures[2:]] + [facts.now_us]
        for (before, now), until_us in zip(pairwise(tenures), ends, strict=False):
            yield from _changed(facts, before, now, until_us)


def _changed(facts: Facts, before: Tenure, now: Tenure, until_us: int) -> Iterator[Finding]:
    for name, reason in _LIMITS.items():
        if not (name in before.settings and name in now.settings):
            continue
        old, new = before.settings[name], now.settings[name]
        died = [
            one for one in facts.deaths
            if one.reason == reason and now.at_us <= one.at_us <= until_us
            and one.life.origin.stream == now.stream
        ]  # fmt: skip
        if old != new and died and _is_narrower(name, old, new):
            yield _limit(name, (old, new), now, died)


def _is_narrower(name: str, old: Any, new: Any) -> bool:  # noqa: ANN401 -- any setting
    if name in ("max_artifact_size", "retry_budget") and isinstance(old, int | float):
        return isinstance(new, int | float) and new < old
    return True


def _limit(name: str, values: tuple[Any, Any], now: Tenure, died: list[Death]) -> Finding:
    option = "--" + name.replace("_", "-")
    old, new = (said(str(value)) for value in values)
    what = (
        f"{now.by} began to serve {now.stream} at {at(now.at_us)} with {option} {new}; before it"
        f" was {old}. {counted(len(died), 'event')} died of {died[0].reason} since"
    )
    about = names_of(one.life for one in died) | {now.stream}
    return Finding(
        LIMIT.name, Level.WARNING, what, now.at_us, f"limit:{name}:{now.at_us}", by=now.by,
        about=about, evidence=(command("dead", "ls", "--only", died[0].reason),),
        fix=f"start the workers with {option} as it was, or find out why it was changed; then"
        " redrive",
    )  # fmt: skip


def other_store(facts: Facts) -> Iterator[Finding]:
    """Yield each time that a stream's next worker named another fleet's store."""
    streams: defaultdict[str, list[Tenure]] = defaultdict(list)
    for one in facts.tenures:
        if "fleet_store" in one.settings:
            streams[one.stream].append(one)
    for tenures in streams.values():
        for before, one in pairwise(tenures):
            was, now = (str(each.settings["fleet_store"] or UNNAMED) for each in (before, one))
            if was != now and facts.has(one.at_us):
                yield Finding(
                    OTHER_STORE.name, Level.WARNING,
                    f"{one.by} began to serve {one.stream} at {at(one.at_us)} with the fleet's"
                    f" store {said(now)}; before it was {said(was)}",
                    one.at_us, f"store:{one.stream}:{one.at_us}", by=one.by,
                    about=frozenset({one.stream}), everybody=True,
                    evidence=(command("status"), command("audit")),
                    fix="see that both are one store, or that all artifacts were copied",
                )  # fmt: skip


def led_to(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield for what died of a limit its key, and that of the change that led to it."""
    for found in limit_changed(facts):
        reason = _LIMITS[found.key.split(":")[1]]
        for one in facts.deaths:
            if one.reason == reason and one.at_us >= found.at_us:
                yield key_of(facts, one.life, reason), found.key


def remade(facts: Facts) -> Iterator[Finding]:
    """Yield each time that a control stream was made anew."""
    for one in facts.records:
        at_us = one.id.control_version
        if text(one.fields, "what") != "remade" or not facts.has(at_us):
            continue
        stream, by, reason = (text(one.fields, name) for name in ("stream", "by", "reason"))
        lost = text(one.fields, "lost_entries")
        gone = f"; {lost} pending entries had been deleted before" if lost.strip("0") else ""
        yield Finding(
            REMADE.name, Level.WARNING if gone else Level.NOTE,
            f"{stream} was made anew at {at(at_us)} by {by}: {said(reason)}{gone}", at_us,
            f"remade:{at_us}", by=by, about=frozenset({stream}), everybody=True,
            evidence=(command("status"),),
        )  # fmt: skip


RULES = (redis_lost, other_store, flapping, limit_changed, remade)

"""Rules about what a worker needs and could not use: a store, Redis. Workers put that on record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.redis.errors import FULL
from sidecar.replay.explain.facts import Facts, Outage
from sidecar.replay.explain.findings import (
    Finding,
    Harm,
    Kind,
    Level,
    at,
    command,
    counted,
    events_of,
    names_of,
    said,
)
from sidecar.replay.timeline import Life
from sidecar.wire.moments import span, time_us

STORE_AWAY: Final = Kind(
    "store_away", "A worker could not use a store, the producers' or the fleet's, for seconds.",
    "a store that was only slow; an outage whose worker ended in it",
)  # fmt: skip
REDIS_AWAY: Final = Kind(
    "redis_away",
    "A worker could not use Redis for seconds, and served again afterwards.",
    "an outage after which another worker serves; whether Redis or the way to it was down",
)
REDIS_FULL: Final = Kind("redis_full", "Redis had no memory for what is new, and workers waited.")
KINDS: Final = (REDIS_FULL, REDIS_AWAY, STORE_AWAY)
_FIXES: Final = {
    STORE_AWAY: "look at that store in that time; no retry budget ran meanwhile",
    REDIS_AWAY: "look at Redis, and at the network between, in that time",
    REDIS_FULL: "give it more memory (maxmemory), or keep less: --trim-control full=1d",
}
_REPLY_US: Final = 1_500_000
"""What is finished so soon after an outage waited for its end."""


def outages(facts: Facts) -> Iterator[Finding]:
    """Yield each time in which a worker could not use what it needs."""
    for outage in facts.outages:
        yield _finding(outage, list(_waited(facts, outage)))


def away_now(facts: Facts) -> Iterator[Finding]:
    """Yield the stores that workers cannot use now: what is held for them is never given up."""
    held = [one for one in facts.held if one.outage]
    for stream in dict.fromkeys(one.stream for one in held):
        mine = [one for one in held if one.stream == stream]
        since = min(one.since for one in mine)
        what = (
            f"{_store(mine[0].error)} cannot be used for {stream}, since {since} or before:"
            f" {said(mine[0].error)}; {counted(len(mine), 'tenant')} or more wait for it"
        )
        yield Finding(
            STORE_AWAY.name, Level.ERROR, what, time_us(since) or 0, f"away:{stream}",
            about=frozenset({stream}.union(*((one.tenant_id, one.event_id) for one in mine))),
            everybody=True, evidence=(command("status"), command("doctor")),
            fix="bring that store back: what waits is tried again as long as it takes",
            brief=f"{_store(mine[0].error)} cannot be used for {stream}", harm=Harm.WAITS,
            when=f"since {since}", hit=tuple(
                one for one in facts.waiting if one.origin.stream == stream
            ),
        )  # fmt: skip


def _waited(facts: Facts, outage: Outage) -> Iterator[Life]:
    """Yield what came before its end, and ended after its begin: of a store what has artifacts."""
    for life in facts.lives:
        came = 0 < life.begun_us <= outage.until_us and life.origin.stream == outage.stream
        if came and life.ended_us >= outage.until_us - _REPLY_US:
            yield life


def _store(detail: str) -> str:
    """Name a store by what failed: workers put into the fleet's store alone."""
    return "the fleet's store" if detail.startswith("cannot put ") else "a store"


def _kind_of(outage: Outage) -> Kind:
    if outage.of == "store":
        return STORE_AWAY
    return REDIS_FULL if outage.detail.startswith(FULL) else REDIS_AWAY


def _finding(outage: Outage, waited: list[Life]) -> Finding:
    kind = _kind_of(outage)
    what = _store(outage.detail) if kind is STORE_AWAY else "Redis"
    took = span((outage.until_us - outage.since_us) / 1e6)
    who = events_of(waited) if waited else "No event"
    brief = f"{what} {'was full' if kind is REDIS_FULL else 'could not be used'} for {took}"
    return Finding(
        kind.name, Level.WARNING,
        f"{outage.by} could not use {what} from {at(outage.since_us)} to {at(outage.until_us)}"
        f" ({took}), for {outage.stream}: {said(outage.detail)}",
        outage.since_us, f"outage:{outage.stream}:{outage.since_us}", outage.until_us,
        about=names_of(waited) | {outage.stream}, everybody=True,
        evidence=(command("status"), command("doctor")), fix=_FIXES[kind], brief=brief,
        then=f"{who} waited; nothing is lost", hit=tuple(waited), harm=Harm.LATE, is_over=True,
    )  # fmt: skip


RULES = (outages, away_now)

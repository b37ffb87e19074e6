"""Rules about producers: a clock that is wrong, events sent again, a tenant that floods."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import (
    Finding,
    Harm,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    names_of,
    of_tenants,
)
from sidecar.replay.timeline import End, Life
from sidecar.wire.moments import span

CLOCK: Final = Kind(
    "producer_clock", "Events say that they were made after their entries came.",
    "that a clock is behind: an event may have lain with its producer for long",
)  # fmt: skip
DOUBLED: Final = Kind(
    "producer_doubled", "A tenant's events came twice, most of them: two producers, or one that"
    " sends all again.",
)  # fmt: skip
FLOODING: Final = Kind(
    "flooding", "One tenant sent most of what came in a short time, far more than it does else,"
    " and others waited.",
)  # fmt: skip
SILENT: Final = Kind(
    "producer_silent",
    "A tenant that had sent evenly sent nothing more, while others did.",
    "whether it had nothing to send; of a tenant that sends unevenly nothing is said",
)
KINDS: Final = (CLOCK, DOUBLED, FLOODING, SILENT)
AHEAD_S: Final = 5.0
"""So far ahead a clock is wrong, and not only a bit off."""
MOST_OF_THEM: Final = 0.3
DUPLICATES: Final = 5
BUCKET_US: Final = 10_000_000
FLOOD: Final = 300
"""So many events of one tenant in `BUCKET_US`, at least, are a flood."""
SHARE: Final = 0.8
WAITED_S: Final = 2.0
FLOOD_ALONE: Final = 2000
"""So many are told of also where nobody waited."""
EVEN: Final = 20
"""From so many events on it can be said that they came evenly: no pause over `UNEVEN` medians."""
UNEVEN: Final = 6
STEADY_US: Final = 3_000_000
"""What came within so long was sent at once, and then all was sent."""
SILENT_US: Final = 20_000_000
SILENT_PAUSES: Final = 10
"""So long, and so many times the longest pause before, is silence."""
WITNESSES: Final = 3
"""So many other tenants must have sent in the later half of it."""


def clocks(facts: Facts) -> Iterator[Finding]:
    """Yield each tenant whose events come from the future."""
    ahead: defaultdict[str, list[Life]] = defaultdict(list)
    for life in facts.lives:
        if life.clock_ahead_s >= AHEAD_S:
            ahead[life.tenant_id].append(life)
    for tenant, lives in ahead.items():
        first = min(lives, key=lambda life: life.begun_us)
        most = span(max(life.clock_ahead_s for life in lives))
        brief = f"a producer of {tenant or 'no tenant'} has a clock that is up to {most} ahead"
        verb = "says that it was" if len(lives) == 1 else "say that they were"
        what = (
            f"{brief}: {counted(len(lives), 'event')} of it, the first {called(first)} at"
            f" {at(first.begun_us)}, {verb} made after the entry came"
        )
        yield Finding(
            CLOCK.name, Level.WARNING, what, first.begun_us, f"clock:{tenant}",
            about=names_of(lives), evidence=(command("trace", first.event_id),),
            fix="set the producer's clock (NTP)", brief=brief,
            then="No harm was done: nothing in the sidecar goes by created_at",
        )  # fmt: skip


def doubled(facts: Facts) -> Iterator[Finding]:
    """Yield each tenant of which most events come again."""
    again: defaultdict[str, list[Life]] = defaultdict(list)
    for life in facts.lives:
        if life.end is End.DUPLICATE:
            again[life.tenant_id].append(life)
    published = Counter(life.tenant_id for life in facts.published)
    for tenant, lives in again.items():
        if len(lives) >= DUPLICATES and len(lives) >= MOST_OF_THEM * published[tenant]:
            first = min(lives, key=lambda life: life.begun_us)
            brief = f"{counted(len(lives), 'event')}{of_tenants([tenant])} came again"
            what = (
                f"{brief}, of {published[tenant]:,} published, the first {first.event_id} at"
                f" {at(first.begun_us)}: two producers run, or one sends all again"
            )
            yield Finding(
                DOUBLED.name, Level.WARNING, what, first.begun_us, f"doubled:{tenant}",
                about=names_of(lives), evidence=(command("replay", "show", "--end", "duplicate"),),
                fix="find the second producer, or why the first does not note what it has sent",
                brief=f"{brief}: two producers, or one that sends all again",
                then="No harm was done: each was published once",
            )  # fmt: skip


def flooding(facts: Facts) -> Iterator[Finding]:
    """Yield each tenant for whose flood others waited."""
    buckets: defaultdict[int, list[Life]] = defaultdict(list)
    for life in facts.lives:
        if life.begun_us:
            buckets[life.begun_us // BUCKET_US].append(life)
    told: set[str] = set()
    for bucket, lives in sorted(buckets.items()):
        counts = Counter(life.tenant_id for life in lives)
        (tenant, most), total = counts.most_common(1)[0], counts.total()
        if tenant in told or most < FLOOD or most < SHARE * total:
            continue
        others = _waited(facts, lives, tenant)
        if others or most >= FLOOD_ALONE:
            told.add(tenant)
            yield _flood(tenant, bucket * BUCKET_US, most, others)


def _waited(facts: Facts, lives: list[Life], tenant: str) -> list[Life]:
    """Return what of it others sent, and what waited long without a halt."""
    return [
        life for life in lives
        if life.tenant_id != tenant
        and (life.delay_s or 0) >= WAITED_S
        and not facts.halted(life.origin.stream, life.tenant_id, life.begun_us, life.ended_us)
    ]  # fmt: skip


def _flood(tenant: str, since_us: int, most: int, others: list[Life]) -> Finding:
    longest = span(max((life.delay_s or 0 for life in others), default=0))
    tenants = sorted({life.tenant_id for life in others})
    waited = (
        f"{counted(len(others), 'event')} of {counted(len(tenants), 'other tenant')} waited up to"
        f" {longest}" if others else "no other tenant waited for that"
    )  # fmt: skip
    brief = f"{tenant or 'no tenant'} sent {most:,} events within 10 seconds, and {waited}"
    what = f"{brief}; from {at(since_us)} on"
    return Finding(
        FLOODING.name, Level.WARNING if others else Level.NOTE, what, since_us,
        f"flood:{tenant}", since_us + BUCKET_US, about=names_of(others) | {tenant},
        evidence=(command("replay", "show", "--tenant", tenant),),
        fix="slow that producer down, or give it a control stream of its own; `sidecar pause"
        " --tenant` holds it back meanwhile" if others else "", brief=brief, hit=tuple(others),
        harm=Harm.LATE, is_over=not others,
    )  # fmt: skip


def silent(facts: Facts) -> Iterator[Finding]:
    """Yield each tenant that had sent evenly, and sends nothing more."""
    came: defaultdict[str, list[int]] = defaultdict(list)
    for life in facts.lives:
        if life.begun_us and life.origin not in facts.put_back:
            came[life.tenant_id].append(life.begun_us)
    newest = {tenant: max(times) for tenant, times in came.items()}
    last_us = max(newest.values(), default=0)  # since then everybody is silent
    in_order = sorted(newest.values())
    for tenant, times in came.items():
        pauses = sorted(then - one for one, then in pairwise(sorted(times)))
        silence_us = last_us - newest[tenant]
        is_burst = newest[tenant] - min(times) < STEADY_US
        if len(pauses) < EVEN or is_burst or pauses[-1] > UNEVEN * pauses[len(pauses) // 2]:
            continue
        witnesses = len(in_order) - bisect_right(in_order, newest[tenant] + silence_us // 2)
        if silence_us >= max(SILENT_US, SILENT_PAUSES * pauses[-1]) and witnesses >= WITNESSES:
            since_us = facts.now_us - newest[tenant]
            yield _silent(tenant, len(times), pauses[-1], newest[tenant], since_us)


def _silent(tenant: str, count: int, longest_us: int, last_us: int, silence_us: int) -> Finding:
    what = (
        f"{tenant or 'no tenant'} has sent nothing for {span(silence_us / 1e6)}, since"
        f" {at(last_us)}, while others did; its {count:,} events before came evenly, never more"
        f" than {span(longest_us / 1e6)} apart"
    )
    return Finding(
        SILENT.name, Level.WARNING, what, last_us, f"silent:{tenant}", about=frozenset({tenant}),
        evidence=(command("replay", "show", "--tenant", tenant),),
        fix="look whether that producer runs, and whether it can reach Redis and its store",
        brief=f"{tenant or 'no tenant'} has sent nothing for {span(silence_us / 1e6)}",
        when=f"since {at(last_us)}",
    )  # fmt: skip


RULES = (clocks, doubled, flooding, silent)

"""Rules about registered readers: one that is in a gap, that has expired, or that does not move."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from sidecar.redis.readers import Reader
from sidecar.replay.explain.facts import Facts
from sidecar.replay.explain.findings import (
    Finding,
    Kind,
    Level,
    at,
    called,
    command,
    counted,
    deletion,
    said,
)
from sidecar.replay.timeline import Life
from sidecar.wire.moments import span

GAP: Final = Kind(
    "reader_gap",
    "A registered reader had not read notifications that were trimmed: it never gets them.",
    "whether it has read them without saying so",
)
EXPIRED: Final = Kind(
    "reader_expired", "A registered reader was not heard of for its time: it protects nothing now.",
    "whether it was taken out of service",
)  # fmt: skip
STUCK: Final = Kind(
    "reader_stuck",
    "A registered reader has read nothing for long, though there were notifications.",
    "what it waits for; readers that do not register",
)  # fmt: skip
KINDS: Final = (GAP, EXPIRED, STUCK)
LONG_US: Final = 30_000_000
"""A controller that works passes a notification sooner."""


def readers(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with each reader now: of earlier nothing is on record."""
    if facts.window.until_us < facts.history.now_us():
        return
    reach = facts.history.reach(facts.history.streams.notifications)
    gaps = reach.gaps if reach else ()
    trimmed_us = max((gap.last.last_version for gap in gaps if not gap.folded), default=0)
    published = sorted(facts.published, key=lambda one: one.control_version)
    passed = [one.control_version for one in published]
    for reader in facts.history.readers():
        left = published[bisect_right(passed, reader.control_version) :]
        if 0 < reader.control_version < trimmed_us:
            yield _gap(reader, trimmed_us, left)
        elif reader.expired:
            yield _expired(reader, left)
        elif left and facts.now_us - left[0].ended_us >= LONG_US:
            yield _stuck(facts, reader, left)


def _gap(reader: Reader, trimmed_us: int, left: list[Life]) -> Finding:
    what = (
        f"the reader {said(reader.name)} has read up to {at(reader.control_version)}, and"
        f" notifications up to {at(trimmed_us)} were trimmed: it never gets those between"
    )
    fix = "have it take the state again (`Feed.state`), and follow from there"
    brief = f"the reader {said(reader.name)} never gets what was trimmed before it read it"
    return _finding(GAP, Level.ERROR, reader, what, brief, fix, left)


def _expired(reader: Reader, left: list[Life]) -> Finding:
    what = (
        f"the reader {said(reader.name)} was last heard of at {at(reader.seen_us)}, and expired"
        f" {span(reader.ttl_s)} later: what it has not read may be trimmed"
        f" ({counted(len(left), 'notification')} of this window)"
    )
    fix = "start that controller again, or remove the reader if it is gone for good"
    brief = f"the reader {said(reader.name)} has expired"
    return _finding(EXPIRED, Level.WARNING, reader, what, brief, fix, left)


def _stuck(facts: Facts, reader: Reader, left: list[Life]) -> Finding:
    first = left[0]
    is_foreign = first.origin.entry is None
    by_hand = ", which no worker wrote" if is_foreign else ""
    which = f"the notification of {called(first)}, control_version {first.control_version}{by_hand}"
    brief = (
        f"the reader {said(reader.name)} is stuck since {at(reader.control_version)}, before"
        f" {which}"
    )
    what = (
        f"{brief}: it has read nothing for {span((facts.now_us - first.ended_us) / 1e6)}, though"
        f" {counted(len(left), 'notification')} came; it was last heard of at {at(reader.seen_us)}"
    )
    fix = _fix_of_stuck(facts, first, is_foreign=is_foreign)
    found = _finding(STUCK, Level.ERROR, reader, what, brief, fix, left)
    return replace(found, causes=("foreign",) if is_foreign else ())


def _fix_of_stuck(facts: Facts, first: Life, *, is_foreign: bool) -> str:
    if not is_foreign:
        return "look at that controller: it is down, or cannot take the notification it is before"
    delete = deletion(facts.history.streams.notifications, first)
    return (
        "look at that controller's log: if it cannot take that notification, delete it"
        f" ({delete}), and start the controller again"
    )


def _since(kind: Kind, reader: Reader, left: list[Life]) -> int:
    if kind is EXPIRED:
        return reader.seen_us
    return left[0].ended_us if left else reader.control_version


def _finding(
    kind: Kind, level: Level, reader: Reader, what: str, brief: str, fix: str, left: list[Life]
) -> Finding:
    shown = [command("trace", str(left[0].control_version))] if left else []
    return Finding(
        kind.name, level, what, _since(kind, reader, left), f"reader:{reader.name}",
        about=frozenset({reader.name}), evidence=(command("status"), *shown), fix=fix,
        brief=brief, is_dated=kind is not STUCK, also=f"the reader {said(reader.name)}",
    )  # fmt: skip


RULES = (readers,)

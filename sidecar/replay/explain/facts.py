"""What the rules look at: the one history of a window, read once."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

import orjson

from sidecar.history import History
from sidecar.history.halts import NOBODY, HaltPeriod, halts_of
from sidecar.history.redrives import Redrive, redrives_of
from sidecar.redis.forgotten import Forgotten, forgotten_of
from sidecar.redis.members import Held
from sidecar.redis.scan import text
from sidecar.redis.source import Entry
from sidecar.redis.tenures import OUTAGE, TENURE
from sidecar.replay.artifacts import State, put_of
from sidecar.replay.backs import Backs
from sidecar.replay.explain.index import Index
from sidecar.replay.stalls import Stall, Stalls
from sidecar.replay.timeline import End, Life, lives
from sidecar.replay.window import Window, covered, moment
from sidecar.stores import explained
from sidecar.wire.erasures import Erasure, erasures
from sidecar.wire.event import Reason
from sidecar.wire.ids import Origin
from sidecar.wire.moments import time_us
from sidecar.wire.subject import Change, Subject, followed, subject_of
from store import Capability, versioned

DEDUP_WINDOW_S: Final = 7 * 86_400.0
"""How long workers remember an event_id, where none is on record with another setting."""
MOST: Final = 200_000
"""So many events are looked at, those that ended last: memory stays bounded."""
MAX_LOOKED_AT: Final = 500
"""So many artifacts are looked up: of the subjects that changed last, of what died last."""
LACKING: Final = frozenset({Reason.ARTIFACT_MISSING, Reason.CHECKSUM_MISMATCH})
"""What an event dies of, after the retry budget, whose artifact is not there."""
EACH: Final = 5
"""So many alike are told each; of more, all in one."""
_NO_RECORD: Final = "its key was probably deleted"
_UNDER_WAY_US: Final = 1_000_000
"""What is published so soon after a halt began was under way."""


class Tenure(NamedTuple):
    """When a worker began to serve a control stream, with which settings."""

    at_us: int
    stream: str
    by: str
    version: str
    settings: Mapping[str, Any]


class Outage(NamedTuple):
    """When an owner could not serve a control stream. Times are in microseconds since the epoch."""

    stream: str
    by: str
    of: str
    """`store` or `redis`."""
    since_us: int
    until_us: int
    detail: str

    def overlaps(self, stream: str, since_us: int, until_us: int) -> bool:
        """Tell whether it kept this stream from being served in a part of that time."""
        return self.stream == stream and self.since_us < until_us and since_us < self.until_us


class Death(NamedTuple):
    """One event that ended as a dead letter, whatever became of that."""

    life: Life
    reason: str
    detail: str
    at_us: int
    redrive: Redrive | None
    """None while it is dead."""


class Kept:
    """The events of a window as they are read, of which the last `MOST` stay."""

    def __init__(self) -> None:
        self.lives: deque[Life] = deque(maxlen=MOST)
        self.seen = 0

    def add(self, life: Life) -> None:
        """Take in the next one."""
        self.lives.append(replace(life, entry=None))
        self.seen += 1


@dataclass
class Facts:
    """All that is on record of a window. Times are in microseconds since the epoch."""

    history: History
    window: Window
    lives: list[Life]
    left_out: int
    """So many events came before those that are looked at."""
    halts: list[HaltPeriod]
    redrives: list[Redrive]
    records: list[Entry]
    """Of tenures, and of what Redis forgot."""
    now_us: int
    asked: str = ""
    """What is asked about; empty is everything."""

    @classmethod
    def read(cls, history: History, window: Window) -> Self:
        """Read the window once. Raises as the history does."""
        kept = Kept()
        for life in lives(history, window):
            kept.add(life)
        return cls.of(history, window, kept)

    @classmethod
    def of(cls, history: History, window: Window, kept: Kept) -> Self:
        """Take what somebody has read of the window. Raises as the history does."""
        names, now_us = history.streams, min(window.until_us, history.now_us())
        records = history.entries(names.tenures) if names.tenures else iter(())
        return cls(
            history, window, list(kept.lives), kept.seen - len(kept.lives),
            halts_of(history, window.since_us, window.until_us) if names.halts else [],
            list(redrives_of(history)), list(records), now_us,
        )  # fmt: skip

    @cached_property
    def published(self) -> list[Life]:
        """What was published, in the order in which it was."""
        found = [life for life in self.lives if life.end is End.PUBLISHED and life.ended_us]
        return sorted(found, key=lambda life: life.ended_us)

    @cached_property
    def held_up(self) -> list[HaltPeriod]:
        """The halts, each as long as it was: also where somebody deleted its key."""
        return [self._lifted(one) if one.until_us is None else one for one in self.halts]

    def _lifted(self, halt: HaltPeriod) -> HaltPeriod:
        """Return when it was over, where what came since was published."""
        seen_us = halt.since_us + _UNDER_WAY_US
        ended = [one.ended_us for one in self.index.published_of(halt)
                 if one.begun_us > halt.since_us and one.ended_us > seen_us]  # fmt: skip
        if not ended:
            return halt
        return replace(halt, until_us=min(ended), resumed_by=NOBODY, resumed_why=_NO_RECORD)

    @cached_property
    def waiting(self) -> list[Life]:
        """What waits, in entry order."""
        found = [life for life in self.lives if life.end is End.WAITING and life.begun_us]
        return sorted(found, key=_entry_of)

    @cached_property
    def deaths(self) -> list[Death]:
        """What died, the earliest first, also what was redriven since."""
        found = (one._replace(life=self._named(one.life)) for one in _deaths(self.lives))
        return sorted(found, key=lambda one: one.at_us)

    def _named(self, life: Life) -> Life:
        """Return it with its event, where its own entry is gone and it was sent again since."""
        event = self.index.events.get(life.event_id) if life.event is None else None
        return replace(life, event=event, tenant_id=event.tenant_id) if event else life

    @cached_property
    def erased(self) -> dict[Origin, str]:
        """What died and was erased, by its entry: with which tenant, when, by whom and why.

        Raises `Unreachable` when the store is away.
        """
        found: dict[Origin, str] = {}
        for one in self.deaths[-MAX_LOOKED_AT:]:
            whose = self._erasures.get(one.life.tenant_id)
            if whose and (time_us(whose.at) or 0) > one.at_us:
                found[one.life.origin] = str(whose)
            elif self.history.store and one.reason in LACKING:
                put = put_of(one.life.event, self.history.store)
                if put and put.state is State.ERASED:
                    found[one.life.origin] = put.why
        return found

    @cached_property
    def _erasures(self) -> dict[str, Erasure]:
        """The last erasure of each tenant, as the fleet's store tells; a bundle has none."""
        store = self.history.store and versioned(self.history.store, Capability.LIST)
        with explained():
            return {one.tenant: one for one in (erasures(store) if store else ())}

    @cached_property
    def crowded(self) -> set[str]:
        """The reasons of which so many tenants have dead letters that they are told all in one.

        None where one of them was asked about.
        """
        tenants: defaultdict[str, set[str]] = defaultdict(set)
        for one in self.deaths:
            tenants[one.reason].add(one.life.tenant_id)
        return {reason for reason, its in tenants.items() if len(its) > EACH and not self.asked}

    @cached_property
    def by_subject(self) -> dict[Subject, list[Life]]:
        """What was published, by what it is about."""
        found: defaultdict[Subject, list[Life]] = defaultdict(list)
        for life in self.published:
            if subject := subject_of_life(life):
                found[subject].append(life)
        return dict(found)

    @cached_property
    def index(self) -> Index:
        """The same by what is asked of it."""
        return Index(self.lives, self.published, self.by_subject)

    @cached_property
    def repeated(self) -> dict[str, list[Life]]:
        """What was published again while it had to be remembered, by event_id.

        The first notification comes first.
        """
        told = [one.settings.get("dedup_window") for one in self.tenures]
        kept_s = min((one for one in told if isinstance(one, int | float)), default=DEDUP_WINDOW_S)
        found: defaultdict[str, list[Life]] = defaultdict(list)
        for life in self.published:
            known = found[life.event_id]
            if life.event_id and (not known or life.ended_us - known[-1].ended_us <= kept_s * 1e6):
                known.append(life)
        return {event_id: known for event_id, known in found.items() if len(known) > 1}

    @cached_property
    def backs(self) -> Backs:
        """What was set back behind something that came before the window."""
        return Backs(self.history)

    @cached_property
    def put_back(self) -> dict[str, Redrive]:
        """Redrives and repairs, by the entry that each became."""
        return {one.entry: one for one in self.redrives if one.entry}

    @cached_property
    def originals(self) -> dict[str, Origin]:
        """By the entry of a redrive or a repair, the one that it had been."""
        return {entry: one.origin for entry, one in self.put_back.items()}

    @cached_property
    def tenures(self) -> list[Tenure]:
        """Which tenures began in the window or before, the earliest first."""
        return list(_tenures(self.records))

    @cached_property
    def outages(self) -> list[Outage]:
        """What kept workers from serving in the window, and is over."""
        found = map(_outage, (one for one in self.records if _what(one) == OUTAGE))
        since_us, until_us = self.window.since_us, self.window.until_us
        return [one for one in found if since_us <= one.until_us and one.since_us <= until_us]

    @cached_property
    def held(self) -> Sequence[Held]:
        """What workers hold back now."""
        return self.history.held()

    @cached_property
    def forgotten(self) -> list[Forgotten]:
        """What Redis was found to have forgotten in the window."""
        found = map(forgotten_of, (one for one in self.records if _what(one) == "forgot"))
        return [one for one in found if self.has(one.noticed_us)]

    @cached_property
    def remade(self) -> set[str]:
        """Control streams that were made anew by hand, which takes along what is unfinished."""
        return {text(one.fields, "stream") for one in self.records if _what(one) == "remade"}

    @cached_property
    def stalls(self) -> list[Stall]:
        """When nothing was finished while events waited."""
        stalls = Stalls()
        for life in self.lives:
            stalls.add(life)
        return stalls.found()

    @cached_property
    def gaps(self) -> list[str]:
        """What of the window cannot be read any more, in words."""
        return [
            f"{one.stream} from {moment(gap.first)} to {moment(gap.last)} ({gap.why})"
            for one in covered(self.history, self.window)
            for gap in one.missing
        ]

    def change(self, life: Life) -> Change | None:
        """Return what an event changes, and where it stood at first; None of a broken one."""
        if life.event is None:
            return None
        return Change.of(life.event, followed(self.originals, life.origin), life.ended_us // 1000)

    def has(self, us: int) -> bool:
        """Tell whether a moment lies in the window."""
        return self.window.since_us <= us <= self.window.until_us

    def halted(self, stream: str, tenant: str, since_us: int, until_us: int) -> HaltPeriod | None:
        """Return a halt that kept this tenant of this stream from being served in a time."""
        for whose in ((stream, None), (stream, tenant)):
            mine = self._halts_by_whose.get(whose, ())
            # No two of them overlap: of those that began before the end only the last may last.
            n = bisect_left(mine, until_us + 1, key=lambda one: one.since_us)
            if n and mine[n - 1].overlaps(since_us, until_us):
                return mine[n - 1]
        return None

    @cached_property
    def _halts_by_whose(self) -> dict[tuple[str, str | None], list[HaltPeriod]]:
        found: defaultdict[tuple[str, str | None], list[HaltPeriod]] = defaultdict(list)
        for halt in sorted(self.held_up, key=lambda one: one.since_us):
            found[halt.stream, halt.tenant].append(halt)
        return dict(found)


def unrecorded(facts: Facts) -> list[str]:
    """Return what of the window cannot be read any more, for a sentence: what, up to when."""
    names = facts.history.streams
    kinds = {names.dead: "dead letters", names.notifications: "notifications"}
    return [
        f"{kinds.get(one.stream, f'entries of {one.stream}')}"
        f" {f'from {moment(gap.first)} to' if gap.first.ms else 'up to'} {moment(gap.last)}"
        for one in covered(facts.history, facts.window)
        for gap in one.missing
    ]


def is_of(halt: HaltPeriod, life: Life) -> bool:
    """Tell whether a halt holds up what this event is of."""
    return life.origin.stream == halt.stream and halt.tenant in (None, life.tenant_id)


def subject_of_life(life: Life) -> Subject | None:
    """Return what an event is about; None of one that is broken, or about nothing."""
    event = life.event
    return subject_of(event.tenant_id, event.stack_id, event.artifact_ref) if event else None


def _entry_of(life: Life) -> tuple[int, int]:
    return life.origin.entry.pair if life.origin.entry else (0, 0)


def _deaths(lives_: Iterable[Life]) -> Iterator[Death]:
    for life in lives_:
        if life.end is End.DEAD:
            yield Death(life, life.reason, life.detail, life.ended_us, None)
        elif life.end is End.REDRIVEN and life.end_id:
            one = Redrive.of_fields(life.fields or {}, life.end_id)
            if one.letter:
                at_us = one.letter.control_version
                yield Death(life, one.dead_reason, one.dead_detail, at_us, one)


def _what(record: Entry) -> str:
    return text(record.fields, "what")


def _tenures(records: Iterable[Entry]) -> Iterator[Tenure]:
    for one in records:
        if _what(one) == TENURE:
            stream, by, version = (text(one.fields, n) for n in ("stream", "by", "version"))
            settings = _settings(one.fields.get(b"settings", b""))
            yield Tenure(one.id.control_version, stream, by, version, settings)


def _outage(record: Entry) -> Outage:
    stream, by, of, since, until, detail = (
        text(record.fields, name) for name in ("stream", "by", "of", "since", "until", "detail")
    )
    latest_us = record.id.control_version  # it is put on record when it is over
    since_us, until_us = (min(time_us(one) or latest_us, latest_us) for one in (since, until))
    return Outage(stream, by, of, since_us, until_us, detail)


def _settings(raw: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(raw)
    except ValueError:
        return {}  # no worker wrote it
    return found if isinstance(found, dict) else {}

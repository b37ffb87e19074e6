"""What a rule finds: one thing that happened, in one sentence, with its evidence and its fix."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.replay.timeline import Life
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339

MAX_SAID: Final = 200
"""So many characters of what an event or a dead letter says go into a sentence."""
NAMED: Final = 3
"""So many tenants are named where more are meant."""
NO_TENANT: Final = "no known tenant"
WHY: Final = "WHY"
"""What stands for the reason in a command that asks for one."""
NOT_ON_RECORD: Final = "by whom: not on record"
OVER: Final = "nothing to do: it is over"


class Level(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    """Something is not as it should be, and nothing on record has set it right."""
    WARNING = "warning"
    """Something went wrong, and is over, or has cost time alone."""
    NOTE = "note"
    """Somebody meant it, and it is over."""


class Harm(StrEnum):
    """What came to events; the gravest first."""

    DEAD = "dead or lost"
    WRONG = "published wrongly"
    GONE = "without their artifact"
    WAITS = "waiting"
    LATE = "delayed"


class Kind(NamedTuple):
    """A kind of finding; `docs/explain.md` has a row for each."""

    name: str
    means: str
    """What has happened, and by what that is known."""
    unless: str = ""
    """What cannot be known of it."""


@dataclass(frozen=True)
class Finding:
    """One thing that happened. Times are in microseconds since the epoch."""

    kind: str
    level: Level
    head: str
    """What happened, to whom, when, and by what: a clause, what came of it first."""
    at_us: int
    key: str
    """By which others name it as their cause."""
    until_us: int | None = None
    """When it was over; None while it lasts, or where it has no length."""
    by: str = ""
    """Who did it, where somebody did."""
    about: frozenset[str] = frozenset()
    """Whose it is: tenants, stacks, refs, event_ids, entries."""
    everybody: bool = False
    """Whether it is about all that came in its time."""
    evidence: tuple[str, ...] = ()
    """Commands that show it."""
    fix: str = ""
    """What to do; of what is over, so that it does not happen again."""
    causes: tuple[str, ...] = ()
    """The keys of what led to it."""
    brief: str = ""
    """The head in few words, without the time, for the summary."""
    then: str = ""
    """How it stands since: a sentence without its full stop."""
    clause: str = ""
    """What is said of it behind `because`; empty is the head."""
    short: str = ""
    """The same in few words, for the summary; empty is `brief`."""
    is_dated: bool = True
    """Whether the summary says when, and by whom: else `brief` does."""
    when: str = ""
    """The same where it is not at one moment, nor from one to another: `since …`."""
    hit: tuple[Life, ...] = ()
    """The events that it did harm to."""
    harm: Harm = Harm.DEAD
    """Which harm that is."""
    still: tuple[Life, ...] | None = None
    """Those that are not set right; None is all of an error, and none of what is no error."""
    also: str = ""
    """What else it did harm to: a reader, or events of which nobody knows."""
    is_by_hand: bool = False
    """Whether somebody did it, on record or not."""
    is_over: bool = False
    """Whether there is nothing to do any more."""
    cures: bool = False
    """Whether its fix is that of what it led to as well: of two fixes one is advised."""
    reasons: tuple[Finding, ...] = ()
    """What led to it, told inside of it and not beside it."""

    @property
    def what(self) -> str:
        """What happened and why, and how it stands since, in one sentence or two."""
        told = self._with_reasons(self.head)
        return f"{told.rstrip('.')}. {self.then}" if self.then else told

    @property
    def why(self) -> str:
        """What is said of it as the reason of something else."""
        return self._with_reasons(self.clause or self.head)

    def _with_reasons(self, told: str) -> str:
        unknown = f" ({NOT_ON_RECORD})" if self.is_nobodys else ""
        reasons = "; and".join(f" because {one.why}" for one in self.reasons)
        return f"{told}{unknown}{',' if reasons else ''}{reasons}"

    @property
    def dated(self) -> str:
        """When it was, in words; empty where nobody knows."""
        if self.when or not self.at_us:
            return self.when
        if self.until_us and self.until_us > self.at_us:
            return f"from {at(self.at_us)} to {at(self.until_us)}"
        return f"at {at(self.at_us)}"

    @property
    def left(self) -> tuple[Life, ...]:
        """The events that it did harm to and that nothing has set right."""
        if self.still is not None:
            return self.still
        return self.hit if self.level is Level.ERROR else ()

    @property
    def is_nobodys(self) -> bool:
        """Whether somebody did it, and no record says who: a worker that began is not who."""
        return self.is_by_hand and "@" not in self.by

    @property
    def advice(self) -> str:
        """What to do, also where that is nothing; empty where nobody can say."""
        if not self.is_over:
            return self.fix
        return f"{OVER}{f'; so that it does not happen again: {self.fix}' if self.fix else ''}"

    @property
    def parts(self) -> Iterator[Finding]:
        """Yield it, and all that is told inside of it."""
        yield self
        for one in self.reasons:
            yield from one.parts

    @property
    def place(self) -> str:
        """The entry or the notification's ID that it is about alone; empty where there is none."""
        place = self.key.partition(":")[2]
        return str(EntryId.of_version(int(place))) if place.isdecimal() else place

    def to_json(self, numbers: dict[str, int]) -> dict[str, Any]:
        """Return it for machines; `numbers` are those of the findings, by key. Absent is null."""
        return {
            "number": numbers[self.key], **self.plain(), "causes": self.caused_by(numbers),
            "because": [one.plain() for one in [*self.parts][1:]],
        }  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """Return what it says by itself, without a number. Absent is null."""
        return {
            "kind": self.kind, "level": self.level.value, "what": self.what,
            "at": rfc3339(self.at_us) if self.at_us else None,
            "until": rfc3339(self.until_us) if self.until_us else None, "by": self.by or None,
            "evidence": list(self.evidence), "fix": self.advice or None, "over": self.is_over,
            "about": sorted(map(str, self.about)),
        }  # fmt: skip

    def caused_by(self, numbers: dict[str, int]) -> list[int]:
        """Return the numbers of its causes, as far as these are told beside it."""
        found = {numbers[one] for each in self.parts for one in each.causes if one in numbers}
        return sorted(found - {numbers[self.key]})


def command(*words: str) -> str:
    """Return a command of the sidecar as a shell takes it."""
    return shlex.join(("sidecar", *words))


def deletion(notifications: str, life: Life) -> str:
    """Return the command that takes a notification away, which no command of the sidecar does."""
    return shlex.join(("redis-cli", "XDEL", notifications, str(life.end_id)))


def said(text: str) -> str:
    """Return what somebody else wrote, cut for a sentence."""
    return text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}…"


def names(life: Life) -> frozenset[str]:
    """Return by which names a person may ask for an event."""
    event, end = life.event, life.end_id
    stack = f"{event.tenant_id}/{event.stack_id}" if event and event.stack_id else ""
    found = {
        life.event_id, life.tenant_id, life.origin, stack,
        f"{stack}@{event.version}" if event and stack and event.version else "",
        event.artifact_ref if event else "", end or "",
        str(life.control_version) if life.control_version else "",
    }  # fmt: skip
    return frozenset(map(str, found - {""}))


def names_of(lives: Iterable[Life]) -> frozenset[str]:
    """Return the names of all of them."""
    return frozenset().union(*map(names, lives))


def called(life: Life) -> str:
    """Return what a sentence calls an event: its stack and version, else its event_id."""
    if life.event and life.event.stack_id:
        return life.event.whose
    whose = f" of {life.tenant_id}" if life.tenant_id else ""
    return f"event {said(life.event_id or life.origin)}{whose}"


def at(us: int) -> str:
    """Return a moment for a sentence."""
    return rfc3339(us) if us else "an unknown time"


def counted(number: int, what: str) -> str:
    """Return a number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def events_of(lives: Sequence[Life], what: str = "event") -> str:
    """Return how many events, or what else is counted, of whom."""
    return f"{counted(len(lives), what)}{of_tenants(dict.fromkeys(x.tenant_id for x in lives))}"


def of_tenants(tenants: Collection[str]) -> str:
    """Return whose something is, behind a count of events: one by name, more with the first."""
    named = [one or NO_TENANT for one in tenants]
    if len(named) == 1:
        return f" of {named[0]}"
    more = ", …" if len(named) > NAMED else ""
    return f" of {len(named):,} tenants ({', '.join(map(said, named[:NAMED]))}{more})"

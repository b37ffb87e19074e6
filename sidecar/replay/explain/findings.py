"""What a rule finds: one thing that happened, in one sentence, with its evidence and its fix."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.replay.timeline import Life
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339

MAX_SAID: Final = 200
"""So many characters of what an event or a dead letter says go into a sentence."""


class Level(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    """Something is not as it should be, and nothing on record has set it right."""
    WARNING = "warning"
    """Something went wrong, and is over, or has cost time alone."""
    NOTE = "note"
    """Somebody meant it, and it is over."""


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
    what: str
    """One sentence: what happened, to whom, when, and by what."""
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
    causes: tuple[str, ...] = ()
    """The keys of what led to it."""

    @property
    def place(self) -> str:
        """The entry or the notification's ID that it is about alone; empty where there is none."""
        place = self.key.partition(":")[2]
        return str(EntryId.of_version(int(place))) if place.isdecimal() else place

    def to_json(self, numbers: dict[str, int]) -> dict[str, Any]:
        """Return it for machines; `numbers` are those of the findings, by key. Absent is null."""
        return {
            "number": numbers[self.key], "kind": self.kind, "level": self.level.value,
            "what": self.what, "at": rfc3339(self.at_us) if self.at_us else None,
            "until": rfc3339(self.until_us) if self.until_us else None, "by": self.by or None,
            "causes": self.caused_by(numbers), "evidence": list(self.evidence),
            "fix": self.fix or None, "about": sorted(map(str, self.about)),
        }  # fmt: skip

    def caused_by(self, numbers: dict[str, int]) -> list[int]:
        """Return the numbers of its causes, as far as these are among the findings."""
        return sorted(numbers[one] for one in self.causes if one in numbers)


def command(*words: str) -> str:
    """Return a command of the sidecar as a shell takes it."""
    return shlex.join(("sidecar", *words))


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

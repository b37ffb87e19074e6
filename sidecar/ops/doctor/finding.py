"""A finding: its kind, how bad it is, what exactly is wrong, why that matters, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from sidecar.redis.errors import NotPermitted

T = TypeVar("T")


MOST: Final = 20
"""So many findings of one kind are listed."""


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Something does not work, or a guarantee does not hold."""
    WARNING = "warning"
    """All works now. Something is at risk, or is not as it was probably meant."""


class Told(NamedTuple):
    """What a check saw."""

    what: str
    fix: str


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: str
    level: Level
    what: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """Looks for one kind of finding."""

    kind: str
    level: Level
    why: str
    look: Callable[[T], Iterable[Told]]

    def findings(self, about: T) -> Iterator[Finding]:
        """Yield what it finds. What this user may not ask is not known to be wrong."""
        with suppress(NotPermitted):
            for number, (what, fix) in enumerate(self.look(about)):
                if number == MOST:
                    more = f"there is more of this kind than the {MOST} that are listed"
                    yield Finding(self.kind, self.level, more, self.why, "fix those first")
                    return
                yield Finding(self.kind, self.level, what, self.why, fix)


def all_of(checks: Sequence[Check[T]], about: T) -> list[Finding]:
    """Return what all of the checks find. Raises `SidecarError`, `RedisError`."""
    return [found for check in checks for found in check.findings(about)]


def parted(said: object) -> Told:
    """Return a message as this project writes them: what happened; the fix."""
    what, _, fix = str(said).partition("; ")
    return Told(what, fix or "see docs/operating.md")

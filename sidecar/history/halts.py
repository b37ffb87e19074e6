"""When control streams were halted, and tenants paused: what the record of that says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.history.contract import History
from sidecar.lines import quoted
from sidecar.redis.halts import BY_ITSELF
from sidecar.redis.scan import text
from sidecar.wire.moments import rfc3339, span

_HALTED: Final = ("halted", "paused")
_RESUMED: Final = ("resumed", "unpaused")
_OF_TENANTS: Final = ("paused", "unpaused")
_UNRECORDED: Final = "at the latest then; there is no record of it"
SOMEBODY: Final = "somebody"
"""Who lifted a halt that began again, where no record says it was lifted."""
NOBODY: Final = "nobody on record"
"""Who lifted a halt that no record says was lifted."""


@dataclass(frozen=True, slots=True)
class HaltPeriod:
    """A time in which nothing of a control stream, or of one tenant, was published, nor buried.

    Times are in microseconds since the epoch, by the clock of the server with the notifications.
    """

    stream: str
    since_us: int
    reason: str
    by: str
    until_us: int | None = None
    """When it was resumed; None while it was not."""
    resumed_why: str = ""
    resumed_by: str = ""
    tenant: str | None = None
    """Who was paused; None where the stream was halted."""

    def __str__(self) -> str:
        """Return it for a person."""
        what = "was halted" if self.tenant is None else f"had tenant {self.tenant!r} paused"
        return f"{self.stream} {what} {self.by_whom}; {self.lifted}"

    @property
    def by_whom(self) -> str:
        """Who halted it and why; a person's words in quotation marks."""
        if self.by == BY_ITSELF:
            return f"by {self.by}: {self.reason}"
        return f"by {self.by}, reason given: {quoted(self.reason)}"

    @property
    def lifted(self) -> str:
        """When it was resumed, by whom and why."""
        if self.until_us is None:
            return "nobody has resumed it"
        why = f", reason given: {quoted(self.resumed_why)}"
        if not self.resumed_why:
            why = ", who did not say why"
        elif self.resumed_by in (SOMEBODY, NOBODY):
            why = f": {self.resumed_why}"
        took = span((self.until_us - self.since_us) / 1e6)
        return f"resumed after {took}, at {rfc3339(self.until_us)}, by {self.resumed_by}{why}"

    def overlaps(self, since_us: int, until_us: int) -> bool:
        """Tell whether it was in force within a time, both ends inclusive."""
        return self.since_us <= until_us and (self.until_us is None or self.until_us >= since_us)

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""
        resumed = self.until_us is not None
        return {
            "halted": self.stream,
            "tenant": self.tenant,
            "since": rfc3339(self.since_us),
            "until": rfc3339(self.until_us) if self.until_us is not None else None,
            "reason": self.reason,
            "by": self.by,
            "resumed_why": self.resumed_why if resumed else None,
            "resumed_by": self.resumed_by if resumed else None,
        }


def halts_of(history: History, since_us: int, until_us: int) -> list[HaltPeriod]:
    """Return what was in force within a time, the earliest first. Raises as the history does.

    All records are read: they are few, and the first may be of a halt that never ended.
    """
    done: list[HaltPeriod] = []
    now_us = history.now_us()
    open_: dict[tuple[str, str | None], HaltPeriod] = {}
    for entry in history.entries(history.streams.halts):
        what, stream, reason, by = (
            text(entry.fields, name) for name in ("what", "stream", "reason", "by")
        )
        at_us = min(entry.id.control_version, now_us)  # who may halt may give any ID
        tenant = text(entry.fields, "tenant") if what in _OF_TENANTS else None
        whose = stream, tenant
        if whose in open_:
            # Halted again, it was resumed before by somebody who could not record it.
            who, why = (by, reason) if what in _RESUMED else (SOMEBODY, _UNRECORDED)
            done.append(replace(open_.pop(whose), until_us=at_us, resumed_by=who, resumed_why=why))
        if what in _HALTED:
            open_[whose] = HaltPeriod(stream, at_us, reason, by, tenant=tenant)
    return _sorted(halt for halt in (*done, *open_.values()) if halt.overlaps(since_us, until_us))


def _sorted(halts: Iterable[HaltPeriod]) -> list[HaltPeriod]:
    return sorted(halts, key=lambda halt: (halt.since_us, halt.stream))

"""Which part of a history is looked at, and how much of that can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from sidecar.errors import FilteredOut, Incomplete, NothingThere, SidecarError, UsageError
from sidecar.history import Gap, History, Reach
from sidecar.history.contract import ALWAYS
from sidecar.wire.event import Event
from sidecar.wire.ids import HIGHEST, EntryId
from sidecar.wire.moments import parse_position, rfc3339
from sidecar.wire.selection import Selection


@dataclass(frozen=True, slots=True)
class Window:
    """From one position to another, both inclusive, in microseconds since the epoch.

    A position is a control_version and a time in one: that of a notification or a dead letter is
    its ID, and that of a control entry is its ID, too, by the clock of its server.
    """

    since_us: int = ALWAYS[0]
    until_us: int = ALWAYS[1]

    @property
    def first(self) -> EntryId:
        """The lowest ID of a notification in it."""
        return EntryId.of_version(self.since_us)

    @property
    def last(self) -> EntryId:
        """The highest ID of a notification in it."""
        return EntryId.of_version(self.until_us)

    @property
    def first_entry(self) -> EntryId:
        """The lowest ID of a control entry or dead letter in it: those count in milliseconds."""
        return EntryId.of(self.since_us // 1000)

    @property
    def last_entry(self) -> EntryId:
        """The highest ID of a control entry or dead letter in it."""
        return EntryId.of(self.until_us // 1000, HIGHEST)

    def __str__(self) -> str:
        """Return it for a person."""
        begin = rfc3339(self.since_us) if self.since_us else "the beginning"
        end = rfc3339(self.until_us) if self.until_us < ALWAYS[1] else "now"
        return f"{begin} to {end}"


def parse_window(
    since: str | None, until: str | None, now_us: int, span_us: tuple[int, int] = ALWAYS
) -> Window:
    """Read both ends, each as `parse_position` does (`since` excludes a control_version, as a
    cursor does). An end that is not given is that of `span_us`. Raises `UsageError`.
    """
    first, last = span_us
    if since:
        first = parse_position(since, now_us).begin_us
    if until:
        last = parse_position(until, now_us, option="--until").last_us
    if last < first:
        raise UsageError(f"--until {until} is before --since {since}; swap them")
    return Window(first, last)


@dataclass(frozen=True, slots=True)
class LifeSelection(Selection):
    """Which events are meant, also by how they ended; an empty field means any."""

    ends: frozenset[str] = frozenset()

    def wants(self, event: Event | None, tenant: str = "", end: str = "") -> bool:
        """Tell whether an event is meant; of one that cannot be decoded `tenant` may be known."""
        return (not self.ends or end in self.ends) and self.has(event, tenant)


class Covered(NamedTuple):
    """How much of a window can be seen of one stream."""

    stream: str
    reach: Reach | None
    """None when there never was such a stream."""
    missing: list[Gap]

    @property
    def extent(self) -> str:
        """From when to when the stream goes, for a person."""
        if self.reach is None:
            return "there never was such a stream"
        if self.reach.first is None:
            return "empty"
        return f"{moment(self.reach.first)} to {moment(self.reach.last)}"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "stream": self.stream,
            "first": self.reach.first if self.reach else None,
            "last": self.reach.last if self.reach else None,
            "missing": [gap._asdict() for gap in self.missing],
        }


def covered(history: History, window: Window) -> list[Covered]:
    """Return, of each stream of the three kinds, how much of the window can be seen."""
    names = history.streams
    spans = [
        *((stream, window.first_entry, window.last_entry) for stream in names.control),
        (names.notifications, window.first, window.last),
        (names.dead, window.first_entry, window.last_entry),
    ]
    found = []
    for stream, first, last in spans:
        reach = history.reach(stream)
        found.append(Covered(stream, reach, reach.missing(first, last) if reach else []))
    return found


def verdict(
    window: Window, seen: list[Covered], *, held: int, shown: int, asked: LifeSelection
) -> SidecarError | None:
    """Return how a review ends: None when the window was whole and something was shown.

    `held` is how many events the window has, `shown` how many the filter left. The three kinds
    of nothing have exit codes of their own: 3 expired, 5 never existed, 6 filtered out.
    """
    expired = [f"{one.stream} from {gap.first} to {gap.last} ({gap.why})"
               for one in seen for gap in one.missing]  # fmt: skip
    if expired:
        return Incomplete(f"the window {window} is partly expired: {'; '.join(expired)}")
    if not held:
        return NothingThere(f"there is nothing in the window {window}, and there never was")
    if not shown and asked:
        return FilteredOut(f"the filters left nothing of {held:,} events in the window {window}")
    return None


def moment(entry_id: EntryId) -> str:
    """Return the time that an entry ID means, for a person."""
    return rfc3339(entry_id.ms * 1000) if entry_id.ms else "the beginning"

"""The events of a window by what rules ask of each: none goes through all of them for one."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from sidecar.history.halts import HaltPeriod
from sidecar.replay.stalls import FAR_US
from sidecar.replay.timeline import End, Life
from sidecar.wire.event import Event
from sidecar.wire.subject import Subject

_NOBODY: Final = (2 * FAR_US, "")


class Others:
    """The events of one control stream that ended. Times are in microseconds since the epoch."""

    def __init__(self, lives: Iterable[Life]) -> None:
        ended = [life for life in lives if life.ended_us]
        self.last_us = max((life.ended_us for life in ended), default=0)
        """When one ended last; 0 for none."""
        rows = sorted((life.begun_us, _ended_us(life), life.tenant_id) for life in ended)
        self._begun = [begun_us for begun_us, _, _ in rows]
        # Of what began from each place on the end that came soonest, and that of another tenant.
        self._soonest = [(_NOBODY, _NOBODY)]
        for _, ended_us, tenant in reversed(rows):
            self._soonest.append(_with((ended_us, tenant), *self._soonest[-1]))
        self._soonest.reverse()

    def soonest(self, tenant: str, after_us: int) -> int | None:
        """Return when the first ended of what other tenants sent after a moment; None for none.

        `FAR_US` where that is not known, as of a duplicate.
        """
        first, second = self._soonest[bisect_right(self._begun, after_us)]
        found = second if first[1] == tenant else first
        return None if found is _NOBODY else found[0]


def _ended_us(life: Life) -> int:
    known = life.end is not End.DUPLICATE and life.ended_us >= life.begun_us
    return life.ended_us if known else FAR_US


def _with(
    one: tuple[int, str], first: tuple[int, str], second: tuple[int, str]
) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return the two that came soonest, of different tenants."""
    if first is not _NOBODY and one[1] == first[1]:
        return min(one, first), second
    return (one, first) if one < first else (first, min(one, second))


class Index:
    """The events of a window."""

    def __init__(
        self, lives: Sequence[Life], published: Sequence[Life],
        by_subject: Mapping[Subject, list[Life]],
    ) -> None:  # fmt: skip
        """`published` are in the order in which they were."""
        self._lives, self._published, self._by_subject = lives, published, by_subject

    @cached_property
    def by_version(self) -> dict[tuple[Subject, int], Life]:
        """What was published first of each version of a subject."""
        return {
            (subject, life.event.version): life
            for subject, mine in self._by_subject.items() for life in reversed(mine) if life.event
        }  # fmt: skip

    @cached_property
    def published_as(self) -> dict[str, Life]:
        """What came first of what was published, by event_id."""
        found = (one for one in reversed(self._lives) if one.end is End.PUBLISHED)
        return {one.event_id: one for one in found if one.event_id}

    @cached_property
    def events(self) -> dict[str, Event]:
        """By event_id the first event that can be read."""
        found = (one for one in reversed(self._lives) if one.event_id)
        return {one.event_id: one.event for one in found if one.event}

    @cached_property
    def waiting_ids(self) -> set[str]:
        """The event_ids of what waits."""
        return {one.event_id for one in self._lives if one.end is End.WAITING} - {""}

    @cached_property
    def by_tenant(self) -> dict[str, list[Life]]:
        """What was published of each tenant, in the order in which it was."""
        found: defaultdict[str, list[Life]] = defaultdict(list)
        for life in self._published:
            found[life.tenant_id].append(life)
        return dict(found)

    def published_of(self, halt: HaltPeriod) -> Iterator[Life]:
        """Yield what was published of what a halt holds up, in the order in which it was."""
        mine = self._published if halt.tenant is None else self.by_tenant.get(halt.tenant, ())
        return (one for one in mine if one.origin.stream == halt.stream)

    @cached_property
    def others(self) -> dict[str, Others]:
        """What ended, by control stream."""
        found: defaultdict[str, list[Life]] = defaultdict(list)
        for life in self._lives:
            found[life.origin.stream].append(life)
        return {stream: Others(mine) for stream, mine in found.items()}

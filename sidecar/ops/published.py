"""What the fleet has by now goes from the producer's store, and what nobody ever announced:
`published+1h,orphans=30d`.

A ref may go when all of its versions have been in the fleet's store for the rule's age, nobody has
put it within that age, and no event names it that is not finished: whatever follows a crash, a
takeover or a redrive is read at its source again.

An *orphan* was put and never announced: the fleet's store does not have it, and no entry of any
stream names it. It goes only where its successor is known, as in `keeping`: where the fleet's store
has a later version of its stack, or a later one at its own ref. What was never in the fleet's store
for another reason (that was restored from an old copy, say) is overtaken then all the same.

In this order, as in `keeping`: the refs are looked at, all streams are read, what is left is
deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Final, NamedTuple, TypeVar

from sidecar.ops.keeping import SLACK_S, TOGETHER, Pace, Retired, stored_size
from sidecar.wire.event import RESERVED
from sidecar.wire.keeping import STACKS, Published, versioned
from store import Listed, Pin, Version, VersionedStore, delete_all, versions_of

LISTED: Final = 500
"""Of so many refs both stores are asked together."""
_T = TypeVar("_T")


class _Candidate(NamedTuple):
    size_bytes: int
    checksum: str
    is_orphan: bool


class PublishedRefs:
    """One run of a rule over a producer's store.

    Attributes:
        gone: how many refs went, or would.
        orphans: how many of these nobody had announced.

    """

    def __init__(
        self, source: VersionedStore, fleet: VersionedStore, rule: Published, now_s: float,
        pace: Pace,
    ) -> None:  # fmt: skip
        self._source, self._fleet, self._rule = source, fleet, rule
        self._now_s, self._pace = now_s, pace
        self._before_s = now_s - rule.age_s
        self._highest = ("", 0)
        self.gone = self.orphans = 0

    def run(
        self, pins: Callable[[], Iterable[Pin]], announced: Callable[[], Iterable[str]], *,
        dry_run: bool = False,
    ) -> Iterator[Retired]:  # fmt: skip
        """Delete what may go; yield each, once it went.

        `pins` are of what is not finished, `announced` the refs of all notifications: both must
        raise rather than end early. Raises `store.StoreError`.
        """
        candidates, pace, has_begun = self._candidates(), self._pace, dry_run
        began = time.monotonic()
        while found := dict(islice(candidates, pace.most)):
            self._leave_named(found, pins, announced)
            if found and not has_begun:
                pace.begin()
                has_begun = True
            yield from self._remove(found, began, dry_run=dry_run)

    def _leave_named(
        self, found: dict[str, _Candidate], pins: Callable[[], Iterable[Pin]],
        announced: Callable[[], Iterable[str]],
    ) -> None:  # fmt: skip
        """Leave out what an unfinished event names, and of orphans what any does."""
        for pin in pins():
            self._pace.breathe()
            found.pop(pin.ref, None)
        if any(one.is_orphan for one in found.values()):
            for ref in announced():
                self._pace.breathe()
                if ref in found and found[ref].is_orphan:
                    del found[ref]

    def _remove(
        self, found: dict[str, _Candidate], began: float, *, dry_run: bool
    ) -> Iterator[Retired]:
        for _, group in groupby(found, lambda ref: found[ref].is_orphan):
            while refs := list(islice(group, TOGETHER)):
                self._pace.breathe()
                age_s = self._rule.orphans_s if found[refs[0]].is_orphan else self._rule.age_s
                unused_s = max(age_s or 0.0, time.monotonic() - began + SLACK_S)
                for ref in refs if dry_run else delete_all(self._source, refs, unused_s=unused_s):
                    one = found[ref]
                    self.gone += 1
                    self.orphans += one.is_orphan
                    yield Retired(ref, ref, one.size_bytes, one.checksum)

    def _candidates(self) -> Iterator[tuple[str, _Candidate]]:
        """Yield the refs that may go as far as the stores tell."""
        refs = (ref for ref in self._breathing(self._source.list()) if not ref.startswith(RESERVED))
        while some := list(islice(refs, LISTED)):
            mine = self._listed(self._source, some)
            old = {one.ref: one for one in mine if not one.error and self._is_old(one.versions)}
            there = {one.ref: one for one in self._listed(self._fleet, old)}
            for ref, (_, versions, _) in old.items():
                in_fleet = there.get(ref, Listed(ref, ()))
                found = None if in_fleet.error else self._candidate(ref, versions, in_fleet)
                if found:
                    yield ref, found

    def _listed(self, store: VersionedStore, refs: Iterable[str]) -> Iterator[Listed]:
        return self._breathing(versions_of(store, refs))

    def _is_old(self, versions: Iterable[Version]) -> bool:
        return all(one.stored_at <= self._before_s for one in versions)

    def _breathing(self, some: Iterable[_T]) -> Iterator[_T]:
        for one in some:
            self._pace.breathe()
            yield one

    def _candidate(
        self, ref: str, versions: Sequence[Version], in_fleet: Listed
    ) -> _Candidate | None:
        there = {_pair(one): one for one in in_fleet.versions}
        lacking = [one for one in versions if _pair(one) not in there]
        if not self._is_old(there[_pair(one)] for one in versions if _pair(one) in there):
            return None
        if lacking and not self._are_orphans(ref, lacking):
            return None
        return _Candidate(stored_size(versions), versions[0].checksum, bool(lacking))

    def _are_orphans(self, ref: str, lacking: list[Version]) -> bool:
        """Tell whether versions that the fleet does not have may go: something came after them."""
        orphans_s = self._rule.orphans_s
        if orphans_s is None or max(one.stored_at for one in lacking) > self._now_s - orphans_s:
            return False
        if not any(one.current for one in lacking):
            return True
        found = versioned(ref)
        return found is not None and found.version < self._highest_of(found.family)

    def _highest_of(self, family: str) -> int:
        """Return the highest version of a stack that the fleet has; 0 where it is no stack."""
        if self._highest[0] != family:
            refs = self._fleet.list(family) if STACKS.fits(family) else ()
            found = (one.version for ref in refs if (one := versioned(ref)))
            self._highest = family, max(found, default=0)
        return self._highest[1]


def _pair(version: Version) -> tuple[str, str]:
    return version.checksum, version.manifest_checksum

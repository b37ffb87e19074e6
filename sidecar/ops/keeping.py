"""Which refs of a store may go by the keep rules, and removing them.

A ref is one version of its subject, and may go only where it is known that another one is the
newest: where a notification that is still in Redis announces another ref of the same *family* (see
`sidecar.wire.keeping`), and no entry of any stream names it. So a family that no notification
announces stays as it is: it does not grow. In this order:

1. The notifications are read: which families they announce, of which subject, up to which version.
   One whose notifications do not agree that it is the versions of one stack stays as it is; and
   one that not all streams announce that publish into the store, for another may have had its own.
2. The store's refs of these families are looked at: what no rule keeps is a candidate.
3. All streams are read, as for collection. What any entry names is none any more.
4. What is left is deleted, unless anybody put it since 2., or within the grace, or within the
   rule's age, by the store's own clock.

What comes after 3. was put after 2.: a worker puts before it publishes, and a Put of what is there
already counts as use. Memory grows with the families that are announced, and with the candidates.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, islice
from typing import NamedTuple

from sidecar.ops.pins import Announced
from sidecar.wire.keeping import KeepRule, Versioned, rule_of, versioned
from store import Pin, Version, VersionedStore, delete_all, versions_of

SLACK_S = 0.1
"""File systems tell times by ticks of some milliseconds."""
TOGETHER = 32
"""So many refs are removed at a time, between two rests."""


class Why(StrEnum):
    """Why a ref stays."""

    NEWEST = "newest"
    """Nothing newer was announced."""
    LAST = "last"
    AGE = "age"
    """By the rule, or within the grace."""
    NAMED = "named"
    """By an entry of some stream."""
    USED = "used"
    """Put again meanwhile, or stored later than its record says."""
    DAMAGED = "damaged"
    """Its age cannot be read."""


class Retired(NamedTuple):
    """A ref that went, or would."""

    subject: str
    ref: str
    size_bytes: int
    checksum: str
    """Of its newest version."""


@dataclass(slots=True)
class Family:
    """The versions of one subject, and what becomes of them. There may be many: it is small."""

    prefix: str
    rule: KeepRule
    subject: tuple[str, str]
    highest: int = 0
    newest: tuple[tuple[bytes, int], ...] = ()
    """The version that each stream announced last."""
    agrees: bool = True
    """Whether all that was announced of it are versions of the one subject."""
    kept: dict[Why, int] = field(default_factory=dict)
    gone: int = 0
    gone_bytes: int = 0

    @property
    def name(self) -> str:
        """The subject, for a person."""
        return "/".join(self.subject)

    def note(self, told: Announced, ref: Versioned) -> None:
        """Take a notification of one of its refs into account."""
        self.agrees = self.agrees and (told.subject, told.version) == (self.subject, ref.version)
        self.highest = max(self.highest, ref.version)
        others = [one for one in self.newest if one[0] != told.stream]
        self.newest = (*others, (told.stream, ref.version))

    def is_newest(self, version: int) -> bool:
        """Tell whether nothing newer is known to have been announced."""
        return version >= self.highest or any(version == last for _, last in self.newest)

    def keep(self, why: Why, count: int = 1) -> None:
        """Count refs that stay."""
        if count:
            self.kept[why] = self.kept.get(why, 0) + count


class Pace(NamedTuple):
    """How much of the work a run does, and how fast."""

    most: int = sys.maxsize
    """So many refs may go, about: no further family is looked at then."""
    after: str = ""
    """The families after this one have the first turn, in the order of their names."""
    breathe: Callable[[], None] = lambda: None
    """Is called between two small pieces of work; what it raises ends the run."""
    begin: Callable[[], None] = lambda: None
    """Is called once, before anything goes; what it raises ends the run."""


AT_ONCE = Pace()


class _Candidate(NamedTuple):
    family: Family
    size_bytes: int
    checksum: str


def stored_size(versions: Iterable[Version]) -> int:
    """Return the bytes of versions."""
    return sum(each.size_bytes + each.manifest_size_bytes for each in versions)


class Keeping:
    """One run of the keep rules over one store.

    Attributes:
        families: what was announced, by its refs' common part; complete once `run` has begun.
        reached: the last family that was looked at; empty when all were.

    """

    def __init__(
        self, store: VersionedStore, rules: Sequence[KeepRule], grace_s: float,
        streams: Sequence[bytes] = (), pace: Pace = AT_ONCE,
    ) -> None:  # fmt: skip
        """`streams` are the names of all notification streams that publish into the store."""
        self.families: dict[str, Family] = {}
        self.reached = ""
        self._pace = pace
        self._store = store
        self._rules = rules
        self._grace_s = grace_s
        self._streams = streams
        self._candidates: dict[str, _Candidate] = {}

    def run(
        self, announced: Iterable[Announced], pins: Callable[[], Iterable[Pin]], now_s: float, *,
        dry_run: bool,
    ) -> Iterator[Retired]:  # fmt: skip
        """Delete what may go; yield each, once it went.

        `announced` and `pins` must raise rather than end early: nothing is deleted before they
        ended. Raises `store.StoreError`.
        """
        began = time.monotonic()
        self._look_at(announced)
        self._choose_in_turn(now_s)
        self._spare(pins())
        if self._candidates and not dry_run:
            self._pace.begin()
        for family, refs in self._by_family():
            unused_s = max(self._grace_s, family.rule.age_s, time.monotonic() - began + SLACK_S)
            before = family.gone
            for ref in refs if dry_run else delete_all(self._store, refs, unused_s=unused_s):
                one = self._candidates[ref]
                family.gone += 1
                family.gone_bytes += one.size_bytes
                yield Retired(family.name, ref, one.size_bytes, one.checksum)
            family.keep(Why.USED, len(refs) - (family.gone - before))

    def _by_family(self) -> Iterator[tuple[Family, list[str]]]:
        """Yield the candidates, so many of a family at a time."""
        for _, group in groupby(self._candidates.items(), lambda each: id(each[1].family)):
            while some := list(islice(group, TOGETHER)):
                self._pace.breathe()
                yield some[0][1].family, [ref for ref, _ in some]

    def unknown(self) -> tuple[int, int]:
        """Count the refs that stay because of which is the newest is not known, and for no rule.

        It lists the whole store. Raises `store.StoreError`.
        """
        not_known = by_no_rule = 0
        for ref in self._store.list():
            found = versioned(ref)
            if found and self._is_known(self.families.get(found.family)):
                continue
            if found and rule_of(self._rules, found.family):
                not_known += 1
            else:
                by_no_rule += 1
        return not_known, by_no_rule

    def _is_known(self, family: Family | None) -> bool:
        """Tell whether it is known which of its refs is the newest, of each stream."""
        streams = set(self._streams)
        are_told_apart = len(streams) == len(self._streams)  # two servers may have one name
        if family is None or not family.agrees:
            return False
        return are_told_apart and streams <= {stream for stream, _ in family.newest}

    def _look_at(self, announced: Iterable[Announced]) -> None:
        for told in announced:
            self._pace.breathe()
            ref = versioned(told.ref)
            if ref is None:
                continue
            family = self.families.get(ref.family)
            if family is None:
                rule = rule_of(self._rules, ref.family)
                if rule is None:
                    continue
                family = self.families[ref.family] = Family(ref.family, rule, told.subject)
                family.agrees = bool(told.subject[1])
            family.note(told, ref)

    def _choose_in_turn(self, now_s: float) -> None:
        """Note the candidates of one family after the other, until they are many."""
        names = sorted(self.families)
        first = bisect_right(names, self._pace.after)
        for name in names[first:] + names[:first]:
            if len(self._candidates) >= self._pace.most:
                return
            self._pace.breathe()
            if self._is_known(self.families[name]):
                self._choose(self.families[name], now_s)
            self.reached = name
        self.reached = ""

    def _choose(self, family: Family, now_s: float) -> None:
        """Note which refs of the family no rule keeps."""
        refs = [
            (found.version, ref)
            for ref in self._store.list(family.prefix)
            if (found := versioned(ref)) and found.family == family.prefix
        ]
        refs.sort(reverse=True)
        old = []
        for place, (version, ref) in enumerate(refs):
            if family.is_newest(version) or place < family.rule.last:
                family.keep(Why.NEWEST if family.is_newest(version) else Why.LAST)
            else:
                old.append(ref)
        self._choose_of(family, old, now_s)

    def _choose_of(self, family: Family, refs: Sequence[str], now_s: float) -> None:
        """Note which of these refs are old enough to go."""
        shortest_s, there = max(family.rule.age_s, self._grace_s), 0
        for listed in versions_of(self._store, refs):
            self._pace.breathe()
            there += 1
            if listed.error:
                family.keep(Why.DAMAGED)
            elif now_s - max(each.stored_at for each in listed.versions) < shortest_s:
                family.keep(Why.AGE)
            else:
                size_bytes, checksum = stored_size(listed.versions), listed.versions[0].checksum
                self._candidates[listed.ref] = _Candidate(family, size_bytes, checksum)
        family.keep(Why.USED, len(refs) - there)  # they went meanwhile

    def _spare(self, pins: Iterable[Pin]) -> None:
        for pin in pins:
            self._pace.breathe()
            candidate = self._candidates.pop(pin.ref, None)
            if candidate:
                candidate.family.keep(Why.NAMED)

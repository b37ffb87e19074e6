"""What the fleet's store has by now goes from the producer's: `published+1h`.

A ref may go when all of its versions have been in the fleet's store for the rule's age, nobody has
put it within that age, and no event names it that is not finished: whatever follows a crash, a
takeover or a redrive is read at its source again. In this order, as in `keeping`: the refs are
looked at, all streams are read, what is left is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from sidecar.ops.keeping import SLACK_S, Pace, Retired, stored_size
from sidecar.wire.event import RESERVED
from sidecar.wire.keeping import Published
from store import Corrupt, NotFound, Pin, Version, VersionedStore


def retire_published(
    source: VersionedStore, fleet: VersionedStore, rule: Published,
    pins: Callable[[], Iterable[Pin]], now_s: float, pace: Pace,
) -> Iterator[Retired]:  # fmt: skip
    """Delete what may go from `source`; yield each, once it went.

    `pins` must raise rather than end early. Raises `store.StoreError`.
    """
    began = time.monotonic()
    candidates = dict(islice(_arrived(source, fleet, now_s - rule.age_s, pace), pace.most))
    for pin in pins():
        pace.breathe()
        candidates.pop(pin.ref, None)
    if candidates:
        pace.begin()
    for ref, (size_bytes, checksum) in candidates.items():
        pace.breathe()
        if source.delete(ref, unused_s=max(rule.age_s, time.monotonic() - began + SLACK_S)):
            yield Retired(ref, ref, size_bytes, checksum)


def _arrived(
    source: VersionedStore, fleet: VersionedStore, before_s: float, pace: Pace
) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield the refs whose versions were all in both stores by then: sizes and checksums."""
    for ref in source.list():
        pace.breathe()
        found = None if ref.startswith(RESERVED) else _found(source, fleet, ref, before_s)
        if found:
            yield ref, found


def _found(
    source: VersionedStore, fleet: VersionedStore, ref: str, before_s: float
) -> tuple[int, str] | None:
    try:
        versions = list(source.versions(ref))
        there = {_pair(one): one.stored_at for one in fleet.versions(ref)}
    except (NotFound, Corrupt):
        return None
    if any(max(one.stored_at, there.get(_pair(one), before_s + 1)) > before_s for one in versions):
        return None
    return stored_size(versions), versions[0].checksum


def _pair(version: Version) -> tuple[str, str]:
    return version.checksum, version.manifest_checksum

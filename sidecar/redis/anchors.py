"""Anchors: entries of a control stream up to which all is finished, and may be forgotten.

Of what was finished after an anchor, the deduplication index knows everything: pruning leaves what
ended since the time that is noted with it. So of each entry it can be told whether it is finished,
however old it is, and whatever became of the pending list: up to an anchor that the stream still
has, each is; above it, those that the index knows. A stream that was made anew has other entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sidecar.redis.archived import checksum_of
from sidecar.redis.client import Client
from sidecar.redis.ends import Ends
from sidecar.redis.keys import Keys
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId

WINDOWS: Final = 4
SHORTEST_HOLD_US: Final = 28 * 86_400 * 1_000_000
"""For so many windows, and so long at least, the index waits for a stream that stands still."""
_NOTED: Final = re.compile(rb"([0-9]{1,20}-[0-9]{1,20}) ([0-9a-f]{32}|-) ([0-9]{1,17})")


class Anchor(NamedTuple):
    """One anchor of a control stream."""

    id: EntryId
    checksum: str
    """Of the entry; `-` where the stream had none with that ID."""
    since_us: int
    """What was finished after it, ended after this time, by the server of the index."""

    @classmethod
    def of(cls, entry_id: EntryId, entry: Entry | None, since_us: int) -> Anchor:
        """Make one of the entry with that ID, or of there being none."""
        return cls(entry_id, checksum_of(entry) if entry else "-", since_us)

    def heeding(self, end_us: int) -> Anchor:
        """Return the same, with the index to know also what ended at that time."""
        return self._replace(since_us=min(self.since_us, end_us))

    def is_in(self, ends: Ends, entry: Entry | None) -> bool:
        """Tell whether a stream is the one that the anchor was noted of, and reaches up to it.

        `ends` is the stream, held against the anchor's ID; `entry` is what it has there. Where
        it has nothing up to there, nothing can be taken for finished.
        """
        if entry is not None:
            return self.checksum == checksum_of(entry)
        if ends.given <= self.id:
            return ends.given == self.id  # its newest entry, deleted by hand
        if not ends.oldest or ends.oldest > self.id:
            return True
        return bool(ends.deleted) and ends.deleted >= self.id


class Side(Protocol):
    """What a control stream offers for it; see `ControlStream`."""

    def at(self, entry_id: EntryId) -> Entry | None:
        """Return the entry with that ID."""


def has(control: Side, anchor: Anchor, ends: Ends) -> bool:
    """Tell whether a stream has an anchor; `ends` is the stream, held against the anchor's ID."""
    return anchor.is_in(ends, control.at(anchor.id) if ends.has_known else None)


def followed(anchors: Sequence[Anchor], newest: Anchor, *, apart_us: int) -> tuple[Anchor, ...]:
    """Return the anchors to be noted once `newest` is one: that, and one of those before.

    A stream that lost its newest entries still has the older one. That moves on once the one
    after it is `apart_us` newer.
    """
    before, *older = anchors
    moves_on = not older or not 0 <= before.since_us - older[0].since_us < apart_us
    return (newest, before if moves_on else older[0])


def written(anchors: Iterable[Anchor]) -> str:
    """Return anchors as they are noted, the newest first."""
    return "\n".join(f"{one.id} {one.checksum} {one.since_us}" for one in anchors)


def parse(noted: bytes | None) -> tuple[Anchor, ...]:
    """Read what is noted; garbage is no anchor, for its stream's owner notes it anew."""
    found = [_NOTED.fullmatch(line) for line in (noted or b"").split(b"\n")]
    return tuple(
        Anchor(EntryId(one[1].decode()), one[2].decode(), int(one[3]))
        for one in found
        if one is not None
    )


def anchors_of(client: Client, keys: Keys) -> tuple[Anchor, ...]:
    """Return the anchors of a control stream, the newest first. Raises `RedisError`."""
    noted: Any = client.hget(keys.anchors, keys.control)
    return parse(noted)


def heeded_since(now_us: int, window_us: int) -> int:
    """Return the time before which an anchor has no say: what ended after it may be forgotten."""
    return now_us - max(WINDOWS * window_us, SHORTEST_HOLD_US)


def kept_since(client: Client, keys: Keys, now_us: int, window_us: int) -> int:
    """Return the time since when the index must know what ended, for any control stream's sake.

    A stream that has stood still for very long, maybe since nobody serves it any more, has no say.
    Raises `RedisError`.
    """
    heeded_us = heeded_since(now_us, window_us)
    noted: Any = client.hgetall(keys.anchors)
    oldest = [one.since_us for value in noted.values() for one in parse(value)]
    return min((since for since in oldest if since >= heeded_us), default=now_us)

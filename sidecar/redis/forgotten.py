"""What Redis was found to have forgotten, on record.

Each find is an entry of the stream `{N}:tenures`: `what` (forgot), `lost`, `stream`, `known` (the
highest entry that was known), `found` (the highest of before that was there), `whole_until`, `by`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final, NamedTuple

import redis

from sidecar.redis.client import Client
from sidecar.redis.errors import is_misplaced
from sidecar.redis.keys import Keys
from sidecar.redis.scan import text
from sidecar.redis.scripts import script_of
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from sidecar.wire.moments import rfc3339
from sidecar.wire.subject import CLOCK_SLACK_MS

MAX_RECORDS: Final = 10_000
"""So many records are kept, or a few more."""


class Part(StrEnum):
    """What was lost."""

    CONTROL = "control stream"
    GROUP = "group"
    NOTES = "notes"
    """All that is kept beside the notification stream: fence, index, lowest unfinished entry."""
    NOTIFICATIONS = "notification stream"


class Loss(NamedTuple):
    """One thing that Redis forgot."""

    part: Part
    stream: str
    known: EntryId
    """The ID up to which all was known to be there."""
    found: EntryId
    """The ID up to which it still was."""
    whole_ms: int
    """When it was seen whole last, in milliseconds since the epoch by the server's clock; 0 when
    nobody knows."""

    @property
    def whole_until(self) -> str:
        """The same as RFC 3339; empty when nobody knows."""
        return rfc3339(self.whole_ms * 1000) if self.whole_ms else ""


class Forgotten(NamedTuple):
    """One record of what was forgotten."""

    lost: str
    """One of `Part`."""
    stream: str
    known: EntryId
    found: EntryId
    whole_until: str
    """RFC 3339; until then at least nothing was lost. Empty when nobody knows."""
    noticed_us: int
    """When it was put on record: what was published from `found` to then may be missing."""

    @property
    def noticed(self) -> str:
        """When it was put on record, RFC 3339."""
        return rfc3339(self.noticed_us)

    @property
    def loses_events(self) -> bool:
        """Whether entries, or notifications, may be gone: a group alone is made again."""
        return self.lost != Part.GROUP

    @property
    def from_us(self) -> int:
        """After which ID something may be missing, as a control_version; 0 is ever."""
        return _us(self.found)

    def touches(self, first: EntryId, last: EntryId | None) -> bool:
        """Tell whether it may have been about entries from `first` to `last`."""
        ends_before = last is not None and last.control_version < self.from_us
        return (self._is_ahead or first.control_version <= self.noticed_us) and not ends_before

    @property
    def _is_ahead(self) -> bool:
        """Whether IDs lie after the time when it was noticed: they are no times."""
        return max(_us(self.known), self.from_us) > self.noticed_us + CLOCK_SLACK_MS * 1000

    def __str__(self) -> str:
        """Return it for a person."""
        whole = f"whole until {self.whole_until}, " if self.whole_until else ""
        said = f"{self.lost} {self.stream}: {whole}noticed {self.noticed}"
        if not self.loses_events:
            return f"{said}; it was made again"
        return f"{said}; what came between {self._since} and then may be missing here"

    @property
    def _since(self) -> str:
        if not self.from_us:
            return "the beginning"
        return f"entry {self.found}" if self.lost == Part.CONTROL else rfc3339(self.from_us)

    def to_json(self) -> dict[str, str]:
        """Return it for machines."""
        return {
            "lost": self.lost, "stream": self.stream, "known": self.known, "found": self.found,
            "whole_until": self.whole_until, "noticed": self.noticed,
        }  # fmt: skip


def put_on_record(client: Client, keys: Keys, loss: Loss) -> bool:
    """Put it on record; False when somebody did. May raise `RedisError`."""
    by_many = loss.part in (Part.CONTROL, Part.NOTIFICATIONS)  # the rest only by who sets it right
    # Who does not know since when tells it: twice is better than never.
    same = f"{loss.whole_ms}-0" if by_many and loss.whole_ms else "+"
    args: list[str | int] = [
        loss.part, loss.stream, loss.known, loss.found, same, loss.whole_until, MAX_RECORDS,
    ]  # fmt: skip
    return bool(script_of(client, "forgot")(keys=[keys.tenures], args=args))


def newest_records(client: Client, keys: Collection[Keys], count: int) -> list[Forgotten]:
    """Return the newest records that are about these streams, newest first.

    May raise `RedisError`.
    """
    one = next(iter(keys))
    streams = {one.notifications, *(each.control for each in keys)}
    try:
        found: Any = client.xrevrange(one.tenures, count=MAX_RECORDS)
    except redis.ResponseError as error:
        if not is_misplaced(error):
            raise
        return []  # nobody can put anything on record there
    records = [Entry(EntryId(entry_id.decode()), fields) for entry_id, fields in found]
    forgotten = [forgotten_of(each) for each in records if text(each.fields, "what") == "forgot"]
    return [each for each in forgotten if each.stream in streams][:count]


def _us(text: str) -> int:
    entry_id = EntryId.parse(text)
    return entry_id.control_version if entry_id else 0


def forgotten_of(record: Entry) -> Forgotten:
    """Read a record of what was forgotten."""
    lost, stream, known, found, whole_until = (
        text(record.fields, name) for name in ("lost", "stream", "known", "found", "whole_until")
    )
    return Forgotten(
        lost, stream, EntryId(known), EntryId(found), whole_until, record.id.control_version
    )

"""What waits, for an audit: what was not handed out, and what is pending under whom.

Read before ends are: an entry that was handed out and is not pending was acknowledged, and its end
lies among what is read after.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.groups import delivered, pending
from sidecar.redis.keys import Keys
from sidecar.redis.lag import is_beyond
from sidecar.redis.scan import stream_info
from sidecar.wire.ids import FIRST, LAST, EntryId

PAGE: Final = 200
SCHEMA: Final = """
CREATE TABLE pending (stream, entry, consumer, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
CREATE TABLE suspects (stream, entry, PRIMARY KEY (stream, entry)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class EntryRange:
    """Which control entries are audited: from `since` to `until`, both inclusive."""

    since: EntryId = FIRST
    until: EntryId | None = None


class Waiting:
    """Reads what waits in some control streams. Methods raise `Unreachable` and `UsageError`."""

    def __init__(
        self, control: Side, notify: Side, keys: Mapping[str, Keys], window: EntryRange,
        db: sqlite3.Connection,
    ) -> None:  # fmt: skip
        """`keys` by control stream. `db` has the tables of `SCHEMA`."""
        self._control, self._notify, self._keys = control, notify, keys
        self._window, self._db = window, db
        self.last: dict[str, EntryId] = {}
        """By stream, the last entry of the window."""
        self.beyond_end: dict[str, EntryId] = {}
        """By stream, the group's position where that lay beyond every ID that the stream gave."""
        self._delivered: dict[str, EntryId] = {}

    def read(self) -> None:
        """Note of each stream where it ends, then what was handed out, then what is pending."""
        for stream, keys in self._keys.items():
            with translated(self._control.url):
                info = stream_info(self._control.at(stream), stream)
            last = info.last_id if info else FIRST
            self.last[stream] = min(last, self._window.until or last)
            self._delivered[stream] = delivered(self._control, self._notify, keys)
            if is_beyond(self._delivered[stream], self._ends_at(stream)):
                self.beyond_end[stream] = self._delivered[stream]
            self._read_pending(keys, self._window.since, self.last[stream])

    def read_again(self) -> None:
        """Note again what was handed out and what is pending, for the entries that look lost.

        A group that was lost and made again hands entries out again.
        """
        self._db.execute("DELETE FROM pending")
        found = self._db.execute(
            "SELECT stream, min(entry), max(entry) FROM suspects GROUP BY stream"
        ).fetchall()
        for stream, first, last in found:
            self._delivered[stream] = delivered(self._control, self._notify, self._keys[stream])
            self._read_pending(self._keys[stream], EntryId.of_key(first), EntryId.of_key(last))

    def waits(self, stream: str, entry_id: EntryId) -> bool:
        """Tell whether an entry was not handed out, or was pending."""
        if entry_id > self._delivered[stream]:
            return True
        return self.consumer_of(stream, entry_id) is not None

    def consumer_of(self, stream: str, entry_id: EntryId) -> str | None:
        """Return under which consumer of the group an entry was pending; None when it was not."""
        found = self._db.execute(
            "SELECT consumer FROM pending WHERE stream = ? AND entry = ?",
            (stream, entry_id.key),
        ).fetchone()
        return str(found[0]) if found else None

    def by_consumer(self) -> dict[str, dict[str, int]]:
        """Return of each stream how many entries of the window are pending under whom."""
        found: dict[str, dict[str, int]] = {}
        for stream, consumer, count in self._db.execute(
            "SELECT stream, consumer, count(*) FROM pending GROUP BY stream, consumer"
        ):
            found.setdefault(stream, {})[consumer] = count
        return found

    def _ends_at(self, stream: str) -> EntryId:
        with translated(self._control.url):
            info = stream_info(self._control.at(stream), stream)
        return info.last_id if info else LAST

    def _read_pending(self, keys: Keys, first: EntryId, last: EntryId) -> None:
        client = self._control.at(keys.control)
        with translated(self._control.url):
            for page in pending(client, keys.control, keys.group, first, last, page=PAGE):
                self._db.executemany(
                    "INSERT OR IGNORE INTO pending VALUES (?, ?, ?)",
                    [(keys.control, entry_id.key, consumer) for entry_id, consumer in page],
                )

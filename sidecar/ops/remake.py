"""A control stream whose IDs have no room left, made anew with all that is unfinished in it.

A producer may give its entry the highest ID there is; every later append fails then, and nothing
but a new stream helps. What is copied is what a worker would still do: unread, pending, and what
the index does not know to be finished. It takes the lease, so that no worker works meanwhile. Who
did it, why, and which pending entries somebody had deleted is on record in `{N}:tenures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from sidecar.errors import SidecarError, UsageError
from sidecar.redis.client import Client, Side
from sidecar.redis.damage import low_of
from sidecar.redis.errors import translated
from sidecar.redis.finished import unfinished
from sidecar.redis.forgotten import MAX_RECORDS
from sidecar.redis.groups import pending, position_of
from sidecar.redis.keys import Keys
from sidecar.redis.lag import is_beyond
from sidecar.redis.lease import Fenced, Lease
from sidecar.redis.publisher import remembered, sent_again
from sidecar.redis.remade import Copy
from sidecar.redis.scan import pages, pages_back, server_time_us, stream_info
from sidecar.redis.source import Entry
from sidecar.redis.trimmed import note_trimmed
from sidecar.wire.ids import FIRST, LAST, EntryId

LEASE_S: Final = 30.0
PAGE: Final = 200
"""Entries copied at a time: each may have 16 KiB."""
MOST_NAMED: Final = 1000
"""Of entries that somebody deleted so many are named on record; all are counted."""


class Remade(NamedTuple):
    """What became of a stream."""

    copied: int
    aside: str
    """The key that has the old stream now."""
    lost: list[EntryId]
    """What was pending, and somebody had deleted: it could not be copied."""


class Remake:
    """Makes one control stream anew.

    Raises `SidecarError`, also where a worker owns the stream: nothing was changed then.
    """

    def __init__(self, control: Side, notify: Side, keys: Keys, *, reason: str, by: str) -> None:
        """`reason` and `by` go on record: why, and who."""
        self._control, self._notify, self._keys = control, notify, keys
        self._reason, self._by = reason, by
        self._lease = Lease(notify.client, keys, lease_s=LEASE_S)

    def run(self) -> Remade:
        """Copy what is unfinished, and let the copy take the stream's place."""
        with translated(self._notify.url):
            if self._lease.acquire() is None:
                raise SidecarError(
                    f"a worker owns {self._keys.control!r}: stop all workers of that stream first"
                )
        try:
            return self._remade()
        except Fenced:
            raise SidecarError(
                f"a worker took {self._keys.control!r} over meanwhile, and nothing was changed;"
                " stop all workers of that stream, then try again"
            ) from None
        finally:
            with translated(self._notify.url):
                self._lease.release()

    def _remade(self) -> Remade:
        client = self._control.at(self._keys.control)
        with translated(self._control.url):
            if stream_info(client, self._keys.control) is None:
                raise UsageError(f"there is no stream {self._keys.control!r}")
            copy = Copy(client, self._keys)
            copy.begin()
        copied, after, aside = 0, self._begin(client).before, None
        lost = self._lost(client)
        while aside is None:
            for entries, last in self._unfinished(client, after):
                with translated(self._control.url):
                    copy.append(entries)
                copied, after = copied + len(entries), last
            self._keep()
            self._note_gone(client)
            with translated(self._control.url):
                info = stream_info(client, self._keys.control)
                aside = copy.take_over(info.last_id if info else FIRST)
        done = Remade(copied, aside, lost)
        with translated(self._notify.url):
            self._record(done)
            # Notes of the old stream. A worker that finds them sees that this is another one.
            self._notify.client.delete(self._keys.low)
            self._notify.client.hdel(self._keys.anchors, self._keys.control)
        return done

    def _record(self, done: Remade) -> None:
        """Put on record who made the stream anew, why, and what came of it."""
        record: dict[Any, Any] = {
            "what": "remade", "stream": self._keys.control, "aside": done.aside,
            "copied": done.copied, "lost_entries": len(done.lost),
            "entries": " ".join(done.lost[:MOST_NAMED]), "reason": self._reason, "by": self._by,
        }  # fmt: skip
        self._notify.client.xadd(self._keys.tenures, record, maxlen=MAX_RECORDS)

    def _lost(self, client: Client) -> list[EntryId]:
        """Return what is pending and was deleted. No worker reads, so it stays as it is."""
        found = []
        with translated(self._control.url):
            for page in self._pending(client, FIRST, LAST):
                there = client.pipeline(transaction=False)
                for entry_id in page:
                    there.xrange(self._keys.control, entry_id, entry_id)
                rows = zip(page, there.execute(), strict=True)
                found += [entry_id for entry_id, raw in rows if not raw]
                self._keep()
        return found

    def _note_gone(self, client: Client) -> None:
        """Note as trimmed what goes aside with IDs below the copy's: nothing of it is lost."""
        with translated(self._control.url):
            now = EntryId.of(server_time_us(client) // 1000)
            gone = next(pages_back(client, self._keys.control, now, page=1), [])
        for entry in gone:
            note_trimmed(self._notify.client, self._keys, self._keys.control, entry.id)

    def _keep(self) -> None:
        with translated(self._notify.url):
            self._lease.renew()

    def _begin(self, client: Client) -> EntryId:
        """Return an entry below which all is finished."""
        with translated(self._notify.url):
            low = low_of(self._notify.client, self._keys)
        with translated(self._control.url):
            position = position_of(client, self._keys.control, self._keys.group)
            info = stream_info(client, self._keys.control)
            first = next(self._pending(client, FIRST, LAST), [])
        if position is None or info is None or is_beyond(position, info.last_id):
            return low or FIRST
        return min([position.after, *first[:1], *([low] if low else [])])

    def _pending(self, client: Client, first: EntryId, last: EntryId) -> Iterator[list[EntryId]]:
        keys = self._keys
        for rows in pending(client, keys.control, keys.group, first, last, page=PAGE):
            yield [entry_id for entry_id, _ in rows]

    def _unfinished(self, client: Client, after: EntryId) -> Iterator[tuple[list[Entry], EntryId]]:
        """Yield what is unfinished above `after`, in pages, each with the last entry seen.

        From the lowest unfinished entry on the index knows what is finished, however long ago.
        """
        if after == LAST:
            return
        with translated(self._control.url):
            for page in pages(client, self._keys.control, after.after, page=PAGE):
                yield self._without_finished(page), page[-1].id
                self._keep()

    def _without_finished(self, page: Sequence[Entry]) -> list[Entry]:
        look_up = partial(remembered, self._notify.client, self._keys)
        again = partial(sent_again, self._notify.client, self._keys)
        with translated(self._notify.url):
            return list(unfinished(self._keys.control, page, look_up, again))

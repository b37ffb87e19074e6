"""A history that is still being written: the streams in Redis."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

from sidecar.history.contract import ALWAYS, ANY, About, Gap, Reach, Streams
from sidecar.history.rows import to_line
from sidecar.redis.archived import archived_to
from sidecar.redis.client import Client, Side, check_stream
from sidecar.redis.damage import or_else, trimmed_of
from sidecar.redis.errors import translated
from sidecar.redis.groups import delivered, pending
from sidecar.redis.keys import Keys
from sidecar.redis.members import Held, Member, registered_workers
from sidecar.redis.publisher import remembered
from sidecar.redis.readers import Reader, registered
from sidecar.redis.scan import pages, pages_back, server_time_us, stream_info
from sidecar.redis.source import Entry
from sidecar.redis.takeovers import Takeover, newest_takeovers
from sidecar.redis.trimmed import taken_by_hand
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, LAST, EntryId
from sidecar.wire.urls import redact
from store import VersionedStore

PAGE: Final = 500
MOST_TAKEOVERS: Final = 1000
_FIRST_POSSIBLE: Final = FIRST.after


class LiveHistory:
    """The streams of one notification stream, as `History` describes them."""

    def __init__(
        self, control: Side, notify: Side, keys: Sequence[Keys], store: VersionedStore | None = None
    ) -> None:
        """`keys` are those of each control stream; `control` has these, `notify` all else."""
        self._control = control
        self._notify = notify
        self._keys = {one.control: one for one in keys}
        self.streams = Streams.of(list(self._keys.values()))
        self.store = store

    span_us = ALWAYS

    def check(self) -> None:
        """Raise `UsageError` when a stream's name belongs to something else."""
        for stream in (*self.streams.control, *self.streams[1:]):
            side = self._side(stream)
            check_stream(side.at(stream), side.url, stream)

    def is_on(self, other: Side) -> bool:
        """Tell whether another connection leads to the server with the notifications."""
        ids = []
        for side in (self._notify, other):
            with translated(side.url):
                info: Any = side.client.info("server")
            ids.append(info["run_id"])
        return bool(ids[0] == ids[1])

    def describe(self) -> str:
        """Name the servers."""
        return " and ".join(dict.fromkeys(redact(s.url) for s in (self._control, self._notify)))

    def now_us(self) -> int:
        """Return the clock of the server that stamps notifications."""
        with translated(self._notify.url):
            return server_time_us(self._notify.client)

    def reach(self, stream: str) -> Reach | None:
        """Return from where to where the stream goes, and what was trimmed.

        A Redis before 7.0 tells only what the sidecar trimmed, not what was trimmed by hand.
        """
        side = self._side(stream)
        with translated(side.url):
            info = stream_info(side.at(stream), stream)
        if info is None:
            return None
        begin = info.first_id or info.last_id.after
        gone = min(self.trimmed_to(stream), begin.before)
        went = (info.added if info.added is not None else info.length) - info.length
        by_hand = went > self._redriven() if went and stream == self.streams.dead else went
        if by_hand and info.deleted < begin:
            gone = begin.before  # trimmed: what XDEL takes is told, what XTRIM takes is not
        gaps = (Gap(_FIRST_POSSIBLE, gone, "trimmed"),) if gone != FIRST else ()
        return Reach(info.first_id, info.last_id, gaps)

    def _redriven(self) -> int:
        """Return how many dead letters went because they were redriven: their records are there."""
        return sum(b"letter" in one.fields for one in self.entries(self.streams.redriven))

    def client(self, stream: str) -> Client:
        """Return the way to a stream."""
        return self._side(stream).at(stream)

    def trimmed_to(self, stream: str) -> EntryId:
        """Return the highest ID that the sidecar trimmed, as it noted; FIRST for none."""
        with translated(self._notify.url):
            return trimmed_of(self._notify.client, self._one, stream) or FIRST

    def is_trimmed_to(self, stream: str, last: EntryId) -> bool:
        """Tell whether trimming took `last` at last, and nobody has taken anything since."""
        side = self._side(stream)
        with translated(side.url), translated(self._notify.url):
            info = stream_info(side.at(stream), stream)
            by_hand = info and taken_by_hand(self._notify.client, self._one, stream, info)
        return self.trimmed_to(stream) == last and not by_hand

    def archived_to(self, stream: str) -> EntryId | None:
        """Return up to where all that is in the stream is archived; None when nobody can tell."""
        side = self._side(stream)
        with translated(side.url), translated(self._notify.url):
            return archived_to(side.at(stream), self._notify.client, self._one, stream)

    def entries(
        self, stream: str, first: EntryId = FIRST, last: EntryId = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the stream; `about` leaves nothing out."""
        del about
        side = self._side(stream)
        with translated(side.url):
            yield from chain.from_iterable(pages(side.at(stream), stream, first, last, page=PAGE))

    def lines(self, stream: str, first: EntryId, last: EntryId) -> Iterator[bytes]:
        """Yield what is in the stream, as rows."""
        return (to_line(entry).rstrip() for entry in self.entries(stream, first, last))

    def entries_back(
        self, stream: str, last: EntryId = LAST, first: EntryId = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the stream, the newest first; `about` leaves nothing out."""
        del about
        side = self._side(stream)
        with translated(side.url):
            for entry in chain.from_iterable(pages_back(side.at(stream), stream, last, page=PAGE)):
                if entry.id < first:
                    return
                yield entry

    def checkpoint(self, last: EntryId) -> None:
        """Return nothing: there is none."""
        del last

    def waiting(self, stream: str, entry_ids: Collection[EntryId]) -> set[EntryId]:
        """Return those that were not handed out, or are pending."""
        if not entry_ids:
            return set()
        low, high = min(entry_ids), max(entry_ids)
        client, keys = self._control.at(stream), self._keys[stream]
        read_to = delivered(self._control, self._notify, keys)
        unread = {one for one in entry_ids if one > read_to}
        with translated(self._control.url):
            found = chain.from_iterable(pending(client, stream, keys.group, low, high, page=PAGE))
            return unread | ({entry_id for entry_id, _ in found} & set(entry_ids))

    def published(self, event_ids: Collection[str]) -> dict[str, int]:
        """Return those that the deduplication index remembers."""
        with translated(self._notify.url):
            known = remembered(
                self._notify.client, self._one, [identity_digest(one) for one in event_ids]
            )
        return {
            one: seen.control_version
            for one, seen in zip(event_ids, known, strict=True)
            if seen is not None
        }

    def readers(self) -> Sequence[Reader]:
        """Return those that are registered, but of very many only those that hold back most."""
        with translated(self._notify.url):
            return registered(self._notify.client, self._one).good

    def takeovers(self) -> Sequence[Takeover]:
        """Return those that are on record."""
        with translated(self._notify.url):
            found = partial(
                newest_takeovers, self._notify.client, self._keys.values(), MOST_TAKEOVERS
            )
            return or_else(list[Takeover](), found)

    def held(self) -> Sequence[Held]:
        """Return what workers tell that they hold back."""
        with translated(self._notify.url):
            workers = or_else(
                list[Member](), partial(registered_workers, self._notify.client, self._one)
            )
        return [held for worker in workers for held in worker.held]

    @property
    def _one(self) -> Keys:
        return next(iter(self._keys.values()))

    def _side(self, stream: str) -> Side:
        return self._control if stream in self._keys else self._notify

"""A history that is still being written: the streams in Redis."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import redis

from sidecar.history.contract import ALWAYS, ANY, About, Gap, Reach, Streams
from sidecar.history.rows import to_line
from sidecar.redis.client import Side, check_stream, redact, translated
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.publisher import remembered
from sidecar.redis.readers import registered
from sidecar.redis.scan import pages, pages_back, server_time_us, stream_info
from sidecar.redis.source import FIRST, LAST, Entry, id_after, id_before, id_pair
from store import VersionedStore

PAGE: Final = 500
_FIRST_POSSIBLE: Final = "0-1"


class LiveHistory:
    """The streams of one notification stream, as `History` describes them."""

    def __init__(
        self, control: Side, notify: Side, keys: Sequence[Keys], store: VersionedStore | None = None
    ) -> None:
        """`keys` are those of each control stream; `control` has these, `notify` all else."""
        self._control = control
        self._notify = notify
        self._keys = {one.control: one for one in keys}
        one = keys[0]
        self.streams = Streams(
            tuple(self._keys), one.notifications, one.dead, one.redriven, one.halts
        )
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
            raw: Any = side.at(stream).xinfo_stream(stream)
        begin = info.first_id or id_after(info.last_id)
        gone = min(self.trimmed_to(stream), id_before(begin), key=id_pair)
        deleted = raw.get("max-deleted-entry-id", FIRST.encode()).decode()
        by_hand = info.added is not None and info.added != info.length
        if by_hand and id_pair(deleted) < id_pair(begin):
            gone = id_before(begin)  # trimmed: what XDEL takes is told, what XTRIM takes is not
        gaps = (Gap(_FIRST_POSSIBLE, gone, "trimmed"),) if gone != FIRST else ()
        return Reach(info.first_id, info.last_id, gaps)

    def trimmed_to(self, stream: str) -> str:
        """Return the highest ID that the sidecar trimmed, as it noted; FIRST for none."""
        with translated(self._notify.url):
            noted: Any = self._notify.client.hget(self._one.trimmed, stream)
        return str(noted.decode()) if noted else FIRST

    def entries(
        self, stream: str, first: str = FIRST, last: str = LAST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the stream; `about` leaves nothing out."""
        del about
        side = self._side(stream)
        with translated(side.url):
            yield from chain.from_iterable(pages(side.at(stream), stream, first, last, page=PAGE))

    def lines(self, stream: str, first: str, last: str) -> Iterator[bytes]:
        """Yield what is in the stream, as rows."""
        return (to_line(entry).rstrip() for entry in self.entries(stream, first, last))

    def entries_back(
        self, stream: str, last: str = LAST, first: str = FIRST, *, about: About = ANY
    ) -> Iterator[Entry]:
        """Yield what is in the stream, the newest first; `about` leaves nothing out."""
        del about
        side = self._side(stream)
        with translated(side.url):
            for entry in chain.from_iterable(pages_back(side.at(stream), stream, last, page=PAGE)):
                if id_pair(entry.id) < id_pair(first):
                    return
                yield entry

    def checkpoint(self, last: str) -> None:
        """Return nothing: there is none."""
        del last

    def waiting(self, stream: str, entry_ids: Collection[str]) -> set[str]:
        """Return those that were not handed out, or are pending."""
        if not entry_ids:
            return set()
        low, high = min(entry_ids, key=id_pair), max(entry_ids, key=id_pair)
        with translated(self._control.url):
            delivered = self._delivered(stream)
            unread = {one for one in entry_ids if id_pair(one) > id_pair(delivered)}
            return unread | (set(self._pending(stream, low, high)) & set(entry_ids))

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

    def readers(self) -> dict[str, int]:
        """Return those that were heard of within their time."""
        with translated(self._notify.url):
            readers = registered(self._notify.client, self._one)
        return {one.name: one.control_version for one in readers if not one.expired}

    def _delivered(self, stream: str) -> str:
        """Return up to where entries were handed out; a lost group begins at the low again."""
        client = self._control.at(stream)
        groups: Any = client.xinfo_groups(stream) if client.exists(stream) else ()
        for group in groups:
            if group["name"] == self._keys[stream].group.encode():
                return str(group["last-delivered-id"].decode())
        with translated(self._notify.url):
            low: Any = self._notify.client.get(self._keys[stream].low)
        return id_before(low.decode()) if low else FIRST

    def _pending(self, stream: str, first: str, last: str) -> Iterator[str]:
        while True:
            try:
                page: Any = self._control.at(stream).xpending_range(
                    stream, self._keys[stream].group, first, last, PAGE
                )
            except redis.ResponseError as error:
                if str(error).startswith("NOGROUP"):
                    return
                raise
            yield from (one["message_id"].decode() for one in page)
            if len(page) < PAGE:
                return
            first = id_after(page[-1]["message_id"].decode())

    @property
    def _one(self) -> Keys:
        return next(iter(self._keys.values()))

    def _side(self, stream: str) -> Side:
        return self._control if stream in self._keys else self._notify

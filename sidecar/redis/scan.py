"""Streams read from outside, in pages: memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from sidecar.redis.bounded import fewer
from sidecar.redis.client import Client
from sidecar.redis.errors import Refused, is_absent
from sidecar.redis.source import Entry
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin

PAGE: Final = 1000


class StreamInfo(NamedTuple):
    """What XINFO STREAM says."""

    length: int
    last_id: EntryId
    """The ID last given, also when that entry is gone."""
    first_id: EntryId | None
    """The oldest entry that is still there."""
    added: int | None
    """How many entries it ever had; None before Redis 7.0."""
    deleted: EntryId
    """The highest that was deleted by hand; `FIRST` for none, and before Redis 7.0."""

    @property
    def gone(self) -> int | None:
        """How many of all that it ever had are not there any more; None before Redis 7.0."""
        return None if self.added is None else self.added - self.length


def server_time_us(client: Client) -> int:
    """Return the server's clock, in microseconds since the epoch."""
    answer: Any = client.time()
    seconds, microseconds = answer
    return int(seconds) * 10**6 + int(microseconds)


def stream_info(client: Client, stream: str | bytes) -> StreamInfo | None:
    """Return what is known of a stream; None when it does not exist."""
    try:
        info: Any = client.xinfo_stream(stream)
    except Refused as error:
        if is_absent(error):  # not asked before: it may go in between
            return None
        raise
    first = info["first-entry"]
    return StreamInfo(
        int(info["length"]),
        EntryId(info["last-generated-id"].decode()),
        EntryId(first[0].decode()) if first else None,
        info.get("entries-added"),
        EntryId(info.get("max-deleted-entry-id", FIRST.encode()).decode()),
    )


def pages(
    client: Client, stream: str | bytes, first: EntryId = FIRST, last: EntryId = LAST, *,
    page: int = PAGE,
) -> Iterator[list[Entry]]:  # fmt: skip
    """Yield the entries from `first` to `last` in lists of at most `page`, oldest first."""
    while True:
        found, page = fewer(partial(client.xrange, stream, first, last), page)
        entries = _entries(found)
        if entries:
            yield entries
        if len(entries) < page or entries[-1].id == LAST:
            return
        first = entries[-1].id.after


def pages_back(
    client: Client, stream: str, last: EntryId = LAST, *, page: int = PAGE
) -> Iterator[list[Entry]]:
    """Yield the entries up to `last` in lists of at most `page`, newest first."""
    while True:
        found, page = fewer(partial(client.xrevrange, stream, last, FIRST), page)
        entries = _entries(found)
        if entries:
            yield entries
        if len(entries) < page:
            return
        last = entries[-1].id.before


def _entries(answer: Any) -> list[Entry]:  # noqa: ANN401 -- redis-py
    return [Entry(EntryId(entry_id.decode()), fields or {}) for entry_id, fields in answer or ()]


def origin_of(fields: Mapping[bytes, bytes]) -> Origin:
    """Return the origin that an entry of an outbound stream names."""
    return Origin(text(fields, "origin"))


def text(fields: Mapping[bytes, bytes], name: str) -> str:
    """Return a field as text, whatever bytes it has; empty when it is absent."""
    return fields.get(name.encode(), b"").decode(errors="backslashreplace")

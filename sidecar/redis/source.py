"""The control stream as its one active worker sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import redis

from sidecar.redis.bounded import CutFields, TooMuch, fewer
from sidecar.redis.client import Client
from sidecar.redis.ends import Ends, look
from sidecar.redis.errors import is_absent, is_full
from sidecar.redis.groups import group_of
from sidecar.redis.keys import CONSUMER, Keys
from sidecar.wire.ids import FIRST, LAST, EntryId

READ_BYTES: Final = 8 << 20
"""A read is to bring no more than that: 500 legal entries."""
FIRST_READ: Final = 16
"""So many entries are read at first: what comes may be giants, and may have killed before."""
MAX_READ: Final = 500


class Entry(NamedTuple):
    """One entry of the control stream."""

    id: EntryId
    fields: Mapping[bytes, bytes]
    """Empty when the entry is pending but was deleted or trimmed."""
    size_bytes: int = 0
    """All names and values added up, of fields that repeat a name, too."""

    @property
    def raw_event(self) -> bytes:
        """What the producer wrote as the event, whatever that is; empty where it wrote none."""
        return self.fields.get(b"event", b"")


class Pending(NamedTuple):
    """The pending list of the group at a moment."""

    total: int
    lowest: EntryId
    """Its lowest ID; empty when nothing is pending."""
    highest: EntryId
    """Its highest ID; `FIRST` when nothing is pending."""
    others: Mapping[str, int] = MappingProxyType({})
    """By consumer, how many of them are another's than the worker's."""

    @property
    def elsewhere(self) -> int:
        """How many are pending under other consumers."""
        return sum(self.others.values())

    def told(self) -> str:
        """Say where else entries are pending, to be put behind a sentence; empty for nowhere."""
        shown = [f"{count} of them under consumer {name!r}" for name, count in self.others.items()]
        return "".join(f", {one}" for one in shown)


class GroupLost(Exception):
    """The consumer group is gone: Redis lost its data, or someone removed it."""


class ControlStream:
    """Reads and acknowledges entries of one control stream.

    Every method may raise `GroupLost`, or `RedisError` when the server is away.
    """

    def __init__(self, client: Client, blocking: Client, keys: Keys) -> None:
        """`blocking` serves the blocking reads: a client whose timeout allows for them."""
        for each in (client, blocking):
            # redis-py's own parsing of entries costs more than the rest of reading them.
            for command in ("XREADGROUP", "XRANGE", "XREVRANGE"):
                each.set_response_callback(command, lambda answer, **_: answer)
        self._client = client
        self._blocking = blocking
        self._stream = keys.control
        self._group = keys.group
        self._room = FIRST_READ
        """So many entries are read at once, as those before had few bytes, or many."""

    def has_group(self) -> bool:
        """Tell whether there is a group."""
        try:
            self.pending()
        except GroupLost:
            return False
        return True

    def create_group(self, after: EntryId) -> bool:
        """Make the group so that it delivers what lies after the ID `after`.

        Returns False when there is one already, which is left as it is.
        """
        try:
            self._client.xgroup_create(self._stream, self._group, after, mkstream=True)
        except redis.ResponseError as error:
            # Without memory the server refuses before it looks whether there is one.
            there = is_full(error) and group_of(self._client, self._stream, self._group)
            if there or str(error).startswith("BUSYGROUP"):
                return False
            raise
        return True

    def deliver_again(self, after: EntryId) -> None:
        """Let the group deliver once more everything after the ID `after`."""
        self._command("XGROUP", "SETID", self._stream, self._group, after)

    def last_delivered(self) -> EntryId:
        """Return the ID up to which the group has handed out entries."""
        return EntryId(self._group_info()["last-delivered-id"].decode())

    def _group_info(self) -> Mapping[str, Any]:
        try:
            groups: Any = self._client.xinfo_groups(self._stream)
        except redis.ResponseError as error:
            if is_absent(error):
                raise GroupLost(str(error)) from error
            raise
        for group in groups:
            if group["name"] == self._group.encode():
                return dict(group)
        raise GroupLost(self._group)

    def read_new(self, count: int, block_ms: int | None) -> list[Entry]:
        """Return up to `count` entries that nobody read yet, oldest first.

        Waits up to `block_ms` for the first one, or not at all when it is None. Returns fewer
        while those before were so large that more would be many bytes at once.
        """
        block = () if block_ms is None else ("BLOCK", block_ms)
        client = self._client if block_ms is None else self._blocking
        return self._read(client, block, count, ">")

    def read_pending(self, after: EntryId, count: int, *, elsewhere: bool = False) -> list[Entry]:
        """Return up to `count` pending entries with IDs above `after`, oldest first.

        Returns fewer while those before were large, but always one if there is one. With
        `elsewhere`, what of them is pending under other consumers is taken over first.
        """
        asked = min(count, self._room)

        def read(count: int) -> list[Entry]:
            gone = self._take_over(after, count) if elsewhere else []
            entries = self._read(self._client, (), count, after)
            return sorted(gone + entries, key=lambda entry: entry.id)[:count] if gone else entries

        return fewer(read, asked)[0]

    def _take_over(self, after: EntryId, count: int) -> list[Entry]:
        """Claim what others have of the first `count` pending entries above `after`.

        Returns those that were deleted. They are not claimed, for Redis 7 and newer would drop
        them from the pending list, and nobody could tell any more that they are lost.
        """
        found = self._pending_rows(after.after, LAST, count)
        others = [entry_id for entry_id, consumer in found if consumer != CONSUMER.encode()]
        with self._client.pipeline(transaction=False) as pipeline:
            for entry_id in others:
                pipeline.xrange(self._stream, entry_id, entry_id)
            there = {
                entry_id for entry_id, raw in zip(others, pipeline.execute(), strict=True) if raw
            }
        if there:
            # JUSTID: a claim is no delivery, and must not count as one.
            self._command(
                "XCLAIM", self._stream, self._group, CONSUMER, 0, *sorted(there),
                "JUSTID", parse_justid=True,
            )  # fmt: skip
        return [Entry(entry_id, {}) for entry_id in others if entry_id not in there]

    def pending(self) -> Pending:
        """Return how many entries are pending in the group, and between which IDs they lie."""
        return pending_of(self._command("XPENDING", self._stream, self._group))

    def pending_from(self, entry_id: EntryId, count: int) -> set[EntryId]:
        """Return the IDs of the first `count` pending entries at or above `entry_id`."""
        return {found for found, _ in self._pending_rows(entry_id, LAST, count)}

    def pending_between(self, first: EntryId, last: EntryId) -> set[EntryId]:
        """Return the IDs of all entries from `first` to `last` that are pending."""
        ids: set[EntryId] = set()
        while rows := self._pending_rows(first, last, MAX_READ):
            ids.update(entry_id for entry_id, _ in rows)
            if len(rows) < MAX_READ or rows[-1][0] == last:
                break
            first = rows[-1][0].after
        return ids

    def _pending_rows(
        self, first: EntryId, last: EntryId, count: int
    ) -> list[tuple[EntryId, bytes]]:
        found = self._command(
            "XPENDING", self._stream, self._group, first, last, count, parse_detail=True
        )
        return [(EntryId(one["message_id"].decode()), one["consumer"]) for one in found]

    def pages(self, first: EntryId, last: EntryId, page: int) -> Iterator[list[Entry]]:
        """Yield the entries from `first` to `last`, read or not, in lists of at most `page`."""
        while True:
            ask = partial(self._command, "XRANGE", self._stream, first, last, "COUNT")
            found, page = fewer(ask, page)
            entries = [_entry(*raw) for raw in found]
            if entries:
                yield entries
            if len(entries) < page:
                return
            first = entries[-1].id.after

    def check(self) -> None:
        """Raise what keeps this stream from being read, as far as looking tells.

        That there is no group, or no stream, keeps nobody: they can be made.
        """
        self.has_group()

    def fetch(self, entry_ids: Sequence[EntryId]) -> list[Entry]:
        """Return entries by their IDs: what is gone has no fields."""
        if not entry_ids:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for entry_id in entry_ids:
            pipeline.xrange(self._stream, entry_id, entry_id)
        found: list[Any] = pipeline.execute()
        return [
            _entry(*raw[0]) if raw else Entry(entry_id, {})
            for entry_id, raw in zip(entry_ids, found, strict=True)
        ]

    def at(self, entry_id: EntryId) -> Entry | None:
        """Return the entry with that ID, None where there is none."""
        found = self._command("XRANGE", self._stream, entry_id, entry_id)
        return _entry(*found[0]) if found else None

    def last_to(self, entry_id: EntryId) -> Entry | None:
        """Return the highest entry up to that ID, None where there is none."""
        found = self._command("XREVRANGE", self._stream, entry_id, "-", "COUNT", 1)
        return _entry(*found[0]) if found else None

    def first_from(self, entry_id: EntryId) -> EntryId | None:
        """Return the ID of the first entry at or above `entry_id`, None when there is none."""
        found = self._command("XRANGE", self._stream, entry_id, "+", "COUNT", 1)
        return EntryId(found[0][0].decode()) if found else None

    def look(self, known: EntryId) -> Ends:
        """Hold the stream against an entry that it is known to have had."""
        return look(self._client, self._stream, known)

    def was_read(self) -> bool:
        """Tell whether somebody has read from the group."""
        return bool(self._group_info()["consumers"])

    def acknowledge(self, entry_ids: Iterable[str]) -> int:
        """Take entries off the pending list; return how many were on it."""
        return int(self._command("XACK", self._stream, self._group, *entry_ids))

    def reconnect(self) -> None:
        """Let the next command look anew for the node to send it to."""
        for client in (self._client, self._blocking):
            client.connection_pool.disconnect()

    def _read(
        self, client: Client, options: tuple[Any, ...], count: int, start: str
    ) -> list[Entry]:
        asked = min(count, self._room)
        try:
            answer = self._command(
                "XREADGROUP", "GROUP", self._group, CONSUMER, *options, "COUNT", asked,
                "STREAMS", self._stream, start,
                client=client,
            )  # fmt: skip
        except TooMuch:  # what was new is pending now: it is read back, by fewer at a time
            self._room = max(1, asked // 4)
            raise
        entries = [_entry(*raw) for raw in answer[0][1]] if answer else []
        full = len(entries) == asked
        size_bytes = sum(entry.size_bytes for entry in entries)
        if size_bytes > READ_BYTES:
            self._room = max(1, len(entries) * READ_BYTES // size_bytes)
        elif full and 2 * size_bytes <= READ_BYTES:
            self._room = min(2 * self._room, MAX_READ)
        return entries

    def _command(self, *args: Any, client: Client | None = None, **options: Any) -> Any:  # noqa: ANN401 -- redis-py
        try:
            return (client or self._client).execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED the", "ERR The XGROUP")):
                raise GroupLost(str(error)) from error
            raise


def pending_of(summary: Mapping[str, Any]) -> Pending:
    """Read redis-py's answer to XPENDING."""
    lowest, highest = summary["min"] or b"", summary["max"] or b""
    others = {
        one["name"].decode(errors="backslashreplace"): int(one["pending"])
        for one in summary["consumers"] or ()
        if one["name"] != CONSUMER.encode()
    }
    return Pending(
        int(summary["pending"]),
        EntryId(lowest.decode()),
        EntryId(highest.decode()) or FIRST,
        others,
    )


def _entry(entry_id: bytes, flat: list[bytes] | None) -> Entry:
    if not flat:
        return Entry(EntryId(entry_id.decode()), {})
    # Not functions: each would be one call more for each event.
    if len(flat) == 2 and not isinstance(flat, CutFields):  # noqa: PLR2004 -- an event, no more
        name, value = flat
        return Entry(EntryId(entry_id.decode()), {name: value}, len(name) + len(value))
    names_and_values = iter(flat)
    fields = dict(zip(names_and_values, names_and_values))  # noqa: B905 -- two of one iterator
    size_bytes = flat.size_bytes if isinstance(flat, CutFields) else sum(map(len, flat))
    return Entry(EntryId(entry_id.decode()), fields, size_bytes)

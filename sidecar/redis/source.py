"""The control stream as its one active worker sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import redis

from sidecar.redis.client import Client
from sidecar.redis.keys import CONSUMER, Keys

FIRST: Final = "0-0"
HIGHEST: Final = 2**64 - 1
LAST: Final = f"{HIGHEST}-{HIGHEST}"
"""The highest ID that an entry can have."""
READ_BYTES: Final = 8 << 20
"""A read is to bring no more than that: 500 legal entries."""
FIRST_READ: Final = 16
"""So many entries are read at first: what comes may be giants, and may have killed before."""
MAX_READ: Final = 500


class Entry(NamedTuple):
    """One entry of the control stream."""

    id: str
    fields: Mapping[bytes, bytes]
    """Empty when the entry is pending but was deleted or trimmed."""
    size_bytes: int = 0
    """All names and values added up, of fields that repeat a name, too."""


class Pending(NamedTuple):
    """The pending list of the group at a moment."""

    total: int
    lowest: str
    """Its lowest ID; empty when nothing is pending."""
    highest: str
    """Its highest ID; `FIRST` when nothing is pending."""


class GroupLost(Exception):
    """The consumer group is gone: Redis lost its data, or someone removed it."""


def id_pair(entry_id: str) -> tuple[int, int]:
    """Return an entry ID as a pair that compares as Redis compares IDs."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def key_of(entry_id: str) -> str:
    """Return an ID so that SQLite compares it as Redis does."""
    ms, seq = id_pair(entry_id)
    return f"{ms:020}-{seq:020}"


def id_of(key: str) -> str:
    """Return the ID that `key_of` made a key of."""
    ms, seq = id_pair(key)
    return f"{ms}-{seq}"


def id_before(entry_id: str) -> str:
    """Return the greatest entry ID below `entry_id`."""
    ms, seq = id_pair(entry_id)
    if seq:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{HIGHEST}" if ms else FIRST


def id_after(entry_id: str) -> str:
    """Return the least entry ID above `entry_id`, or the highest that there can be."""
    ms, seq = id_pair(entry_id)
    if seq < HIGHEST:
        return f"{ms}-{seq + 1}"
    return f"{ms + 1}-0" if ms < HIGHEST else LAST


class ControlStream:
    """Reads and acknowledges entries of one control stream.

    Every method may raise `GroupLost`, or redis-py's errors when the server is away.
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

    def create_group(self, after: str) -> bool:
        """Make the group so that it delivers what lies after the ID `after`.

        Returns False when there is one already, which is left as it is.
        """
        try:
            self._client.xgroup_create(self._stream, self._group, after, mkstream=True)
        except redis.ResponseError as error:
            if str(error).startswith("BUSYGROUP"):
                return False
            raise
        return True

    def deliver_again(self, after: str) -> None:
        """Let the group deliver once more everything after the ID `after`."""
        self._command("XGROUP", "SETID", self._stream, self._group, after)

    def last_delivered(self) -> str:
        """Return the ID up to which the group has handed out entries."""
        try:
            groups = self._client.xinfo_groups(self._stream)
        except redis.ResponseError as error:
            if "no such key" in str(error):
                raise GroupLost(str(error)) from error
            raise
        for group in groups:
            if group["name"] == self._group.encode():
                return str(group["last-delivered-id"].decode())
        raise GroupLost(self._group)

    def last_generated(self) -> str:
        """Return the highest ID that the stream ever gave, whatever was deleted since."""
        info: Any = self._client.xinfo_stream(self._stream)
        return str(info["last-generated-id"].decode())

    def read_new(self, count: int, block_ms: int | None) -> list[Entry]:
        """Return up to `count` entries that nobody read yet, oldest first.

        Waits up to `block_ms` for the first one, or not at all when it is None. Returns fewer
        while those before were so large that more would be many bytes at once.
        """
        block = () if block_ms is None else ("BLOCK", block_ms)
        client = self._client if block_ms is None else self._blocking
        return self._read(client, block, count, ">")

    def read_pending(self, after: str, count: int) -> list[Entry]:
        """Return up to `count` pending entries with IDs above `after`, oldest first.

        Returns fewer while those before were large, but always one if there is one.
        """
        return self._read(self._client, (), count, after)

    def pending(self) -> Pending:
        """Return how many entries are pending in the group, and between which IDs they lie."""
        summary = self._command("XPENDING", self._stream, self._group)
        lowest, highest = summary["min"] or b"", summary["max"] or b""
        return Pending(int(summary["pending"]), lowest.decode(), highest.decode() or FIRST)

    def pending_from(self, entry_id: str, count: int) -> set[str]:
        """Return the IDs of the first `count` pending entries at or above `entry_id`."""
        found = self._command(
            "XPENDING", self._stream, self._group, entry_id, "+", count, parse_detail=True
        )
        return {one["message_id"].decode() for one in found}

    def fetch(self, entry_id: str) -> Entry:
        """Return one entry by its ID."""
        found = self._command("XRANGE", self._stream, entry_id, entry_id)
        return _entry(*found[0]) if found else Entry(entry_id, {})

    def first_from(self, entry_id: str) -> str | None:
        """Return the ID of the first entry at or above `entry_id`, None when there is none."""
        found = self._command("XRANGE", self._stream, entry_id, "+", "COUNT", 1)
        return str(found[0][0].decode()) if found else None

    def last(self) -> str:
        """Return the ID of the newest entry."""
        found = self._command("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return str(found[0][0].decode()) if found else FIRST

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
        answer = self._command(
            "XREADGROUP", "GROUP", self._group, CONSUMER, *options, "COUNT", asked,
            "STREAMS", self._stream, start,
            client=client,
        )  # fmt: skip
        entries = [_entry(*raw) for raw in answer[0][1]] if answer else []
        self._learn(entries, full=len(entries) == asked)
        return entries

    def _learn(self, entries: list[Entry], *, full: bool) -> None:
        size_bytes = sum(entry.size_bytes for entry in entries)
        if size_bytes > READ_BYTES:
            self._room = max(1, len(entries) * READ_BYTES // size_bytes)
        elif full and 2 * size_bytes <= READ_BYTES:
            self._room = min(2 * self._room, MAX_READ)

    def _command(self, *args: Any, client: Client | None = None, **options: Any) -> Any:  # noqa: ANN401 -- redis-py
        try:
            return (client or self._client).execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED", "ERR The XGROUP")):
                raise GroupLost(str(error)) from error
            raise


def _entry(entry_id: bytes, flat: list[bytes] | None) -> Entry:
    if not flat:
        return Entry(entry_id.decode(), {})
    names_and_values = iter(flat)
    fields = dict(zip(names_and_values, names_and_values))  # noqa: B905 -- two of one iterator
    return Entry(entry_id.decode(), fields, sum(map(len, flat)))

"""The control stream as its one active worker sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple

import redis

from sidecar.redis.client import Client
from sidecar.redis.keys import CONSUMER, Keys

FIRST: Final = "0-0"
HIGHEST: Final = 2**64 - 1
READ_BYTES: Final = 8 << 20
"""Entries of more bytes than that are not read at once, but one by one: 500 legal ones fit."""
UNSEEN: Final = 8
"""So many entries at most are read whose sizes were not looked at before."""


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
    return f"{ms + 1}-0" if ms < HIGHEST else entry_id


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
        self._room_script = client.register_script(
            files("sidecar.redis").joinpath("lua", "room.lua").read_text()
        )
        self._position: str | None = None
        """Up to here the group has handed out entries, as far as is known."""
        self._small = False
        """The last read was a full batch of small entries: the next are likely to be small."""

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
        self._position = after
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
                self._position = str(group["last-delivered-id"].decode())
                return self._position
        raise GroupLost(self._group)

    def last_generated(self) -> str:
        """Return the highest ID that the stream ever gave, whatever was deleted since."""
        info: Any = self._client.xinfo_stream(self._stream)
        return str(info["last-generated-id"].decode())

    def read_new(self, count: int, block_ms: int | None) -> list[Entry]:
        """Return up to `count` entries that nobody read yet, oldest first.

        Waits up to `block_ms` for the first one, or not at all when it is None. Returns fewer
        rather than more than `READ_BYTES` at once; only the first giants behind a full batch
        of small entries come unforeseen, since to look ahead always costs a fifth of the speed.
        """
        room = count if self._small else self._room_ahead(count)
        entries = self._read(self._client, ("COUNT", room), ">") if room else []
        if room and not entries:
            self.last_delivered()  # perhaps someone else has read them
        if not entries and block_ms is not None:
            few = ("BLOCK", block_ms, "COUNT", min(count, UNSEEN))
            entries = self._read(self._blocking, few, ">")
        self._small = len(entries) == count and sum(e.size_bytes for e in entries) <= READ_BYTES
        if entries:
            self._position = entries[-1].id
        return entries

    def read_pending(self, after: str, count: int) -> list[Entry]:
        """Return up to `count` pending entries with IDs above `after`, oldest first.

        Returns fewer rather than more than `READ_BYTES` at once.
        """
        room = self._room(after, count, self._group, CONSUMER)
        return self._read(self._client, ("COUNT", room), after) if room else []

    def pending(self) -> Pending:
        """Return how many entries are pending in the group, and between which IDs they lie."""
        summary = self._command("XPENDING", self._stream, self._group)
        lowest, highest = summary["min"] or b"", summary["max"] or b""
        return Pending(int(summary["pending"]), lowest.decode(), highest.decode() or FIRST)

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

    def _room_ahead(self, count: int) -> int:
        """Return how many of the next `count` new entries may be read at once."""
        return self._room(self._position or self.last_delivered(), count)

    def _room(self, after: str, count: int, *pending_of: str) -> int:
        """Return how many of the next `count` entries may be read at once."""
        try:
            return int(
                self._room_script(keys=[self._stream], args=[after, count, READ_BYTES, *pending_of])
            )
        except redis.ResponseError as error:
            if str(error).startswith("NOGROUP"):
                raise GroupLost(str(error)) from error
            raise

    def _read(self, client: Client, options: tuple[Any, ...], start: str) -> list[Entry]:
        answer = self._command(
            "XREADGROUP", "GROUP", self._group, CONSUMER, *options, "STREAMS", self._stream, start,
            client=client,
        )  # fmt: skip
        if not answer:
            return []
        return [_entry(*raw) for raw in answer[0][1]]

    def _command(self, *args: Any, client: Client | None = None) -> Any:  # noqa: ANN401 -- redis-py
        try:
            return (client or self._client).execute_command(*args)  # type: ignore[no-untyped-call]
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

"""A stream as Redis has it: entries in order, and groups with their lists of what is pending."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

Id = tuple[int, int]
LAST: Id = (2**64 - 1, 2**64 - 1)


def parse_id(raw: bytes, *, seq: int = 0) -> Id:
    """Return an ID as a pair; `seq` stands for a sequence that is left out."""
    ms, dash, rest = raw.partition(b"-")
    return int(ms), int(rest) if dash else seq


def show_id(entry_id: Id) -> bytes:
    """Return an ID as Redis writes it."""
    return b"%d-%d" % entry_id


def bound(raw: bytes, *, low: bool) -> Id:
    """Return an end of a range: an ID, one after `(` that is excluded, or `-` or `+`."""
    if raw.startswith(b"("):
        ms, seq = parse_id(raw[1:])
        if low:
            return (ms, seq + 1) if seq < LAST[1] else (ms + 1, 0)
        return (ms, seq - 1) if seq else (ms - 1, LAST[1])
    if raw == b"-":
        return (0, 0)
    if raw == b"+":
        return LAST
    return parse_id(raw, seq=0 if low else LAST[1])


@dataclass(slots=True)
class Pending:
    """An entry that was handed out and not acknowledged."""

    consumer: bytes
    deliveries: int


@dataclass(slots=True)
class Group:
    """A consumer group."""

    last: Id
    read: int | None = None
    """How many entries it has read of all there ever were; None when nobody can tell."""
    pending: dict[Id, Pending] = field(default_factory=dict)
    consumers: set[bytes] = field(default_factory=set)

    def ids_of(self, consumer: bytes) -> list[Id]:
        """Return what is pending at a consumer, in order."""
        return sorted(i for i, each in self.pending.items() if each.consumer == consumer)

    def drop_consumer(self, consumer: bytes) -> int:
        """Delete a consumer, and what is pending at it."""
        ids = self.ids_of(consumer)
        for entry_id in ids:
            del self.pending[entry_id]
        self.consumers.discard(consumer)
        return len(ids)


@dataclass(slots=True)
class Stream:
    """A log of entries, each a flat list of names and values."""

    last: Id = (0, 0)
    deleted: Id = (0, 0)
    added: int = 0
    ids: list[Id] = field(default_factory=list)
    fields: dict[Id, list[bytes]] = field(default_factory=dict)
    groups: dict[bytes, Group] = field(default_factory=dict)

    def add(self, entry_id: Id, fields: list[bytes]) -> None:
        """Append an entry."""
        self.last = entry_id
        self.added += 1
        self.ids.append(entry_id)
        self.fields[entry_id] = fields

    def delete(self, entry_id: Id) -> int:
        """Delete an entry; groups keep it on their lists, as a ghost."""
        if entry_id not in self.fields:
            return 0
        del self.fields[entry_id]
        del self.ids[bisect_left(self.ids, entry_id)]
        self.deleted = max(self.deleted, entry_id)
        return 1

    def between(self, low: Id, high: Id) -> list[Id]:
        """Return the IDs from `low` to `high`, both included."""
        return self.ids[bisect_left(self.ids, low) : bisect_right(self.ids, high)]

    def after(self, entry_id: Id) -> list[Id]:
        """Return the IDs above `entry_id`."""
        return self.ids[bisect_right(self.ids, entry_id) :]

    def trim(self, count: int) -> None:
        """Let the oldest entries go; unlike `delete`, without a trace."""
        for entry_id in self.ids[:count]:
            del self.fields[entry_id]
        del self.ids[:count]

    def advance(self, group: Group, entry_id: Id) -> None:
        """Let a group have read up to an entry."""
        known = group.read is not None and self.ids and group.last >= self.ids[0]
        if known and not self._has_hole(group.last):
            assert group.read is not None
            group.read += 1
        elif self.added:
            group.read = self._distance(entry_id)
        group.last = entry_id

    def lag(self, group: Group) -> int | None:
        """Return how many entries a group has yet to read; None when nobody can tell."""
        if not self.added:
            return 0
        read = group.read
        if read is None or self._has_hole(group.last):
            read = self._distance(group.last)
        return None if read is None else self.added - read

    def _has_hole(self, after: Id) -> bool:
        """Tell whether an entry was deleted above `after`."""
        return bool(self.ids) and self.deleted != (0, 0) and after <= self.deleted

    def _distance(self, entry_id: Id) -> int | None:
        """Return the number of an entry, of all there ever were; None when nobody can tell."""
        if not self.ids and entry_id <= self.last:
            return self.added
        if entry_id != (0, 0) and entry_id < self.deleted:
            return None
        if entry_id >= self.last:
            return self.added if entry_id == self.last else None
        if self.deleted == (0, 0) or self.deleted < self.ids[0]:
            if entry_id < self.ids[0]:
                return self.added - len(self.ids)
            if entry_id == self.ids[0]:
                return self.added - len(self.ids) + 1
        return None

"""What really happened: every entry, notification and dead letter that there ever was.

Nothing here is the product's. The servers say what is appended and what goes, at the moment that it
happens, and the world says who did it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.simulation.producer import Sent
from tests.simulation.streams import Id, show_id

Place = tuple[bytes, Id]
"""A stream, and an ID in it."""


class Gone(StrEnum):
    """What took a record out of its stream."""

    PRODUCT = "the sidecar"
    PEOPLE = "people"
    LOSS = "the server's memory"


@dataclass(eq=False)
class Record:
    """What lay in a stream once."""

    place: Place
    number: int
    """Of all that ever happened, when it was appended."""
    at: float
    gone: Gone | None = None
    gone_number: int = 0
    cut_off: bool = False
    """Whether people trimmed it: readers must be told."""

    @property
    def present(self) -> bool:
        """Whether it is there now."""
        return self.gone is None

    @property
    def counts(self) -> bool:
        """Whether it stands: what the server lost was never there."""
        return self.gone is not Gone.LOSS

    def __str__(self) -> str:
        return f"{self.place[0].decode()}/{show_id(self.place[1]).decode()}"


@dataclass(eq=False)
class Entry(Record):
    """An entry of a control stream."""

    sent: Sent = field(default_factory=lambda: Sent(None))
    life: int = 0
    """Which stream of that name it lay in: each that was made anew is another."""
    position: Id = (0, 0)
    """Where its event stood at first."""
    first_at: float = 0.0
    """When that was appended."""
    put_back_at: float | None = None
    """When the operator began who redrove it."""
    forgiven: bool = False
    """The server lost its end after it was acknowledged: only an audit can tell."""
    delivered: bool = False
    absent_s: list[float] = field(default_factory=list)

    @property
    def taken_unread(self) -> bool:
        """Whether people took it before anybody had read it: nobody can report that (G3)."""
        return self.gone is Gone.PEOPLE and not self.delivered


@dataclass(eq=False)
class Note(Record):
    """A notification."""

    version: int = 0
    event_id: str = ""
    content: str = ""
    entry: Entry | None = None
    """Its origin."""
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Letter(Record):
    """A dead letter."""

    reason: str = ""
    entry: Entry | None = None
    raw: bytes = b""


class Truth:
    """All records, by where they lay."""

    def __init__(self) -> None:
        self.number = 0
        self.entries: list[Entry] = []
        self.notes: list[Note] = []
        self.letters: list[Letter] = []
        self._there: dict[Place, Record] = {}
        self._notes_of: dict[Entry, list[Note]] = {}
        self._letters_of: dict[Entry, list[Letter]] = {}
        self._saying: dict[str, list[Note]] = {}
        """Notifications by event ID."""
        self.lives: dict[bytes, int] = {}
        self._aside: set[Record] = set()
        """What was there when somebody gave its stream another name."""

    def tick(self) -> int:
        """Number what happens now."""
        self.number += 1
        return self.number

    def add(self, record: Record) -> None:
        """Note what was appended."""
        self._there[record.place] = record
        if isinstance(record, Entry):
            self.entries.append(record)
        elif isinstance(record, Note):
            self.notes.append(record)
            self._saying.setdefault(record.event_id, []).append(record)
            if record.entry:
                self._notes_of.setdefault(record.entry, []).append(record)
        elif isinstance(record, Letter):
            self.letters.append(record)
            if record.entry:
                self._letters_of.setdefault(record.entry, []).append(record)

    def at(self, key: bytes, entry_id: Id) -> Record | None:
        """Return what was appended there last."""
        return self._there.get((key, entry_id))

    def take(self, key: bytes, ids: Iterable[Id], gone: Gone) -> list[Record]:
        """Note that records are there no more; return them."""
        number, taken = self.tick(), []
        for entry_id in ids:
            record = self._there.get((key, entry_id))
            if record is not None and record.gone is None:
                record.gone, record.gone_number = gone, number
                taken.append(record)
        return taken

    def restore(self, keys: Iterable[bytes], number: int, there: set[Place]) -> None:
        """Let the server have what it had at `number`."""
        names = set(keys)
        for record in self.all():
            if record.place[0] not in names:
                continue
            if record.number > number and record.counts:
                record.gone, record.gone_number = Gone.LOSS, self.tick()
            elif record.gone_number > number and record.place in there:
                record.gone = None
                self._there[record.place] = record

    def all(self) -> Iterator[Record]:
        """Yield every record."""
        yield from self.entries
        yield from self.notes
        yield from self.letters

    def rename(self, old: bytes, new: bytes) -> None:
        """Note that a stream has another name: nobody looks for its entries there."""
        for place in [place for place in self._there if place[0] == old]:
            record = self._there.pop(place)
            if record.gone is None:
                record.gone, record.gone_number = Gone.PEOPLE, self.tick()
                self._aside.add(record)
            self._there[new, place[1]] = record

    def lies_aside(self, record: Record) -> bool:
        """Tell whether a record lies in a stream that somebody gave another name."""
        return record in self._aside and not record.present

    def come_back(self, old: bytes, new: bytes, ids: Collection[Id]) -> None:
        """Note that a stream has its name again, with these entries: others went meanwhile."""
        for place in [place for place in self._there if place[0] == old]:
            record = self._there.pop(place)
            if record in self._aside and place[1] in ids:
                record.gone = None
            self._there[new, place[1]] = record

    # --- ends ----------------------------------------------------------------------------------

    def ends_of(self, entry: Entry) -> list[Record]:
        """Return what an entry ended as: notification, dead letter, or that which it repeats."""
        ended = [*self._notes_of.get(entry, ()), *self._letters_of.get(entry, ())]
        own: list[Record] = [one for one in ended if one.counts]
        if own or not entry.sent.event_id:
            return own
        return [
            note
            for note in self._saying.get(entry.sent.event_id, ())
            if note.counts
            and note.content == entry.sent.content
            and note.place[0] == self.notifications[entry.place[0]]
        ]

    notifications: dict[bytes, bytes]
    """By control stream, where it is published."""

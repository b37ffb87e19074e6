"""Dead letters, as an operator reads and removes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from sidecar.redis.client import Client
from sidecar.redis.keys import Keys
from sidecar.redis.room import check_room
from sidecar.redis.scan import origin_of, pages, pages_back, server_time_us, stream_info, text
from sidecar.redis.source import Entry
from sidecar.wire.event import Event, Rejected, decode, named
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from sidecar.wire.selection import Selection

PAGE: Final = 200
"""Letters read at a time: each may have 16 KiB."""
MAX_AUDIT_RECORDS: Final = 100_000
"""About so many records of redriven letters are kept."""
MAX_DETAIL: Final = 1000
"""So many bytes of a letter's detail stay in the record of its redrive."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead-letter stream (docs/contract.md, "Dead letters")."""

    id: EntryId
    fields: Mapping[bytes, bytes]

    @property
    def raw_event(self) -> bytes:
        """The original bytes of the event, cut when `truncated`."""
        return self.fields.get(b"event", b"")

    @property
    def truncated(self) -> bool:
        """Whether the original was larger than a letter holds."""
        return b"truncated" in self.fields

    @property
    def reason(self) -> str:
        """Why it is dead."""
        return text(self.fields, "reason")

    @property
    def detail(self) -> str:
        """What exactly was wrong."""
        return text(self.fields, "detail")

    @property
    def origin(self) -> Origin:
        """`<control stream>/<entry id>` of the entry that it was."""
        return origin_of(self.fields)

    @property
    def dead_at(self) -> str:
        """When the letter was written."""
        return text(self.fields, "dead_at")

    def to_entry(self) -> dict[Any, Any]:
        """Return the fields of the control-stream entry that it was."""
        return {k: self.fields[k] for k in (b"event", b"traceparent") if k in self.fields}

    def death(self) -> dict[str, bytes]:
        """Return what the record of its redrive keeps of it: the letter itself is removed, and its
        event is in the entry that it becomes.
        """
        kept = {
            "dead_reason": b"reason", "dead_detail": b"detail", "dead_at": b"dead_at",
            "first_seen": b"first_seen", "attempts": b"attempts",
        }  # fmt: skip
        return {
            name: self.fields[field][:MAX_DETAIL]
            for name, field in kept.items()
            if field in self.fields
        }

    def event(self) -> Event:
        """Decode the event. Raises `event.Rejected`."""
        return decode(self.to_entry())[0]

    def hints(self) -> tuple[str, str]:
        """Return tenant and event_id as far as they can be read, of a broken event, too."""
        try:
            event = self.event()
        except Rejected:
            event = None
        return named(event, self.fields)


@dataclass(frozen=True, slots=True)
class LetterSelection(Selection):
    """Which letters are meant; an empty field means any."""

    reasons: Collection[str] = ()
    first: EntryId = FIRST
    last: EntryId = LAST
    """Between which IDs, both inclusive."""

    def wants(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is meant; one whose event cannot be read, by reason and tenant."""
        if self.reasons and letter.reason not in self.reasons:
            return False
        if not (self.tenant or self.stack or self.type or self.ref):
            return True
        try:
            return self.has(letter.event())
        except Rejected:
            return self.has(None, letter.hints()[0])


ALL: Final = LetterSelection()


class DeadLetters:
    """The dead-letter stream of one notification stream. May raise `RedisError`."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self._keys = keys

    def __len__(self) -> int:
        return int(self.client.xlen(self._keys.dead))

    def now_us(self) -> int:
        """Return the clock of the server that has them, in microseconds since the epoch."""
        return server_time_us(self.client)

    def last_id(self) -> EntryId | None:
        """Return the ID that was given last; None while there has been no letter."""
        info = stream_info(self.client, self._keys.dead)
        return info.last_id if info else None

    def frozen(self, asked: LetterSelection) -> LetterSelection | None:
        """Return the selection without what comes from now on; None while there was no letter."""
        last = self.last_id()
        if last is None:
            return None
        return replace(asked, last=min(asked.last, last))

    def get(self, letter_id: EntryId) -> DeadLetter | None:
        """Return one letter; None when it is not there."""
        found: Any = self.client.xrange(self._keys.dead, letter_id, letter_id)
        return DeadLetter(EntryId(found[0][0].decode()), found[0][1]) if found else None

    def all(self, asked: LetterSelection = ALL) -> Iterator[DeadLetter]:
        """Yield letters, the oldest first."""
        for page in pages(self.client, self._keys.dead, asked.first, asked.last, page=PAGE):
            yield from _letters(page, asked)

    def newest(self, count: int, asked: LetterSelection = ALL) -> list[DeadLetter]:
        """Return the newest `count` letters, the oldest of them first."""
        found: list[DeadLetter] = []
        for page in pages_back(
            self.client, self._keys.dead, asked.last, page=min(PAGE, max(count, 1))
        ):
            found += [one for one in _letters(page, asked) if one.id >= asked.first]
            if page[-1].id < asked.first:
                break
            if len(found) >= count:
                break
        return found[:count][::-1]

    def by_reason(self, limit: int) -> tuple[dict[str, int], int]:
        """Count the newest letters by reason; return the counts and how many were looked at."""
        counts: Counter[str] = Counter()
        for page in pages_back(self.client, self._keys.dead, page=min(PAGE, limit)):
            counts.update(letter.reason for letter in _letters(page[: limit - counts.total()], ALL))
            if counts.total() >= limit:
                break
        return dict(counts.most_common()), counts.total()

    def check_room(self) -> None:
        """Raise `NoRoom` where nothing can be put on record: then nothing is to be redriven."""
        check_room(self.client, self._keys.redriven, "records")

    def settle(self, letter_id: EntryId, record: dict[Any, Any]) -> None:
        """Remove a letter that has been redriven, and record that, both or neither."""
        with self.client.pipeline(transaction=True) as both:
            both.xdel(self._keys.dead, letter_id)
            both.xadd(self._keys.redriven, record, maxlen=MAX_AUDIT_RECORDS, approximate=True)
            both.execute()

    def record(self, record: dict[Any, Any]) -> None:
        """Record what was redriven without a letter."""
        self.client.xadd(self._keys.redriven, record, maxlen=MAX_AUDIT_RECORDS, approximate=True)

    def history(self) -> Iterator[Entry]:
        """Yield the records of what was redriven, the oldest first."""
        for page in pages(self.client, self._keys.redriven):
            yield from page

    def originals(self) -> dict[str, Origin]:
        """Return, for each entry that a letter was redriven as, the origin that the letter had."""
        return {
            text(entry.fields, "entry"): origin_of(entry.fields)
            for page in pages(self.client, self._keys.redriven)
            for entry in page
        }


def _letters(page: list[Entry], asked: LetterSelection) -> Iterator[DeadLetter]:
    for entry in page:
        letter = DeadLetter(entry.id, entry.fields)
        if asked.wants(letter):
            yield letter


class Group(NamedTuple):
    """Letters with the same reason and tenant."""

    reason: str
    tenant: str
    size: int
    oldest: DeadLetter
    newest: DeadLetter

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "reason": self.reason, "tenant_id": self.tenant, "count": self.size,
            "oldest": self.oldest.dead_at, "newest": self.newest.dead_at,
            "newest_id": self.newest.id,
        }  # fmt: skip


def grouped(letters: Iterable[DeadLetter]) -> list[Group]:
    """Return groups of letters, which come the oldest first: the largest group first."""
    counts: Counter[tuple[str, str]] = Counter()
    ends: dict[tuple[str, str], tuple[DeadLetter, DeadLetter]] = {}
    for letter in letters:
        group = letter.reason, letter.hints()[0]
        counts[group] += 1
        oldest, _ = ends.get(group, (letter, letter))
        ends[group] = oldest, letter
    return [Group(*group, count, *ends[group]) for group, count in counts.most_common()]

"""Putting dead letters back on the control stream they came from, in the order of their entries.

A letter is redriven before it is removed: a crash in between leaves it, and to redrive it again
is absorbed by deduplication. What newer events have overtaken is refused, and so is what may have
been (`overtakers`): to publish an old state after a newer one would be worse than the dead letter.
So is what its producer sent again and is published, where deduplication would not absorb it.
So is what would only end as a letter again (`predictions`).
"""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from sidecar.history.archive import ArchiveHistory
from sidecar.ops.overtakers import Candidate, Overtakers
from sidecar.ops.predictions import Prediction, Predictions
from sidecar.redis.client import Client, Side
from sidecar.redis.keys import Keys
from sidecar.redis.letters import ALL, DeadLetter, DeadLetters, LetterSelection
from sidecar.redis.scan import server_time_us
from sidecar.wire.event import Rejected
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.subject import Change, followed

BATCH: Final = 2000
"""Letters held against the notification stream at a time: a scan each, and bounded memory."""


_WENT: Final = "it went away meanwhile"


class Result(StrEnum):
    """What became of one letter."""

    REDRIVEN = "redriven"
    WOULD = "would be redriven"
    REFUSED = "refused"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter, and why."""

    letter: str
    result: Result
    detail: str = ""
    origin: str = ""
    event_id: str = ""
    entry: str = ""
    """`<control stream>/<entry id>` of the new entry."""
    unseen: str = ""
    """What could not be looked at before that was decided."""


@dataclass(frozen=True, slots=True)
class RedriveOrder:
    """What the operator asked for."""

    streams: Collection[str]
    """The control streams that may be written to."""
    reason: str
    by: str
    selection: LetterSelection = ALL
    force: bool = False
    dry_run: bool = False
    max_rate: float | None = None


class Standing(NamedTuple):
    """What became of a letter's event, and of its subject, since."""

    published: int
    """As which control_version its event is published; 0 when it is not."""
    overtaken: str
    """What has overtaken it; empty when nothing has."""
    unknown: str
    """Why neither can be known; empty when both can."""


class Redriver:
    """Redrives letters. `control` has the control streams; `notify` all else.

    Raises `SidecarError` for the control side, `RedisError` for the other.
    """

    def __init__(
        self, control: Side, notify: Client, keys: Keys, order: RedriveOrder,
        predictions: Predictions, *, archive: Callable[[], ArchiveHistory | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """`archive` is asked for only when Redis does not go back to where one began."""
        self._control = control
        self._notify = notify
        self._keys = keys
        self._letters = DeadLetters(notify, keys)
        self._order = order
        self._predictions = predictions
        self._archive = archive
        self._clock = clock
        self._sleep = sleep
        self._next_at = clock()

    def these(self, letter_ids: Iterable[EntryId]) -> Iterator[Outcome]:
        """Redrive the letters with these IDs."""
        letters: list[DeadLetter] = []
        for letter_id in sorted(set(letter_ids)):
            letter = self._letters.get(letter_id)
            if letter is None:
                yield Outcome(letter_id, Result.ABSENT, "there is no such dead letter")
            else:
                letters.append(letter)
        yield from self._run(_in_entry_order(letters, self._letters.originals()))

    def all(self) -> Iterator[Outcome]:
        """Redrive every letter of the selection that is there now, not what comes meanwhile."""
        asked = self._letters.frozen(self._order.selection)
        if asked:
            yield from self._run(
                _in_entry_order(self._letters.all(asked), self._letters.originals())
            )

    def _run(self, letter_ids: Iterator[EntryId]) -> Iterator[Outcome]:
        self._letters.check_room()  # else a letter went, and nobody could tell who redrove it
        while ids := list(islice(letter_ids, BATCH)):
            found = {letter_id: self._letters.get(letter_id) for letter_id in ids}
            batch = {id_: _candidate(one, self._refusal(one)) for id_, one in found.items() if one}
            overtakers = self._overtakers(batch.values())
            overtakers.advance()
            for letter_id in ids:
                if letter_id in batch:
                    yield self._one(batch[letter_id], overtakers)
                else:
                    yield Outcome(letter_id, Result.ABSENT, _WENT)

    def _overtakers(self, batch: Iterable[Candidate]) -> Overtakers:
        return Overtakers(
            self._control, self._notify, self._keys, sorted(self._order.streams), list(batch),
            self._archive,
        )  # fmt: skip

    def _refusal(self, letter: DeadLetter) -> str:
        """Say what no --force overrides."""
        stream = letter.origin.stream
        if not self._order.selection.wants(letter):
            return f"it is not among those chosen; its reason is {letter.reason}"
        if letter.truncated:
            return "it is truncated: let the producer send the event again"
        if not letter.raw_event:
            return "it has no event: let the producer send it again"
        if letter.origin.entry is None:
            return f"its origin {letter.origin!r} names no entry of a control stream"
        if stream not in self._order.streams:
            return f"it came from another control stream: add --stream {shlex.quote(stream)}"
        return ""

    def _one(self, candidate: Candidate, overtakers: Overtakers) -> Outcome:
        if candidate.refusal:
            return _outcome(candidate, Result.REFUSED, candidate.refusal)
        if not self._order.dry_run:
            self._keep_rate()
        return overtakers.while_nothing_comes(lambda: self._try(candidate, overtakers))

    def _try(self, candidate: Candidate, overtakers: Overtakers) -> Outcome:
        """Redrive one, unless something is against it. Raises `LookAgain`."""
        if not self._order.dry_run:
            overtakers.advance()
        letter = self._letters.get(EntryId(candidate.id))
        if letter is None:
            return _outcome(candidate, Result.ABSENT, _WENT)
        overtaker = overtakers.against(candidate.id)
        prediction = Prediction() if overtaker else self._predictions.of(letter)
        against = overtaker or (prediction.ends and f"it would end here again: {prediction.ends}")
        if against and not self._order.force:
            return _outcome(candidate, Result.REFUSED, against)
        if self._order.dry_run:
            return _outcome(candidate, Result.WOULD, against, unseen=prediction.unseen)
        entry = self._append(candidate, letter, overtakers, forced=against)
        if entry is None:
            return _outcome(
                candidate,
                Result.REFUSED,
                f"there is no control stream {candidate.stream!r}: is --redis right? a worker that"
                " starts makes it",
            )
        overtakers.note(entry)
        return _outcome(candidate, Result.REDRIVEN, against, entry, prediction.unseen)

    def _append(
        self, candidate: Candidate, letter: DeadLetter, overtakers: Overtakers, *, forced: str
    ) -> Origin | None:
        """Append the event, then remove the letter. Returns the new entry, None without stream.

        `forced` is what was against it. Raises `LookAgain`: nothing was appended.
        """
        entry = overtakers.append(candidate, letter.to_entry())
        if entry is None:
            return None
        overridden = overtakers.found.get(candidate.id) if forced else None
        record = {
            "letter": candidate.id,
            "origin": candidate.origin,
            "event_id": candidate.change.event_id,
            "reason": self._order.reason,
            "by": self._order.by,
            "at": _now(server_time_us(self._notify)),
            "entry": entry,
            **letter.death(),
            **({"forced": forced} if forced else {}),
            **(overridden.to_record() if overridden else {}),
        }
        self._letters.settle(letter.id, record)
        return entry

    def _keep_rate(self) -> None:
        if self._order.max_rate:
            now = self._clock()
            if now < self._next_at:
                self._sleep(self._next_at - now)
            self._next_at = max(self._next_at, now) + 1 / self._order.max_rate


def standing(
    control: Side, notify: Client, keys: Keys, letter: DeadLetter,
    archive: Callable[[], ArchiveHistory | None] = lambda: None,
) -> Standing:  # fmt: skip
    """Say what became of one letter's event.

    `keys` are those of its control stream. Raises as `Overtakers` does.
    """
    candidate = _candidate(letter)
    overtakers = Overtakers(control, notify, keys, [keys.control], [candidate], archive)
    overtakers.advance()
    return Standing(
        overtakers.published(letter.id), overtakers.of(letter.id), overtakers.unknown(letter.id)
    )


def _candidate(letter: DeadLetter, refusal: str = "") -> Candidate:
    known_ms = letter.id.ms
    try:
        change = Change.of(letter.event(), letter.origin, None)
    except Rejected:
        _, event_id = letter.hints()
        origin = letter.origin
        change = Change(event_id, None, "", 0, origin.stream, origin.entry, None)
    change = change.begun(known_ms)
    return Candidate(letter.id, letter.origin, change.stream, change, known_ms, refusal)


def _in_entry_order(
    letters: Iterable[DeadLetter], originals: Mapping[str, Origin]
) -> Iterator[EntryId]:
    """Yield the IDs of letters in the order of the entries that they were at first: an older event
    must not be redriven behind a newer one because it died later. They lie in a temporary file.
    """
    with closing(sqlite3.connect("")) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE letters (entry, stream, letter)")
        db.executemany(
            "INSERT INTO letters VALUES (?, ?, ?)", (_place_of(one, originals) for one in letters)
        )
        for (key,) in db.execute("SELECT letter FROM letters ORDER BY entry, stream, letter"):
            yield EntryId.of_key(key)


def _place_of(letter: DeadLetter, originals: Mapping[str, Origin]) -> tuple[str, str, str]:
    first = followed(originals, letter.origin)
    return first.entry.key if first.entry else "", first.stream, letter.id.key


def _outcome(
    candidate: Candidate, result: Result, detail: str, entry: str = "", unseen: str = ""
) -> Outcome:
    return Outcome(
        candidate.id, result, detail, candidate.origin, candidate.change.event_id, entry, unseen
    )


def _now(us: int) -> str:
    from sidecar.wire.moments import rfc3339

    return rfc3339(us)

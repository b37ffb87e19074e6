"""Putting dead letters back on the control stream they came from.

A letter is put back before it is removed: a crash in between leaves it, and to re-drive it again
is absorbed by deduplication. What newer notifications have overtaken is refused: to publish an
old state after a newer one would be worse than the dead letter. So is what would only end as a
letter again (`prospects`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Final

import orjson

from sidecar.event import Rejected
from sidecar.prospects import Prospect, Prospects
from sidecar.redis.client import Client, Side, translated
from sidecar.redis.keys import Keys
from sidecar.redis.letters import ALL, DeadLetter, DeadLetters, Selection
from sidecar.redis.scan import control_version_of, pages, server_time_us, text
from sidecar.redis.source import Entry, id_after, id_pair

BATCH: Final = 2000
"""Letters held against the notification stream at a time: a scan each, and bounded memory."""
CLOCK_SLACK_MS: Final = 300_000
"""How far the clocks of the two servers may lie apart without a notification being missed."""


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
class Order:
    """What the operator asked for."""

    streams: Collection[str]
    """The control streams that may be written to."""
    reason: str
    by: str
    selection: Selection = ALL
    force: bool = False
    dry_run: bool = False
    max_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is held of an event while its batch is under way: not the event itself."""

    id: str
    """Of its letter; of what has none, its origin."""
    origin: str
    stream: str
    origin_id: str
    event_id: str
    ref: str
    stack: tuple[str, str]
    version: int
    refusal: str


class Redriver:
    """Re-drives letters. `control` has the control streams; `notify` all else.

    Raises `SidecarError` for the control side, redis-py's errors for the other.
    """

    def __init__(
        self,
        control: Side,
        notify: Client,
        keys: Keys,
        order: Order,
        prospects: Prospects,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._control = control
        self._notify = notify
        self._keys = keys
        self._letters = DeadLetters(notify, keys)
        self._order = order
        self._prospects = prospects
        self._clock = clock
        self._sleep = sleep
        self._next_at = clock()

    def these(self, letter_ids: Iterable[str]) -> Iterator[Outcome]:
        """Re-drive the letters with these IDs, in the order in which they died."""
        letters: list[DeadLetter] = []
        for letter_id in sorted(set(letter_ids), key=id_pair):
            letter = self._letters.get(letter_id)
            if letter is None:
                yield Outcome(letter_id, Result.ABSENT, "there is no such letter")
            else:
                letters.append(letter)
        yield from self._run(iter(letters))

    def all(self) -> Iterator[Outcome]:
        """Re-drive every letter of the selection that is there now, not what comes meanwhile."""
        asked = self._letters.frozen(self._order.selection)
        if asked:
            yield from self._run(self._letters.all(asked))

    def _run(self, letters: Iterator[DeadLetter]) -> Iterator[Outcome]:
        while batch := [_candidate(one, self._refusal(one)) for one in islice(letters, BATCH)]:
            overtakers = Overtakers(self._notify, self._keys, self._letters, batch)
            overtakers.advance()
            for candidate in batch:
                yield self._one(candidate, overtakers)

    def _refusal(self, letter: DeadLetter) -> str:
        """Say what no --force overrides."""
        stream, _ = _origin(letter)
        if not self._order.selection.wants(letter):
            return f"it is not among those chosen; its reason is {letter.reason}"
        if letter.truncated:
            return "it is truncated: let the producer send the event again"
        if not letter.raw_event:
            return "it has no event: let the producer send it again"
        if not stream:
            return f"its origin {letter.origin!r} names no entry of a control stream"
        if stream not in self._order.streams:
            return f"it came from another control stream: add --stream {stream}"
        return ""

    def _one(self, candidate: Candidate, overtakers: Overtakers) -> Outcome:
        if candidate.refusal:
            return _outcome(candidate, Result.REFUSED, candidate.refusal)
        if not self._order.dry_run:
            self._keep_rate()
            overtakers.advance()
        letter = self._letters.get(candidate.id)
        if letter is None:
            return _outcome(candidate, Result.ABSENT, "it went away meanwhile")
        overtaker = overtakers.of(candidate.id)
        prospect = Prospect() if overtaker else self._prospects.of(letter)
        against = overtaker or (prospect.ends and f"it would end here again: {prospect.ends}")
        if against and not self._order.force:
            return _outcome(candidate, Result.REFUSED, against)
        if self._order.dry_run:
            return _outcome(candidate, Result.WOULD, against, unseen=prospect.unseen)
        entry = self._put_back(candidate, letter)
        if entry is None:
            return _outcome(
                candidate,
                Result.REFUSED,
                f"there is no control stream {candidate.stream!r}: is --redis right? a worker that"
                " starts makes it",
            )
        overtakers.note(entry, candidate.origin)
        return _outcome(candidate, Result.REDRIVEN, against, entry, prospect.unseen)

    def _put_back(self, candidate: Candidate, letter: DeadLetter) -> str | None:
        """Append the event, then remove the letter. Returns the new entry, None without stream."""
        with translated(self._control.url):
            added: Any = self._control.at(candidate.stream).xadd(
                candidate.stream, letter.to_entry(), nomkstream=True
            )
        if added is None:
            return None
        entry = f"{candidate.stream}/{added.decode()}"
        record = {
            "letter": candidate.id,
            "origin": candidate.origin,
            "event_id": candidate.event_id,
            "reason": self._order.reason,
            "by": self._order.by,
            "at": _now(server_time_us(self._notify)),
            "entry": entry,
        }
        self._letters.settle(candidate.id, record)
        return entry

    def _keep_rate(self) -> None:
        if self._order.max_rate:
            now = self._clock()
            if now < self._next_at:
                self._sleep(self._next_at - now)
            self._next_at = max(self._next_at, now) + 1 / self._order.max_rate


class Overtakers:
    """Which letters of a batch newer notifications have overtaken.

    A notification overtakes a letter when it comes from a later entry and is of the same
    artifact_ref, or of the same stack with a version that is not lower. Later is told by the
    origins; between two control streams, by the times.
    """

    def __init__(
        self, client: Client, keys: Keys, letters: DeadLetters, batch: Sequence[Candidate]
    ) -> None:
        self._client = client
        self._stream = keys.notifications
        self._letters = letters
        self._originals: dict[str, str] | None = None
        self._found: dict[str, str] = {}
        self._by_ref: dict[str, list[Candidate]] = defaultdict(list)
        self._by_stack: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
        self._origin_of: dict[str, str] = {}
        watched = [c for c in batch if not c.refusal and c.event_id]
        for candidate in watched:
            self._origin_of.setdefault(candidate.event_id, candidate.origin)
            if candidate.ref:
                self._by_ref[candidate.ref].append(candidate)
            if candidate.stack[1] and candidate.version > 0:
                self._by_stack[candidate.stack].append(candidate)
        oldest_ms = min((id_pair(c.origin_id)[0] for c in watched), default=0)
        self._next = f"{max(0, oldest_ms - CLOCK_SLACK_MS)}-0"
        self._idle = not self._by_ref and not self._by_stack

    def advance(self) -> None:
        """Read on to the end of the notification stream."""
        if self._idle:
            return
        for page in pages(self._client, self._stream, self._next):
            for entry in page:
                self._look(entry)
            self._next = id_after(page[-1].id)

    def of(self, letter_id: str) -> str:
        """Say what has overtaken the letter; empty when nothing has."""
        return self._found.get(letter_id, "")

    def note(self, entry: str, origin: str) -> None:
        """Know that the letter from `origin` has been put back as `entry`."""
        if self._originals is not None:
            self._originals[entry] = origin

    def _look(self, entry: Entry) -> None:
        try:
            body = orjson.loads(entry.fields[b"event"])
            ref, event_id = body.get("artifact_ref"), body["event_id"]
            stack = body.get("tenant_id") or "", body.get("stack_id") or ""
            version = int(body.get("version") or 0)
        except (KeyError, ValueError, TypeError, AttributeError):
            return  # no sidecar wrote it
        same_ref = self._by_ref.get(ref, ())
        same_stack = [c for c in self._by_stack.get(stack, ()) if version >= c.version]
        for candidate in (*same_ref, *same_stack):
            if candidate.id not in self._found and self._is_later(entry, event_id, candidate):
                self._found[candidate.id] = (
                    f"{event_id} overtook it, as control_version {control_version_of(entry.id)}"
                )

    def _is_later(self, entry: Entry, event_id: str, candidate: Candidate) -> bool:
        if event_id == candidate.event_id:
            return False  # put back before, by one who did not live to remove the letter
        origin = self._origin_of.get(event_id) or text(entry.fields, "origin")
        if not _comes_after(origin, entry.id, candidate):
            return False
        return _comes_after(self._original(origin), entry.id, candidate)

    def _original(self, origin: str) -> str:
        """Follow an entry that a letter was put back as to where the event stood at first."""
        if self._originals is None:
            self._originals = self._letters.originals()
        for _ in range(len(self._originals)):
            if origin not in self._originals:
                break
            origin = self._originals[origin]
        return origin


def overtaken(client: Client, keys: Keys, letter: DeadLetter) -> str:
    """Say what has overtaken one letter; empty when nothing has. Raises redis-py's errors.

    Reads the notifications since it was sent.
    """
    stream, _ = _origin(letter)
    if not stream:
        return ""
    overtakers = Overtakers(client, keys, DeadLetters(client, keys), [_candidate(letter)])
    overtakers.advance()
    return overtakers.of(letter.id)


def _origin(letter: DeadLetter) -> tuple[str, str]:
    """Return its control stream and entry ID, both empty when its origin names none."""
    stream, slash, origin_id = letter.origin.rpartition("/")
    return (stream, origin_id) if slash and _is_id(origin_id) else ("", "")


def _candidate(letter: DeadLetter, refusal: str = "") -> Candidate:
    stream, origin_id = _origin(letter)
    try:
        event = letter.event()
    except Rejected:
        _, event_id = letter.hints()
        return Candidate(
            letter.id, letter.origin, stream, origin_id, event_id, "", ("", ""), 0, refusal
        )
    return Candidate(
        letter.id, letter.origin, stream, origin_id, event.event_id, event.artifact_ref,
        (event.tenant_id, event.stack_id), event.version, refusal,
    )  # fmt: skip


def _comes_after(origin: str, entry_id: str, candidate: Candidate) -> bool:
    stream, _, origin_id = origin.rpartition("/")
    if stream == candidate.stream and _is_id(origin_id):
        return id_pair(origin_id) > id_pair(candidate.origin_id)
    return id_pair(entry_id)[0] >= id_pair(candidate.origin_id)[0]


def _outcome(
    candidate: Candidate, result: Result, detail: str, entry: str = "", unseen: str = ""
) -> Outcome:
    return Outcome(
        candidate.id, result, detail, candidate.origin, candidate.event_id, entry, unseen
    )


def _is_id(text_: str) -> bool:
    ms, dash, seq = text_.partition("-")
    return bool(dash) and all(part.isascii() and part.isdigit() for part in (ms, seq))


def _now(us: int) -> str:
    from sidecar.moments import rfc3339

    return rfc3339(us)

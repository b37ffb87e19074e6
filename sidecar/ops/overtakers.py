"""What has overtaken events that are to be redriven: everything that is looked at before.

A newer event of the same subject may be published, and in Redis still or only in the archive; it
may be published and nowhere any more, which nobody can tell; or it may wait in a control stream,
unread or pending, and be published before what is appended behind it. What waits is read first: a
worker publishes before it acknowledges. Its producer may also have sent the very event again, and
that is published: the deduplication index absorbs it, unless that has forgotten.

The rule itself is `wire.subject.overtakes`. What comes to the control stream after the last look is
held against the event by the script that appends it, so that nothing comes in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from sidecar.errors import Unreachable
from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import Reach
from sidecar.ops.backlog import PAGE, Backlog
from sidecar.redis.client import Client, Side
from sidecar.redis.damage import trimmed_of
from sidecar.redis.errors import NotPermitted, translated
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetters
from sidecar.redis.publisher import remembered
from sidecar.redis.scan import origin_of, pages, pages_back, stream_info
from sidecar.redis.scripts import run_for_people
from sidecar.redis.source import Entry
from sidecar.redis.times import streams_with_times
from sidecar.wire.identity import identity_digest
from sidecar.wire.ids import FIRST, LAST, EntryId, Origin
from sidecar.wire.subject import (
    CLOCK_SLACK_MS,
    Change,
    Subject,
    followed,
    overtakes,
    subject_of,
)

_BLIND: Final = "this Redis user may not read it"
_NO_ARCHIVE: Final = "no archive was found (--fleet-store names the store that has it)"
_NOT_ALL: Final = "the archive does not have all of them"


_T = TypeVar("_T")


class LookAgain(Exception):
    """Something came to the control stream that may have overtaken the event."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is held of an event while its batch is under way: not the event itself."""

    id: str
    """Of its letter; of what has none, its origin."""
    origin: Origin
    stream: str
    change: Change
    known_ms: int
    """When it was there at the latest."""
    refusal: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether it has a dead letter. Its entry is finished then, whatever the index forgot."""
        return self.id != self.origin


class Overtaker(NamedTuple):
    """What has overtaken a candidate."""

    event_id: str
    how: str
    control_version: int = 0
    """Of its notification; 0 while it waits."""

    def __str__(self) -> str:
        """Return it for a person."""
        return f"{self.event_id} {self.how}"

    def to_record(self) -> dict[str, str | int]:
        """Return what a record keeps of what was overridden."""
        version = {"overrode_version": self.control_version} if self.control_version else {}
        return {"overrode": self.event_id, **version}


class _Said(NamedTuple):
    """What an entry's event says, as far as it matters here."""

    event_id: str
    tenant_id: str
    stack_id: str
    version: int
    artifact_ref: str

    @property
    def subject(self) -> Subject | None:
        return subject_of(self.tenant_id, self.stack_id, self.artifact_ref)


class Overtakers:
    """What has overtaken the candidates of a batch.

    Raises `SidecarError` for the control side and the archive, `RedisError` for the other.
    """

    def __init__(
        self, control: Side, notify: Client, keys: Keys, streams: Collection[str],
        batch: Sequence[Candidate], archive: Callable[[], ArchiveHistory | None] = lambda: None,
    ) -> None:  # fmt: skip
        """`streams` are the control streams in which an event may wait; `archive` is asked for only
        when Redis does not go back to where one of the batch began.
        """
        self._control, self._notify, self._keys = control, notify, keys
        self._streams, self._archive = streams, archive
        self._own: set[Origin] = set()
        self.found: dict[str, Overtaker] = {}
        """By candidate, what has overtaken it."""
        self._unknown: list[tuple[EntryId, str]] = []
        """Up to which notification something cannot be known, and why."""
        self._seen: dict[str, EntryId] = {}
        """Up to where each control stream was looked at."""
        self._published: dict[str, int] = {}
        """By event_id of the batch, as which control_version it is published."""
        watched = [one for one in batch if not one.refusal]
        self._dead = {one.origin for one in batch if one.is_dead}
        self._lost = {one.origin for one in batch if not one.is_dead}
        self._moving = {one.id for one in watched if one.change.moves}
        self._timed = streams_with_times(notify, keys) if self._moving else set[str]()
        self._originals = DeadLetters(notify, keys).originals() if watched else {}
        ahead = self._ahead({one.stream for one in watched})
        ends = self._ends(dict.fromkeys(one.stream for one in watched if one.change.moves))
        self._changes = {
            one.id: _placed(_timed(self._at_first(one), ahead), ends) for one in watched
        }
        self._origin_of: dict[str, Origin] = {}
        self._by_ref: dict[str, list[Candidate]] = defaultdict(list)
        self._by_subject: dict[Subject | None, list[Candidate]] = defaultdict(list)
        for one in watched:
            self._origin_of.setdefault(one.change.event_id, one.origin)
            if one.change.moves:
                self._by_subject[one.change.subject].append(one)
            if one.change.artifact_ref:
                self._by_ref[one.change.artifact_ref].append(one)
        self._begin = min(map(_from, self._changes.values()), default=FIRST)
        self._next = self._begin
        self._read_whole = False

    def advance(self) -> None:
        """Read on: what came to the control streams, and then what was published."""
        if not self._changes:
            return
        for stream in self._streams if self._moving else ():
            self._read_waiting(stream)
        for page in pages(self._notify, self._keys.notifications, self._next):
            self._look_at(page)
            self._next = page[-1].id.after
        if not self._read_whole:
            self._read_whole = True
            self._read_trimmed()

    def of(self, candidate_id: str) -> str:
        """Say what has overtaken a candidate; empty when nothing has."""
        found = self.found.get(candidate_id)
        return str(found) if found else ""

    def published(self, candidate_id: str) -> int:
        """Return as which control_version its own event was published since; 0 when it was not."""
        change = self._changes.get(candidate_id)
        version = self._published.get(change.event_id, 0) if change else 0
        return version if change and version >= _from(change).control_version else 0

    def unknown(self, candidate_id: str) -> str:
        """Say why nobody can tell whether something has; empty when it can be told."""
        change = self._changes.get(candidate_id)
        if change is None:
            return ""
        begin = _from(change)
        why = next((why for last, why in self._unknown if last >= begin), "")
        if why and candidate_id not in self._moving and self._remembers(change.event_id):
            return ""  # nothing could overtake it, and it is not published a second time
        return why

    def against(self, candidate_id: str) -> str:
        """Say what speaks against putting it back: that it would be published a second time, what
        has overtaken it, or that nobody knows.
        """
        twice = self._twice(candidate_id)
        return twice or self.of(candidate_id) or self.unknown(candidate_id)

    def _twice(self, candidate_id: str) -> str:
        """Say that it is published, unless the deduplication index would absorb it."""
        version = self.published(candidate_id)
        remembers = version and self._remembers(self._changes[candidate_id].event_id)
        if not version or remembers:
            return ""
        may_have = (
            "has forgotten it" if remembers is not None else f"may have forgotten it: {_BLIND}"
        )
        return (
            f"its event is published already, as control_version {version}, and the deduplication"
            f" index {may_have}"
        )

    def _remembers(self, event_id: str) -> bool | None:
        """Tell whether the index knows an event_id; None to a user who may not read it."""
        try:
            (seen,) = remembered(self._notify, self._keys, [identity_digest(event_id)])
        except NotPermitted:
            return None
        return seen is not None

    def while_nothing_comes(self, attempt: Callable[[], _T]) -> _T:
        """Return what `attempt` returns, which looks with `advance` and may `append`.

        It is made again whenever something came in between.
        """
        while True:
            try:
                return attempt()
            except LookAgain:
                continue

    def append(self, candidate: Candidate, fields: Mapping[Any, Any]) -> Origin | None:
        """Append to the candidate's control stream what it was; return the new entry as an origin.

        Returns None when there is no such stream. Raises `LookAgain` when something came since the
        last `advance` that may have overtaken it: nothing was appended.
        """
        with translated(self._control.url):
            client = self._control.at(candidate.stream)
            added: Any = (
                self._append_checked(client, candidate, fields)
                if candidate.change.moves
                else client.xadd(candidate.stream, dict(fields), nomkstream=True)
            )
        return Origin.of(candidate.stream, added.decode()) if added else None

    def _append_checked(
        self, client: Client, candidate: Candidate, fields: Mapping[Any, Any]
    ) -> bytes | None:
        """Append unless something came that is to be looked at. Raises `LookAgain`."""
        tenant, stack, _ = candidate.change.subject or Subject()
        seen = self._seen.get(candidate.stream, FIRST)
        about = [seen, tenant, stack, candidate.change.artifact_ref]
        answer: Any = run_for_people(
            client, "append_again", [candidate.stream],
            [*about, *chain.from_iterable(fields.items())],
        )  # fmt: skip
        state, entry_id = answer
        if state == 0:
            raise LookAgain
        return entry_id if state == 1 else None

    def note(self, entry: Origin) -> None:
        """Know that `entry` is one of the batch that was redriven: it overtakes none that is left,
        for they are redriven in entry order, but those whose place nobody knows.
        """
        self._own.add(entry)

    # --- what waits ---------------------------------------------------------------------------

    def _read_waiting(self, stream: str) -> None:
        """Look at what waits in a control stream or, after the first time, at what came since."""
        with translated(self._control.url):
            client = self._control.at(stream)
            if stream not in self._seen:
                if not client.exists(stream):
                    return
                keys = replace(self._keys, control=stream)
                backlog = Backlog(client, self._notify, keys, self._dead)
                for entries in backlog.pending():
                    self._look_at_waiting(stream, entries)
                self._look_at_passed_over(stream, backlog.passed_over())
                self._seen[stream] = backlog.end
            for page in pages(client, stream, self._seen[stream].after, page=PAGE):
                self._look_at_waiting(stream, page)
                self._seen[stream] = page[-1].id

    def _look_at_waiting(
        self, stream: str, entries: Iterable[Entry], spared: Collection[Origin] = ()
    ) -> None:
        for entry in entries:
            origin = Origin.of(stream, entry.id)
            how = f"overtakes it: it waits as {origin}"
            at_ms = entry.id.ms if stream in self._timed else None
            self._look(entry, origin, at_ms, how, spared=spared)

    def _look_at_passed_over(self, stream: str, pages: Iterable[Iterable[Entry]]) -> None:
        """Look at what a worker has delivered again once it begins, or finds the group moved.

        That comes in entry order, so it overtakes nothing that is delivered again before it. What
        is lost itself is sent again: on another stream than a candidate in the batch's order.
        """
        before: set[Origin] = set()
        spared_by_lost = {one for one in self._lost if one.stream != stream}
        for entry in chain.from_iterable(pages):
            origin = Origin.of(stream, entry.id)
            is_lost = origin in self._lost
            self._look_at_waiting(stream, [entry], spared_by_lost if is_lost else before)
            if is_lost:
                before.add(origin)
                spared_by_lost.add(origin)

    # --- what is published --------------------------------------------------------------------

    def _ahead(self, streams: Collection[str]) -> set[str]:
        """Return those whose entry IDs are later than what came of them: they are no times."""
        newest = next(pages_back(self._notify, self._keys.notifications), []) if streams else []
        found = set()
        for entry in newest:
            origin = origin_of(entry.fields)
            if origin.entry and origin.entry.ms > entry.id.ms + CLOCK_SLACK_MS:
                found.add(origin.stream)
        return found

    def _ends(self, streams: Iterable[str]) -> dict[str, EntryId]:
        """Return the last ID that each control stream gave, of those that are there."""
        with translated(self._control.url):
            found = {one: stream_info(self._control.at(one), one) for one in streams}
        return {one: info.last_id for one, info in found.items() if info}

    def _look_at(self, notifications: Iterable[Entry]) -> None:
        for entry in notifications:
            version = entry.id.control_version
            how = f"overtook it, as control_version {version}"
            said = self._look(entry, origin_of(entry.fields), entry.id.ms, how, version)
            if said and said.event_id in self._origin_of:
                self._published[said.event_id] = max(version, self._published.get(said.event_id, 0))

    def _trimmed_to(self) -> EntryId:
        """Return up to where notifications were trimmed, as was noted, or as the server tells."""
        stream = self._keys.notifications
        gone = trimmed_of(self._notify, self._keys, stream) or FIRST
        info = stream_info(self._notify, stream)
        if info is None or info.added in (None, info.length):
            return gone
        if info.deleted != FIRST:
            return gone  # people deleted some: that tells nothing of trimming
        return max(gone, (info.first_id or info.last_id.after).before)

    def _before_oldest(self) -> EntryId:
        """Return the last ID before those in Redis."""
        info = stream_info(self._notify, self._keys.notifications)
        return (info.first_id or info.last_id.after).before if info else LAST

    def _read_trimmed(self) -> None:
        """Read from the archive what was there before what is in Redis, as far as it has that.

        Nothing need be noted as trimmed: what people delete is not.
        """
        notifications, begin, gone = self._keys.notifications, self._begin, self._trimmed_to()
        end = max(gone, self._before_oldest())
        if end < begin or end == FIRST:
            return
        gone = gone if gone >= begin else FIRST
        try:
            archive = self._archive()
            reach = archive.reach(notifications) if archive else None
        except Unreachable as error:
            self._unknown.append((end, _cannot_know(gone, str(error))))
            return
        self._unknown += [(last, _cannot_know(last, why)) for last, why in _not_in(reach, gone)]
        if archive is None or reach is None:
            return
        missing = reach.missing(begin, end)
        self._unknown += [(gap.last, _cannot_know(gap.last, _NOT_ALL)) for gap in missing]
        self._look_at(archive.entries(notifications, begin, end))

    # --- both ---------------------------------------------------------------------------------

    def _look(
        self, entry: Entry, origin: Origin, at_ms: int | None, how: str, version: int = 0,
        spared: Collection[Origin] = (),
    ) -> _Said | None:  # fmt: skip
        """Hold an entry against the candidates, but for those `spared`; return what it says, None
        of what is no event.
        """
        said = _said(entry)
        if said is None:
            return None
        alike = self._by_ref.get(said.artifact_ref, ()), self._by_subject.get(said.subject, ())
        later: Change | None = None
        is_own = origin in self._own
        for one in chain(*alike):
            if one.id in self.found or (is_own and self._changes[one.id].entry):
                continue
            if one.origin in spared:
                continue
            later = later or self._change(said, origin, at_ms)
            if overtakes(later, self._changes[one.id]):
                self.found[one.id] = Overtaker(said.event_id, how, version)
        return None if is_own else said

    def _change(self, said: _Said, origin: Origin, at_ms: int | None) -> Change:
        """Return the change with where its event stood at first."""
        first = self._origin_of.get(said.event_id, origin)
        return Change.of(said, followed(self._originals, first), at_ms)

    def _at_first(self, one: Candidate) -> Change:
        """Return a candidate's change as of where it stood before it was ever redriven."""
        first = followed(self._originals, one.origin)
        if first == one.origin or one.change.entry is None:
            return one.change
        return one.change._replace(stream=first.stream, entry=first.entry).begun(one.known_ms)


def _timed(change: Change, ahead: Collection[str]) -> Change:
    return change._replace(at_ms=None) if change.stream in ahead else change


def _placed(change: Change, ends: Mapping[str, EntryId]) -> Change:
    """Return it without its entry where that is no time, and lies beyond the end of its stream,
    which was made anew since: what came on it later has lower IDs.
    """
    if change.entry is None or change.at_ms is not None:
        return change
    return change._replace(entry=None) if change.entry > ends.get(change.stream, LAST) else change


def _from(change: Change) -> EntryId:
    """Return the lowest notification that may have overtaken it."""
    return FIRST if change.at_ms is None else EntryId.of(max(0, change.at_ms - CLOCK_SLACK_MS))


def _not_in(reach: Reach | None, gone: EntryId) -> Iterator[tuple[EntryId, str]]:
    """Yield up to where what was trimmed up to `gone` came after all that is archived, and why."""
    if gone != FIRST and (reach is None or reach.last < gone):
        yield gone, _NOT_ALL if reach else _NO_ARCHIVE


def _cannot_know(last: EntryId, why: str) -> str:
    trimmed = f"up to {last.last_version} were trimmed" if last != FIRST else "may be archived"
    return (
        "nobody can tell whether something has overtaken it, or whether it is published itself:"
        f" notifications {trimmed}, and {why}"
    )


def _said(entry: Entry) -> _Said | None:
    try:
        body = orjson.loads(entry.fields[b"event"])
        return _Said(
            str(body["event_id"]), str(body.get("tenant_id") or ""),
            str(body.get("stack_id") or ""), int(body.get("version") or 0),
            str(body.get("artifact_ref") or ""),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError):
        return None

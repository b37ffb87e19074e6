"""One event hop by hop, and how it is found among millions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from sidecar.history import ANY, About, History
from sidecar.history.contract import get
from sidecar.history.redrives import Redrive, redrives_of
from sidecar.redis.members import Held
from sidecar.redis.readers import Reader
from sidecar.redis.scan import origin_of, text
from sidecar.redis.source import Entry
from sidecar.replay.artifacts import Put, State, put_of
from sidecar.replay.backs import Backs
from sidecar.replay.overtaking import LEAVE_IT, first_overtaker
from sidecar.replay.timeline import End, Life, by_origin, decoded, lives
from sidecar.replay.waits import waits
from sidecar.replay.window import Window
from sidecar.wire.event import Event
from sidecar.wire.ids import FIRST, HIGHEST, EntryId, Origin
from sidecar.wire.moments import rfc3339, time_us
from sidecar.wire.reasons import explain
from sidecar.wire.subject import CLOCK_SLACK_MS
from store import Version

MAX_FOLLOWED: Final = 16
"""So many times is it followed what became of a letter that was redriven."""
MOST_NAMED: Final = 20
_CONTROL_VERSION: Final = re.compile(r"[0-9]{13,17}")


class Mark(StrEnum):
    """How a hop went."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"
    WAITS = "waits"
    UNKNOWN = "unknown"


class Hop(NamedTuple):
    """One station of an event."""

    name: str
    mark: Mark
    at_us: int | None
    """When it got there, in microseconds since the epoch, if that is known."""
    detail: str
    fix: str = ""
    """What can be done, where something can."""

    def to_json(self) -> dict[str, Any]:
        """Return it for machines; absent is null."""
        return {
            "hop": self.name,
            "mark": self.mark.value,
            "at": rfc3339(self.at_us) if self.at_us else None,
            "detail": self.detail or None,
            "fix": self.fix or None,
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """One event's way."""

    life: Life
    hops: list[Hop] = field(default_factory=list)


def traces(history: History, found: list[Life]) -> Iterator[Trace]:
    """Yield the way of each; what was redriven is followed to what became of it."""
    told: set[str] = set()
    backs = Backs(history)
    followed = 0
    left = list(found)
    while left:
        life = left.pop(0)
        if (key := f"{life.origin} {life.end}") in told:
            continue
        told.add(key)
        yield Trace(life, list(hops(history, life, backs)))
        if life.end is End.REDRIVEN and life.fields and followed < MAX_FOLLOWED:
            followed += 1
            left = [*by_origin(history, Origin(text(life.fields, "entry"))), *left]


# --- finding -------------------------------------------------------------------------------------


def find(history: History, what: str, window: Window, around_us: int) -> list[Life]:
    """Return the lives of what `what` names, in the order in which they began.

    An event_id, `STREAM/ENTRY_ID`, a control_version, or an ID: of a notification, of a dead letter
    (also one that was redriven since), of the record of a redrive, of a control entry.
    Repeats of an event_id are looked for within `around_us` microseconds of what is found at once.
    """
    origin = Origin(what)
    if origin.entry:
        if origin.stream in history.streams.control:
            return by_origin(history, origin)
    elif entry_id := EntryId.parse(what):
        return _by_id(history, entry_id)
    elif _CONTROL_VERSION.fullmatch(what) and (
        found := _by_id(history, EntryId.of_version(int(what)))
    ):
        return found
    return by_event_id(history, what, window, around_us)


def by_event_id(history: History, event_id: str, window: Window, around_us: int) -> list[Life]:
    """Return the lives of all entries with this event_id, near where it is known to have been."""
    points = list(_known_points(history, event_id)) or list(_scanned(history, event_id, window))
    found: dict[tuple[str, EntryId | None], Life] = {}
    for at_us in points:
        near = Window(max(0, at_us - around_us), min(at_us + around_us, HIGHEST * 1000))
        for life in lives(history, near):
            if life.event_id == event_id:
                found[life.origin, life.end_id] = life
    return sorted(found.values(), key=_when)


def by_ref(history: History, ref: str, window: Window, count: int) -> list[Life]:
    """Return the lives of the newest `count` events about an artifact_ref."""
    about = About(artifact_ref=ref)
    return _newest(history, about, window, count, lambda event: event.artifact_ref == ref)


def by_stack(history: History, what: str, window: Window, count: int) -> list[Life]:
    """Return the lives of the newest `count` events of `TENANT/STACK`, or `TENANT/STACK@VERSION`.

    As it is printed: a tenant or stack may have a slash, too.
    """
    return _newest(history, _about_stack(what), window, count, partial(_is_of_stack, what))


def artifact_of_stack(history: History, what: str) -> Event | None:
    """Return the newest notification of `TENANT/STACK@VERSION` that names an artifact."""
    stream = history.streams.notifications
    for entry in _of(
        history.entries_back(stream, about=_about_stack(what)), partial(_is_of_stack, what)
    ):
        event = decoded(entry.fields)
        if event and event.artifact_ref:
            return event
    return None


def _about_stack(what: str) -> About:
    tenant, _, stack = what.partition("/")
    return ANY if "/" in stack else About(tenant_id=tenant)


def _is_of_stack(what: str, event: Event) -> bool:
    stack = f"{event.tenant_id}/{event.stack_id}"
    return bool(event.stack_id) and what in (stack, f"{stack}@{event.version}")


def _newest(
    history: History, about: About, window: Window, count: int, wanted: Callable[[Event], bool]
) -> list[Life]:
    """Read each stream back until it has told of `count`."""
    names = history.streams
    origins: list[Origin] = []
    for stream in names.control:
        newest = history.entries_back(stream, window.last_entry, window.first_entry, about=about)
        origins += [Origin.of(stream, entry.id) for entry in islice(_of(newest, wanted), count)]
    for stream in (names.notifications, names.dead):
        newest = history.entries_back(stream, window.last, window.first, about=about)
        origins += [origin_of(e.fields) for e in islice(_of(newest, wanted), count)]
    found = [life for origin in dict.fromkeys(origins) for life in by_origin(history, origin)]
    return sorted(found, key=_when)[-count:]


def _when(life: Life) -> tuple[int, int]:
    """Return what puts lives in order: when they began, as far as that is known, and ended."""
    return life.begun_us or life.ended_us or life.seen_us, life.ended_us


def _of(entries: Iterator[Entry], wanted: Callable[[Event], bool]) -> Iterator[Entry]:
    for entry in entries:
        event = decoded(entry.fields)
        if event and wanted(event):
            yield entry


def _by_id(history: History, entry_id: EntryId) -> list[Life]:
    """Return all that has this ID: what ended with it, was a dead letter with it, or came so."""
    names = history.streams
    origins: list[tuple[Origin, ...]] = []
    for stream in (names.notifications, names.dead):
        entry = get(history, stream, entry_id)
        origins += [(origin_of(entry.fields),)] if entry else []
    for record in redrives_of(history):
        if entry_id in (record.letter, EntryId.of_version(record.at_us)):
            origins.append((record.origin, record.entry))
    came = [Origin.of(stream, entry_id) for stream in names.control]
    origins += [(one,) for one in came if get(history, one.stream, entry_id)]
    lists = (next(filter(None, (by_origin(history, one) for one in each)), []) for each in origins)
    return list({f"{life.origin} {life.end}": life for found in lists for life in found}.values())


def _known_points(history: History, event_id: str) -> Iterator[int]:
    """Yield when the event began, as far as index, letters and records tell without a search."""
    names, about = history.streams, About(event_id=event_id)
    for control_version in history.published([event_id]).values():
        entry = get(history, names.notifications, EntryId.of_version(control_version))
        yield _begun_us(entry) if entry else control_version
    for stream in (names.dead, names.redriven):
        for entry in history.entries(stream, about=about):
            if event_id.encode() in entry.fields.get(b"event", b"") or (
                text(entry.fields, "event_id") == event_id
            ):
                yield _begun_us(entry)


def _begun_us(entry: Entry) -> int:
    """Return when it was appended; of what has an ID that lies after its end, when that was."""
    origin, ended_us = origin_of(entry.fields), entry.id.control_version
    begun_us = origin.entry.ms * 1000 if origin.entry else ended_us
    return begun_us if begun_us <= ended_us + CLOCK_SLACK_MS * 1000 else ended_us


def _scanned(history: History, event_id: str, window: Window) -> Iterator[int]:
    """Yield when the newest entry with this event_id began: read through, the newest first."""
    about = About(event_id=event_id)
    needle = orjson.dumps(event_id)[1:-1]
    for stream in history.streams.control:
        for entry in history.entries_back(
            stream, window.last_entry, window.first_entry, about=about
        ):
            raw = entry.fields.get(b"event", b"")
            if needle in raw or b"\\u" in raw:
                event = decoded(entry.fields)
                if event and event.event_id == event_id:
                    yield entry.id.ms * 1000
                    return


# --- hops ----------------------------------------------------------------------------------------


def hops(history: History, life: Life, backs: Backs) -> Iterator[Hop]:
    """Yield the stations of one event, in order."""
    if life.event and life.event.created_at:
        yield _made(life, life.event.created_at)
    yield _appended(life)
    for wait in waits(history, life):
        yield Hop(wait.name, Mark.WAITS, wait.at_us, wait.detail)
    if history.store and life.event and life.event.artifact_ref:
        yield _stored(life, put_of(life.event, history.store))
    overtaker = None
    if life.end is End.DEAD and life.event:
        overtaker = _overtaker(history, life, life.event)
    end = _ENDS[life.end](life)
    if life.end is End.WAITING:
        end = next((_held(one) for one in history.held() if one.entry == life.origin), end)
    # Of an overtaken letter one fix holds, and what keeps it from happening again.
    yield end._replace(fix=explain(life.reason).prevent) if overtaker else end
    readers = [one for one in history.readers() if not one.expired]
    if life.end is End.PUBLISHED and readers:
        yield _read(life.control_version, readers)
    if overtaker:
        yield overtaker
    yield from _backs(backs, life)


def _backs(backs: Backs, life: Life) -> Iterator[Hop]:
    """Yield that a subject went back with this event, or was set back behind it."""
    if life.end is not End.PUBLISHED or life.event is None:
        return
    if did := backs.did(life.event, life.origin, life.ended_us):
        yield Hop("went back", Mark.FAILED, life.ended_us, did)
    if back := backs.after(life.event, life.origin, life.ended_us):
        fix = "have the producer send the newer state again, under a new event_id, unless it did"
        yield Hop("set back", Mark.FAILED, back.ended_us, back.said, fix)


def _made(life: Life, created_at: str) -> Hop:
    at_us = time_us(created_at)
    if life.clock_ahead_s:
        return Hop("made", Mark.UNKNOWN, at_us, "the producer's clock is wrong: that is after"
                   " the entry was appended")  # fmt: skip
    return Hop("made", Mark.OK, at_us, "by the producer's clock")


def _appended(life: Life) -> Hop:
    if life.entry is None:
        return Hop("entry", Mark.ABSENT, life.begun_us or None,
                   f"{life.origin}: trimmed or deleted since")  # fmt: skip
    size = sum(map(len, life.entry.fields)) + sum(map(len, life.entry.fields.values()))
    parent = text(life.entry.fields, "traceparent")
    traced = f", traceparent {parent}" if parent else ""
    timed = "" if life.begun_us else ", an ID that is taken for no time"
    said = f"{life.origin}, {size:,} bytes{traced}{timed}"
    return Hop("entry", Mark.OK, life.begun_us or None, said)


def _stored(life: Life, put: Put | None) -> Hop:
    assert put  # noqa: S101 -- it names an artifact
    assert life.event  # noqa: S101 -- it names an artifact
    if put.state is State.THERE:
        return _there(life, life.event, put.version)
    said = f"{life.event.artifact_ref} is {put.state.value} in the fleet's store"
    if put.state is State.ERASED:
        return Hop("put", Mark.ABSENT, None, said, f"it was {put.why}")
    if life.end in (End.PUBLISHED, End.DUPLICATE):
        return Hop("put", Mark.FAILED, None, said,
                   "it was there when it was published: collected since, or damaged; `sidecar audit"
                   " --repair` puts it again from the producer's store")  # fmt: skip
    if put.state is State.GONE:  # for all that is known it never was there
        said = f"the fleet's store has another version of {life.event.artifact_ref}, not this one"
    return Hop("put", Mark.ABSENT, None, said)


def _there(life: Life, event: Event, version: Version | None) -> Hop:
    at_us = int(version.stored_at * 1e6) if version else None
    size = f", {version.size_bytes:,} bytes" if version else ""
    said = f"{event.artifact_ref} {event.checksum}{size}"
    if at_us and life.end is End.PUBLISHED and at_us > life.ended_us:
        said, at_us = f"{said}; put again since, at {rfc3339(at_us)}", None
    return Hop("put", Mark.OK, at_us, said)


def _published(life: Life) -> Hop:
    expired = "" if life.fields else ", expired since"
    said = f"control_version {life.control_version}{expired}"
    return Hop("notification", Mark.OK, life.ended_us or None, said)


def _duplicate(life: Life) -> Hop:
    said = f"published before, as control_version {life.control_version}"
    return Hop("duplicate", Mark.OK, None, said)


def _dead(life: Life) -> Hop:
    told = explain(life.reason)
    said = f"{life.end_id} {life.reason}: {life.detail}. {told.meaning}"
    return Hop("dead letter", Mark.FAILED, life.ended_us or None, said, told.fix)


def _redriven(life: Life) -> Hop:
    one = Redrive.of_fields(life.fields or {}, life.end_id or FIRST)
    force = f", by force: {one.forced}" if one.forced else ""
    died = f"; it had died: {one.died}" if one.died else ""
    said = f"by {one.by}: {one.reason}; as {one.entry}{force}{died}"
    return Hop("redriven", Mark.OK, life.ended_us or None, said)


def _waiting(_: Life) -> Hop:
    return Hop("waits", Mark.WAITS, None, "no worker has finished it",
               "`sidecar status` shows halts, and whether a worker is alive")  # fmt: skip


def _unknown(_: Life) -> Hop:
    return Hop("end", Mark.UNKNOWN, None, "nothing shows how it ended",
               "what would show it has expired, or it was lost: `sidecar audit` knows")  # fmt: skip


_ENDS: Final = {
    End.PUBLISHED: _published,
    End.DUPLICATE: _duplicate,
    End.DEAD: _dead,
    End.REDRIVEN: _redriven,
    End.WAITING: _waiting,
    End.UNKNOWN: _unknown,
}


def _held(one: Held) -> Hop:
    """Say of an event that is tried again, why, and for how long."""
    ends = "for as long as that lasts" if one.outage else "then a dead letter, by --retry-budget"
    return Hop("held back", Mark.WAITS, None,
               f"{one.error}; tried {one.attempts} times since {one.since}, next at {one.next_at},"
               f" {ends}")  # fmt: skip


def _read(control_version: int, readers: list[Reader]) -> Hop:
    """Return which registered readers have passed it."""
    passed = [one.name for one in readers if one.control_version >= control_version]
    left = [one.name for one in readers if one.control_version < control_version]
    said = [f"passed by {_some(passed)}"] if passed else []
    said += [f"not yet by {_some(left)}"] if left else []
    return Hop("readers", Mark.WAITS if left else Mark.OK, None, "; ".join(said))


def _overtaker(history: History, life: Life, event: Event) -> Hop | None:
    """Return the first notification that makes a dead letter old news."""
    found = first_overtaker(history, life, event)
    if found is None:
        return None
    other, entry = found
    return Hop(
        "overtaken", Mark.FAILED, entry.id.control_version,
        f"by {other.event_id}: {other.tenant_id}/{other.stack_id}@{other.version},"
        f" control_version {entry.id.control_version}",
        LEAVE_IT,
    )  # fmt: skip


def _some(names: list[str]) -> str:
    """Return names for a sentence: a line of them, and how many others."""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more

"""Publishing what an audit found missing, never around the worker.

A lost entry is appended to its control stream again, as a producer that sends again would, so that
the worker does all its checks, its Put and its fencing. When the deduplication index remembers the
event, that it is sent again is noted first: by that the worker knows it from a duplicate. A crash
in between leaves an entry that is lost still, and the next repair continues. An artifact is put
again from the producer's store as the worker would put it, at the position of its entry: no ref
moves back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, islice
from typing import Any, Final, NamedTuple

from sidecar.history.archive import ArchiveHistory
from sidecar.history.contract import get
from sidecar.ops.audit import Culprit, what_is_wrong
from sidecar.ops.evidence import event_of
from sidecar.ops.overtakers import Candidate, Overtakers
from sidecar.ops.redrive import BATCH
from sidecar.redis.client import Side
from sidecar.redis.errors import translated
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetters
from sidecar.redis.scan import server_time_us
from sidecar.redis.scripts import run_for_people
from sidecar.redis.source import Entry
from sidecar.stores import explained
from sidecar.wire.event import Event, Rejected, content_digest, decode
from sidecar.wire.identity import identity_of
from sidecar.wire.ids import EntryId, Origin
from sidecar.wire.moments import rfc3339
from sidecar.wire.subject import Change
from sidecar.worker.pipeline import Admitted, Pipeline, Rules
from sidecar.worker.policy import Mismatch
from store import Capability, Pin, Store, capabilities

_BEYOND_REPAIR: Final = {
    "two_ends": "what readers may have seen is not taken back; find out which end is right, and"
    " delete the dead letter if it is the wrong one",
    "no_entry": "it is there, and only the entry that it came from is not; nothing is missing",
    "foreign": "the sidecar takes no notification back; find out who wrote it, and XDEL it",
    "archive": "nobody can seal it afterwards; find out who changed it, and restore what is gone",
    "untrusted": "nobody can sign it afterwards; find out who wrote it, and XDEL what is forged",
    "twice": "what readers may have seen is not taken back; a reader that knows the event_id"
    " passes over the second",
    "overtaken": "a worker publishes it as soon as it runs; what readers may have seen is not"
    " taken back",
    "out_of_order": "what readers may have seen is not taken back; if the older state is the last"
    " that they saw, have the producer send the newer one under a new event_id",
}


class Result(StrEnum):
    """What became of one culprit."""

    FIXED = "fixed"
    WOULD = "would be fixed"
    REFUSED = "refused"
    REMAINS = "remains"


_NOT_AGAIN: Final = {
    -1: (Result.FIXED, "it has been published meanwhile, as {}"),
    -2: (Result.REMAINS, "{} lies in what was trimmed; let the producer use another event_id"),
}
"""By what `send_again` answers."""


class Outcome(NamedTuple):
    """What became of one culprit, and why."""

    result: Result
    detail: str = ""
    entry: Origin | None = None
    """Of the new entry."""


@dataclass(frozen=True, slots=True)
class RepairOrder:
    """What the operator asked for."""

    reason: str
    by: str
    force: bool = False
    dry_run: bool = False
    archive: ArchiveHistory | None = None
    """Where entries are that were trimmed."""


class Repair:
    """Repairs culprits, in the order in which they are named. Raises `Unreachable` and `NoRoom`."""

    def __init__(
        self, control: Side, notify: Side, keys: Sequence[Keys], source: Store | None,
        fleet: Store, order: RepairOrder,
    ) -> None:  # fmt: skip
        self._control, self._notify = control, notify
        self._keys = {each.control: each for each in keys}
        self._one = keys[0]
        self._letters = DeadLetters(notify.client, keys[0])
        self._source, self._fleet, self._order = source, fleet, order
        self._last: tuple[Pin, Outcome] | None = None

    def of(self, culprits: Iterable[Culprit]) -> Iterator[tuple[Culprit, Outcome]]:
        """Yield each culprit with what became of it."""
        with translated(self._notify.url):
            self._letters.check_room()
        for problem, alike in groupby(culprits, key=lambda culprit: culprit.problem):
            fix = {"lost": self._lost, "artifact": self._artifacts}.get(problem, _beyond)
            yield from fix(alike)

    # --- lost entries -------------------------------------------------------------------------

    def _lost(self, culprits: Iterator[Culprit]) -> Iterator[tuple[Culprit, Outcome]]:
        while batch := list(islice(culprits, BATCH)):
            with translated(self._notify.url):
                now_ms = server_time_us(self._notify.client) // 1000
                candidates = [self._candidate(culprit, now_ms) for culprit in batch]
                overtakers = Overtakers(
                    self._control, self._notify.client, self._one, self._keys, candidates,
                    lambda: self._order.archive,
                )  # fmt: skip
                overtakers.advance()
            for culprit, candidate in zip(batch, candidates, strict=True):
                yield culprit, self._send_again(candidate, overtakers)

    def _candidate(self, culprit: Culprit, now_ms: int) -> Candidate:
        assert culprit.entry  # noqa: S101 -- what is lost is an entry
        entry = self._entry(culprit.stream, culprit.entry)
        event = event_of(entry.fields) if entry else None
        origin = Origin.of(culprit.stream, culprit.entry)
        if event:
            change = Change.of(event, origin, None).begun(now_ms)
        else:
            change = Change(
                culprit.event_id or "", None, "", 0, culprit.stream, culprit.entry, None
            )
        return Candidate(origin, origin, culprit.stream, change, now_ms)

    def _send_again(self, candidate: Candidate, overtakers: Overtakers) -> Outcome:
        return overtakers.while_nothing_comes(lambda: self._try(candidate, overtakers))

    def _try(self, candidate: Candidate, overtakers: Overtakers) -> Outcome:
        """Send one again, unless something is against it. Raises `LookAgain`."""
        if not self._order.dry_run:
            with translated(self._notify.url):
                overtakers.advance()
        against = overtakers.against(candidate.id)
        if against and not self._order.force:
            return Outcome(Result.REFUSED, f"{against}; --force sends it again all the same")
        assert candidate.origin.entry  # noqa: S101 -- what is lost is an entry
        entry = self._entry(candidate.stream, candidate.origin.entry)
        if entry is None:
            return Outcome(Result.REMAINS, "the entry is gone; let the producer send it again")
        if self._order.dry_run:
            return Outcome(Result.WOULD, against)
        if ended := self._note_again(entry):
            return ended
        again = overtakers.append(candidate, entry.fields)
        if again is None:
            return Outcome(Result.REMAINS, "its control stream is gone; a worker makes it again")
        overridden = overtakers.found.get(candidate.id)
        self._record({
            "origin": candidate.origin, "event_id": candidate.change.event_id, "entry": again,
            **({"forced": against} if against else {}),
            **(overridden.to_record() if overridden else {}),
        })  # fmt: skip
        overtakers.note(again)
        return Outcome(Result.FIXED, against, again)

    def _note_again(self, entry: Entry) -> Outcome | None:
        """Note that the event is sent again; return how it ended if no worker would publish it."""
        identity, content = identity_of(entry.fields)
        if not identity:
            return None
        one = self._one
        with translated(self._notify.url):
            answer: Any = run_for_people(
                self._notify.client, "send_again",
                [one.notifications, one.seen(identity), one.resent, one.trimmed],
                [identity[2:], content],
            )  # fmt: skip
        result, detail = _NOT_AGAIN.get(answer[0], (None, ""))
        return Outcome(result, detail.format(answer[1].decode())) if result else None

    def _entry(self, stream: str, entry_id: EntryId) -> Entry | None:
        with translated(self._control.url):
            raw: Any = self._control.at(stream).xrange(stream, entry_id, entry_id)
        if raw:
            return Entry(entry_id, raw[0][1])
        return get(self._order.archive, stream, entry_id) if self._order.archive else None

    # --- artifacts ----------------------------------------------------------------------------

    def _artifacts(self, culprits: Iterator[Culprit]) -> Iterator[tuple[Culprit, Outcome]]:
        for culprit in culprits:
            yield culprit, self._artifact(culprit)

    def _artifact(self, culprit: Culprit) -> Outcome:
        at = culprit.notification
        assert at  # noqa: S101 -- a notification pins it
        with translated(self._notify.url):
            raw: Any = self._notify.client.xrange(self._one.notifications, at, at)
        if not raw:
            return Outcome(Result.FIXED, "nothing names it any more")
        event, body = decode(raw[0][1], recorded=True)
        pin = Pin(event.artifact_ref, event.checksum, event.manifest_checksum)
        if self._last is None or self._last[0] != pin:  # all that name one pin come in a row
            self._last = pin, self._put_again(event, body, pin, culprit)
        return self._last[1]

    def _put_again(self, event: Event, body: dict[str, Any], pin: Pin, culprit: Culprit) -> Outcome:
        if not culprit.entry or self._source is None:
            return Outcome(
                Result.REMAINS,
                "name the producer's store by --source-store"
                if culprit.entry
                else "the notification's origin is no entry of a stream",
            )
        lack = self._lack(self._source, pin)
        if lack:
            return Outcome(Result.REMAINS, lack)
        if self._order.dry_run:
            return Outcome(Result.WOULD)
        pipeline = Pipeline(self._source, self._fleet, Rules(max_artifact_bytes=sys.maxsize))
        admitted = Admitted(event, body, content_digest(body), b"", b"")
        try:
            with explained():
                pipeline.carry(admitted, culprit.entry.pair)
        except (Mismatch, Rejected) as error:
            return Outcome(Result.REMAINS, f"the producer's store: {error}")
        wrong, _ = what_is_wrong(self._fleet, pin)
        if wrong:
            return Outcome(Result.REMAINS, f"put again, and still: {wrong}")
        self._record({
            "notification": culprit.notification, "event_id": event.event_id,
            "artifact_ref": pin.ref, "checksum": pin.checksum,
            "manifest_checksum": pin.manifest_checksum,
        })  # fmt: skip
        return Outcome(Result.FIXED, "put again from the producer's store")

    def _lack(self, source: Store, pin: Pin) -> str:
        """Say what is missing for the artifact to be put again; empty when nothing is."""
        if not pin.manifest_checksum:
            return "the notification does not pin a manifest"
        if Capability.POSITION not in capabilities(self._fleet) and not self._order.force:
            return (
                f"the backend {self._fleet.name!r} takes no positions, and the ref could move back"
                " to this version; --force puts it all the same"
            )
        wrong, _ = what_is_wrong(source, pin)
        return f"the producer's store does not have it either: {wrong}" if wrong else ""

    # --- both ---------------------------------------------------------------------------------

    def _record(self, what: Mapping[str, str | int | None]) -> None:
        with translated(self._notify.url):
            at = rfc3339(server_time_us(self._notify.client))
            why = {"reason": self._order.reason, "by": self._order.by, "at": at}
            self._letters.record({"letter": "", **what, **why})


def _beyond(culprits: Iterator[Culprit]) -> Iterator[tuple[Culprit, Outcome]]:
    for culprit in culprits:
        yield culprit, Outcome(Result.REMAINS, _BEYOND_REPAIR[culprit.problem])

"""What must hold, judged at the moment of every write, and at the end, from outside.

Each judgement is one method, and begins its words with the guarantee that is broken. `_expect`
raises; the world makes that the end of the run.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from store.contract import AHEAD_MS
from tests.simulation.faults import Fault
from tests.simulation.invariants import MAX_NOTIFICATION_BYTES, Violation
from tests.simulation.producer import Sent, content_of
from tests.simulation.stores import Pin
from tests.simulation.streams import Id, Stream, parse_id, show_id
from tests.simulation.whole.erasing import Erased
from tests.simulation.whole.kinds import FORGETTING, LOSING, OPERATORS, Deed
from tests.simulation.whole.truth import Entry, Gone, Letter, Note, Record, Truth

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.ops.audit import Culprit
    from tests.simulation.whole.box import Box
    from tests.simulation.whole.depot import Depot
    from tests.simulation.whole.world import Fleet, World

ASIDE: Final = b":old"
"""With this behind it, a stream's name is the one that somebody gave it."""
ROW: Final = 2
ROW_S: Final = 0.05
"""After so long what was to be published between two dead letters of one run is published."""
MAX_OLD: Final = 16
"""Events that the index may keep for longer than four windows."""
HOLDS: Final = 3
"""Waits that it may take until the older of two anchors has moved on: one for its mark, one for
each of them."""


class Oracle:
    """Looks at each write of every server, and at the end at what is left."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.truth = Truth()
        self.truth.notifications = {}
        self.fleets: dict[bytes, Fleet] = {}
        """By any of its streams."""
        self.index_gone_at: dict[bytes, int] = {}
        """By notification stream, when its index was lost."""
        self.rotten: set[Any] = set()
        self.foreign: set[tuple[bytes, Id]] = set()
        self.buried: dict[str, int] = {}
        self._trimmed: dict[bytes, int] = {}
        """By notification stream, up to which control_version."""
        self.erased = Erased(world)
        self.resumed: dict[bytes, int] = {}
        """By control stream, when it was resumed last."""

    def know(self, fleet: Fleet) -> None:
        """Learn the names of a fleet's streams."""
        for keys in fleet.keys:
            for name in (keys.control, keys.notifications, keys.dead):
                self.fleets[name.encode()] = fleet
            self.truth.notifications[keys.control.encode()] = keys.notifications.encode()

    # --- what is appended ----------------------------------------------------------------------

    def appended(self, box: Box, key: bytes, entry_id: Id, fields: list[bytes]) -> None:
        """Look at an entry that can be read from now on."""
        fleet = self.fleets.get(key)
        if fleet is None:
            if key.endswith(b":halts"):
                named = dict(zip(fields[::2], fields[1::2], strict=True))
                self.resumed[named[b"stream"]] = self.truth.tick()
            if key.endswith(b":tenures"):
                self._told(dict(zip(fields[::2], fields[1::2], strict=True)))
            return
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        if key in fleet.control_streams:
            self._entry(key, entry_id, named)
        elif self._world.by_people:
            self.foreign.add((key, entry_id))
        elif key == fleet.notifications:
            self._owned(fleet, named)
            self._note(box, fleet, entry_id, named, sum(map(len, fields)))
        else:
            self._owned(fleet, named)
            self._letter(box, fleet, key, entry_id, named)

    def _told(self, named: dict[bytes, bytes]) -> None:
        did, lost = self._world.faults.did, named[b"lost"]
        forgets = not FORGETTING.isdisjoint(did) or lost == b"group"
        self._expect(forgets, "told", f"a false alarm: {named}")

    def _entry(self, key: bytes, entry_id: Id, named: dict[bytes, bytes]) -> None:
        truth, world = self.truth, self._world
        sent, position, put_back_at = world.sending, entry_id, None
        first_at = world.schedule.now
        if sent is None:
            raw = named.get(b"event")
            first = self._original(key, raw)
            sent = first.sent if first else _parsed(raw)
            position = first.position if first else entry_id
            first_at = first.first_at if first else first_at
            put_back_at = world.acting_since
        truth.add(Entry(
            (key, entry_id), truth.tick(), world.schedule.now, sent=sent,
            life=truth.lives.get(key, 0), position=position, first_at=first_at,
            put_back_at=put_back_at,
        ))  # fmt: skip

    def _original(self, key: bytes, raw: bytes | None) -> Entry | None:
        """Return the entry whose event an operator redrives: the last of those it can be."""
        same = [one for one in self.truth.entries if one.place[0] == key and one.sent.raw == raw]
        return max(same, key=lambda one: one.position, default=None)

    def _owned(self, fleet: Fleet, named: dict[bytes, bytes]) -> None:
        stream = named[b"origin"].rpartition(b"/")[0]
        keys = next((one for one in fleet.keys if one.control.encode() == stream), None)
        self._expect(keys is not None, "G3", f"an origin that is no stream: {named[b'origin']!r}")
        assert keys is not None
        data, process = fleet.notify.server.data, self._world.actor
        halt = data.get(keys.halt.encode()) or {}
        if type(halt) is dict:
            self._expect(b"reason" not in halt, "halt", f"{stream!r} continued while it was halted")
        paused = data.get(keys.paused.encode()) or {}
        if type(paused) is dict:
            tenant = _tenant_of(named)
            self._expect(tenant not in paused, "G9", f"{tenant!r} continued while it was paused")
        token = self._world.tokens.get((process, stream)) if process else None
        self._expect(
            data.get(keys.fence.encode()) == token and token is not None,
            "G7", f"{process} wrote for {stream!r} without the fence",
        )  # fmt: skip

    def _note(
        self, box: Box, fleet: Fleet, entry_id: Id, named: dict[bytes, bytes], size_bytes: int
    ) -> None:
        truth = self.truth
        event = json.loads(named[b"event"])
        entry = self._origin(named)
        version, event_id = int(event["control_version"]), str(event["event_id"])
        note = Note(
            (fleet.notifications, entry_id), truth.tick(), self._world.schedule.now,
            version=version, event_id=event_id, content=content_of(event), entry=entry, body=event,
        )  # fmt: skip
        what = f"notification of {entry} ({event_id})"
        self._expect(size_bytes <= MAX_NOTIFICATION_BYTES, "G5", f"{what} has {size_bytes} bytes")
        self._expect(
            event_id == entry.sent.event_id and note.content == entry.sent.content,
            "G3", f"{what} says something else than its entry: {event}",
        )  # fmt: skip
        self._expect(divmod(version, 1000) == entry_id, "G4", f"{what}: {version} is no {entry_id}")
        self._once(box, note, what)
        self._in_order(note, entry, what)
        self._pinned(fleet, note, what)
        self._not_back(note, entry, what)
        truth.add(note)
        did = self._world.faults.did
        steps = did.get(Deed.SERVER_CLOCK) or did.get(Deed.PROMOTED)  # a replica has its own clock
        if not steps and not self._was_silent():
            self.index_is_bounded(fleet)

    def _was_silent(self) -> bool:
        """Tell whether a command waited for its timeout: pruning waits with it."""
        happened = self._world.faults.happened
        return bool(happened[Fault.SILENT_REQUEST] or happened[Fault.SILENT_REPLY])

    def _origin(self, named: dict[bytes, bytes]) -> Entry:
        stream, _, raw = named[b"origin"].rpartition(b"/")
        entry = self.truth.at(stream, parse_id(raw))
        if entry is None:  # read before somebody renamed its stream
            entry = self.truth.at(stream + ASIDE, parse_id(raw))
        if not isinstance(entry, Entry):
            raise Violation(f"G3: nobody sent {named[b'origin']!r}")
        return entry

    def _remembers(self, box: Box, record: Record) -> bool:
        """Tell whether the index must still know what a record says."""
        if not record.counts or record.gone is Gone.PEOPLE:
            return False
        key = record.place[0]
        fleet = self.fleets[key]
        if record.number < self.index_gone_at.get(fleet.notifications, 0):
            return False
        age_us = box.now_us() - record.place[1][0] * 1000
        age_us = max(age_us, int((self._world.schedule.now - record.at) * 1e6))
        age_us += box.ahead_us
        return age_us < (self._world.plan.dedup_window_s - 0.01) * 1e6

    def _once(self, box: Box, note: Note, what: str) -> None:
        for other in self.truth.notes:
            if other.place[0] == note.place[0] and other.event_id == note.event_id:
                self._expect(
                    not self._remembers(box, other), "G2", f"{what}: published before as {other}"
                )
        for letter in self.truth.letters:
            if letter.entry is note.entry:
                self._expect(
                    not self._remembers(box, letter), "G3", f"{what}: its entry is a dead letter"
                )
        self._not_put_back_twice(note, what)

    def _not_put_back_twice(self, note: Note, what: str) -> None:
        """What is published does not go back, also once the index has forgotten it."""
        entry = note.entry
        if entry is None or entry.put_back_at is None:
            return
        for other in self.truth.notes:
            there = other.present and other.place[0] == note.place[0]
            since = other.entry is not None and entry.first_at <= other.at < entry.put_back_at
            same = (other.event_id, other.content) == (note.event_id, note.content)
            self._expect(
                not (there and since and same), "G2", f"{what}: redriven, and published as {other}"
            )

    def _in_order(self, note: Note, entry: Entry, what: str) -> None:
        """Hold it against what its tenant has already; a repeat has had its turn."""
        tenant = note.body.get("tenant_id", "")
        others = [
            other
            for other in self.truth.notes
            if other.counts
            and other.entry is not None
            and other.entry.counts
            and other.place[0] == note.place[0]
            and (other.entry.place[0], other.entry.life) == (entry.place[0], entry.life)
            and other.body.get("tenant_id", "") == tenant
        ]
        if any(other.entry is entry or other.event_id == note.event_id for other in others):
            return
        if any(letter.entry is entry for letter in self.truth.letters):
            return
        same = (one for one in self.truth.notes if one.event_id == note.event_id)
        if entry.forgiven and any(not one.counts for one in same):
            return  # its notification was lost, and it was acknowledged: recovery brings it late
        for other in others:
            assert other.entry is not None
            self._expect(
                other.entry.place[1] < entry.place[1],
                "G4", f"{what}: tenant {tenant!r} had {other.entry} before it",
            )  # fmt: skip

    def _pinned(self, fleet: Fleet, note: Note, what: str) -> None:
        assert note.entry is not None
        pin = note.entry.sent.pin
        if pin is None:
            return
        said = tuple(
            note.body.get(n, "") for n in ("artifact_ref", "checksum", "manifest_checksum")
        )
        self._expect(said == pin, "G1", f"{what} pins something else: {said}")
        self._expect(
            fleet.store.holds(pin) or (fleet.store, pin) in self.rotten,
            "G1", f"{what} cannot be resolved",
        )  # fmt: skip

    def _not_back(self, note: Note, entry: Entry, what: str) -> None:
        """What an operator redrives must not overtake what was newer when he began."""
        if entry.put_back_at is None:
            return
        ref, stack = _subject(note.body)
        first = self._first_places(entry)
        # Done again once the index had forgotten its letter: nobody could know that it would be.
        again = {letter.entry for letter in self.truth.letters}
        for other in self.truth.notes:
            newer = other.entry
            if (
                newer is None
                or newer in again
                or not other.counts
                or other.gone is Gone.PEOPLE
                or other.place[0] != note.place[0]
                or newer.place[0] != entry.place[0]
                or newer.life != entry.life
                or other.event_id == note.event_id
                or newer.first_at >= entry.put_back_at
                or first.get(other.event_id, newer.position) <= entry.position
            ):
                continue
            other_ref, other_stack = _subject(other.body)
            same = (ref and ref == other_ref) or (
                stack and stack == other_stack and other.body["version"] >= note.body["version"]
            )
            self._expect(
                not same, "back", f"{what} was redriven (it stood at {show_id(entry.position)!r}),"
                f" and moves its subject back behind {newer} ({other.event_id})",
            )  # fmt: skip

    def _first_places(self, entry: Entry) -> dict[str, Id]:
        """Return where each event of a stream stood first: one that is sent again stays there."""
        first: dict[str, Id] = {}
        for one in self.truth.entries:
            if _alike(one, entry) and one.sent.event_id:
                first[one.sent.event_id] = min(
                    one.position, first.get(one.sent.event_id, one.position)
                )
        return first

    def _letter(
        self, box: Box, fleet: Fleet, key: bytes, entry_id: Id, named: dict[bytes, bytes]
    ) -> None:
        truth = self.truth
        entry, reason = self._origin(named), named[b"reason"].decode()
        raw = named.get(b"event", b"")
        letter = Letter((key, entry_id), truth.tick(), self._world.schedule.now,
                        reason=reason, entry=entry, raw=raw)  # fmt: skip
        what = f"dead letter of {entry} ({entry.sent.event_id}, {reason})"
        for other in truth.letters:
            self._expect(
                other.entry is not entry or not self._remembers(box, other),
                "G3",
                f"{what}: has one",
            )
        for note in truth.notes:
            if note.place[0] != fleet.notifications or not self._remembers(box, note):
                continue
            own = note.entry is entry or (
                bool(entry.sent.event_id)
                and note.event_id == entry.sent.event_id
                and note.content == entry.sent.content
            )
            self._expect(
                not own or (reason == "entry_lost" and not entry.present),
                "G3", f"{what}: its event is published as {note}",
            )  # fmt: skip
        self._expect(self._may_end_as(fleet, entry, reason), "G3", f"{what}: not for that reason")
        if reason in ("artifact_missing", "checksum_mismatch"):
            self._had_its_time(fleet, entry, what)
        if reason != "entry_lost":
            whole = entry.sent.raw or b""
            self._expect(raw == whole[:16384], "G3", f"{what} has other bytes")
        self.buried[reason] = self.buried.get(reason, 0) + 1
        truth.add(letter)
        if self._world.plan.max_consecutive_dead == ROW and self._world.faults.on:
            judge = self._world.guarded(self._row)
            self._world.schedule.after(ROW_S, lambda: judge(fleet, letter))

    def _row(self, fleet: Fleet, letter: Letter) -> None:
        """Two dead letters in a row halt the stream, or pause who sent them: only a notification
        ends a row.
        """
        entry = letter.entry
        assert entry is not None
        same = [one for one in self._counted() if one.entry and _alike(one.entry, entry)]
        if len(same) < ROW or same[-1] is not letter or not self.knows_all():
            return
        before = same[-2]
        assert before.entry is not None
        notes = [one for one in self.truth.notes if one.entry and _alike(one.entry, entry)]
        low, high = sorted((before.entry.place[1], entry.place[1]))
        there = [one for one in self.truth.entries if _alike(one, entry) and one.place[1] <= high]
        published = {note.entry for note in notes}
        if (
            any(note.number > before.number for note in notes)
            or self.resumed.get(entry.place[0], 0) > before.number
            or not all(self.truth.ends_of(one) for one in there)
            or any(one in published for one in there if one.place[1] > low)
        ):
            return
        keys = next(one for one in fleet.keys if one.control.encode() == entry.place[0])
        data = fleet.notify.server.data
        halt, paused = (data.get(key.encode()) or {} for key in (keys.halt, keys.paused))
        whose = {
            _tenant_of({b"event": one.entry.sent.raw or b"", b"reason": one.reason.encode()})
            for one in (before, letter) if one.entry
        }  # fmt: skip
        self._expect(
            b"reason" in halt or not whose.isdisjoint(paused),
            "row", f"{before} and {letter} are {ROW} in a row, and nothing is halted or paused",
        )  # fmt: skip

    def _counted(self) -> Iterator[Letter]:
        """Yield the dead letters that count in a row: no conflict between tenants does."""
        whose = {(n.event_id, n.entry.sent.tenant) for n in self.truth.notes if n.entry}
        for one in self.truth.letters:
            sent = one.entry.sent if one.entry else None
            others = sent and any(
                event_id == sent.event_id and tenant != sent.tenant for event_id, tenant in whose
            )
            if one.reason != "id_conflict" or not others:
                yield one

    def _may_end_as(self, fleet: Fleet, entry: Entry, reason: str) -> bool:
        if reason == "entry_lost":
            return not entry.present
        if reason == "id_conflict":
            return any(
                note.event_id == entry.sent.event_id and note.content != entry.sent.content
                for note in self.truth.notes
            )
        if reason == "poison":
            return self._world.deaths >= 3
        lacking = reason in ("artifact_missing", "checksum_mismatch")
        if lacking and self.erased.may_lack(fleet, entry):
            return True
        if reason == "checksum_mismatch" and (fleet.source, entry.sent.pin) in self.rotten:
            return True
        return reason in entry.sent.reasons

    def _had_its_time(self, fleet: Fleet, entry: Entry, what: str) -> None:
        """Only time in which the source answered that nothing is there counts."""
        budget_s = self._world.plan.retry_budget_s
        pin = entry.sent.pin
        if pin is None or entry.delivered is False:
            return
        answers = [at for at in fleet.source.absent.get(pin[:2], ()) if at >= entry.at]
        first = answers[0] if answers else self._world.schedule.now
        lasted_s = self._world.schedule.now - first
        # The workers' clocks count a stall, and ours does.
        self._expect(
            lasted_s >= budget_s - 0.3,
            "budget", f"{what}: the source had said so for {lasted_s:.2f} s of {budget_s} s",
        )  # fmt: skip

    # --- what goes -----------------------------------------------------------------------------

    def removed(self, box: Box, key: bytes, ids: list[Id]) -> None:
        """Look at entries that are there no more."""
        fleet = self.fleets.get(key)
        if fleet is None:
            return
        by_people = self._world.by_people
        taken = self.truth.take(key, list(ids), Gone.PEOPLE if by_people else Gone.PRODUCT)
        if by_people:
            self._taken_by_people(box, key, taken)
            return
        for record in taken:
            if isinstance(record, Entry):
                self._may_go(fleet, record)
            elif isinstance(record, Note):
                self._note_may_go(box, fleet, record)
            elif isinstance(record, Letter):
                self._letter_may_go(record)

    def _taken_by_people(self, box: Box, key: bytes, taken: list[Record]) -> None:
        for record in taken:
            record.cut_off = self._world.trims
        if key not in box.server.data:
            self.truth.lives[key] = self.truth.lives.get(key, 0) + 1

    def _may_go(self, fleet: Fleet, entry: Entry) -> None:
        entry.gone = None
        ended = self.truth.ends_of(entry)
        entry.gone = Gone.PRODUCT
        self._expect(
            bool(ended) or entry.forgiven, "G6", f"{entry} was trimmed, and it had not ended"
        )
        self._no_group_needs(fleet.control, entry)

    def _no_group_needs(self, box: Box, record: Record) -> None:
        """Look at whether a group has yet to read what goes, or has it pending."""
        stream = box.server.data.get(record.place[0])
        if isinstance(stream, Stream):
            for name, group in stream.groups.items():
                self._expect(
                    record.place[1] not in group.pending and record.place[1] <= group.last,
                    "G6", f"{record} was trimmed, and the group {name!r} needs it",
                )  # fmt: skip

    def _letter_may_go(self, letter: Letter) -> None:
        """A dead letter goes by the policy, or once its event is redriven."""
        put_back = self._world.acting_since is not None and any(
            entry.number > letter.number and entry.sent.raw == letter.raw
            for entry in self.truth.entries
        )
        self._expect(
            put_back or self._world.plan.trim_dead != "never",
            "G3", f"the dead letter {letter} is gone, and its event was not redriven",
        )  # fmt: skip

    def _note_may_go(self, box: Box, fleet: Fleet, note: Note) -> None:
        plan, data = self._world.plan, box.server.data
        stream = note.place[0]
        self._trimmed[stream] = max(self._trimmed.get(stream, 0), note.version)
        age_s = (box.now_us() - note.version) / 1e6
        self._expect(
            age_s >= plan.dedup_window_s - 0.01, "G6", f"{note} was trimmed within the window"
        )
        self._no_group_needs(box, note)
        beginning = fleet.keys[0].reader("").encode()
        registered = data.get(fleet.keys[0].registered.encode(), ())
        for name, value in data.items():
            if not name.startswith(beginning) or value.count(b" ") != 2:
                continue  # no reader's key, or not what a reader wrote
            if name.removeprefix(beginning) not in registered:
                continue  # its registering was cut off half way, and is not acknowledged
            passed, seen_us, ttl_s = map(int, value.split())
            self._expect(
                note.version <= passed or box.now_us() > seen_us + ttl_s * 1_000_000,
                "G6", f"{note} was trimmed, and the reader {name!r} needs it ({passed})",
            )  # fmt: skip

    def acknowledged(self, _: Box, key: bytes, entry_id: Id) -> None:
        """Look at an entry that was taken off the pending list."""
        if key not in self.fleets or self._world.by_people:
            return
        entry = self.truth.at(key, entry_id)
        if not isinstance(entry, Entry):
            return
        if not self.truth.ends_of(entry):
            lost = any(n.entry is entry or n.event_id == entry.sent.event_id
                       for n in self.truth.notes if not n.counts)  # fmt: skip
            lost = lost or any(one.entry is entry for one in self.truth.letters if not one.counts)
            # The letter of a deleted entry speaks for whatever has its place (decision 0026).
            lost = lost or any(
                one.entry is not None and one.entry.place == entry.place
                for one in self.truth.letters
                if one.reason == "entry_lost"
            )
            entry.forgiven = entry.forgiven or lost
            self._expect(lost, "G3", f"{entry} was acknowledged before its end")

    def delivered(self, _: Box, key: bytes, entry_id: Id) -> None:
        """Note that an entry was handed out."""
        entry = self.truth.at(key, entry_id)
        if isinstance(entry, Entry):
            entry.delivered = True

    def forgive(self, fleet: Fleet) -> None:
        """Forgive what the group has behind it, while a server has lost the end of it.

        Either may come first: the group's server goes back, too, to where it had that behind it.
        """
        ends: list[Note | Letter] = [*self.truth.notes, *self.truth.letters]
        for record in ends:
            entry = record.entry
            if entry is None or record.counts:
                continue
            for same in self.truth.entries:  # also where the first is gone, and repeats are there
                if same is entry or (
                    entry.sent.event_id and same.sent.event_id == entry.sent.event_id
                ):
                    same.forgiven = same.forgiven or not self.waits(fleet, same)

    def emptied(self, box: Box) -> None:
        """Forgive what has no end, and that the group has no more: only this server knew of it.

        People took it from the group, on another server, and no worker could take it back since.
        """
        for fleet in self._world.fleets:
            if box is not fleet.notify or box is fleet.control:
                continue
            for entry in self.unfinished():
                if entry.place[0] in fleet.control_streams and not self.waits(fleet, entry):
                    entry.forgiven = True

    # --- what is left --------------------------------------------------------------------------

    def waits(self, fleet: Fleet, entry: Entry) -> bool:
        """Tell whether the group has yet to hand an entry out, or has it pending."""
        aside = ASIDE if self.truth.lies_aside(entry) else b""
        stream = fleet.control.server.data.get(entry.place[0] + aside)
        group = stream.groups.get(fleet.group) if isinstance(stream, Stream) else None
        if group is None:
            return True
        return entry.place[1] > group.last or entry.place[1] in group.pending

    def waiting(self, fleet: Fleet) -> set[Entry]:
        """Return the entries of a fleet that have no end, and that its group has or will have."""
        return {
            entry
            for entry in self.unfinished()
            if entry.place[0] in fleet.control_streams and self.waits(fleet, entry)
        }

    def accused(self, fleet: Fleet, waited: set[Entry], culprits: Sequence[Culprit]) -> None:
        """An audit calls nothing lost that waited when it began, and waits still."""
        if not self.knows_all():
            return
        lost = {(one.stream, one.entry) for one in culprits if one.problem == "lost"}
        for entry in waited & self.waiting(fleet):
            where = entry.place[0].decode(), show_id(entry.place[1]).decode()
            self._expect(where not in lost, "audit", f"{entry} waits, and the audit calls it lost")

    def unfinished(self) -> list[Entry]:
        """Return the entries that are there and have no end."""
        return [
            entry
            for entry in self.truth.entries
            if entry.present and not entry.forgiven and not self.truth.ends_of(entry)
        ]

    def pending(self, fleet: Fleet) -> int:
        """Return how many entries the fleet's groups have pending."""
        count = 0
        for key in fleet.control_streams:
            stream = fleet.control.server.data.get(key)
            group = stream.groups.get(fleet.group) if isinstance(stream, Stream) else None
            count += len(group.pending) if group else 0
        return count

    def knows_all(self) -> bool:
        """Tell whether nobody did what would leave the audit in doubt."""
        return not any(self._world.faults.did.get(deed) for deed in LOSING)

    def index_is_bounded(self, fleet: Fleet) -> None:
        """The index does not keep what is many windows old, but for what a stream waits for."""
        # Pruning waits for whatever the housekeeper waits for.
        late_s = sum(box.wire.late_s for box in {fleet.notify, fleet.control})
        oldest_us = fleet.notify.now_us() - (4 * self._world.plan.dedup_window_s + late_s) * 1e6
        if self._remembered_before(fleet, oldest_us) <= MAX_OLD:
            return
        held_us = HOLDS * self._longest_wait_s(fleet) * 1e6
        oldest_us = min(oldest_us, self._repeated_us(fleet, held_us)) - held_us
        old = self._remembered_before(fleet, oldest_us)
        self._expect(old <= MAX_OLD, "G6", f"the index keeps {old} events of four windows ago")

    def _repeated_us(self, fleet: Fleet, held_us: float) -> float:
        """Return when the first was published of what was sent again lately: until the older of
        two anchors has passed the repeat, the index keeps what ended since (decision 0026).
        """
        plan = self._world.plan
        lately = self._world.schedule.now - plan.lease_s - plan.dedup_window_s - held_us / 1e6
        sent = {one.sent.event_id for one in self.truth.entries if one.at >= lately}
        notes = (one for one in self.truth.notes if one.place[0] == fleet.notifications)
        return min((one.version for one in notes if one.event_id in sent), default=math.inf)

    @staticmethod
    def _remembered_before(fleet: Fleet, oldest_us: float) -> int:
        prefix = fleet.keys[0].prefix.encode() + b":seen:"
        return sum(
            value[16:].isdigit() and int(value[16:]) < oldest_us
            for key, shard in fleet.notify.server.data.items()
            if key.startswith(prefix) and isinstance(shard, dict)
            for value in shard.values()
        )

    def _longest_wait_s(self, fleet: Fleet) -> float:
        """Return how long an entry of the fleet has waited for its end at most, or waits."""
        now = self._world.schedule.now
        ended: list[Note | Letter] = [*self.truth.notes, *self.truth.letters]
        waits = [one.at - one.entry.at for one in ended if one.entry and one.place[0] in (
            fleet.notifications, fleet.dead)]  # fmt: skip
        waits += [now - one.at for one in self.unfinished() if one.place[0] in
                  fleet.control_streams]  # fmt: skip
        return max(waits, default=0.0)

    def resolvable(self) -> None:
        """Every notification that can be read can be resolved."""
        for note in self.truth.notes:
            pin = note.entry.sent.pin if note.entry else None
            if not note.present or pin is None:
                continue
            store = self.fleets[note.place[0]].store
            self._expect(
                store.holds(pin) or (store, pin) in self.rotten or self.erased.excuses(note),
                "G1", f"{note} ({note.event_id}) cannot be resolved any more",
            )  # fmt: skip

    def current(self, depot: Depot) -> None:
        """Every ref of a store has a current version: what a put without a pin left is there."""
        for ref, entry in depot.inner._entries.items():
            self._expect(
                entry.current in entry.versions,
                "store", f"{ref} has lost the version that it is at",
            )  # fmt: skip

    def on_record(self, ref: str, begun: int) -> None:
        """Nothing goes by a rule before the store has the record of a pass that begins."""
        self._expect(bool(begun), "G10", f"{ref} goes, and no record says so")

    def needed(self, fleet: Fleet, *, is_source: bool) -> set[Pin]:
        """Return what keep rules must leave: what any entry names (of the source, none that has
        ended), and the newest of each stack that was announced.

        Of the source nothing once people were at work: what they take out of a group's pending list
        is no event that waits, as far as one can see; and the fleet's store has it.
        """
        if is_source and self._did.keys() - {*OPERATORS, Deed.KEEP}:
            return set()
        truth, newest = self.truth, dict[tuple[str, str], tuple[int, Pin]]()
        found = [one for one in truth.entries if one.present]
        if is_source:
            found = [one for one in found if not truth.ends_of(one)]
        found += [one.entry for one in truth.letters if one.present and one.entry]
        for note in () if is_source else truth.notes:
            if note.entry is None or note.entry.sent.pin is None:
                continue
            found += [note.entry] if note.present else []
            _, stack = _subject(note.body)
            if stack and note.place[0] == fleet.notifications:
                one = note.body["version"], note.entry.sent.pin
                newest[stack] = max(newest.get(stack, one), one)
        pins = [one.sent.pin for one in found] + [pin for _, pin in newest.values()]
        return {pin for pin in pins if pin}

    def kept(self, fleet: Fleet, depot: Depot, before: set[Pin]) -> None:
        """What a store had and must keep, before a pass and after it, is there."""
        for pin in before & self.needed(fleet, is_source=depot is fleet.source):
            there = depot.holds(pin) or (depot, pin) in self.rotten
            there = there or self.erased.took(depot, pin)
            self._expect(there, "kept", f"{pin} went by a keep rule")

    def settled(self, fleet: Fleet, letter_id: str) -> None:
        """A dead letter whose event was redriven is there no more."""
        letter = self.truth.at(fleet.dead, parse_id(letter_id.encode()))
        gone = letter is None or not letter.present or not FORGETTING.isdisjoint(self._did)
        self._expect(gone, "G3", f"{letter} was redriven, and is there still")

    def repaired(self) -> None:
        """What a repair sent again has come to an end since."""
        if not FORGETTING.isdisjoint(self._did):
            return
        for place, number in self._world.repaired:
            entry = self.truth.at(*place)
            if isinstance(entry, Entry) and not entry.taken_unread:
                notes = [n for n in self.truth.notes if n.event_id == entry.sent.event_id]
                ended = (
                    any(one.entry is entry for one in self.truth.letters)
                    or any(note.number > number for note in notes)
                    # Nobody can tell it from what was trimmed, once the trimming has passed it.
                    or any(note.version <= self._trimmed.get(note.place[0], 0) for note in notes)
                )
                self._expect(ended, "repair", f"{entry} came to nothing again")

    @property
    def _did(self) -> dict[Deed, int]:
        return self._world.faults.did

    def refs(self) -> None:
        """No ref of a fleet's store lies behind what its streams published.

        An entry whose ID may have been ahead of time when its artifact was put holds no ref: by the
        clock of the worker that put it.
        """
        ahead_ms = (self._world.epoch_s - self._world.time.behind_s) * 1000 + AHEAD_MS
        for note in self.truth.notes:
            pin = note.entry.sent.pin if note.entry else None
            if note.entry is None or pin is None or not note.counts:
                continue
            if note.entry.place[1][0] > ahead_ms:
                continue
            there = self.fleets[note.place[0]].store.inner._entries.get(pin[0])
            if there is None and Deed.KEEP in self._did:
                continue  # it went by a rule
            if self.erased.excuses(note):
                continue  # and what was put since begins anew
            current = there.position if there else None
            self._expect(
                current is not None and current >= note.entry.place[1],
                "refs", f"{pin[0]} stands at {current}, and {note.entry} was published",
            )  # fmt: skip

    @staticmethod
    def _expect(holds: bool, guarantee: str, otherwise: str) -> None:
        if not holds:
            raise Violation(f"{guarantee}: {otherwise}")


def _tenant_of(named: dict[bytes, bytes]) -> bytes:
    """Return whose a notification or a dead letter is; empty of nobody's, or poison."""
    try:
        body = json.loads(named.get(b"event", b""))
        tenant = body.get("tenant_id") if named.get(b"reason") != b"poison" else ""
    except (ValueError, AttributeError):
        return b""
    return tenant.encode(errors="replace") if isinstance(tenant, str) else b""


def _alike(one: Entry, other: Entry) -> bool:
    return (one.place[0], one.life) == (other.place[0], other.life)


def _parsed(raw: bytes | None) -> Sent:
    """Return what an event that no producer sent says."""
    try:
        body = json.loads(raw or b"")
        return Sent(raw, body["event_id"], body.get("tenant_id", ""), content_of(body))
    except (ValueError, KeyError, TypeError):
        return Sent(raw, reasons=frozenset({"malformed", "invalid_event", "too_large"}))


def _subject(body: dict[str, Any]) -> tuple[str, tuple[str, str] | None]:
    stack = (body.get("tenant_id", ""), body.get("stack_id", ""))
    return body.get("artifact_ref", ""), stack if stack[1] and body.get("version") else None

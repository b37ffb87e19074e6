"""Fleet controllers: the real feed, every read of it judged."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import redis

from sidecar.errors import SidecarError
from sidecar.feed import Batch, Feed, FeedGap, ForeignEntry
from sidecar.wire.erasures import Erased
from store import StoreError
from tests.simulation.faults import Fault
from tests.simulation.invariants import Violation
from tests.simulation.schedule import Process
from tests.simulation.streams import Stream
from tests.simulation.whole.depot import DepotStore
from tests.simulation.whole.truth import Gone, Note

if TYPE_CHECKING:
    from tests.simulation.whole.world import Fleet, World


class Controller:
    """One controller: it keeps a cursor, reads, and starts anew where it is told of a gap."""

    def __init__(self, world: World, fleet: Fleet, kind: str, number: int) -> None:
        self._world, self.fleet, self._kind = world, fleet, kind
        self.process = Process(f"{kind}{number}")
        self.cursor = 0
        self.seen: set[Note] = set()
        self._is_registered = False
        self._asked_at = 0
        """What had happened when it asked last."""
        self._ended_at = 0
        """The control_version at which the stream ended then."""

    def run(self) -> None:
        """Read until the end."""
        self._world.schedule.wait(self._world.chance.uniform(0.0, self._world.plan.chaos_s))
        if self._world.chance.random() < 0.3:
            self._begin_at_the_end()
        while True:
            try:
                self._read()
            except FeedGap as gap:
                self._start_anew(gap)
            except ForeignEntry as error:
                self._pass(error)
            except (SidecarError, redis.RedisError) as error:
                self._world.note("controller", self.process.name, str(error))
                self._world.schedule.wait(0.5)

    def _begin_at_the_end(self) -> None:
        notes = [note for note in self._world.oracle.truth.notes if self._is_mine(note)]
        self.cursor = max((note.version for note in notes if note.present), default=0)
        self.seen.update(note for note in notes if note.version <= self.cursor)

    def _read(self) -> None:
        world = self._world
        with self._feed() as feed:
            if self._kind == "poll":
                while True:
                    self._ask()
                    limit = world.chance.choice((1, 2, 1000))
                    self._judge(feed.poll(self.cursor, wait_s=0.5, limit=limit), feed)
                    world.schedule.wait(world.chance.choice((0.0, 0.2, 1.0)))
            self._ask()
            for batch in feed.batches(self.cursor):
                self._judge(batch, feed)
                if self._kind == "register":
                    world.schedule.wait(world.chance.choice((0.0, 0.0, 0.5, 3.0)))  # it applies
                    feed.passed(self.cursor)
                    self._is_registered = True
                self._ask()

    def _feed(self) -> Feed:
        world, fleet, process = self._world, self.fleet, self.process

        class Simulated(Feed):
            @staticmethod
            def _connect(url: str, *, key: object = None, block_s: float = 0.0) -> redis.Redis:  # noqa: ARG004
                return world.client(fleet.notify, process, block_s)

        reader = process.name if self._kind == "register" else None
        store: Any = DepotStore(world, fleet.store)
        return Simulated(
            "redis://notify", notify_stream=fleet.keys[0].notifications, store=store, reader=reader,
            reader_ttl_s=1000,
        )  # fmt: skip

    def _ask(self) -> None:
        self._asked_at = self._world.oracle.truth.tick()
        self._ended_at = self._end()

    def _end(self) -> int:
        """Return the control_version at which the stream ends."""
        found = self.fleet.notify.server.data.get(self.fleet.notifications)
        ms, seq = found.last if isinstance(found, Stream) else (0, 0)
        return ms * 1000 + seq

    # --- judgements ----------------------------------------------------------------------------

    def _judge(self, batch: Batch, feed: Feed) -> None:
        world = self._world
        since, cursor = self.cursor, batch.cursor
        who = self.process
        versions = [one.control_version for one in batch]
        self._expect(cursor >= since, f"{who}: the cursor went back from {since} to {cursor}")
        self._expect(
            versions == sorted(set(versions)) and all(since < v <= cursor for v in versions),
            f"{who}: {versions} out of order after {since}",
        )
        self._expect(
            since <= max(self._ended_at, self._end()),
            f"{who} is at {since}, where the stream ended at {self._ended_at}, and was not told",
        )
        for one in batch:
            note = self._note_of(one.control_version)
            if note is not None:
                self._expect(
                    note.event_id == one.event_id, f"{who}: {one.event_id} is not {note.event_id}"
                )
                self.seen.add(note)
        for note in world.oracle.truth.notes:
            if self._is_missed(note, since, cursor):
                world.schedule.fail(Violation(
                    f"feed: {who} skipped {note} ({note.event_id}, {note.version}) in silence:"
                    f" it read {versions} after {since}, and continued to {cursor}"
                ))  # fmt: skip
        self.cursor = cursor
        if batch and world.chance.random() < 0.3:
            self._resolve(feed, batch)

    def _is_missed(self, note: Note, since: int, cursor: int) -> bool:
        if not self._is_mine(note) or note in self.seen or note.version > cursor:
            return False
        if since == 0 and not note.present:  # from the oldest that there was when it was read
            self.seen.add(note)
            return False
        if note.number > self._asked_at:
            return False
        if note.present:
            return True
        is_told = note.gone is Gone.PRODUCT or (note.gone is Gone.PEOPLE and note.cut_off)
        return is_told and note.gone_number <= self._asked_at

    def _is_mine(self, note: Note) -> bool:
        return note.place[0] == self.fleet.notifications

    def _note_of(self, version: int) -> Note | None:
        found = self._world.oracle.truth.at(self.fleet.notifications, divmod(version, 1000))
        return found if isinstance(found, Note) else None

    def _resolve(self, feed: Feed, batch: Batch) -> None:
        """A notification that can be read can be resolved, now."""
        one = self._world.chance.choice(list(batch))
        note = self._note_of(one.control_version)
        if not one.artifact_ref or note is None or note.entry is None:
            return
        pin = note.entry.sent.pin
        try:
            feed.resolve(one)
        except StoreError as error:
            store = self.fleet.store
            away = pin is not None and store.holds(pin)
            erased = isinstance(error, Erased) and self._world.oracle.erased.excuses(note)
            self._expect(
                away or erased or (store, pin) in self._world.oracle.rotten or not note.present,
                f"{self.process} cannot resolve {one.event_id}: {error}",
                "G1",
            )

    def _expect(self, holds: bool, otherwise: str, guarantee: str = "feed") -> None:
        if not holds:
            self._world.schedule.fail(Violation(f"{guarantee}: {otherwise}"))

    # --- starting anew -------------------------------------------------------------------------

    def _start_anew(self, gap: FeedGap) -> None:
        """Take a snapshot of everything up to where the stream ends, and continue from there."""
        world = self._world
        world.note("gap", self.process.name, gap.kind, gap.cursor, gap.first, gap.end)
        some = any(
            not note.present or note.number > self._asked_at
            for note in world.oracle.truth.notes
            if self._is_mine(note)
        )
        self._expect(some or bool(world.faults.did), f"{self.process} was told of a gap: {gap}")
        # A page's commands may lie apart, with a trim between them: a false alarm, and safe.
        torn = world.faults.happened[Fault.LATE_REQUEST]
        kept = (
            self._is_registered and gap.kind == "trimmed" and world.oracle.knows_all() and not torn
        )
        self._expect(not kept, f"{self.process} is registered, and lost what it needs: {gap}")
        self.cursor = gap.end
        for note in world.oracle.truth.notes:
            if self._is_mine(note) and (note.version <= gap.end or not note.present):
                self.seen.add(note)

    def _pass(self, error: ForeignEntry) -> None:
        found = re.search(r"since=(\d+)", str(error))
        assert found
        self.cursor = max(self.cursor, int(found[1]))
        for note in self._world.oracle.truth.notes:
            if self._is_mine(note) and note.version <= self.cursor and not note.present:
                self.seen.add(note)

    def lacks(self) -> list[Note]:
        """Return the notifications that are there and that it has not read."""
        return [
            note
            for note in self._world.oracle.truth.notes
            if self._is_mine(note) and note.present and note not in self.seen
        ]

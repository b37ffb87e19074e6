"""The relay of one control stream: read, admit, store, publish, acknowledge.

`Relay._serve` is the data's way from top to bottom. One thread does all of it but the stores'
work, which a pool does. Beside it: `ownership` has the lease, `reading` the control stream,
`window` what is read and not committed (its size bounds memory), `holds` the tenants held back.

An event that has to be tried again leaves the window, and with it whatever of its tenant stands
behind it. These wait in Redis's pending list, not here: the relay remembers one `Held` a tenant,
and reads the list back, in order, once the held event is through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from threading import Event as Signal
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.redis.errors import Refused, is_full
from sidecar.redis.members import Held
from sidecar.redis.publisher import Halted, TenantsChanged
from sidecar.redis.source import Entry
from sidecar.wire.ids import EntryId
from sidecar.worker.admission import Admission
from sidecar.worker.anchoring import Anchoring
from sidecar.worker.carrying import Carrying, carry
from sidecar.worker.caution import DEATHS_ALONE, Caution
from sidecar.worker.committing import Committing
from sidecar.worker.conflicts import Conflicts
from sidecar.worker.deaths import Deaths
from sidecar.worker.forgetting import Watch
from sidecar.worker.holds import Holds
from sidecar.worker.host import Host, Route
from sidecar.worker.outcomes import Finished
from sidecar.worker.ownership import IDLE_BLOCK_S, Ownership, States
from sidecar.worker.pausing import Pausing
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.policy import Bury, Retry
from sidecar.worker.reading import ReadAgain, Reading
from sidecar.worker.recovery import Left, Recovery
from sidecar.worker.settings import Options
from sidecar.worker.timing import Took
from sidecar.worker.width import width_of
from sidecar.worker.window import Item, Window

BATCH: Final = 500
WINDOW: Final = 1000
"""Entries in the window, about: with 16 KiB each they take 16 MiB."""
MAX_HELD: Final = 10_000
"""Tenants held back at most, before reading pauses until one of them is through."""
HELD_AT_ONCE: Final = 8
"""So many held events are tried again at once: those of others, which may be many, wait behind."""
BUSY_WAIT_S: Final = 0.002
"""The longest wait for a store while new entries may have come."""
CROWD: Final = 32
LINGER_S: Final = 0.005
"""For each crowd of artifacts on their way, up to so many, publishing waits so long: to wake for
each artifact would take from the stores the processor that they need."""
LINGERS: Final = 4


class Observer(States, Protocol):
    """What hears of what happens: metrics and health."""

    def read(self, count: int) -> None:
        """`count` new entries were read."""

    def committed(self, outcome: str, count: int) -> None:
        """`count` entries are finished and acknowledged, as `outcome`."""

    def conflict_of_tenants(self, count: int) -> None:
        """So many events have the event_id of another tenant's."""

    def retried(self, error: BaseException) -> None:
        """A store failed in a way that is tried again."""

    def stored(self, seconds: float) -> None:
        """An artifact was resolved, verified and put, in so many seconds."""

    def forgot(self, part: str) -> None:
        """Redis forgot this part of what it had."""

    def published(self, took: Took, seconds: float) -> None:
        """A run was published: what its events took, and Redis to publish it."""

    def paused(self, count: int) -> None:
        """So many tenants are paused."""

    def gauge(self, *, window: int, held: int, longest_s: float) -> None:
        """So many entries in memory, tenants held back, and how long the first of them is known."""


class Relay:
    """Relays one control stream until it is told to stop."""

    def __init__(
        self, route: Route, pipeline: Pipeline, host: Host, options: Options, observer: Observer,
        log: FilteringBoundLogger,
    ) -> None:  # fmt: skip
        stream, control, publisher = route.stream, route.control, route.publisher
        self.stream, self._control, self._publisher = stream, control, publisher
        self._options, self._observer, self._log = options, observer, log
        self._debug = log.is_enabled_for(10)
        self._beat, self._clock = host.beat, host.clock
        self._stop = Signal()
        self._watch = Watch(route, observer, log, every_s=options.lease_s / 3, clock=host.clock)
        self._caution = Caution(publisher)
        self._ownership = Ownership(
            route, host, self._caution, options, observer, log, look=self._watch.look_if_due
        )
        self._recovery = Recovery(
            stream, control, publisher, self._ownership.keep_lease, log, self._watch.lost
        )
        self._admission = Admission(stream, pipeline, publisher, host)
        self._carrying = Carrying(
            host.pool, partial(carry, pipeline, host.clock),
            width_of(options.store_threads, host.most_at_once, host.clock), host.finished,
        )  # fmt: skip
        self._committing = Committing(
            publisher, self._watch, Conflicts(publisher, observer.conflict_of_tenants, log),
            Deaths(log, host.clock), host, max_in_a_row=options.max_consecutive_dead,
            timed=observer.published,
        )  # fmt: skip
        self._pausing = Pausing(publisher, observer.paused, log)
        self._keeps_refs = not pipeline.keeps_versions
        self.window, self._holds = Window(), Holds()  # others may ask how much is in the window
        self._reading: Reading
        self._anchoring: Anchoring
        self._has_served = False
        self.complete = False
        """Of a drain: whether nothing was left behind."""

    @property
    def unreachable(self) -> bool:
        """Of a drain: whether it gave up because Redis could not be reached."""
        return self._ownership.unreachable

    @property
    def held(self) -> list[Held]:
        """Some of what is held back, for people. May be asked by any thread."""
        return self._admission.held

    def run(self, stop: Signal) -> None:
        """Relay until `stop` is set or, with `drain`, until nothing is left to do."""
        self._stop = stop
        self._ownership.run(stop, self._serve_tenure)

    def _serve_tenure(self) -> None:
        self._begin()
        try:
            self._serve()
        except Refused as error:
            if is_full(error):
                self._anchoring.note_lowest()
            raise
        finally:
            self._committing.forget()
            self._carrying.forget()
            self._admission.stop_budgets(self._clock())

    def _begin(self) -> None:
        """Have a group, learn what is pending, and start to read it back."""
        self._watch.look()
        left = Left(self._reading.read_to, self._low_without([])) if self._has_served else None
        found = self._recovery.begin(left, is_last=not self._ownership.stood_by)
        self._watch.all_is_right()
        self.window, self._holds = Window(keeps_refs=self._keeps_refs), Holds()
        self._pausing.begin(self._holds)
        self._committing.learn_rows()
        self._reading = Reading(self._control, self.window, found)
        self._anchoring = Anchoring(self._control, self._publisher, self._reading, found.anchors)
        self._anchoring.move_on(found.low)
        self._has_served = True
        self._ownership.begun()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._beat()
            try:
                self._renew()
                self._read_back()
                self._read_new()
                self._try_held()
                self._collect(wait_s=0)
                busy = self._commit()
                busy |= self._admit_fresh()  # while Redis publishes
                self._finish_publishing()
                if not busy and self.window:
                    self._collect(wait_s=BUSY_WAIT_S)
                    if not self._carrying.out:  # all is stored: it waits for no further read
                        self._commit()
                        self._finish_publishing()
                if self._carrying.out > CROWD:
                    self._stop.wait(LINGER_S * min(self._carrying.out // CROWD, LINGERS))
            except TenantsChanged:
                self._pausing.look(self.window, self._holds, self._reading)
                self._admit_fresh()  # what was read before that was noticed
            except Halted:
                self._admission.stop_budgets(self._clock())
                self._ownership.wait_while_halted()
                return
            if self._options.drain and self._is_drained():
                return

    def _renew(self) -> None:
        """Keep the lease, in time, and see that the group is as it was left."""
        if self._ownership.renew_in_s > 0:
            return
        longest_s = self._admission.longest_known_s([held.id for held in self._holds])
        self._observer.gauge(window=len(self.window), held=len(self._holds), longest_s=longest_s)
        self._ownership.renew()
        self._publisher.check_tenants()
        self._reading.check_group()
        self._anchoring.move_on(self._low_without([]))
        self._watch.all_is_right()
        self._watch.look()

    def _is_drained(self) -> bool:
        """Tell whether all is done that can be done; note whether that is everything."""
        reading, crowded = self._reading, len(self._holds) >= MAX_HELD
        if self.window or reading.reads_back or not (reading.is_dry or crowded):
            return False
        if not self._holds:
            reading.check_group()
        self.complete = not self._holds and not reading.pending
        budget_ends = self._clock() - self._options.retry_budget_s
        return all(
            held.is_paused
            or (held.outage and self._admission.trouble_of(held.id).since <= budget_ends)
            for held in self._holds
        )

    # --- read ----------------------------------------------------------------------------------

    def _read_back(self) -> None:
        """Read a part of the pending list, for the tenants that are behind."""
        reading, careful = self._reading, self._caution.careful
        if not (reading.everyone or self._holds.any_behind):
            reading.end_back()  # who was behind is held again: the rest of the list is not its turn
        if not reading.reads_back or len(self.window) >= (1 if careful else WINDOW):
            return
        everyone = reading.everyone
        entries = reading.back(1 if careful else BATCH)
        if entries:
            self._admit(entries, back=True, everyone=everyone)
            return
        if everyone:
            still = {held.id for held in self._holds} | {item.id for item in self.window}
            self._admission.forget_all_but(still)
        self._caution.end()
        self._holds.caught_up()

    def _read_new(self) -> None:
        """Read entries that nobody has read, waiting for one when there is nothing else to do."""
        reading, room = self._reading, min(BATCH, WINDOW - len(self.window))
        if reading.everyone or room <= 0:
            return
        if len(self._holds) >= MAX_HELD:
            self._stop.wait(BUSY_WAIT_S)
            return
        count = reading.new(room, self._patience_ms())
        if not self.window:
            # Nothing to publish meanwhile: admit at once, and read on if there may be more.
            self._admit_fresh()
            if count == room:
                reading.new(room, None)
        reading.check_recovered()

    def _patience_ms(self) -> int | None:
        """Say how long a read may wait for a new entry; None is not at all."""
        if self.window or self._reading.reads_back or (self._options.drain and not self._holds):
            return None
        due_in_s = self._holds.next_due - self._clock()
        wait_s = min(IDLE_BLOCK_S, self._ownership.renew_in_s, due_in_s)
        return max(1, int(wait_s * 1000))

    def _try_held(self) -> None:
        """Take held events that are due into the window again, each without what follows it."""
        due = self._holds.take_due(self._clock(), min(HELD_AT_ONCE, WINDOW - len(self.window)))
        entries = self._control.fetch([entry_id for _, entry_id in due])
        for (tenant, entry_id), entry in zip(due, entries, strict=True):
            item = self._admission.item(entry, reread=False)
            if item.tenant is None:
                self._through(tenant, entry_id)
            self.window.add(item)
            self._start([item])

    # --- admit ---------------------------------------------------------------------------------

    def _admit_fresh(self) -> bool:
        """Admit what was read last, if that is not done yet; tell whether there was anything."""
        fresh = self._reading.take_fresh()
        if fresh:
            self._watch.read(fresh[-1].id)
            self._observer.read(len(fresh))
            self._admit(fresh, back=False)
        return bool(fresh)

    def _admit(self, entries: Iterable[Entry], *, back: bool, everyone: bool = False) -> None:
        """Take entries into the window, but for those that wait in the pending list."""
        window, holds, may_be_finished = self.window, self._holds, self._reading.may_be_finished
        item_of = self._careful_item if self._caution.careful else self._admission.item
        items = []
        if holds.any_behind:
            window.break_order()
        for entry in entries:
            if entry.id in window:
                continue
            item = item_of(entry, reread=may_be_finished(entry, back=back))
            tenant = item.claimed if item.claimed in holds.paused else item.tenant
            if holds.is_turn_of(tenant, entry.id, back=back, everyone=everyone):
                window.add(item)
                items.append(item)
            else:
                self._caution.survived()  # it does not run now, so it is no suspect
        self._start(items)

    def _careful_item(self, entry: Entry, *, reread: bool) -> Item:
        died = self._caution.deaths(entry.id)
        admission, is_poison = self._admission, died >= DEATHS_ALONE
        return admission.poison(entry, died) if is_poison else admission.item(entry, reread=reread)

    def _start(self, items: Sequence[Item]) -> None:
        """Look up what the index must tell before anything is resolved; store what is new."""
        self._admission.look_up([item for item in items if item.reread or item.ref])
        for item in items:
            if item.known or item.bury or not item.ref:
                item.ready = True
            elif self.window.claim(item):
                self._carrying.carry(item)

    # --- store ---------------------------------------------------------------------------------

    def _collect(self, wait_s: float) -> None:
        """Take back what is stored, waiting up to `wait_s` for any; store what waited for it."""
        for item in self._carrying.collect(wait_s):
            if self.window.holds(item):
                self._stored(item)
        self._start(self.window.freed())

    def _stored(self, item: Item) -> None:
        now = self._clock()
        item.trouble.attempted(item.began)
        self._caution.survived()
        if item.error is None:
            self._observer.stored(now - item.began)
            item.ready = True
            return
        verdict = item.trouble.verdict(item.error, now, self._options.retry_budget_s)
        if isinstance(verdict, Bury):
            item.bury, item.ready = verdict, True
        else:
            self._hold(item, verdict)

    def _hold(self, item: Item, retry: Retry) -> None:
        """Put an item off, and with it all that its tenant has in the window."""
        tenant = item.tenant
        assert tenant is not None  # noqa: S101 -- only events are stored
        followers = self.window.followers(item)
        for gone in (item, *followers):
            self.window.drop(gone)
        self._holds.hold(
            tenant, item.id, due=self._clock() + retry.delay_s, outage=retry.outage,
            followed=bool(followers),
        )  # fmt: skip
        self._admission.remember(item, retry)
        self._observer.retried(item.error or RuntimeError())
        if item.trouble.attempts == 1:
            self._log.warning(
                "held back", tenant_id=tenant, entry=item.id, outage=retry.outage,
                error=f"{type(item.error).__name__}: {item.error}",
            )  # fmt: skip

    # --- commit --------------------------------------------------------------------------------

    def _commit(self) -> bool:
        """Bury and publish what is ready and whose turn it is; tell whether there was anything.

        Letters go first, all in one: between one tenant's letters and notifications there is no
        order to keep, and a stream of good and bad entries in turn is no slower than another.
        Redis publishes while the worker admits the entries that were read before.
        """
        ready = list(self.window.ready())
        if not ready:
            return False
        self._reading.check_pending()
        if any(item.bury for item in ready):
            # Which of the events are duplicates, and end no row, must be known before they go.
            events = [item for item in ready if not (item.known or item.bury)]
            self._admission.look_up([item for item in events if not item.ref])
        run = self._committing.part(ready)
        if run.letters:
            finished, halted = self._committing.bury(run.letters, self._low_without(run.letters))
            self._acknowledge(finished)
            if halted:
                raise Halted
        if run.events:
            self._committing.begin(run, self._low_without(run.events))
        return True

    def _finish_publishing(self) -> None:
        """Wait for the run that is being published, if one is, and acknowledge it."""
        committed = self._committing.finish()
        if committed is None:
            return
        if committed.repeated:
            self._anchoring.heed(committed.repeated)
        self._acknowledge(committed.finished)
        if committed.finished and not committed.whole:  # the script noted nothing: trimming waits
            self._publisher.stand(low=self._low_without([]))
        if committed.forgotten:
            raise ReadAgain("the index has forgotten an event since it was looked up")
        if committed.whole and self._reading.is_past_backlog(committed.low):
            self._caution.settle()

    def _acknowledge(self, finished: Sequence[Finished]) -> None:
        """Take finished entries off the pending list, and let go what waited for them."""
        if not finished:
            return
        self._reading.acknowledge([item.id for item, _ in finished])
        self._ownership.progressed()
        any_held = bool(self._holds)
        self._admission.forget([item for item, _ in finished])
        for item, outcome in finished:
            self.window.drop(item)
            if any_held:
                self._through(item.tenant, item.id)
            if self._debug:
                self._log.debug("event", outcome=outcome, **item.described())
        for outcome, count in Counter(outcome for _, outcome in finished).items():
            self._observer.committed(outcome, count)

    def _through(self, tenant: str | None, entry_id: EntryId) -> None:
        """If this was held: read back what waited behind it."""
        if self._holds.through(tenant, entry_id):
            self._reading.go_back_to(entry_id)

    def _low_without(self, run: Sequence[Item]) -> EntryId:
        """Return the lowest entry that is unfinished once `run` is finished."""
        held = self._holds.lowest_without({item.id for item in run})
        found = (self._reading.lowest, held, self.window.lowest_without(run))
        return min(low for low in found if low is not None)

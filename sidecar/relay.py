"""The relay of one control stream: read, admit, store, publish, acknowledge.

`Relay._serve` is the data's way from top to bottom. One thread does all of it but the stores'
work, which a pool does. What is read and not yet committed is the *window*; its size bounds
memory.

An event that has to be tried again leaves the window, and with it whatever of its tenant stands
behind it. These wait in Redis's pending list, not here: the relay remembers one `Held` a tenant,
and reads the list back, in order, once the held event is through.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import dropwhile, islice, takewhile
from queue import Empty, SimpleQueue
from threading import Event as Signal
from typing import Final, NamedTuple, Protocol

import redis
from structlog.typing import FilteringBoundLogger

from sidecar.event import Reason, Rejected
from sidecar.letter import cut, letter
from sidecar.moments import rfc3339
from sidecar.pipeline import Pipeline
from sidecar.policy import Bury, Retry, decide
from sidecar.redis.client import Outage, mend_of
from sidecar.redis.keys import identity_digest
from sidecar.redis.publisher import (
    BURIED,
    Buried,
    Damaged,
    Fenced,
    Halted,
    NotReplicated,
    Outbound,
    Outcome,
    Publisher,
    origin_digest,
)
from sidecar.redis.source import (
    FIRST,
    LAST,
    ControlStream,
    Entry,
    GroupLost,
    Pending,
    id_after,
    id_before,
    id_pair,
)
from sidecar.share import Share
from sidecar.tenure import Held, Item, Tenure, Trouble

BATCH: Final = 500
WINDOW: Final = 1000
"""Entries in the window, about: with 16 KiB each they take 16 MiB."""
MAX_HELD: Final = 10_000
"""Tenants held back at most, before reading pauses until one of them is through."""
IDLE_BLOCK_S: Final = 0.5
"""The longest wait for an entry, and so for noticing a signal to stop."""
BUSY_WAIT_S: Final = 0.002
"""The longest wait for a store while new entries may have come."""
CROWD: Final = 32
LINGER_S: Final = 0.005
"""With more than a crowd of artifacts on their way, they are published every so often: to wake
for each would take from the stores the processor that they need."""
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
CRASHES_TILL_CAREFUL: Final = 3
DEATHS_ALONE: Final = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator sets for a relay."""

    lease_s: float = 5.0
    retry_budget_s: float = 60.0
    max_consecutive_dead: int = 100
    drain: bool = False


class Observer(Protocol):
    """Who is told what happens: metrics and health."""

    def read(self, count: int) -> None:
        """`count` new entries were read."""

    def committed(self, outcome: str, count: int) -> None:
        """`count` entries are finished and acknowledged, as `outcome`."""

    def retried(self, error: BaseException) -> None:
        """A store failed in a way that is tried again."""

    def stored(self, seconds: float) -> None:
        """An artifact was resolved, verified and put, in so many seconds."""

    def state(self, state: str, detail: str) -> None:
        """The relay is active, standby, halted, waiting (for Redis), recovering or stopped."""

    def gauge(self, *, window: int, held: int, pending: int) -> None:
        """So many entries in memory, tenants held back, entries pending."""


class GivenBack(Exception):
    """Another worker has fewer streams: it is to have this one."""


class ReadAgain(Exception):
    """The pending list is not what this worker holds: read it again from its beginning."""


class _Publishing(NamedTuple):
    """A run on its way to the notification stream."""

    run: Sequence[Item]
    low: str


class Relay:
    """Relays one control stream until it is told to stop."""

    def __init__(
        self,
        stream: str,
        control: ControlStream,
        publisher: Publisher,
        pipeline: Pipeline,
        pool: Executor,
        options: Options,
        observer: Observer,
        log: FilteringBoundLogger,
        *,
        share: Share | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        finished: Callable[[], SimpleQueue[Item]] = SimpleQueue,
    ) -> None:
        """`share` says which streams this worker takes, when others serve them, too."""
        self._stream = stream
        self._share = share or Share([stream])
        self._free_since: float | None = None
        self._control = control
        self._publisher = publisher
        self._pipeline = pipeline
        self._pool = pool
        self._options = options
        self._observer = observer
        self._log = log
        self._debug = log.is_enabled_for(10)
        self._clock = clock
        self._wall_clock = wall_clock
        self._finished = finished
        self._troubles: dict[str, Trouble] = {}
        self._tenure: Tenure
        self._stop = Signal()
        self._began = clock()
        self._pause_s = FIRST_PAUSE_S
        self._publishing: _Publishing | None = None
        self._alone: tuple[str, int] | None = None
        """The entry that this worker runs alone, and how many died of it before."""
        self._state_now = ("", "")
        self.complete = False
        """Of a drain: whether nothing was left behind."""

    def run(self, stop: Signal) -> None:
        """Relay until `stop` is set or, with `drain`, until nothing is left to do."""
        self._stop = stop
        give_up_at = self._clock() + 2 * self._options.lease_s
        while not stop.is_set():
            try:
                if self._serve_if_owner(give_up_at):
                    break
            except Fenced:
                self._state("standby", "another worker has taken over, or the fence is lost")
            except GivenBack:
                self._leave("standby", "given back to a worker that has fewer streams")
            except GroupLost as error:
                self._state("recovering", f"the consumer group is gone: {error}")
            except ReadAgain as error:
                self._state("recovering", str(error))
            except (*Outage, redis.ResponseError, NotReplicated, Damaged) as error:
                self._state("waiting", f"Redis: {error}{self._mend_of(error)}")
                self._control.reconnect()  # another node may be the one by now, though this answers
                self._publisher.reconnect()
                self._pause()
            finally:
                self._abandon_publishing()
                self._share.lost(self._stream)
        self._leave("stopped", "")

    def _mend_of(self, error: Exception) -> str:
        """Say what an operator can do, as far as the error tells; empty when it does not."""
        mend = mend_of(error)
        if "WRONGTYPE" in str(error):
            try:
                mend += "".join(f"; {which}" for which in self._publisher.misplaced())
            except (*Outage, redis.ResponseError):
                return mend
        return mend

    def _serve_if_owner(self, give_up_at: float) -> bool:
        """Serve if the stream can be had; tell whether that is the end of it."""
        unclean = self._acquire()
        if unclean is None:
            self._state("standby", "another worker holds the lease, or comes first")
            if self._options.drain and self._clock() > give_up_at:
                return True
            self._stop.wait(min(self._options.lease_s / 5, IDLE_BLOCK_S))
            return False
        self._begin(careful=unclean >= CRASHES_TILL_CAREFUL)
        self._began = self._clock()
        self._serve()
        return True

    def _acquire(self) -> int | None:
        """Become the owner, as `Publisher.acquire`, unless others have it, or come first.

        Who comes first and does not take it, is not waited for any longer than half a lease.
        """
        now = self._clock()
        if self._share.may_take(self._stream):
            self._free_since = None
        elif self._publisher.is_owned():
            self._free_since = None
            return None
        else:
            self._free_since = now if self._free_since is None else self._free_since
            if now - self._free_since < self._options.lease_s / 2:
                return None
        unclean = self._publisher.acquire()
        if unclean is not None:
            self._share.took(self._stream)
        return unclean

    def _pause(self) -> None:
        """Wait before the next try, longer each time, until a tenure has lasted."""
        lasted = self._clock() - self._began > MAX_PAUSE_S
        self._pause_s = FIRST_PAUSE_S if lasted else min(2 * self._pause_s, MAX_PAUSE_S)
        self._stop.wait(self._pause_s)

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                self._renew()
                self._read_back()
                self._read_new()
                self._try_held()
                self._collect(wait_s=0)
                busy = self._commit()
                busy |= self._admit_fresh()  # while Redis publishes
                self._finish_publishing()
                if not busy and self._tenure.window:
                    self._collect(wait_s=BUSY_WAIT_S)
                if self._tenure.storing > CROWD:
                    self._stop.wait(LINGER_S)
            except Halted:
                self._wait_while_halted()
                return
            if self._options.drain and self._is_drained():
                return

    # --- a tenure's beginning and end ----------------------------------------------------------

    def _begin(self, *, careful: bool) -> None:
        """Have a group, learn what is pending, and start to read it back."""
        low, set_back = self._have_group()
        pending = self._control.pending()
        set_back = set_back or (low is not None and self._recover_pending(low, pending))
        last = self._control.last_delivered()
        recovers_until = None
        if set_back or id_pair(pending.highest) > id_pair(last):
            # Also when a predecessor set it back, and ended before all was delivered again.
            newest = self._control.last()
            recovers_until = newest if id_pair(newest) > id_pair(last) else None
            self._log.info(
                "the group delivers again what may be unfinished", after=last, until=newest
            )
        if not low:
            # Before anything is read: what is lost with its pending list then is found again.
            self._publisher.note_lowest(pending.lowest or id_after(last))
        self._tenure = Tenure(
            pending=pending.total,
            next_new=id_after(last),
            low=low or FIRST,
            backlog_end=id_after(last),
            recovers_until=recovers_until,
            careful=careful,
            finished=self._finished(),
        )
        self._state("active", "one entry at a time, as workers died in a row" if careful else "")

    def _have_group(self) -> tuple[str | None, bool]:
        """Make the group if there is none.

        Returns the lowest entry that may be unfinished, if one is noted, and whether the group
        begins there.
        """
        low = self._publisher.lowest_unfinished()
        after = id_before(low) if low else FIRST
        created = self._control.create_group(after)
        if low and id_pair(after) > id_pair(self._control.last_generated()):
            self._log.warning("the control stream was made anew: it is read from its beginning")
            self._publisher.forget_lowest()
            if created:
                self._control.deliver_again(FIRST)
            return None, False
        return low, created and low is not None

    def _recover_pending(self, low: str, pending: Pending) -> bool:
        """Have entries delivered again that are neither finished nor pending any more.

        Deleting the consumer takes its pending entries with it, and the lowest unfinished one
        tells from where. What is finished after all is found in the index.
        """
        if id_pair(low) == id_pair(LAST):
            return False  # it cannot tell whether the entry with that ID is finished
        lowest = self._control.first_from(low)
        if not lowest or id_pair(lowest) > id_pair(self._control.last_delivered()):
            return False
        if pending.lowest and id_pair(pending.lowest) <= id_pair(lowest):
            return False
        self._control.deliver_again(id_before(low))
        return True

    def _renew(self) -> None:
        """Keep the lease, in time, and notice a halt."""
        tenure = self._tenure
        now = self._clock()
        if now < tenure.renew_at:
            return
        tenure.renew_at = now + self._options.lease_s / 3
        self._observer.gauge(
            window=len(tenure.window), held=len(tenure.held), pending=tenure.pending
        )
        if self._share.gives(self._stream):
            raise GivenBack
        if self._publisher.renew():
            raise Halted
        self._check_pending()
        last = self._control.last_delivered()
        if last != LAST and id_pair(last) >= id_pair(tenure.next_new):
            raise ReadAgain("someone else has read")

    def _wait_while_halted(self) -> None:
        """Keep the lease until the stream is resumed, then start over; a drain does not wait."""
        while not self._stop.is_set():
            reason = self._publisher.renew()
            if not reason:
                raise ReadAgain("resumed")
            self._state("halted", reason)
            if self._options.drain:
                return
            self._stop.wait(min(self._options.lease_s / 3, IDLE_BLOCK_S))

    def _is_drained(self) -> bool:
        """Tell whether all is done that can be done; note whether that is everything."""
        tenure = self._tenure
        reading = not tenure.dry and len(tenure.held) < MAX_HELD
        if tenure.window or tenure.scan is not None or reading:
            return False
        self.complete = not tenure.held
        budget_ends = self._clock() - self._options.retry_budget_s
        return all(
            held.outage and self._troubles[held.id].since <= budget_ends
            for held in tenure.held.values()
        )

    def _abandon_publishing(self) -> None:
        """Forget a run that is under way; what came of it shows when it is read again."""
        self._publisher.abandon()
        self._publishing = None

    def _leave(self, state: str, detail: str) -> None:
        """Give the lease back, so that the next owner need not wait for its end."""
        try:
            self._publisher.release()
        except (*Outage, redis.ResponseError) as error:
            self._log.warning("the lease was not given back; it runs out", error=str(error))
        self._state(state, detail)

    # --- read ----------------------------------------------------------------------------------

    def _read_back(self) -> None:
        """Read a part of the pending list, for the tenants that are behind."""
        tenure = self._tenure
        if tenure.scan is None or len(tenure.window) >= (1 if tenure.careful else WINDOW):
            return
        entries = self._control.read_pending(tenure.scan, 1 if tenure.careful else BATCH)
        if tenure.everyone and tenure.recovers_until:
            # What the group delivers again is not read back before what lies in between.
            end = id_pair(tenure.backlog_end)
            entries = list(takewhile(lambda entry: id_pair(entry.id) < end, entries))
        if entries:
            tenure.scan = entries[-1].id
            self._admit(entries, back=True)
            return
        if tenure.everyone:
            still = {held.id for held in tenure.held.values()} | tenure.window.keys()
            self._troubles = {id_: self._troubles[id_] for id_ in self._troubles if id_ in still}
        if tenure.careful:
            tenure.careful = False
            self._settle()
        tenure.scan, tenure.everyone = None, False
        tenure.behind.clear()

    def _read_new(self) -> None:
        """Read entries that nobody has read, waiting for one when there is nothing else to do."""
        tenure = self._tenure
        room = min(BATCH, WINDOW - len(tenure.window))
        if tenure.everyone or room <= 0:
            return
        if len(tenure.held) >= MAX_HELD:
            self._stop.wait(BUSY_WAIT_S)
            return
        tenure.fresh = self._read(room, self._patience_ms())
        if not tenure.window:
            # Nothing to publish meanwhile: admit at once, and read on if there may be more.
            more = len(tenure.fresh) == room
            self._admit_fresh()
            if more:
                tenure.fresh = self._read(room, None)
        if tenure.recovers_until and (
            tenure.dry or id_pair(tenure.next_new) > id_pair(tenure.recovers_until)
        ):
            raise ReadAgain("everything that may be unfinished has been delivered again")

    def _read(self, count: int, patience_ms: int | None) -> list[Entry]:
        tenure = self._tenure
        already: set[str] = set()
        if tenure.recovers_until:
            already = self._control.pending_from(tenure.next_new, count)
        entries = self._control.read_new(count, patience_ms)
        tenure.dry = not entries
        if entries:
            tenure.pending += sum(entry.id not in already for entry in entries)
            if tenure.recovers_until:
                self._check_pending()  # or what is held would be lost with its pending list
            self._check_gap(entries[0].id)
            tenure.next_new = id_after(entries[-1].id)
            self._observer.read(len(entries))
        return entries

    def _check_gap(self, first_id: str) -> None:
        """Make sure that a read began where the last one ended.

        A stalled worker may set the group back when it wakes, or its late read may take what comes
        next; and should someone delete the consumer then, what is pending tells nothing of it.
        """
        tenure = self._tenure
        next_id = self._control.first_from(tenure.next_new)
        is_back = id_pair(first_id) < id_pair(tenure.next_new)
        if is_back or (next_id and id_pair(next_id) < id_pair(first_id)):
            raise ReadAgain(f"{first_id} is not what comes next")

    def _patience_ms(self) -> int | None:
        """Say how long a read may wait for a new entry; None is not at all."""
        tenure = self._tenure
        if tenure.window or tenure.scan is not None:
            return None
        if self._options.drain and not tenure.held:
            return None
        wait_s = min(IDLE_BLOCK_S, tenure.renew_at - self._clock())
        if tenure.due:
            wait_s = min(wait_s, tenure.due[0][0] - self._clock())
        return max(1, int(wait_s * 1000))

    def _try_held(self) -> None:
        """Take held events that are due into the window again, each without what follows it."""
        tenure = self._tenure
        while tenure.due and tenure.due[0][0] <= self._clock() and len(tenure.window) < WINDOW:
            due, entry_id, tenant = heappop(tenure.due)
            held = tenure.held.get(tenant)
            if held is None or (held.due, held.id) != (due, entry_id):
                continue
            item = self._item(self._control.fetch(held.id), reread=False)
            if item.tenant is None:
                del tenure.held[tenant]
                self._fall_behind(tenant, held)
            tenure.window[item.id] = item
            self._start([item])

    # --- admit ---------------------------------------------------------------------------------

    def _admit_fresh(self) -> bool:
        """Admit what was read last, if that is not done yet; tell whether there was anything."""
        fresh, self._tenure.fresh = self._tenure.fresh, []
        self._admit(fresh, back=False)
        return bool(fresh)

    def _admit(self, entries: Iterable[Entry], *, back: bool) -> None:
        """Take entries into the window, but for those that wait in the pending list."""
        tenure = self._tenure
        items = []
        if tenure.behind:
            tenure.in_order = False
        for entry in entries:
            if entry.id in tenure.window:
                continue
            if tenure.careful and (died := self._deaths(entry.id)) >= DEATHS_ALONE:
                tenure.window[entry.id] = item = self._poison(entry, died)
                items.append(item)
                continue
            item = self._item(entry, reread=self._may_be_finished(entry, back=back))
            if item.tenant is None or self._is_turn_of(item.tenant, back=back):
                tenure.window[entry.id] = item
                items.append(item)
            elif tenure.careful:
                self._survived_alone()  # it does not run now, so it is no suspect
        self._start(items)

    def _may_be_finished(self, entry: Entry, *, back: bool) -> bool:
        tenure = self._tenure
        is_backlog = back and id_pair(entry.id) < id_pair(tenure.backlog_end)
        return is_backlog or tenure.recovers_until is not None

    def _is_turn_of(self, tenant: str, *, back: bool) -> bool:
        tenure = self._tenure
        if tenant in tenure.held:
            tenure.held[tenant].followed = True
            return False
        if back:
            return tenure.everyone or tenant in tenure.behind
        return tenant not in tenure.behind

    def _item(self, entry: Entry, *, reread: bool) -> Item:
        trouble = self._troubles.get(entry.id) or Trouble(self._wall_clock())
        item = Item(entry, entry.id, f"{self._stream}/{entry.id}", trouble, reread=reread)
        try:
            admitted = self._pipeline.admit(entry.fields, item.origin, entry.size_bytes)
            item.admitted = admitted
            item.tenant = admitted.event.tenant_id
            item.identity = identity_digest(admitted.event.event_id) + admitted.content_digest
        except Rejected as rejected:
            item.end(rejected.reason, rejected.detail)
            if rejected.reason is Reason.TOO_LARGE:
                item.entry = cut(entry)
        return item

    def _deaths(self, entry_id: str) -> int:
        """Note that `entry_id` runs alone; return how many died of it in a row before.

        A worker that begins anew, because Redis was away, did not die.
        """
        if self._alone is None or self._alone[0] != entry_id:
            self._alone = (entry_id, 0)  # should the answer be lost, it is no death either
            self._alone = (entry_id, self._publisher.run_alone(entry_id))
        return self._alone[1]

    def _survived_alone(self) -> None:
        self._alone = None
        self._publisher.survived_alone()

    def _poison(self, entry: Entry, died: int) -> Item:
        """Return the item of an entry that took workers with it; it may be published already.

        Unless to look at it is what kills: that is given up after as many deaths again.
        """
        if died < 2 * DEATHS_ALONE:
            item = self._item(entry, reread=True)
        else:
            origin = f"{self._stream}/{entry.id}"
            item = Item(entry, entry.id, origin, Trouble(self._wall_clock()))
        item.tenant = None
        item.end(Reason.POISON, f"{DEATHS_ALONE} workers in a row died while it ran alone")
        return item

    def _start(self, items: Sequence[Item], *, waited: bool = False) -> None:
        """Look up what the index must tell before anything is resolved; store what is new.

        `waited` items had their turn to wait for what they claim: it is theirs now.
        """
        asked = [item for item in items if item.reread or item.has_artifact]
        digests = [
            digest for item in asked for digest in (origin_digest(item.origin), item.identity[:16])
        ]
        seen = self._publisher.seen(digests) if digests else []
        for item, buried, event in zip(asked, seen[::2], seen[1::2], strict=True):
            if buried:
                item.known, item.bury = origin_digest(item.origin) + BURIED, None
            elif event and event.content_digest == item.identity[16:]:
                item.known, item.bury = item.identity, None
            elif event and not item.bury:
                _conflict(item, event.control_version)
        for item in items:
            if item.known or item.bury or not item.has_artifact:
                item.ready = True
            elif waited:
                self._dispatch(item)
            else:
                self._store(item)

    # --- store ---------------------------------------------------------------------------------

    def _store(self, item: Item) -> None:
        """Have the item's artifact carried, once nothing else is at its ref or event_id.

        Nobody overtakes who waits: an item waits only for items that were admitted before it,
        and so no two wait for each other.
        """
        tenure = self._tenure
        busy = not tenure.claimed.isdisjoint(item.claims)
        if busy or any(tenure.awaited[claim] for claim in item.claims):
            tenure.waiting[item.id] = item
            tenure.awaited.update(item.claims)
        else:
            self._dispatch(item)

    def _dispatch(self, item: Item) -> None:
        tenure = self._tenure
        tenure.claimed.update(item.claims)
        item.claiming = True
        tenure.storing += 1
        self._pool.submit(self._carry, item, tenure)

    def _carry(self, item: Item, tenure: Tenure) -> None:
        """Run in the pool: resolve, verify, put."""
        if self._tenure is not tenure or item.admitted is None:
            return
        item.began = self._clock()
        try:
            self._pipeline.carry(item.admitted, id_pair(item.id))
            item.error = None
        except BaseException as error:  # noqa: BLE001 -- backends raise anything; policy decides
            item.error = error
        tenure.finished.put(item)

    def _collect(self, wait_s: float) -> None:
        """Take back what the stores are done with, waiting up to `wait_s` for the first."""
        tenure = self._tenure
        try:
            item = tenure.finished.get(timeout=wait_s) if wait_s else tenure.finished.get_nowait()
            while True:
                tenure.storing -= 1
                if tenure.window.get(item.id) is item:
                    self._stored(item)
                item = tenure.finished.get_nowait()
        except Empty:
            return

    def _stored(self, item: Item) -> None:
        now = self._clock()
        trouble = item.trouble
        if not trouble.attempts:
            trouble.since = item.began
        trouble.attempts += 1
        if self._tenure.careful:
            self._survived_alone()
        if item.error is None:
            self._observer.stored(now - item.began)
            item.ready = True
            return
        verdict = decide(
            item.error, trouble.attempts, now - trouble.since, self._options.retry_budget_s
        )
        if isinstance(verdict, Bury):
            item.bury, item.ready = verdict, True
        else:
            self._hold(item, verdict)

    def _hold(self, item: Item, retry: Retry) -> None:
        """Put an item off, and with it all that its tenant has in the window."""
        tenure, tenant = self._tenure, item.tenant
        assert tenant is not None  # noqa: S101 -- only events are stored
        behind = dropwhile(lambda other: other is not item, list(tenure.window.values()))
        _, *followers = (other for other in behind if other.tenant == tenant)
        before = tenure.held.get(tenant)
        held = Held(
            item.id,
            due=self._clock() + retry.delay_s,
            outage=retry.outage,
            followed=bool(followers)
            or tenant in tenure.behind
            or (before is not None and (before.followed or before.id != item.id)),
        )
        for gone in (item, *followers):
            self._drop(gone)
        tenure.behind.discard(tenant)
        tenure.held[tenant] = held
        self._troubles[item.id] = item.trouble
        heappush(tenure.due, (held.due, held.id, tenant))
        self._observer.retried(item.error or RuntimeError())
        if item.trouble.attempts == 1:
            self._log.warning(
                "held back", tenant_id=tenant, entry=item.id, outage=retry.outage,
                error=f"{type(item.error).__name__}: {item.error}",
            )  # fmt: skip
        self._start_waiting()

    # --- commit --------------------------------------------------------------------------------

    def _commit(self) -> bool:
        """Bury and publish what is ready and whose turn it is; tell whether there was anything.

        Letters go first, all in one: between one tenant's letters and notifications there is no
        order to keep, and a stream of good and bad entries in turn is no slower than another.
        Publishing goes on while the entries that were read before it are admitted, so that the
        worker and Redis work at the same time.
        """
        ready = list(self._ready())
        if not ready:
            return False
        self._check_pending()
        letters, events, row_ended = _parted(ready)
        if letters:
            self._bury_run(letters)
        if events:
            self._begin_publishing(events, ends_row=row_ended)
        return True

    def _check_pending(self) -> None:
        """Make sure that nothing is pending that this worker does not know of.

        More: a stalled worker's late read took entries that this one never saw, and that come
        before what it read since. Fewer: someone acknowledged or deleted them.
        """
        found = self._control.pending().total
        if found != self._tenure.pending:
            raise ReadAgain(f"{found} entries are pending, not {self._tenure.pending}")

    def _ready(self) -> Iterator[Item]:
        """Yield items that are ready, with none of their tenant before them that is not."""
        blocked = set()
        for item in self._tenure.window.values():
            tenant = item.tenant
            if tenant is not None and tenant in blocked:
                continue
            if item.ready:
                yield item
            elif tenant is not None:
                blocked.add(tenant)

    def _begin_publishing(self, run: Sequence[Item], *, ends_row: bool) -> None:
        low = self._low_without(run)
        self._publisher.begin([self._outbound(item) for item in run], low, ends_row=ends_row)
        self._publishing = _Publishing(run, low)

    def _finish_publishing(self) -> None:
        """Wait for the run that is being published, if one is, and acknowledge it."""
        publishing, self._publishing = self._publishing, None
        if publishing is None:
            return
        run, low = publishing
        done: list[tuple[Item, str]] = []
        forgotten = False
        row_ended = False
        # The answer ends with the first that was forgotten: the rest keep their place behind it.
        for item, verdict in zip(run, self._publisher.finish(), strict=False):
            if verdict.outcome is Outcome.CONFLICT:
                _conflict(item, 0)
                item.begins_row, row_ended = row_ended, False
            elif verdict.outcome is Outcome.FORGOTTEN:
                forgotten = True
            else:
                row_ended |= verdict.outcome is Outcome.PUBLISHED
                already = item.known[16:] == BURIED
                done.append((item, "dead already" if already else verdict.outcome.value))
        self._acknowledge(done)
        if forgotten:
            raise ReadAgain("the index has forgotten an event since it was looked up")
        if (
            len(done) == len(run)
            and not self._tenure.settled
            and id_pair(low) >= id_pair(self._tenure.backlog_end)
        ):
            self._settle()

    def _settle_if(self, low: str) -> None:
        """Settle once, when nothing of the backlog lies below the lowest unfinished entry."""
        tenure = self._tenure
        if not tenure.settled and id_pair(low) >= id_pair(tenure.backlog_end):
            self._settle()

    def _settle(self) -> None:
        """Note that what the predecessors left is finished, and did not kill this worker."""
        self._publisher.settle()
        self._tenure.settled = True

    def _outbound(self, item: Item) -> Outbound:
        assert item.admitted or item.known  # noqa: S101 -- the rest is buried
        identity = item.known or item.identity
        json, traceparent = b"", b""
        if not item.known and item.admitted:
            json, traceparent = item.admitted.unstamped, item.admitted.traceparent
        return Outbound(identity, json, item.origin, traceparent)

    def _bury_run(self, run: Sequence[Item]) -> None:
        now = rfc3339(self._wall_clock() * 1e6)
        answers = self._publisher.bury(
            [letter(item, now) for item in run],
            self._low_without(run),
            max_in_a_row=self._options.max_consecutive_dead,
            now=now,
        )
        done: list[tuple[Item, str]] = []
        for item, answer in zip(run, answers, strict=False):
            if answer is Buried.PUBLISHED:
                done.append((item, Outcome.DUPLICATE.value))
            elif answer is Buried.ALREADY or item.bury is None:
                done.append((item, "dead already"))
            else:
                done.append((item, item.bury.reason.value))
        self._acknowledge(done)
        if len(answers) < len(run) or Buried.HALTED_NOW in answers:
            raise Halted

    def _acknowledge(self, done: Sequence[tuple[Item, str]]) -> None:
        """Take finished entries off the pending list, and let go what waited for them."""
        if not done:
            return
        tenure = self._tenure
        tenure.pending -= self._control.acknowledge([item.id for item, _ in done])
        for item, outcome in done:
            self._drop(item)
            self._troubles.pop(item.id, None)
            tenant = item.tenant
            held = tenure.held.get(tenant) if tenant is not None else None
            if held and tenant is not None and held.id == item.id:
                del tenure.held[tenant]
                self._fall_behind(tenant, held)
            if self._debug:
                self._canonical_line(item, outcome)
        for outcome, count in Counter(outcome for _, outcome in done).items():
            self._observer.committed(outcome, count)
        if not tenure.window:
            tenure.in_order = True
        if tenure.waiting:
            self._start_waiting()

    def _fall_behind(self, tenant: str, held: Held) -> None:
        """A held event is through: read back what waited behind it."""
        tenure = self._tenure
        if held.followed:
            tenure.behind.add(tenant)
            tenure.in_order = False
            if tenure.scan is None or id_pair(held.id) < id_pair(tenure.scan):
                tenure.scan = held.id

    def _start_waiting(self) -> None:
        """Start items whose ref or event_id is free now; the index may know them by now."""
        tenure = self._tenure
        taken, free = set(tenure.claimed), []
        for item in tenure.waiting.values():
            if taken.isdisjoint(item.claims):
                free.append(item)
            taken.update(item.claims)
        for item in free:
            self._stop_waiting(item)
        self._start(free, waited=True)

    def _stop_waiting(self, item: Item) -> None:
        if self._tenure.waiting.pop(item.id, None):
            self._tenure.awaited.subtract(item.claims)

    def _drop(self, item: Item) -> None:
        """Take an item out of the window, and free what it claims."""
        tenure = self._tenure
        del tenure.window[item.id]
        self._stop_waiting(item)
        if item.claiming:
            tenure.claimed.difference_update(item.claims)

    def _low_without(self, run: Iterable[Item]) -> str:
        """Return the lowest entry that is unfinished once `run` is finished."""
        tenure = self._tenure
        finished = {item.id for item in run}
        remaining = (id_ for id_ in tenure.window if id_ not in finished)
        candidates = [tenure.next_new, *(held.id for held in tenure.held.values())]
        candidates += islice(remaining, 1) if tenure.in_order else remaining
        if tenure.fresh:
            candidates.append(tenure.fresh[0].id)
        if tenure.scan is not None:
            candidates.append(max(id_after(tenure.scan), tenure.low, key=id_pair))
        return min(candidates, key=id_pair)

    # --- words ---------------------------------------------------------------------------------

    def _state(self, state: str, detail: str) -> None:
        """Tell of a change of state, once."""
        if self._state_now == (state, detail):
            return
        self._state_now = (state, detail)
        self._observer.state(state, detail)
        quiet = state in ("active", "stopped") or detail.startswith(("resumed", "given back"))
        (self._log.info if quiet else self._log.warning)(state, detail=detail)

    def _canonical_line(self, item: Item, outcome: str) -> None:
        event = item.admitted.event if item.admitted else None
        self._log.debug(
            "event", outcome=outcome, entry=item.id, attempts=item.trouble.attempts,
            event_id=event and event.event_id, type=event and event.type,
            tenant_id=event and event.tenant_id, artifact_ref=event and event.artifact_ref,
            detail=item.bury and item.bury.detail,
        )  # fmt: skip


def _parted(ready: Iterable[Item]) -> tuple[list[Item], list[Item], bool]:
    """Part what is ready into what is to be buried and what is to be published, each in order.

    A letter after an event that is published begins a new row of dead letters. Returns, too,
    whether the last row has ended.
    """
    letters, events = [], []
    row_ended = False
    for item in ready:
        if item.bury:
            item.begins_row |= row_ended
            row_ended = False
            letters.append(item)
        else:
            row_ended |= not item.known
            events.append(item)
    return letters, events, row_ended


def _conflict(item: Item, control_version: int) -> None:
    detail = "event_id: published before with other content"
    if control_version:
        detail += f", as control_version {control_version}"
    item.end(Reason.ID_CONFLICT, detail)

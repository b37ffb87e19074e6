"""Who serves a control stream: acquire it, stand by, wait, halt, give it back.

A lease is for who can serve. So what this worker needs is looked at before the lease is taken,
and a worker that cannot serve gives it back; see docs/decisions/0018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from threading import Event as Signal
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.errors import SidecarError, Unreachable
from sidecar.redis.damage import Damaged
from sidecar.redis.errors import FULL, Failed, Outage, Refused, fix_of, is_full, is_misplaced
from sidecar.redis.lease import Fenced
from sidecar.redis.publisher import Halted, NotReplicated
from sidecar.redis.source import GroupLost
from sidecar.worker.caution import Caution
from sidecar.worker.host import Host, Route
from sidecar.worker.outages import REDIS
from sidecar.worker.reading import ReadAgain
from sidecar.worker.settings import Options

IDLE_BLOCK_S: Final = 0.5
"""The longest wait for an entry, and so for noticing a signal to stop."""
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
STAND_BACK_PAUSES: Final = 8
"""For so many pauses, and for a lease at least, a stream is left to others that may serve it."""
LONGEST_BACK_S: Final = 10.0
"""For so long, or a lease, who lost tenures in vain leaves a stream to others, at most."""
_TROUBLE: Final = (*Failed, SidecarError, OSError)
"""What passes: of Redis, of a store, or of this machine (no file descriptor, no memory)."""


class States(Protocol):
    """What hears of what a worker does with a stream: metrics and health."""

    def state(self, state: str, detail: str) -> None:
        """The relay is active, standby, halted, waiting (for Redis), recovering or stopped."""

    def gave_back(self) -> None:
        """The lease was given back, as this worker cannot serve."""


class GivenBack(Exception):
    """Another worker has fewer streams: it is to have this one."""


class Ownership:
    """One worker's tenures of one control stream, one after the other."""

    def __init__(
        self, route: Route, host: Host, caution: Caution, options: Options, observer: States,
        log: FilteringBoundLogger, *, look: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`look` is called before each try to acquire: those who stand by look at what Redis has,
        too.
        """
        self._stream, self._control, self._publisher = route.stream, route.control, route.publisher
        self._share, self._beat, self._check = host.share, host.beat, host.check
        self._connects, self._looked_at = host.connects, 0
        self._took_over, self._on_record = host.took_over, host.began
        self._gives_back = host.gives_back
        self._clock, self._outages = host.clock, host.outages
        self._caution = caution
        self._options = options
        self._observer = observer
        self._log = log
        self._look = look
        self._stop = Signal()
        self._is_owner = False
        self._free_since: float | None = None
        self._stands_back_until = -math.inf
        self._acquired_at = -math.inf
        self._back_s = 0.0
        """So long it stood back when a tenure was lost; 0 once anything was done since."""
        self._renew_at = 0.0
        self._began = host.clock()
        self._pause_s = FIRST_PAUSE_S
        self._state_now = ("", "")
        self.stood_by = False
        """Whether another worker may have served since the last tenure."""
        self._down_since: float | None = None
        self._gave_up = False
        self.unreachable = False
        """Of a drain: whether it gave up because Redis could not be reached."""

    def run(self, stop: Signal, serve: Callable[[], None]) -> None:
        """Serve whenever the stream can be had, until `stop` is set or `serve` returns."""
        self._stop = stop
        give_up_at = self._clock() + 2 * self._options.lease_s
        while not (stop.is_set() or self._gave_up):
            self._beat()
            try:
                if self._serve_if_owner(serve, give_up_at):
                    break
            except Fenced:
                self._lost()
            except GivenBack:
                self._leave("standby", "given back to a worker that has fewer streams")
            except GroupLost as error:
                self._reconnect()
                self.state("recovering", f"the consumer group is gone: {error}")
            except ReadAgain as error:
                self.state("recovering", str(error))
            except (*_TROUBLE, NotReplicated, Damaged) as error:
                self._cannot_serve(error)
            finally:
                self._publisher.abandon()
                self._share.lost(self._stream)
        self._leave("stopped", "")

    def _serve_if_owner(self, serve: Callable[[], None], give_up_at: float) -> bool:
        """Serve if the stream can be had; tell whether that is the end of it."""
        self._control.check()  # the lease is for who can serve
        self._check_servers()
        self._look()
        unclean = self._acquire()
        if unclean is None:
            return self._stand_by(give_up_at)
        self._is_owner, self._acquired_at = True, self._clock()
        self._caution.begin(unclean)
        try:
            serve()
        except Refused as error:
            if not is_full(error):
                raise
            self._wait_while_full(error)
            return False
        return True

    def _stand_by(self, give_up_at: float) -> bool:
        """Wait a little for the stream; tell whether a drain has waited long enough."""
        self.stood_by, self._is_owner = True, False
        self._outages.forget(REDIS)
        self.state("standby", "another worker holds the lease, or comes first")
        if self._options.drain and self._clock() > give_up_at:
            return True
        self._stop.wait(min(self._options.lease_s / 5, IDLE_BLOCK_S))
        return False

    def _acquire(self) -> int | None:
        """Become the owner, as `Publisher.acquire`, unless others have it, or come first.

        A worker that comes first and does not take it is waited for no longer than half a lease.
        """
        if self._clock() < self._stands_back_until or not self._is_our_turn():
            return None
        unclean = self._publisher.acquire()
        if unclean is not None:
            self._free_since = None  # once it is given back, the time begins anew
            self._share.took(self._stream)
        return unclean

    def _is_our_turn(self) -> bool:
        """Tell whether nobody comes first, or has not taken it for half a lease."""
        self._share.can_serve(self._stream)
        if self._share.may_take(self._stream):
            self._free_since = None
            return True
        if self._publisher.is_owned():
            self._free_since = None
            return False
        now = self._clock()
        self._free_since = now if self._free_since is None else self._free_since
        return now - self._free_since >= self._options.lease_s / 2

    # --- in a tenure ---------------------------------------------------------------------------

    def begun(self) -> None:
        """Note that the tenure has begun to serve."""
        self._on_record()
        self._outages.ended(REDIS)
        if self.stood_by:
            self._took_over(self._publisher.other())
        self.stood_by = False
        alone = "one entry at a time, as workers died in a row"
        self.state("active", alone if self._caution.careful else "")
        self._renew_at = self._began = self._clock()

    @property
    def renew_in_s(self) -> float:
        """How long until the lease is to be renewed."""
        return self._renew_at - self._clock()

    def renew(self) -> None:
        """Keep the lease, and notice a halt. Raises `Fenced`, `Halted`, `GivenBack`."""
        self._renew_at = self._clock() + self._options.lease_s / 3
        if self._share.gives(self._stream):
            raise GivenBack
        halted = self._publisher.renew()
        if self._connects() != self._looked_at:  # a cut between two commands is told by nothing
            self._reconnect()
            self._check_servers()
        self._outages.tell()
        if halted:
            raise Halted

    def _check_servers(self) -> None:
        """Look whether the servers that answer now are fit. Raises `SidecarError`."""
        self._check()
        self._looked_at = self._connects()

    def _reconnect(self) -> None:
        """Connect all anew: another node may be the one by now, though this answers."""
        self._control.reconnect()
        self._publisher.reconnect()

    def keep_lease(self) -> None:
        """Keep the lease while a tenure begins. Raises `Fenced`, `ReadAgain`."""
        self._beat()
        if self._stop.is_set():
            raise ReadAgain("stopped while it was looked for lost entries")
        self.state("recovering", "looking for entries that were handed out and are lost")
        self._publisher.renew()

    def wait_while_halted(self) -> None:
        """Keep the lease until the stream is resumed, then start over; a drain does not wait."""
        while not self._stop.is_set():
            self._beat()
            self._control.check()
            reason = self._publisher.renew()
            if not reason:
                raise ReadAgain("resumed")
            self.state("halted", reason)
            if self._options.drain:
                return
            self._stop.wait(min(self._options.lease_s / 3, IDLE_BLOCK_S))

    def _wait_while_full(self, error: Refused) -> None:
        """Keep the lease until the server has room: what is finished is trimmed meanwhile.

        It is full for every worker, and trimming is the owner's.
        """
        self._publisher.abandon()
        self._outages.began(REDIS, f"{FULL}: {error}")
        self.state("waiting", f"{FULL}: {error}{fix_of(error)}")
        while not self._stop.wait(min(self._options.lease_s / 3, IDLE_BLOCK_S)):
            self._beat()
            if self._publisher.has_room() or self._gives_up(error, anew=False):
                return

    # --- out of it -----------------------------------------------------------------------------

    def progressed(self) -> None:
        """Note that something was finished."""
        self._down_since = None
        self._back_s = 0.0

    def _gives_up(self, error: Exception, *, anew: bool) -> bool:
        """Tell whether a drain has waited long enough: it ends, and has left something.

        `anew` when what went wrong before is over: a tenure has lasted since.
        """
        now = self._clock()
        if self._down_since is None or anew:
            self._down_since = now
        patience_s = max(self._options.retry_budget_s, 2 * self._options.lease_s)
        if not self._options.drain or now - self._down_since < patience_s:
            return False
        is_there = isinstance(error.__cause__, Refused)  # it answers that it cannot now
        self.unreachable = isinstance(error, (*Outage, Unreachable)) and not is_there
        self._gave_up = True
        self._log.error("the drain gives up", waited_s=round(now - self._down_since, 1))
        return True

    def _cannot_serve(self, error: Exception) -> None:
        """Give the lease back, for another worker may be able to serve, and wait a while."""
        told = isinstance(error, SidecarError | OSError)
        detail = str(error) if told else f"Redis: {str(error).rstrip('.')}"
        self._outages.began(REDIS, detail)
        detail += self._fix_of(error)
        if not isinstance(error, NotReplicated | Damaged):  # these keep every worker from serving
            self._share.cannot_serve(self._stream)
            detail += self._yield_lease()
        self.state("waiting", detail)
        self._reconnect()
        if not self._gives_up(error, anew=self._clock() - self._began > MAX_PAUSE_S):
            self._pause()

    def _lost(self) -> None:
        """Another has taken over, though this worker lives: it was slower than its lease.

        Two that are both so slow, without processor time or on a slow network, would take over
        from each other for ever, each before the other is through with what a tenure begins with.
        So who loses a tenure in vain leaves the stream to the other, for twice as long each time.
        The other keeps it meanwhile, for nobody else takes it when its lease has run out.
        """
        self._is_owner = False
        self._reconnect()
        self.state("standby", "another worker has taken over, or the fence is lost")
        lease_s = self._options.lease_s
        if self._clock() - self._acquired_at > LONGEST_BACK_S:
            self._back_s = 0.0
        self._back_s = max(lease_s, min(2 * self._back_s, LONGEST_BACK_S))
        with suppress(*Failed):
            if self._publisher.is_anothers():
                self._stands_back_until = self._clock() + self._back_s

    def _yield_lease(self) -> str:
        """Give the lease back in the middle of a tenure; say so if that was done."""
        if not self._is_owner:
            return ""
        self._is_owner = False
        self._publisher.abandon()
        try:
            if not self._publisher.yield_lease(self._caution.leave_alone()):
                return ""
        except Failed:
            return ""
        self._observer.gave_back()
        if self._share.is_shared(self._stream):
            stand_back_s = max(self._options.lease_s, STAND_BACK_PAUSES * self._pause_s)
            self._stands_back_until = self._clock() + stand_back_s
        return "; the lease is given back"

    def _fix_of(self, error: Exception) -> str:
        """Say what an operator can do, as far as the error tells; empty when it does not."""
        fix = fix_of(error)
        if is_misplaced(error):
            try:
                fix += "".join(f"; {which}" for which in self._publisher.misplaced())
            except Failed:
                return fix
        return fix

    def _pause(self) -> None:
        """Wait before the next try, longer each time, until a tenure has lasted."""
        self._beat()
        lasted = self._clock() - self._began > MAX_PAUSE_S
        self._began = math.inf
        self._pause_s = FIRST_PAUSE_S if lasted else min(2 * self._pause_s, MAX_PAUSE_S)
        self._stop.wait(self._pause_s)

    def _leave(self, state: str, detail: str) -> None:
        """Give the lease back, so that the next owner need not wait for its end."""
        was_owner, self._is_owner = self._is_owner, False
        try:
            if was_owner:
                self._gives_back()
            self._publisher.release()
        except Failed as error:
            self._log.warning("the lease was not given back; it runs out", error=str(error))
        self.state(state, detail)

    def state(self, state: str, detail: str) -> None:
        """Report a change of state, once."""
        if self._state_now == (state, detail):
            return
        self._state_now = (state, detail)
        self._observer.state(state, detail)
        quiet = state in ("active", "stopped") or detail.startswith(("resumed", "given back"))
        (self._log.info if quiet else self._log.warning)(state, detail=detail)

"""What a worker does beside relaying: it registers, trims, prunes, loads scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from structlog.typing import FilteringBoundLogger

from sidecar.redis.members import Held, Members
from sidecar.redis.pruning import Pruning
from sidecar.redis.readers import MOST, Readers
from sidecar.redis.retention import KINDS, Retention
from sidecar.redis.scripts import Shelf
from sidecar.worker.share import Share
from sidecar.worker.supervision import IDLE, Supervisor

TRIM_EVERY_S: Final = 10.0
GROUPS_EVERY_S: Final = 600.0
TRIMMING: Final = "trimming"
MOST_TOLD: Final = 20
"""Of readers that expire, or that are not believed, so many are named at a time."""
ROOM: Final = "room"
"""Whether streams take more entries."""


@dataclass(frozen=True, slots=True)
class Chores:
    """What has to be done again and again in one deployment."""

    members: Members
    """Where this worker registers."""
    retentions: Mapping[str, Retention]
    """By control stream; one is used while this worker owns its stream."""
    pruning: Pruning
    shelves: Sequence[Shelf] = ()
    """One for each server, also of a worker that owns nothing."""


class Housekeeper:
    """Keeps house for the relays of one worker. What fails is tried again (`Supervisor`)."""

    def __init__(
        self, chores: Chores, share: Share, beat_s: float, supervisor: Supervisor,
        log: FilteringBoundLogger, *, clock: Callable[[], float] = time.monotonic,
        held: Callable[[], Sequence[Held]] = tuple,
        blocked: Callable[[str, Collection[str]], None] = lambda _stream, _by: None,
    ) -> None:  # fmt: skip
        """`beat_s` is how often `work` is called, in seconds, about. `held` returns what relays
        hold back; `blocked` hears of each stream who keeps it from being trimmed.
        """
        self._chores = chores
        self._share = share
        self._beat_s = beat_s
        self._supervisor = supervisor
        self._log = log
        self._clock = clock
        self._held = held
        self._blocked = blocked
        self._trim_at = clock()
        self._trimmed_before: set[str] = set()
        self._early: set[str] = set()
        self._expired: set[str] = set()
        self._keepers: set[str] = set()
        self._groups_at = clock()
        self._bad_readers: set[str] = set()

    def join(self) -> None:
        """Register, before a relay takes a stream that is another's share; it waits for no more."""
        # The others take it for gone if it is silent: so this is tried each time.
        self._supervisor.attempt("membership", "", self._beat, longest_pause_s=0)
        self._supervisor.attempt("scripts", "", self._load)

    def work(self) -> None:
        """Do what is due. Call it every `beat_s` seconds, about."""
        self.join()
        if self._clock() >= self._trim_at:
            self._supervisor.attempt(TRIMMING, "", self._trim)
            self._trim_at = self._clock() + TRIM_EVERY_S
        self._supervisor.attempt("pruning", "", self._prune)

    def leave(self) -> None:
        """Take this worker off the register."""
        self._supervisor.attempt("leaving", "", self._chores.members.leave)

    def _beat(self) -> None:
        share, members = self._share, self._chores.members
        share.see(members.beat(share.owned, share.unable, self._held()))

    def _load(self) -> None:
        for shelf in self._chores.shelves:
            shelf.fill()

    def _trim(self) -> None:
        """Trim all streams, a round after the other, but not for longer than a beat."""
        owned = [self._chores.retentions[stream] for stream in sorted(self._share.owned)]
        streams = {name for one in owned for name in one.streams.values()}
        self._supervisor.only(TRIMMING, {"", *streams})
        self._supervisor.only(ROOM, streams)
        for stream in self._trimmed_before - streams:
            self._blocked(stream, ())
        self._trimmed_before = streams
        if owned:
            self._supervisor.attempt("readers", "", partial(self._warn_of_readers, owned[0]))
        steps = [(retention, kind) for retention in owned for kind in KINDS]
        if owned and self._clock() >= self._groups_at:
            self._groups_at = self._clock() + GROUPS_EVERY_S
            self._supervisor.attempt("groups", "", partial(self._warn_of_groups, owned))
        for one, kind in steps:
            self._supervisor.attempt(ROOM, one.streams[kind], partial(one.check_room, kind))
        ends_at = self._clock() + self._beat_s
        while steps and self._clock() < ends_at:
            steps = [step for step in steps if self._clock() < ends_at and self._trim_one(*step)]

    def _trim_one(self, retention: Retention, kind: str) -> bool:
        """Trim one stream a little; tell whether there is more to trim at once."""
        step = partial(self._trimmed, retention, kind)
        return self._supervisor.attempt(TRIMMING, retention.streams[kind], step)

    def _trimmed(self, retention: Retention, kind: str) -> bool:
        done = retention.trim_one(kind)
        self._blocked(done.stream, done.blocked_by)
        if done.early and done.stream not in self._early:
            self._early.add(done.stream)  # told once: at the brink it comes and goes
            detail = "the server is nearly full: `full=` of its limits holds, not `age=`"
            self._log.warning("trimmed early", stream=done.stream, detail=detail)
        if done.removed:
            self._log.debug("trimmed", stream=done.stream, removed=done.removed)
        return done.more

    def _prune(self) -> object:
        """Prune the deduplication index as far as it is due, but not for longer than a beat."""
        ends_at = self._clock() + self._beat_s
        more = self._chores.pruning.prune()
        if more is None:
            return IDLE
        while more and self._clock() < ends_at:
            more = self._chores.pruning.prune()
        return None

    def _warn_of_groups(self, owned: Sequence[Retention]) -> None:
        found = {str(each) for one in owned for kind in KINDS for each in one.keepers(kind)}
        for said in sorted(found - self._keepers):
            self._log.warning("not trimmed", detail=said)
        self._keepers = found

    def _warn_of_readers(self, retention: Retention) -> None:
        readers = retention.readers()
        expired = {reader.name for reader in readers.good if reader.expired}
        alive = {reader.name for reader in readers.good} - expired
        for name in sorted(expired - self._expired)[:MOST_TOLD]:
            self._log.warning(
                "reader expired", reader=name,
                detail="silent for longer than its time: what it has not read may be trimmed",
            )  # fmt: skip
        self._expired = _in_mind(self._expired - alive, expired, readers)
        bad = set(map(str, readers.bad))
        for said in sorted(bad - self._bad_readers)[:MOST_TOLD]:
            self._log.warning("reader not believed", detail=said)
        self._bad_readers = _in_mind(self._bad_readers, bad, readers)


def _in_mind(told: set[str], now: set[str], readers: Readers) -> set[str]:
    """Return what is not told again. Of a crowd others are seen each time: so some stay in it."""
    return told | now if readers.more and len(told) < 4 * MOST else now

"""Background work under supervision: what fails is told, and tried again; nothing ends for it.

A relay that dies of a bug ends its process, for nobody else does its work. Trimming, archiving and
the like are different: each step is due again soon, and one that fails must keep no other from
being done. So each runs here, whatever it raises.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from sidecar.errors import SidecarError
from sidecar.history.scratch import FULL
from sidecar.redis.errors import Outage, RedisError, fix_of
from sidecar.redis.room import NoRoom
from store import StoreError

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
IDLE: Final = object()
"""What a step returns that had nothing to do: whether it would fail again is not known."""
EXPECTED: Final = (SidecarError, StoreError, OSError, RedisError, FULL)


class Observer(Protocol):
    """What hears of failures: metrics."""

    def background_failed(self, work: str, error: Exception) -> None:
        """A step of this work failed."""

    def background_failing(self, work: str, count: int) -> None:
        """So many steps of this work fail now."""


@dataclass(slots=True)
class _Failing:
    """A step that failed when it was tried last."""

    detail: str
    pause_s: float
    again_at: float


class Supervisor:
    """Runs steps of background work. Several threads may use it, each for steps of its own."""

    def __init__(
        self, observer: Observer, log: FilteringBoundLogger, *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._observer = observer
        self._log = log
        self._clock = clock
        self._failing: dict[tuple[str, str], _Failing] = {}

    def attempt(
        self, work: str, stream: str, step: Callable[[], object], *,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> bool:  # fmt: skip
        """Do `step`, unless it failed a moment ago; tell whether it was done and returned true.

        After a failure it is not tried for a pause that grows up to `longest_pause_s`. One that
        returns `IDLE` neither failed nor was done: what failed before still does.
        """
        key = (work, stream)
        before = self._failing.get(key)
        if before is not None and self._clock() < before.again_at:
            return False
        try:
            answer = step()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the other work continues
            self._failed(key, error, before, longest_pause_s)
            return False
        if answer is IDLE:
            return False
        if before is not None:
            self._forget(key)
            self._log.info("background work works again", work=work, stream=stream)
        return bool(answer)

    def failing(self) -> list[str]:
        """Say what fails now, and why."""
        found = sorted(self._failing.copy().items())
        return [f"{' '.join(filter(None, key))}: {one.detail}" for key, one in found]

    def only(self, work: str, streams: Collection[str]) -> None:
        """Forget how this work failed on other streams: somebody else does it there."""
        for key in list(self._failing):
            if key[0] == work and key[1] not in streams:
                self._forget(key)

    def _failed(
        self, key: tuple[str, str], error: Exception, before: _Failing | None, longest_s: float
    ) -> None:
        pause_s = min(2 * before.pause_s if before else FIRST_PAUSE_S, longest_s)
        detail = _detail(error)
        self._failing[key] = _Failing(detail, pause_s, self._clock() + pause_s)
        self._observer.background_failed(key[0], error)
        self._count(key[0])
        if before is not None and before.detail == detail:
            return
        more: dict[str, Any] = {} if isinstance(error, EXPECTED) else {"exc_info": error}
        # Redis being away is the relays' to tell.
        say = self._log.debug if isinstance(error, Outage) else self._log.warning
        say = self._log.error if isinstance(error, NoRoom) else say
        say("background work fails", work=key[0], stream=key[1], detail=detail, **more)

    def _forget(self, key: tuple[str, str]) -> None:
        self._failing.pop(key, None)
        self._count(key[0])

    def _count(self, work: str) -> None:
        counts = Counter(one for one, _ in self._failing.copy())
        self._observer.background_failing(work, counts[work])


def _detail(error: Exception) -> str:
    if isinstance(error, SidecarError):
        return str(error)
    if isinstance(error, RedisError):
        return f"Redis: {str(error).rstrip('.')}{fix_of(error)}"
    detail = f"{type(error).__name__}: {error}"
    return detail if isinstance(error, EXPECTED) else f"{detail}; a bug, please report it"

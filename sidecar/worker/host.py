"""What a relay is given: the stream that it serves, and what its process does for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from sidecar.redis.publisher import Publisher, Verdict
from sidecar.redis.source import ControlStream
from sidecar.worker.outages import Outages
from sidecar.worker.outcomes import Finished
from sidecar.worker.share import Share
from sidecar.worker.storepool import Pool
from sidecar.worker.width import STALL_WIDTH
from sidecar.worker.window import Item


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """One control stream, where it is read, and where its events are published."""

    stream: str
    control: ControlStream
    publisher: Publisher


class Traces(Protocol):
    """What makes spans of what is finished. Raises nothing, and waits for nobody."""

    def published(
        self, run: Sequence[Item], verdicts: Sequence[Verdict], finished: Sequence[Finished],
        began: float,
    ) -> None:  # fmt: skip
        """A run was published that was sent at `began`, by the relay's clock."""

    def buried(self, finished: Sequence[Finished], began: float) -> None:
        """Dead letters were written that were sent at `began`."""


@dataclass(frozen=True, slots=True)
class Host:
    """The process that a relay runs in, as far as the relay uses it."""

    pool: Pool
    """In which artifacts are carried."""
    share: Share
    """Which streams this worker takes, when others serve them, too."""
    beat: Callable[[], None] = _nothing
    """Called again and again, whatever the relay does or waits for."""
    check: Callable[[], None] = _nothing
    """Raises `SidecarError` for what keeps every tenure from beginning."""
    connects: Callable[[], int] = field(default=lambda: 0, kw_only=True)
    """How often the connections were made that `check` asks: another server may answer anew."""
    took_over: Callable[[str], None] = lambda _: None
    """Called when this worker serves the stream, and stood by until then, with the id of the worker
    that had the lease; empty when nobody knows.
    """
    began: Callable[[], None] = _nothing
    """Called when a tenure has begun to serve. Raises `RedisError`."""
    gives_back: Callable[[], None] = field(default=_nothing, kw_only=True)
    """Called before an owner gives the stream back in good order. Raises `RedisError`."""
    outages: Outages = field(default_factory=lambda: Outages(lambda _: None), kw_only=True)
    """Notes what keeps a tenure from serving, until it is put on record."""
    clock: Callable[[], float] = time.monotonic
    """In seconds, for distances only."""
    wall_clock: Callable[[], float] = time.time
    """In seconds since the epoch."""
    finished: Callable[[], SimpleQueue[Item]] = SimpleQueue
    """Makes the queue in which a tenure gets items back from the pool."""
    most_at_once: int = STALL_WIDTH
    """How many artifacts of the relay `pool` has threads for."""
    traces: Traces | None = None

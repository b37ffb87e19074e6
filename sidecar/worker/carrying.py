"""Artifacts on their way through the pool, of one relay: so many at once, and of one tenure.

The pool has so many threads for each relay: none waits for the artifacts of another stream.

What waits for its turn waits here and not in the pool: nothing can be taken out of the pool's
queue again, and there it would stay, with all that it holds, as long as stores hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

from sidecar.errors import SidecarError
from sidecar.worker.pipeline import Pipeline
from sidecar.worker.storepool import Pool
from sidecar.worker.turns import Turns
from sidecar.worker.width import STALL_WIDTH, Width
from sidecar.worker.window import Item
from store import Unavailable

Finished = SimpleQueue[Item]


class Unable(SidecarError):
    """The worker itself cannot work, whatever Redis does."""


class Carrying:
    """Gives items to the pool, one after another, and takes back what it is done with."""

    def __init__(
        self, pool: Pool, carry: Callable[[Item], None], width: Width,
        finished: Callable[[], Finished] = SimpleQueue,
    ) -> None:  # fmt: skip
        """`carry` is run in the pool, for so many items at a time as `width` lets.

        `finished` makes the queue of one tenure.
        """
        self._pool = pool
        self._carry = carry
        self._width = width
        self._make_finished = finished
        self._finished = finished()
        self._out = 0
        self._turns = Turns(share_of(width.at_once))
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def out(self) -> int:
        """How many items were given since the last `forget`, and not collected yet."""
        return self._out

    def carry(self, item: Item) -> None:
        """Have `item` carried, and collected then.

        Raises `Unable` when no thread can be started, or the pool is closed.
        """
        self._out += 1
        with self._lock:
            self._turns.join(item)
            begin = self._begin(1)
        self._next(begin)

    def collect(self, wait_s: float) -> Iterator[Item]:
        """Yield what the stores are done with, waiting up to `wait_s` for the first.

        Raises `Unable` as `carry` does.
        """
        if self._out:
            self._hurry()
        try:
            item = self._finished.get(timeout=wait_s) if wait_s else self._finished.get_nowait()
            while True:
                self._out -= 1
                yield item
                item = self._finished.get_nowait()
        except Empty:
            return

    def forget(self) -> None:
        """Let go all that waits or is not collected: its tenure is over.

        What is under way ends by itself; it holds the queue that it will be put in, so that one is
        emptied, and left to it.
        """
        with self._lock:
            self._turns.forget()
        with suppress(Empty):
            while True:
                self._finished.get_nowait()
        self._finished, self._out = self._make_finished(), 0

    def _hurry(self) -> None:
        """Have more carried at once where none came through for long."""
        with self._lock:
            begin = 0
            if self._width.stalled():
                self._turns.deal(share_of(self._width.at_once))
                begin = self._begin(STALL_WIDTH)
        self._next(begin)

    def _begin(self, most: int) -> int:
        """Return how many more of `most` begin now, and count them as under way. Locked."""
        free = min(most, len(self._turns), self._width.at_once - self._under_way)
        begin = max(0, free)
        if begin and not self._under_way:
            self._width.begins()
        self._under_way += begin
        return begin

    def _next(self, begin: int) -> None:
        """Queue up behind what the other relays have in the pool.

        Raises `Unable` when no thread can be started, or the pool is closed.
        """
        try:
            while begin:
                self._pool.submit(self._carry_one)
                begin -= 1
        except RuntimeError as error:
            with self._lock:
                self._under_way -= begin
            raise Unable(f"the stores' threads: {error}") from error

    def _carry_one(self) -> None:
        """Run in the pool."""
        with self._lock:
            item, finished = self._turns.take(), self._finished
            if item is None:
                self._under_way -= 1
                return
        if not item.dropped:
            self._carry(item)
        with self._lock:
            self._turns.done(item)
            self._adapt(item)
            self._under_way -= 1
            # For the end of one, two may begin: of its ref, and of its tenant.
            begin = self._begin(2)
        finished.put(item)
        with suppress(Unable):  # the relay is told at the next item that it gives
            self._next(begin)

    def _adapt(self, item: Item) -> None:
        """Follow what comes through: absence and refusals are answers, outages are not."""
        came_through = not isinstance(item.error, Unavailable)
        self._width.done(waiting=self._turns.waits, came_through=came_through)
        self._turns.deal(share_of(self._width.at_once))


def share_of(at_once: int) -> int:
    """Return how many of so many items at a time may be of one tenant: a quarter is for others."""
    return max(1, at_once - max(1, at_once // 4))


def carry(pipeline: Pipeline, clock: Callable[[], float], item: Item) -> None:
    """Run in the pool: resolve, verify, put. What goes wrong is left in the item."""
    assert item.admitted  # noqa: S101 -- only events are stored
    item.began = clock()
    try:
        pipeline.carry(item.admitted, item.id.pair)
        item.error = None
    except BaseException as error:  # noqa: BLE001 -- backends raise anything; policy decides
        item.error = error

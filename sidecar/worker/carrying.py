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
from sidecar.worker.window import Item

Finished = SimpleQueue[Item]


class Unable(SidecarError):
    """The worker itself cannot work, whatever Redis does."""


class Carrying:
    """Gives items to the pool, one after another, and takes back what it is done with."""

    def __init__(
        self, pool: Pool, carry: Callable[[Item], None], at_once: int,
        finished: Callable[[], Finished] = SimpleQueue,
    ) -> None:  # fmt: skip
        """`carry` is run in the pool, for at most `at_once` items at a time.

        `finished` makes the queue of one tenure.
        """
        self._pool = pool
        self._carry = carry
        self._at_once = at_once
        self._make_finished = finished
        self._finished = finished()
        self._out = 0
        self._turns = Turns(share_of(at_once))
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
            if not self._turns or self._under_way == self._at_once:
                return
            self._under_way += 1
        try:
            self._next()
        except RuntimeError as error:
            raise Unable(f"the stores' threads: {error}") from error

    def collect(self, wait_s: float) -> Iterator[Item]:
        """Yield what the stores are done with, waiting up to `wait_s` for the first."""
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

    def _next(self) -> None:
        """Queue up behind what the other relays have in the pool."""
        try:
            self._pool.submit(self._carry_one)
        except RuntimeError:
            with self._lock:
                self._under_way -= 1
            raise

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
            # For the end of one, two may go on: of its ref, and of its tenant.
            two_go_on = len(self._turns) > 1 and self._under_way < self._at_once
            self._under_way += two_go_on
        finished.put(item)
        with suppress(RuntimeError):  # the relay is told at the next item that it gives
            for _ in range(1 + two_go_on):
                self._next()


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

"""The threads that carry artifacts, for all relays of a worker.

A task that a thread of the pool submits is its next one, unless another waits for its turn: to
hand it over would wake a thread only for the two to wait for each other. And nobody waits for a
future here: relays have queues of results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Protocol

Task = Callable[[], None]


class Pool(Protocol):
    """Threads, or what stands in for them."""

    def submit(self, task: Task, /) -> object:
        """Have `task`, which raises nothing, run once. Raises RuntimeError when no thread can."""


class StorePool:
    """Runs tasks in up to a number of threads; one is started when a task finds none idle."""

    def __init__(self, each: int, relays: int = 1) -> None:
        """`each` relay may have so many tasks at a time in it, and none waits for another's."""
        self.each: Final = each
        self._most = each * relays
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._idle = 0
        """Threads that wait for a task, and that none is meant for yet."""
        self._closed = False

    def submit(self, task: Task) -> None:
        """See `Pool`."""
        if getattr(self._own, "next", task) is None and self._tasks.empty() and not self._closed:
            self._own.next = task
            return
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                self._start_one()
            self._tasks.put(task)

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _start_one(self) -> None:
        """Start a thread. When that fails, those that there are do the work; the caller locks."""
        thread = threading.Thread(target=self._work, name=f"store_{len(self._threads)}")
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            return
        self._threads.append(thread)

    def _work(self) -> None:
        self._own.next = None
        task = self._tasks.get()
        while task:
            if not self._closed:
                task()
            task, self._own.next = self._own.next, None
            if task is None:
                with self._lock:
                    self._idle += self._tasks.empty()
                task = self._tasks.get()

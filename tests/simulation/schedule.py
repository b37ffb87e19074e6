"""Simulated time, and tasks of which exactly one runs: whose turn is next is decided here.

A task is real code on a thread of its own, but a thread runs only while it holds the baton. It
gives the baton away where it waits, and only there. So a run is decided by the heap of what is
due, and the heap by the seed. Time jumps to what is due next; nothing waits in real time.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

FOREVER_S: Final = 1e9


class Killed(BaseException):
    """Raised in a task of a process that is gone; no `except Exception` catches it."""


class Process:
    """What lives and dies together: the tasks of one worker, or the simulation's own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.tasks: dict[Task, None] = {}

    def __repr__(self) -> str:
        return self.name


class Task:
    """One thread of control of a process."""

    __slots__ = ("body", "done", "lock", "process", "turn")

    def __init__(self, process: Process, body: Callable[[], None]) -> None:
        self.process = process
        self.body = body
        self.lock = allocate_lock()
        self.lock.acquire()
        self.turn = 0
        """Counts its turns: what was due for an earlier one is void."""
        self.done = False


class _Runner:
    """A thread that runs one task after another: a new one for each would cost more."""

    idle: Final[list[_Runner]] = []

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._job: tuple[Schedule, Task] | None = None
        threading.Thread(target=self._run, daemon=True, name="simulated").start()

    @classmethod
    def start(cls, schedule: Schedule, task: Task) -> None:
        runner = cls.idle.pop() if cls.idle else cls()
        runner._job = schedule, task
        runner._lock.release()

    def _run(self) -> None:
        while True:
            self._lock.acquire()
            assert self._job is not None
            schedule, task = self._job
            task.lock.acquire()
            schedule.run_task(task)
            self._job = None
            _Runner.idle.append(self)
            schedule.leave(task)


class Schedule:
    """What is due, and when. `failure` is an error of the simulation itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failure: BaseException | None = None
        self.turns = 0
        self._due: list[tuple[float, int, Any, int]] = []
        self._sequence = 0
        self._main = Task(Process("simulation"), lambda: None)
        self._tasks: dict[Task, None] = {}
        self.current = self._main

    # --- for anyone --------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have `action` done once so many seconds have passed. It must not wait."""
        self.at(self.now + delay_s, action)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have `action` done at that time. It must not wait."""
        self._push(when, action, 0)

    def spawn(self, process: Process, body: Callable[[], None], delay_s: float = 0.0) -> Task:
        """Let a new task of `process` begin."""
        task = Task(process, body)
        process.tasks[task] = None
        self._tasks[task] = None
        _Runner.start(self, task)
        self._push(self.now + delay_s, task, task.turn)
        return task

    def wake(self, task: Task) -> None:
        """Let a waiting task continue now."""
        self._push(self.now, task, task.turn)

    def kill(self, process: Process) -> None:
        """End a process: each of its tasks gets `Killed` where it waits."""
        process.alive = False
        process.frozen_until = 0.0
        for task in process.tasks:
            if task is not self.current:
                self._push(self.now, task, task.turn)

    def end(self) -> None:
        """End all that is left, so that its threads are free for the next run."""
        self._due.clear()
        while self._tasks:
            for task in self._tasks:
                task.process.alive = False
                task.process.frozen_until = 0.0
                self._push(self.now, task, task.turn)
            self.wait(0.0)

    # --- for the task that runs --------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Give the baton away until somebody wakes this task, or so many seconds have passed."""
        me = self.current
        if not me.process.alive:
            raise Killed
        self._push(self.now + timeout_s, me, me.turn)
        self._switch(me)
        if not me.process.alive:
            raise Killed

    # --- the baton ---------------------------------------------------------------------------

    def run_task(self, task: Task) -> None:
        """Run a task's body on this thread."""
        try:
            if task.process.alive:
                task.body()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 -- the main task raises it
            self.fail(error)

    def leave(self, task: Task) -> None:
        """Take a task out that has ended, and pass the baton on."""
        task.done = True
        task.process.tasks.pop(task, None)
        del self._tasks[task]
        self._switch(None)

    def fail(self, error: BaseException) -> None:
        """Note that the simulation cannot continue, and let the main task say so."""
        self.failure = self.failure or error
        self.wake(self._main)

    def _push(self, when: float, target: Any, turn: int) -> None:
        self._sequence += 1
        heappush(self._due, (when, self._sequence, target, turn))

    def _switch(self, me: Task | None) -> None:
        while True:
            when, _, target, turn = heappop(self._due)
            if type(target) is not Task:
                self.now = max(self.now, when)
                self._act(target)
                continue
            if target.done or target.turn != turn:
                continue
            if target.process.frozen_until > when:
                self._push(target.process.frozen_until, target, turn)
                continue
            self.now = max(self.now, when)
            self.turns += 1
            target.turn += 1
            self.current = target
            if target is not me:
                target.lock.release()
                if me is not None:
                    me.lock.acquire()
            return

    def _act(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 -- the main task raises it
            self.fail(error)

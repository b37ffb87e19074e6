"""The threads that carry artifacts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import pytest

from sidecar.worker.storepool import StorePool

WAIT_S = 60


def test_what_a_thread_submits_it_does_itself() -> None:
    """A task that a thread of the pool submits is handed to no other, though others are idle."""
    pool, done = StorePool(4), SimpleQueue[tuple[str, int]]()

    def carry(left: int) -> None:
        if left:
            pool.submit(lambda: carry(left - 1))
        done.put((threading.current_thread().name, pool._idle))

    together = threading.Barrier(4)
    for _ in range(4):
        pool.submit(lambda: (together.wait(WAIT_S), None)[1])
    while pool._idle < 4:
        threading.Event().wait(0.001)
    pool.submit(lambda: carry(20))
    found = {done.get(timeout=WAIT_S) for _ in range(21)}
    pool.close()
    assert len(found) == 1
    assert {idle for _, idle in found} == {3}


def test_what_waits_has_its_turn_first() -> None:
    """A thread that submits again and again does what another submitted in between."""
    pool, order, go_on = StorePool(1), SimpleQueue[str](), threading.Event()

    def again(left: int) -> None:
        go_on.wait(WAIT_S)
        order.put("again")
        if left:
            pool.submit(lambda: again(left - 1))

    pool.submit(lambda: again(3))
    pool.submit(lambda: order.put("other"))
    go_on.set()
    found = [order.get(timeout=WAIT_S) for _ in range(5)]
    pool.close()
    assert found == ["again", "other", "again", "again", "again"]


def test_closing_waits_for_what_runs_and_drops_what_waits() -> None:
    """What runs ends, what waits is never begun, and nothing is taken any more."""
    pool, begun, go_on = StorePool(1), SimpleQueue[str](), threading.Event()

    def run() -> None:
        begun.put("first")
        go_on.wait(WAIT_S)

    pool.submit(run)
    begun.get(timeout=WAIT_S)
    pool.submit(lambda: begun.put("second"))
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not pool._closed:
        threading.Event().wait(0.001)
    go_on.set()
    closing.join(WAIT_S)
    assert begun.empty()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(run)


def test_threads_that_cannot_be_started_leave_the_work_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one thread all is done, one after the other; with none, that is an error."""
    pool, none, done = StorePool(4), StorePool(4), SimpleQueue[int]()
    pool.submit(lambda: done.put(0))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    start: Callable[[threading.Thread], None] = refuse
    monkeypatch.setattr(threading.Thread, "start", start)
    pool.submit(lambda: done.put(1))
    assert {done.get(timeout=WAIT_S), done.get(timeout=WAIT_S)} == {0, 1}
    with pytest.raises(RuntimeError, match="new thread"):
        none.submit(lambda: done.put(2))
    pool.close()


def test_no_thread_is_started_while_one_is_idle() -> None:
    """Tasks that come one after the other are all done by one thread."""
    pool, names = StorePool(8), SimpleQueue[str]()
    for _ in range(20):
        pool.submit(lambda: names.put(threading.current_thread().name))
        names.get(timeout=WAIT_S)
        while not pool._idle:
            threading.Event().wait(0.001)
    assert len(pool._threads) == 1
    pool.close()


def test_a_task_may_submit_several() -> None:
    """Each is done, once."""
    pool, done = StorePool(2), SimpleQueue[int]()

    def submit() -> None:
        for number in range(3):
            pool.submit(partial(done.put, number))

    pool.submit(submit)
    assert sorted(done.get(timeout=WAIT_S) for _ in range(3)) == [0, 1, 2]
    pool.close()

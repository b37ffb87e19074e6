"""Verifying a whole store with several processes, each a share of it, in constant memory.

Every process has a pipe of its own to report through: a full one makes it wait, and one that dies
closes it, without leaving a lock behind that the others would wait for.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

import store
from sidecar.errors import SidecarError, Unreachable
from sidecar.stores import explained, open_store
from store import Capability, Checked

REPORT_EVERY_S: Final = 0.1
ENDS_WITHIN_S: Final = 10.0
"""So long a process may take to end when it is told to."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a process has found since its last report."""

    pieces: int
    size_bytes: int
    found: Checked | None = None
    """What is damaged, or foreign."""
    last: bool = False
    """Whether its share is done."""


@dataclass(frozen=True, slots=True)
class VerifyOrder:
    """What to verify, and how."""

    url: str
    prefix: str = ""
    quarantine: bool = True
    processes: int = 1


def verify(order: VerifyOrder) -> Generator[Report]:
    """Verify with `order.processes` processes; yield what each of them reports, as it comes.

    Raises what a process failed by, as `SidecarError`; `Unreachable`, too, when one
    died: its share was not verified.
    """
    with _started(order) as shares:
        waiting = dict(shares)
        while waiting:
            for connection in wait(list(waiting)):
                assert isinstance(connection, Connection)  # noqa: S101 -- nothing else is waited for
                report = _received(connection, waiting[connection])
                yield report
                if report.last:
                    del waiting[connection]


def cores() -> int:
    """Return how many processes can run at the same time here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _started(order: VerifyOrder) -> Iterator[list[tuple[Connection, BaseProcess]]]:
    """Start the processes; end them with the block, however it ends."""
    context = get_context("spawn")  # a fork would take over what threads of a backend hold
    shares: list[tuple[Connection, BaseProcess]] = []
    try:
        with _signals_held():
            for number in range(order.processes):
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_work, args=(theirs, order, number), daemon=True, name=f"share {number}"
                )
                process.start()
                theirs.close()  # or its death would not show
                shares.append((ours, process))
        yield shares
    finally:
        for _, process in shares:
            process.terminate()
        for ours, process in shares:
            _end(process)
            ours.close()


def _end(process: BaseProcess) -> None:
    """Wait for a process that was told to end; kill it when it does not."""
    process.join(ENDS_WITHIN_S)
    if process.is_alive():  # a backend may have taken the signal for itself
        process.kill()
        process.join()
    process.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let no signal come between a process and its being known; keep Ctrl-C from them for good.

    What is held back here arrives after the block. A started process inherits the mask.
    """
    resource_tracker.ensure_running()  # or the first process would start it, which lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(connection: Connection, process: BaseProcess) -> Report:
    """Return what a process sent. Raises what it failed by, or that it died."""
    try:
        found: Report | SidecarError = connection.recv()
    except (EOFError, OSError):
        raise _death(process) from None
    if isinstance(found, SidecarError):
        raise found
    return found


def _death(process: BaseProcess) -> Unreachable:
    process.join()
    code = process.exitcode or 0
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Unreachable(
        f"a process that verified a share of the store died ({how}): the rest of its share was not"
        " verified; try again, with a lower --processes if memory is short"
    )


def _work(connection: Connection, order: VerifyOrder, number: int) -> None:
    """Verify one share: the whole of a started process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # by which it is ended
    with suppress(BrokenPipeError):  # who asked has gone
        try:
            for report in _share(order, number):
                connection.send(report)
        except SidecarError as error:
            connection.send(error)


def _share(order: VerifyOrder, number: int) -> Iterator[Report]:
    opened = store.versioned(open_store(order.url, create=False), Capability.VERIFY)
    assert opened is not None  # noqa: S101 -- asked before
    pieces = size_bytes = 0
    due = time.monotonic() + REPORT_EVERY_S
    with explained():
        for checked in opened.verify(
            order.prefix, quarantine=order.quarantine, part=(number, order.processes)
        ):
            pieces += not checked.is_foreign
            size_bytes += checked.size_bytes
            told = checked.error or checked.is_foreign
            if told or time.monotonic() >= due:
                yield Report(pieces, size_bytes, checked if told else None)
                pieces = size_bytes = 0
                due = time.monotonic() + REPORT_EVERY_S
    yield Report(pieces, size_bytes, last=True)

"""Standard error that never stops who writes to it.

A log is read by others: its reader goes, its disk fills up, its pipe is full and nobody reads it.
So lines wait in a bounded queue, and a thread of its own writes them; a writer neither waits
nor fails. A line that finds the queue full, or that cannot be written, is dropped and counted.
(decision 0019)
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_BYTES: Final = 1 << 20
"""What may wait."""
FLUSH_S: Final = 1.0
"""How long the end of a process waits for what is queued."""


def visible(text: str, *, lines: bool = False) -> str:
    """Return `text` with what is not printable written as escapes: it is data, not commands.

    A tenant's text can so neither colour nor steer a terminal.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode()
        for c in text
    )


def quoted(text: str) -> str:
    """Return what a person wrote in quotation marks: it is not said by the sidecar."""
    return '"' + text.replace('"', "'") + '"'


class Lines:
    """A queue of lines, and the thread that writes them to a stream."""

    def __init__(
        self, stream: TextIO | None, *,
        notice: Callable[[int], str] = "{} log lines were dropped".format,
        max_bytes: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        """`stream` is None when standard error was closed at the start: all is dropped then.

        `notice` says how many were dropped, once a line can be written again.
        """
        self._write = _writer(stream)
        self._notice = notice
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._untold = 0
        self._torn = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far."""
        return self._dropped

    def put(self, line: str) -> None:
        """Have a line written; neither wait nor fail."""
        raw = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._closing or self._queued_bytes + len(raw) > self._max_bytes:
                self._drop()
                return
            self._queue.append(raw)
            self._queued_bytes += len(raw)
            if self._thread is None:
                # A daemon: a write that hangs must not keep the process from its end.
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Take no more lines, and wait for those that are queued, at most so long."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while line := self._next():
            if self._untold:
                self._tell()
            if not self._written(line):
                with self._changed:
                    self._drop()
        if self._untold:
            self._tell()

    def _next(self) -> bytes:
        """Wait for a line; empty at the end."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            line = self._queue.popleft() if self._queue else b""
            self._queued_bytes -= len(line)
            return line

    def _tell(self) -> None:
        """Say how many lines were dropped, before the first that can be written again."""
        with self._changed:
            untold, self._untold = self._untold, 0
        if not self._written(self._notice(untold).encode() + b"\n"):
            with self._changed:
                self._untold += untold

    def _written(self, line: bytes) -> bool:
        """Write a line, on a line of its own; tell whether all of it went out."""
        left = memoryview(b"\n" + line if self._torn else line)
        whole = len(left)
        try:
            while left:
                left = left[self._write(left) :]
        except (OSError, ValueError):
            self._torn |= 0 < len(left) < whole
            return False
        self._torn = False
        return True

    def _drop(self) -> None:
        self._dropped += 1
        self._untold += 1


class Unblocked(io.TextIOBase):
    """What stands in for `sys.stderr`: warnings, tracebacks and prints go the way of the log."""

    def __init__(self, lines: Lines, before: TextIO | None) -> None:
        self.lines = lines
        self._before = before
        self._begun = ""

    def isatty(self) -> bool:
        """Tell whether a person reads what is written."""
        return is_terminal(self._before)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str, /) -> int:
        """Queue each line as it ends."""
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self.lines.put(line)
        return len(text)


@contextmanager
def unblocked(notice: Callable[[int], str]) -> Iterator[Lines]:
    """Let standard error be such lines, for as long as the block lasts."""
    before = sys.stderr
    lines = Lines(before, notice=notice)
    sys.stderr = cast("TextIO", Unblocked(lines, before))
    try:
        yield lines
    finally:
        sys.stderr = before
        lines.close()


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person reads `stream`; nobody does when it is closed."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def write_now(text: str) -> None:
    """Write to standard error if that is possible; what is written is no data.

    Past the buffer of `sys.stderr`: what stays in there would be the exit code's ruin at the end.
    """
    left = memoryview(text.encode("utf-8", "backslashreplace"))
    write = _writer(sys.stderr)
    try:
        while left:
            left = left[write(left) :]
    except (OSError, ValueError):
        return


def keep_descriptors() -> None:
    """Put the null device where a standard stream is closed.

    Else the next file that is opened has its number, and what is meant for a person lands there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one. Data must not vanish in it unnoticed.
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)


def _writer(stream: TextIO | None) -> Callable[[memoryview], int]:
    """Return what writes bytes to where `stream` goes, and says how many it has written."""
    try:
        number = stream.fileno() if stream is not None else -1
    except (OSError, ValueError):

        def to_text(raw: memoryview) -> int:
            assert stream is not None  # noqa: S101 -- that has a number, -1
            stream.write(bytes(raw).decode())
            stream.flush()
            return len(raw)

        return to_text
    return lambda raw: write_waiting(number, raw)


def write_waiting(number: int, raw: ReadableBuffer) -> int:
    """Write to a descriptor, waiting also where somebody has made it non-blocking."""
    while True:
        try:
            return os.write(number, raw)
        except BlockingIOError:
            poll = select.poll()
            poll.register(number, select.POLLOUT)
            poll.poll()

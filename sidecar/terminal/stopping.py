"""Commands that are stopped by a signal, and clean up first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_Handler = Callable[[int, FrameType | None], object] | signal.Handlers
_MEANT: Final = (signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def cleaned_up() -> Iterator[None]:
    """Let the block clean up at SIGTERM or SIGHUP; the process ends by that signal then."""
    # One that is ignored already (`nohup`) stays so.
    ours = [each for each in _MEANT if signal.getsignal(each) is signal.SIG_DFL]
    _set(ours, _stop)
    try:
        yield
    except _Stopped as stopped:
        signal.signal(stopped.number, signal.SIG_DFL)
        signal.raise_signal(stopped.number)
    finally:
        _set(ours, signal.SIG_DFL)


def _stop(number: int, _: object) -> None:
    _set(_MEANT, signal.SIG_IGN)  # the first one counts: cleaning up takes a moment
    raise _Stopped(number)


def _set(numbers: Iterable[int], handler: _Handler) -> None:
    for number in numbers:
        signal.signal(number, handler)

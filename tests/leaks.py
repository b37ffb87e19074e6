"""Connections to Redis that a test made and left open, each with the place where it was opened."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any, Final
from unittest import mock
from weakref import WeakKeyDictionary

from redis.connection import AbstractConnection

ROOT: Final = str(Path(__file__).parents[1])
OTHERS: Final = ("/.venv", __file__)
DEEPEST: Final = 8
"""So many of our own lines are noted of a place, from the innermost on."""

LeftOpen = Callable[[], list[str]]
_Line = tuple[str, int, str]


@contextmanager
def watched(thread: int | None = None) -> Iterator[LeftOpen]:
    """Note the connections that are made meanwhile; yield what closes those that are open still.

    It returns the place where each of them was opened. Those of one thread alone, if it is given.
    """
    made: WeakKeyDictionary[Any, list[_Line]] = WeakKeyDictionary()
    make = AbstractConnection.__init__

    def noted(self: AbstractConnection, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        if thread in (None, threading.get_ident()):
            made[self] = _place()

    def left_open() -> list[str]:
        left = [(one, place) for one, place in list(made.items())
                if isinstance(one._sock, socket)]  # fmt: skip
        for one, _ in left:
            one.disconnect()
        return [_shown(place) for _, place in left]

    with mock.patch.object(AbstractConnection, "__init__", noted):
        yield left_open


@contextmanager
def closed() -> Iterator[None]:
    """Close what this thread made meanwhile, and is open still: others may use theirs."""
    with watched(threading.get_ident()) as left_open:
        try:
            yield
        finally:
            left_open()


def _place() -> list[_Line]:
    """Return our own lines that led here: no text is read, for hundreds are made in a second."""
    lines: list[_Line] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(lines) < DEEPEST:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and not any(other in name for other in OTHERS):
            lines.append((name.removeprefix(ROOT + "/"), frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return lines


def _shown(place: list[_Line]) -> str:
    return "\n".join(f"  {name}:{line} in {function}" for name, line, function in place)

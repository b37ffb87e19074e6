"""Python calls, counted: their number repeats, time does not.

The bounds in the tests are Python 3.11's; later ones make fewer for the same work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import sidecar

SIDECAR: Final = str(Path(sidecar.__file__).parent)


class Calls:
    """Counts calls of Python functions; a generator that continues is one, too."""

    def __init__(self) -> None:
        self.made = 0
        self.ours = 0
        """Of these, how many are the product's: they do not vary with redis-py's connections."""

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """Hear of what the interpreter does."""
        if event == "call":
            self.made += 1
            self.ours += frame.f_code.co_filename.startswith(SIDECAR)


@contextmanager
def counted() -> Iterator[Calls]:
    """Yield what has, at the end, how many calls this thread made meanwhile."""
    calls, before = Calls(), sys.getprofile()
    sys.setprofile(calls.note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
        calls.made -= 1  # the way out of this one


@contextmanager
def counted_in_new_threads() -> Iterator[Calls]:
    """Yield the same of the threads that are started meanwhile."""
    calls, before = Calls(), threading.getprofile()
    threading.setprofile(calls.note)
    try:
        yield calls
    finally:
        threading.setprofile(before)
